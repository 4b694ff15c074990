"""Callbacks that are forged, told again, late, or signed with a key that is no more: none is taken at its word."""

import asyncio
import os
import random
import uuid
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from broker.core.messages import Report
from broker.core.types import TradeId
from broker.exchange import Webhook
from broker.metrics import Metrics
from tests.fuzz.forgery import LEFT_OUT, Forger, Signed, event, right

FORGED = int(os.environ.get("FUZZ_CALLBACKS", "10000"))
OLD, NEW, NOW = bytes(range(32)), bytes(range(1, 33)), 1_795_000_000
TRADES = [str(uuid.UUID(int=number)) for number in range(50)]


class Desk:
    """A webhook with these keys, and what it let in."""

    def __init__(self, *keys: bytes) -> None:
        self.taken: list[Report] = []
        self.asked: list[TradeId] = []
        self._webhook = Webhook("sim", keys, 300, 256, self._take, self._ask, lambda: NOW, Metrics())

    async def _take(self, reports: Sequence[Report]) -> set[TradeId]:
        self.taken += reports
        return set()

    async def _ask(self, trade_ids: Sequence[TradeId]) -> None:
        self.asked += trade_ids

    async def status(self, signed: Signed) -> int:
        """What the exchange hears."""
        named = {"id": signed.message_id, "timestamp": signed.timestamp, "signature": signed.signature}
        headers = {f"webhook-{name}": value for name, value in named.items() if value != LEFT_OUT}
        request: Any = SimpleNamespace(headers=headers)
        return (await self._webhook.handle(request, signed.body)).status


def heard(rng: random.Random, at: int = NOW) -> list[Signed]:
    return [right(NEW, event(rng, rng.choice(TRADES)), at, f"msg_{number}") for number in range(100)]


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_forged_callback_is_heard(seed: int) -> None:
    rng, desk, kinds = random.Random(seed), Desk(NEW), Counter[str]()
    forger = Forger(OLD, heard(rng), TRADES, lambda: NOW)
    for _ in range(FORGED // 2):
        kind, signed = forger.forge(rng)
        assert await desk.status(signed) == 401, (seed, kind, signed)
        kinds[kind] += 1
    assert (desk.taken, desk.asked) == ([], [])
    assert len(kinds) == 9
    assert min(kinds.values()) > FORGED // 40


@pytest.mark.parametrize("seconds", [-(10**6), -301, 301, 10**6])
async def test_a_callback_of_another_time_is_asked_about_and_not_believed(seconds: int) -> None:
    desk = Desk(NEW)
    for signed in heard(random.Random(3), NOW + seconds):
        assert await desk.status(signed) == 204
    assert desk.taken == []
    assert len(desk.asked) == 100


async def test_while_keys_are_changed_nothing_is_lost_and_afterwards_the_old_one_opens_nothing() -> None:
    rng = random.Random(4)
    for keys, good, bad in (((OLD,), [OLD], [NEW]), ((OLD, NEW), [OLD, NEW], []), ((NEW,), [NEW], [OLD])):
        desk = Desk(*keys)
        for key, status in [*((each, 204) for each in good), *((each, 401) for each in bad)]:
            assert await desk.status(right(key, event(rng, TRADES[0]), NOW, "msg_1")) == status
        assert len(desk.taken) == len(good)


async def test_many_at_once_are_judged_one_by_one() -> None:
    rng, desk = random.Random(5), Desk(NEW)
    forger = Forger(OLD, heard(rng), TRADES, lambda: NOW)
    mixed = [(True, each) for each in heard(rng)] + [(False, forger.forge(rng)[1]) for _ in range(100)]
    rng.shuffle(mixed)
    statuses = await asyncio.gather(*(desk.status(signed) for _, signed in mixed))
    assert statuses == [204 if is_good else 401 for is_good, _ in mixed]
    assert len(desk.taken) == 100
