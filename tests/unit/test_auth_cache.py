"""Keys in memory: each is read once, and gone in time when another process has revoked it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest

from broker.auth import Authenticator, Caller, NewKey, NotAuthenticated
from broker.config import Config
from broker.core.types import CustomerId
from broker.db import DatabaseUnavailable, RefusedByDatabase

CACHE_S = 0.2
KEY = NewKey("key_1", "secret")


class Keys:
    """The tables of one customer and its key, as a database answers from them."""

    def __init__(self) -> None:
        self.revoked = False
        self.suspended = False
        self.is_away = False
        self.asked: list[str] = []

    async def fetch(self, name: str, argument: object = None) -> list[dict[str, Any]]:
        self.asked.append(name)
        await asyncio.sleep(0)
        if self.is_away:
            raise DatabaseUnavailable("gone")
        if name == "revoked_keys":
            return [{"at": datetime.now(UTC), "key_ids": [KEY.key_id] * self.revoked}]
        if name == "suspended_customers":
            return [{"customer_id": 1001}] * self.suspended
        assert (name, argument) == ("customer_of_key", KEY.key_id)
        status = "suspended" if self.suspended else "active"
        return [{"customer_id": 1001, "secret_hash": KEY.secret_hash, "status": status}] * (not self.revoked)


@pytest.fixture
def keys() -> Keys:
    return Keys()


@pytest.fixture
async def authenticator(keys: Keys) -> AsyncIterator[Authenticator]:
    made = Authenticator(keys, "admin", Config(key_cache_s=CACHE_S))  # type: ignore[arg-type]
    await made._look()
    task = asyncio.create_task(made.run())
    yield made
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def caller(authenticator: Authenticator) -> Caller:
    return await authenticator.customer(f"Bearer {KEY.token}")


async def keep_calling(authenticator: Authenticator) -> None:
    async with asyncio.timeout(20):
        while True:
            await caller(authenticator)
            await asyncio.sleep(0.001)


async def test_a_key_is_read_once_however_long_it_is_used(
    authenticator: Authenticator, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("broker.auth.monotonic", lambda: now)
    for _ in range(20):  # more than three times key_cache_s
        await authenticator._look()
        now += 0.9 * CACHE_S
        assert (await caller(authenticator)).customer_id == 1001
    assert keys.asked.count("customer_of_key") == 1
    now += 0.2 * CACHE_S  # the next look is late
    await caller(authenticator)
    assert keys.asked.count("customer_of_key") == 2
    await caller(authenticator)
    assert keys.asked.count("customer_of_key") == 2, "what was just read is good without a look"


async def test_no_key_is_kept_for_ever_whatever_the_looks_find(
    authenticator: Authenticator, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("broker.auth.monotonic", lambda: now)
    await caller(authenticator)
    now += 601
    await authenticator._look()
    await caller(authenticator)
    assert keys.asked.count("customer_of_key") == 2


async def test_a_database_that_lets_nobody_in_does_not_end_the_looks(keys: Keys) -> None:
    async def refuse(name: str, argument: object = None) -> list[dict[str, Any]]:
        keys.asked.append(name)
        raise RefusedByDatabase("password authentication failed", None)

    keys.fetch = refuse  # type: ignore[method-assign]
    looking = asyncio.create_task(Authenticator(keys, "admin", Config(key_cache_s=0.02)).run())  # type: ignore[arg-type]
    async with asyncio.timeout(20):
        while len(keys.asked) < 3:
            await asyncio.sleep(0.01)
    assert not looking.done()
    looking.cancel()


async def test_a_key_that_another_process_revokes_ends(authenticator: Authenticator, keys: Keys) -> None:
    await caller(authenticator)
    keys.revoked = True
    with pytest.raises(NotAuthenticated):
        await keep_calling(authenticator)


async def test_a_customer_whom_another_process_suspends_is_suspended_and_then_active_again(
    authenticator: Authenticator, keys: Keys
) -> None:
    for suspended in (False, True, False, True):
        keys.suspended = suspended
        async with asyncio.timeout(20):
            while (await caller(authenticator)).suspended is not suspended:
                await asyncio.sleep(0.001)


async def test_memory_is_not_good_for_longer_because_the_database_is_away(
    authenticator: Authenticator, keys: Keys
) -> None:
    await caller(authenticator)
    keys.is_away = True
    with pytest.raises(DatabaseUnavailable):
        await keep_calling(authenticator)
    keys.is_away = False
    assert (await caller(authenticator)).customer_id == 1001


async def test_what_was_read_before_the_first_look_is_read_again_after_it(keys: Keys) -> None:
    alone = Authenticator(keys, "admin", Config())  # type: ignore[arg-type]
    for _ in range(3):
        await caller(alone)
    assert keys.asked == ["customer_of_key"], "it is good for key_cache_s"
    await alone._look()
    await caller(alone)
    assert keys.asked.count("customer_of_key") == 2, "and read again after the first look"


async def test_what_was_forgotten_while_it_was_read_is_not_kept(authenticator: Authenticator, keys: Keys) -> None:
    calling = asyncio.create_task(caller(authenticator))
    while "customer_of_key" not in keys.asked:  # then it has asked, and has no answer yet
        await asyncio.sleep(0)
    authenticator.forget(CustomerId(1001))
    await calling
    keys.asked.clear()
    await caller(authenticator)
    assert "customer_of_key" in keys.asked
