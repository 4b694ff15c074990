"""Keys in memory: read once, then many at a time, and gone in time when another process has revoked them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from broker.auth import Authenticator, NewKey, NotAuthenticated
from broker.config import Config
from broker.core.types import CustomerId
from broker.db import DatabaseUnavailable

CACHE_S = 0.2
KEYS = [NewKey(f"key_{number}", f"secret {number}") for number in range(1_200)]


class Keys:
    """The table of keys, as a database answers it."""

    def __init__(self) -> None:
        self.valid = {key.key_id: (1000 + number, key.secret_hash) for number, key in enumerate(KEYS)}
        self.status = "active"
        self.is_away = False
        self.reads: list[int] = []

    async def fetch(self, name: str, key_ids: Sequence[str]) -> list[dict[str, Any]]:
        assert name == "customers_of_keys"
        await asyncio.sleep(0)
        if self.is_away:
            raise DatabaseUnavailable("gone")
        self.reads.append(len(key_ids))
        return [
            {"key_id": id_, "customer_id": self.valid[id_][0], "secret_hash": self.valid[id_][1], "status": self.status}
            for id_ in key_ids
            if id_ in self.valid
        ]


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
async def authenticator(keys: Keys) -> AsyncIterator[Authenticator]:
    made = Authenticator(keys, "admin", Config(key_cache_s=CACHE_S))  # type: ignore[arg-type]
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def customer(authenticator: Authenticator, key: NewKey) -> int:
    return (await authenticator.customer(f"Bearer {key.token}")).customer_id


async def keep_using(authenticator: Authenticator, key: NewKey) -> None:
    async with asyncio.timeout(20):
        while True:
            await customer(authenticator, key)
            await asyncio.sleep(0.001)


async def test_keys_in_use_are_read_many_at_a_time(authenticator: Authenticator, keys: Keys) -> None:
    for number, key in enumerate(KEYS):
        assert await customer(authenticator, key) == CustomerId(1000 + number)
    assert keys.reads.count(1) == len(keys.reads), "each for itself, the first time"
    keys.reads.clear()
    async with asyncio.timeout(20):
        while sum(read for read in keys.reads if read > 1) < 3 * len(KEYS):
            for key in KEYS:
                await customer(authenticator, key)
            await asyncio.sleep(0.005)
    assert max(keys.reads) == 500


async def test_a_key_that_is_used_all_the_time_ends_when_another_process_revokes_it(
    authenticator: Authenticator, keys: Keys
) -> None:
    await customer(authenticator, KEYS[0])
    del keys.valid[KEYS[0].key_id]
    with pytest.raises(NotAuthenticated):
        await keep_using(authenticator, KEYS[0])


async def test_that_another_process_has_suspended_a_customer_is_noticed(
    authenticator: Authenticator, keys: Keys
) -> None:
    header = f"Bearer {KEYS[0].token}"
    assert not (await authenticator.customer(header)).suspended
    keys.status = "suspended"
    async with asyncio.timeout(20):
        while not (await authenticator.customer(header)).suspended:
            await asyncio.sleep(0.001)


async def test_a_key_is_not_good_for_longer_because_the_database_is_away(
    authenticator: Authenticator, keys: Keys
) -> None:
    await customer(authenticator, KEYS[0])
    keys.is_away = True
    with pytest.raises(DatabaseUnavailable):
        await keep_using(authenticator, KEYS[0])
    keys.is_away = False
    assert await customer(authenticator, KEYS[0]) == 1000


async def test_what_was_forgotten_while_it_was_read_again_stays_forgotten(
    authenticator: Authenticator, keys: Keys
) -> None:
    await customer(authenticator, KEYS[0])
    renewing = asyncio.create_task(authenticator._renew())
    await asyncio.sleep(0)  # it has asked, and has no answer yet
    authenticator.forget(CustomerId(1000))
    await renewing
    keys.reads.clear()
    await customer(authenticator, KEYS[0])
    assert keys.reads == [1]
