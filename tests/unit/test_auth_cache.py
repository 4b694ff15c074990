"""Keys in memory: each is read once, and gone in time when another process has revoked it."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from broker.auth import Authenticator, Caller, NewKey, NotAuthenticated, TooManyTries
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
        self.expires_at: datetime | None = None
        self.asked: list[str] = []

    async def fetch(self, name: str, argument: object = None) -> list[dict[str, Any]]:
        self.asked.append(name)
        await asyncio.sleep(0)
        if self.is_away:
            raise DatabaseUnavailable("gone")
        if name == "revoked_keys":
            ending = [self.expires_at] if self.expires_at else []
            revoked = [KEY.key_id] * self.revoked
            return [{"at": datetime.now(UTC), "key_ids": revoked, "ending": [KEY.key_id] * len(ending), "ends": ending}]
        if name == "suspended_customers":
            return [{"customer_id": 1001}] * self.suspended
        assert name == "customer_of_key"
        if argument != KEY.key_id:
            return []
        status = "suspended" if self.suspended else "active"
        row = {"customer_id": 1001, "secret_hash": KEY.secret_hash, "status": status, "scopes": ["read", "trade"]}
        return [{**row, "expires_at": self.expires_at}] * (not self.revoked)


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


async def test_a_suspended_customers_key_and_an_unknown_one_cost_one_query(
    authenticator: Authenticator, keys: Keys
) -> None:
    keys.suspended = True
    for _ in range(5):
        assert (await caller(authenticator)).suspended
    assert keys.asked.count("customer_of_key") == 1
    keys.suspended, keys.revoked = False, True
    await authenticator._look()
    for _ in range(5):
        with pytest.raises(NotAuthenticated):
            await caller(authenticator)
    assert keys.asked.count("customer_of_key") == 2


async def test_an_unknown_key_is_looked_for_again_after_a_while_and_not_kept_for_ever(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("broker.auth.monotonic", lambda: now)
    monkeypatch.setattr("broker.auth._UNKNOWN_MAX", 10)
    config = Config(key_cache_s=CACHE_S, auth_failures_per_minute=1_000)
    alone = Authenticator(keys, "admin", config)  # type: ignore[arg-type]
    keys.revoked = True
    for wait_s, asked in ((0, 1), (0.9 * CACHE_S, 1), (0.2 * CACHE_S, 2)):
        now += wait_s
        with pytest.raises(NotAuthenticated):
            await caller(alone)
        assert keys.asked.count("customer_of_key") == asked
    for number in range(30):
        with pytest.raises(NotAuthenticated):
            await alone.customer(f"Bearer key_{number:x}.x")
    assert len(alone._unknown) == 10
    assert not alone._keys


async def test_the_same_work_is_done_for_a_key_that_there_is_not(
    authenticator: Authenticator, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return one == other

    monkeypatch.setattr("broker.auth.hmac.compare_digest", compare)
    await caller(authenticator)
    for token in (f"{KEY.key_id}.wrong", "key_x.wrong", "key_x", "x"):
        with pytest.raises(NotAuthenticated):
            await authenticator.customer(f"Bearer {token}")
    assert compared == [(32, 32)] * 5


async def test_nobody_opens_anything_with_the_hash_that_stands_for_no_key(
    authenticator: Authenticator, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.revoked = True
    monkeypatch.setattr("broker.auth._hash", lambda _: bytes(32))
    with pytest.raises(NotAuthenticated):
        await caller(authenticator)


async def test_a_key_in_memory_ends_at_its_end_and_one_that_gets_an_end_is_read_again(
    authenticator: Authenticator, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    await caller(authenticator)
    keys.expires_at = datetime.now(UTC) + timedelta(seconds=60)
    await authenticator._look()
    assert (await caller(authenticator)).expires_at == keys.expires_at.timestamp()
    asked = keys.asked.count("customer_of_key")
    await authenticator._look()
    await caller(authenticator)
    assert keys.asked.count("customer_of_key") == asked, "an end that is known needs no reading"
    monkeypatch.setattr("broker.auth.time", lambda: datetime.now(UTC).timestamp() + 61)
    with pytest.raises(NotAuthenticated):
        await caller(authenticator)


async def test_wrong_tokens_are_counted_by_address_and_a_key_in_memory_opens_all_the_same(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("broker.auth.monotonic", lambda: now)
    alone = Authenticator(keys, "admin", Config(auth_failures_per_minute=3))  # type: ignore[arg-type]
    header = f"Bearer {KEY.token}"
    await alone.customer(header, "here")
    for wrong in ("key_2.x", "nothing", f"{KEY.key_id}.x"):
        keys.revoked = True  # so that it knows no other
        with pytest.raises(NotAuthenticated):
            await alone.customer(f"Bearer {wrong}", "here")
    asked = list(keys.asked)
    for wrong in ("key_3.x", "key_2.x", f"{KEY.key_id}.x"):
        with pytest.raises(TooManyTries) as refused:
            await alone.customer(f"Bearer {wrong}", "here")
        assert 19 < refused.value.wait_s <= 20
        with pytest.raises(TooManyTries):
            await alone.operator(f"Bearer {wrong}", "here")
    assert keys.asked == asked, "nothing is looked up for whoever is told so"
    assert (await alone.customer(header, "here")).customer_id == 1001
    assert await alone.operator("Bearer admin", "here") == "admin-token"
    with pytest.raises(NotAuthenticated):
        await alone.customer("Bearer key_4.x", "elsewhere")
    now += 20
    with pytest.raises(NotAuthenticated):
        await alone.customer("Bearer key_3.x", "here")
    with pytest.raises(TooManyTries):
        await alone.customer("Bearer key_3.x", "here")


async def test_addresses_that_sent_wrong_tokens_are_bounded(keys: Keys) -> None:
    alone = Authenticator(keys, "admin", Config(auth_addresses_max=100))  # type: ignore[arg-type]
    for number in range(1_000):
        with pytest.raises(NotAuthenticated):
            await alone.customer("Bearer x.y", f"10.0.0.{number}")
    assert len(alone._failures) == 100


async def test_as_many_wrong_tokens_at_once_as_one_likes_are_looked_up_no_more_than_one_after_another(
    keys: Keys,
) -> None:
    alone = Authenticator(keys, "admin", Config(auth_failures_per_minute=10))  # type: ignore[arg-type]
    tries = [alone.customer(f"Bearer key_{number + 2}.x", "here") for number in range(1_000)]
    ends = await asyncio.gather(*tries, return_exceptions=True)
    assert keys.asked == ["customer_of_key"] * 10
    assert [type(end) for end in ends].count(NotAuthenticated) == 10
    assert [type(end) for end in ends].count(TooManyTries) == 990


async def test_right_tokens_that_come_all_at_once_open_and_count_as_no_tries(keys: Keys) -> None:
    alone = Authenticator(keys, "admin", Config(auth_failures_per_minute=4))  # type: ignore[arg-type]
    for _ in range(10):
        await caller(alone)
        alone.forget(CustomerId(1001))
    assert keys.asked == ["customer_of_key"] * 10
    assert len(alone._failures) == 0
    keys.is_away = True
    for _ in range(10):
        with pytest.raises(DatabaseUnavailable):
            await alone.customer("Bearer key_2.x")
    assert len(alone._failures) == 0, "and neither do those that could not be read"


async def test_few_keys_are_read_at_once_and_each_once(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of keys in memory that are not sure any more, since the looks get no answer."""
    now, reading, most = 1_000_000.0, 0, 0
    monkeypatch.setattr("broker.auth.monotonic", lambda: now)

    async def fetch(name: str, argument: object = None) -> list[dict[str, Any]]:
        nonlocal reading, most
        keys.asked.append(f"{name} {argument}")
        reading += 1
        most = max(most, reading)
        await asyncio.sleep(0.001)
        reading -= 1
        hash_ = NewKey(str(argument), "secret").secret_hash
        row = {"customer_id": 1001, "secret_hash": hash_, "status": "active", "scopes": ["read"], "expires_at": None}
        return [row]

    keys.fetch = fetch  # type: ignore[method-assign]
    alone = Authenticator(keys, "admin", Config(pool_max=6, place_wait_s=60))  # type: ignore[arg-type]
    tokens = [f"Bearer key_{number}.secret" for number in range(20)] * 50
    for _ in range(2):
        await asyncio.gather(*(alone.customer(token) for token in tokens))
        assert sorted(keys.asked) == sorted(f"customer_of_key key_{number}" for number in range(20))
        assert most == 3, "half of the pool is for others"
        keys.asked.clear()
        now += 6
    assert not alone._reading


async def test_who_waits_too_long_for_a_turn_to_have_its_key_read_is_told(keys: Keys) -> None:
    async def never(name: str, argument: object = None) -> list[dict[str, Any]]:
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    keys.fetch = never  # type: ignore[method-assign]
    alone = Authenticator(keys, "admin", Config(pool_max=2, place_wait_s=0.01))  # type: ignore[arg-type]
    first = asyncio.create_task(caller(alone))
    await asyncio.sleep(0)
    for token in (KEY.token, "key_2.x"):  # the same key, and another
        with pytest.raises(DatabaseUnavailable):
            await alone.customer(f"Bearer {token}")
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_a_look_that_failed_is_soon_tried_again_so_that_keys_stay_sure(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.auth._RETRY_S", 0.01)
    keys.is_away = True
    looking = asyncio.create_task(Authenticator(keys, "admin", Config(key_cache_s=600)).run())  # type: ignore[arg-type]
    async with asyncio.timeout(20):
        while len(keys.asked) < 3:
            await asyncio.sleep(0.001)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
