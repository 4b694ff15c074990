"""What an attacker hears, held against what must be."""

import asyncio
import re
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field, fields

import orjson

from tests.fuzz.arsenal import Case

KEPT = 40
"""Violations that are told in full, at most 5 of a kind."""
CANARY = b"canary-"
"""Stands in what belongs to others, and in nothing that the attacker sends: no answer may have it."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close\r\n", re.IGNORECASE)
_ID = re.compile(rb'"id":"([0-9a-f-]{36})"')
_RETRY = re.compile(rb"\r\nretry-after: *\d+", re.IGNORECASE)


def length_of(head: bytes) -> int:
    """The length of the body behind these headers."""
    found = _LENGTH.search(head)
    return int(found[1]) if found else 0


def secret(texts: Iterable[str]) -> re.Pattern[bytes]:
    """Finds what is other customers': ids, and figures that nobody else has."""
    return re.compile("|".join(map(re.escape, sorted(set(texts)))).encode())


@dataclass(slots=True)
class Tally:
    """What was sent and heard."""

    sent: "Counter[str]" = field(default_factory=Counter)
    heard: "Counter[str]" = field(default_factory=Counter)  # "class status"
    closed: "Counter[str]" = field(default_factory=Counter)  # connections that ended without an answer, by class
    frames: int = 0
    violations: "Counter[str]" = field(default_factory=Counter)
    examples: list[dict[str, str]] = field(default_factory=list)

    def told(self) -> dict[str, object]:
        """All of it, as JSON has it."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    def violate(self, kind: str, case: Case, answer: bytes) -> None:
        """Something that must never be."""
        self.violations[f"{kind}: {case.name}"] += 1
        if self.violations[f"{kind}: {case.name}"] <= KEPT // 8 and len(self.examples) < KEPT:
            told = {"kind": kind, "class": case.name, "sent": repr(case.data[:700]), "heard": repr(answer[:500])}
            self.examples.append(told)


def judge(tally: Tally, case: Case, status: int, head: bytes, body: bytes, others: re.Pattern[bytes]) -> None:
    """Hold an answer against what must be; `others` finds what is somebody else's, which only its sender may name."""
    tally.heard[f"{case.name} {status}"] += 1
    if status == 503 and b'"status":"not ready"' in body:  # what /readyz says of a database that is away is no error
        return
    if status >= 500 and not (status == 503 and _RETRY.search(head)):
        tally.violate(f"answered {status}", case, head + body)
    if status == 429 and not _RETRY.search(head):
        tally.violate("429 without Retry-After", case, head + body)
    if status < 400:
        if case.refused:
            tally.violate("let in", case, head + body)
    elif not is_error(body, case.alpaca):
        tally.violate("not the form of an error", case, head + body)
    if shows_others(case, body, others):
        tally.violate("shows what belongs to others", case, head + body)
    if b"Traceback" in body or b'.py"' in body:
        tally.violate("shows a traceback", case, head + body)


def shows_others(case: Case, heard: bytes, others: re.Pattern[bytes]) -> bool:
    """Whether it tells more of others than the request did."""
    return CANARY in heard or any(found not in case.data for found in others.findall(heard))


def is_error(body: bytes, alpaca: bool) -> bool:
    """Whether it is in our one form of error, or on Alpaca's routes in theirs."""
    try:
        error = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    if not isinstance(error, dict):
        return False
    if isinstance(error.get("error"), str) and isinstance(error.get("code"), str):
        return 0 < len(error["error"]) < 1_000
    return alpaca and isinstance(error.get("message"), str) and isinstance(error.get("code"), int)


class Connection(asyncio.Protocol):
    """One connection: writes what it is given, and judges the answers in their order.

    The other side may end it only when it has answered everything, or has said so in its last answer. `own` gets the
    ids of the orders that it has placed.
    """

    def __init__(self, tally: Tally, others: re.Pattern[bytes], own: deque[str]) -> None:
        self._tally = tally
        self._others = others
        self._own = own
        self._may_end = False
        self._hung_up = False
        self._waiting: deque[Case] = deque()
        self._buffer = b""
        self._done: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self.is_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open."""
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        """Closed: nothing more comes."""
        self.is_closed = True
        for each in self._waiting if not self._hung_up else ():
            self._tally.closed[each.name] += 1
        if self._waiting and not self._may_end and not self._hung_up:
            self._tally.violate("closed without an answer", self._waiting[0], self._buffer)
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def send(self, cases: list[Case]) -> "asyncio.Future[None]":
        """Write them all; the future is done when all were answered, or the connection is closed."""
        assert self._transport is not None
        self._waiting.extend(cases)
        for case in cases:
            self._tally.sent[case.name] += 1
        self._done = asyncio.get_running_loop().create_future()
        if self.is_closed:
            self._done.set_result(None)
        self._transport.write(b"".join([case.data for case in cases]))
        return self._done

    def data_received(self, data: bytes) -> None:
        """Answers, or parts of them."""
        buffer = self._buffer + data
        start = 0
        while self._waiting:
            end = buffer.find(b"\r\n\r\n", start)
            if end < 0:
                break
            head = buffer[start : end + 2]
            try:
                status = int(head[9:12])
            except ValueError:
                self._tally.violate("no HTTP", self._waiting[0], buffer[start:])
                self.close()
                return
            if status == 100:
                start = end + 4
                continue
            length = length_of(head)
            if len(buffer) < end + 4 + length:
                break
            start = end + 4 + length
            self._may_end = _CLOSE.search(head) is not None
            self._hear(self._waiting.popleft(), status, head, buffer[end + 4 : start])
        self._buffer = buffer[start:]
        if not self._waiting and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _hear(self, case: Case, status: int, head: bytes, body: bytes) -> None:
        judge(self._tally, case, status, head, body, self._others)
        if case.places and status == 201 and (found := _ID.search(body)):
            self._own.append(found[1].decode())

    def unanswered(self) -> list[Case]:
        """What nobody answered."""
        return list(self._waiting)

    def close(self) -> None:
        """Hang up."""
        self._hung_up = True
        if self._transport is not None:
            self._transport.abort()
