"""What `make fuzz` takes for a violation: each is found, and what is right is not."""

import asyncio
import random
import uuid
from collections import deque

import pytest

from tests.fuzz.arsenal import Case
from tests.fuzz.campaign import Beside, differences, lasting
from tests.fuzz.forgery import Forger
from tests.fuzz.verdict import Connection, Tally, judge, secret

OTHERS = ["01a20429-e706-7166-938a-35b6d62ba22d", "key_0123456789abcdef", "27182818.29"]
CASE = Case("hostile", b"GET /api/v1/trades HTTP/1.1\r\n\r\n")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
LAST = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


@pytest.mark.parametrize("shown", OTHERS)
def test_what_is_somebody_elses_may_only_be_named_by_who_named_it(shown: str) -> None:
    body = b'{"trades":["%s"]}' % shown.encode()
    for data, violations in ((b"", 1), (b"GET /%s" % shown.encode(), 0)):
        tally = Tally()
        judge(tally, Case("hostile", data), 200, b"HTTP/1.1 200 OK\r\n", body, secret(OTHERS))
        assert tally.violations.total() == violations
    tally = Tally()
    judge(tally, CASE, 200, b"HTTP/1.1 200 OK\r\n", b'{"amount":"27182818x29"}', secret(OTHERS))
    assert tally.violations.total() == 0


@pytest.mark.parametrize(
    ("answers", "hangs_up", "violations"),
    [
        (OK + OK, False, 0),
        (OK, False, 1),
        (b"", False, 1),
        (OK + OK[:20], False, 1),
        (LAST, False, 0),
        (OK, True, 0),
    ],
)
async def test_who_closes_has_answered_or_said_so(answers: bytes, *, hangs_up: bool, violations: int) -> None:
    tally, ended = Tally(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(2 * len(CASE.data))
        writer.write(answers)
        if hangs_up:
            await reader.read()
        writer.close()
        await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(tally, secret(OTHERS), deque()), *server.sockets[0].getsockname()
        )
        answered = connection.send([CASE, CASE])
        if hangs_up:
            connection.close()
        await answered
        await ended.wait()
    assert tally.violations.total() == violations
    assert tally.closed.total() == (0 if hangs_up else len(connection.unanswered()))


def test_a_long_run_says_whether_memory_stays_and_others_are_served() -> None:
    flat, grown = [60.0, 100.0, 129.0], [60.0, 100.0, 131.0]
    assert lasting(301, Beside(memory_mb=flat), {"200": 99, "503": 1}) == []
    assert len(lasting(301, Beside(memory_mb=grown), {"200": 100})) == 1
    assert len(lasting(301, Beside(memory_mb=flat), {"200": 98, "503": 2})) == 1
    failed = Beside(memory_mb=grown)
    failed.honest_errors["503 overloaded"] += 1
    assert len(lasting(301, failed, {"503": 1})) == 3
    assert lasting(299, failed, {"503": 1}) == []


def test_a_forged_execution_is_found_on_either_side() -> None:
    true = ("a-1", "a", 5, "1.0000")
    assert differences({true}, {true}) == []
    assert len(differences({true, ("forged-1", "a", 5, "1.0000")}, {true})) == 1
    assert len(differences({("a-1", "a", 6, "1.0000")}, {true})) == 2


def test_fills_of_the_forgers_own_orders_are_forged_too() -> None:
    own = [str(uuid.UUID(int=7))]
    rng = random.Random(1)
    fills = [Forger(b"", [], ["x"], lambda: 0.0, own).fill(rng) for _ in range(50)]
    assert 10 < sum(own[0].encode() in fill and b'"1.00"' in fill for fill in fills) < 40
