"""Market data out: every message is encoded once and written to all who follow its topic.

What is to be sent to a follower is never a queue of messages but a set of topics that have news: when its turn comes it
gets what is newest of each. So nobody falls behind by more than one round, however slow or many they are, and memory is
bounded. While a part of what was written to a follower still waits here, because the kernel takes no more of it, its
topics stay marked; it is cut off where it takes nothing at all for too long. Nobody waits for anybody.

Frames are written to the transport as they are: a server's frames are not masked, so one is the same for everybody.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from time import monotonic

from broker.config import Config
from broker.core.types import Symbol
from broker.metrics import Metrics

_SLICE = 16
"""Followers that are written to before others get their turn on the loop, orders among them: about 0.15 ms."""
_LOOK_S = 0.02
"""How often the slow ones are looked at."""
_SLOTS = 10
"""Batches do not all go out at one moment: each follower has its slot in the interval."""
_TRADES_KEPT = 64
"""Trades of one symbol that a follower may be behind; of what is newer than its turn, these are the last."""
_TEXT, _BINARY = 0x81, 0x82  # a whole message in one frame
_ARRAY_MAX = 512 * 1024
"""Bytes of messages in one array: clients take frames of up to 1 MiB, as a rule."""


class Channel(StrEnum):
    """What can be followed of a symbol."""

    QUOTES = "quotes"
    TRADES = "trades"
    BARS = "bars"


def text_frame(payload: bytes, kind: int = _TEXT) -> bytes:
    """A WebSocket frame as a server sends it (RFC 6455, 5.2), of text where nothing else is said."""
    size = len(payload)
    if size < 126:
        return bytes((kind, size)) + payload
    if size < 65536:
        return bytes((kind, 126)) + size.to_bytes(2, "big") + payload
    return bytes((kind, 127)) + size.to_bytes(8, "big") + payload


class Wire:
    """How messages go out: JSON, each in a frame of its own, or those of a batch as one array."""

    always_arrays = False

    def frame(self, payload: bytes) -> bytes:
        """One message."""
        return text_frame(payload)

    def array(self, payloads: list[bytes]) -> bytes:
        """Several messages, as an array."""
        return text_frame(b"[" + b",".join(payloads) + b"]")


class JsonArrays(Wire):
    """JSON, always in arrays, of which none is larger than a client takes."""

    always_arrays = True

    def frame(self, payload: bytes) -> bytes:
        """An array of one."""
        return self.array([payload])

    def array(self, payloads: list[bytes]) -> bytes:
        """As many arrays as it takes."""
        return b"".join(text_frame(b"[" + b",".join(part) + b"]") for part in _parts(payloads))


class MsgpackArrays(JsonArrays):
    """The same in msgpack, in binary frames."""

    def array(self, payloads: list[bytes]) -> bytes:
        """As many arrays as it takes."""
        return b"".join(text_frame(_array_head(len(part)) + b"".join(part), _BINARY) for part in _parts(payloads))


def _array_head(length: int) -> bytes:
    return bytes((0x90 | length,)) if length < 16 else b"\xdd" + length.to_bytes(4, "big")


def _parts(payloads: list[bytes]) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for payload in payloads:
        if part and size + len(payload) > _ARRAY_MAX:
            yield part
            part, size = [], 0
        part.append(payload)
        size += len(payload) + 1
    yield part


@dataclass(eq=False, slots=True)
class Topic:
    """One channel of one symbol: who follows it, and its newest messages (of quotes and bars: the newest one)."""

    channel: StrEnum
    symbol: Symbol
    followers: set["Follower"] = field(default_factory=set)
    number: int = 0  # of the newest message
    payload: bytes = b""
    frame: bytes = b""
    earlier: deque[tuple[bytes, bytes]] | None = None  # of trades: the newest ones, as (payload, frame)

    def frames_since(self, number: int) -> bytes:
        """The frames from this number on, as far as they are kept."""
        if self.earlier is None or number == self.number:
            return self.frame
        return b"".join([frame for _, frame in self._since(number)])

    def payloads_since(self, number: int) -> list[bytes]:
        """The same as messages."""
        if self.earlier is None or number == self.number:
            return [self.payload]
        return [payload for payload, _ in self._since(number)]

    def _since(self, number: int) -> Sequence[tuple[bytes, bytes]]:
        assert self.earlier is not None
        return list(self.earlier)[-min(self.number - number + 1, len(self.earlier)) :]


class Follower:
    """One socket that follows topics. `cut` is called where it takes nothing for too long."""

    __slots__ = ("batch", "buffered", "cut", "moved_at", "pending", "queued", "slot", "topics", "transport")

    def __init__(self, transport: asyncio.Transport, cut: Callable[[], None]) -> None:
        self.transport = transport
        self.cut = cut
        self.topics: set[Topic] = set()
        self.pending: dict[Topic, int] = {}  # topics with news, each with the first message that was not sent
        self.queued = False
        self.batch = False
        self.slot = id(self) // 64 % _SLOTS  # any will do, as long as they differ
        self.buffered = 0  # of a slow one: bytes that waited when it was last looked at
        self.moved_at = 0.0

    def write(self, data: bytes) -> None:
        """Put frames on their way."""
        if not self.transport.is_closing():
            self.transport.write(data)


class Hub:
    """Who follows what."""

    def __init__(self, config: Config, metrics: Metrics, wire: Wire | None = None) -> None:
        self._wire = wire or Wire()
        self._stall_s = config.stream_stall_s
        self._batch_s = config.stream_batch_s
        self._sent = metrics.stream_messages
        self._conflated = metrics.stream_conflated
        self._cut = metrics.stream_cut
        self._topics: dict[tuple[StrEnum, Symbol], Topic] = {}
        self._queue: deque[Follower] = deque()
        self._batches: list[list[Follower]] = [[] for _ in range(_SLOTS)]
        self._slow: list[Follower] = []
        # Set where there is something to do: an idle broker is not woken 250 times a second.
        self._news = asyncio.Event()
        self._batched = asyncio.Event()
        self._lagging = asyncio.Event()

    # -------------------------------------------------------------- who follows

    def follow(self, follower: Follower, channel: StrEnum, symbol: Symbol) -> None:
        """From now on, all of it."""
        topic = self._topics.get((channel, symbol))
        if topic is None:
            topic = self._topics[channel, symbol] = Topic(channel, symbol)
            if channel == Channel.TRADES:  # of whichever API
                topic.earlier = deque(maxlen=_TRADES_KEPT)
        topic.followers.add(follower)
        follower.topics.add(topic)

    def leave(self, follower: Follower, channel: StrEnum, symbol: Symbol) -> None:
        """No more of it; where it was not followed, nothing happens."""
        topic = self._topics.get((channel, symbol))
        if topic is not None and follower in topic.followers:
            self._leave(follower, topic)

    def gone(self, follower: Follower) -> None:
        """Its socket is closed."""
        for topic in [*follower.topics]:
            self._leave(follower, topic)
        follower.pending.clear()

    def _leave(self, follower: Follower, topic: Topic) -> None:
        topic.followers.discard(follower)
        follower.topics.discard(topic)
        follower.pending.pop(topic, None)
        if not topic.followers:
            del self._topics[topic.channel, topic.symbol]

    def is_followed(self, channel: StrEnum, symbol: Symbol) -> bool:
        """Whether anybody would hear: else it need not be encoded."""
        return (channel, symbol) in self._topics

    # -------------------------------------------------------------- news

    @property
    def is_silent(self) -> bool:
        """Whether nobody follows anything."""
        return not self._topics

    def publish(self, channel: StrEnum, symbol: Symbol, *payloads: bytes) -> None:
        """Messages, encoded as on the wire, oldest first, for all who follow this."""
        topic = self._topics.get((channel, symbol))
        if topic is None or not payloads:
            return
        number = topic.number + 1
        topic.number += len(payloads)
        topic.payload = payloads[-1]
        topic.frame = self._wire.frame(topic.payload)
        if topic.earlier is not None:
            topic.earlier.extend((payload, self._wire.frame(payload)) for payload in payloads[-_TRADES_KEPT:])
        conflated = 0
        for follower in topic.followers:
            pending = follower.pending
            if topic in pending:
                conflated += 1
            else:
                pending[topic] = number
            if not follower.queued:
                follower.queued = True
                self._line_up(follower)
        if conflated and topic.earlier is None:
            self._conflated.inc(conflated)

    def _line_up(self, follower: Follower) -> None:
        if follower.batch:
            self._batches[follower.slot].append(follower)
            self._batched.set()
        else:
            self._queue.append(follower)
            self._news.set()

    # -------------------------------------------------------------- out

    async def run(self) -> None:
        """Write to one follower after the other, for ever, each as its turn comes."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_singles())
            if not self._wire.always_arrays:
                tasks.create_task(self._write_batches())
            tasks.create_task(self._watch_slow())

    async def _write_singles(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            while self._queue:
                sent = 0
                for _ in range(min(_SLICE, len(self._queue))):
                    sent += self._write(self._queue.popleft())
                self._sent.inc(sent)
                await asyncio.sleep(0)  # what comes in now is what the next ones get

    async def _write_batches(self) -> None:
        loop, slot = asyncio.get_running_loop(), 0
        due = loop.time()
        while True:
            if not any(self._batches):
                self._batched.clear()
                await self._batched.wait()
                due = loop.time()
            due = max(due + self._batch_s / _SLOTS, loop.time() - self._batch_s)
            await asyncio.sleep(due - loop.time())
            slot = (slot + 1) % _SLOTS
            followers, self._batches[slot] = self._batches[slot], []
            for start in range(0, len(followers), _SLICE):
                self._sent.inc(sum(map(self._write, followers[start : start + _SLICE])))
                await asyncio.sleep(0)

    def _write(self, follower: Follower) -> int:
        """What is newest of all that has news; how many messages that was."""
        pending = follower.pending
        waiting = follower.transport.get_write_buffer_size()
        if waiting and pending:
            follower.buffered, follower.moved_at = waiting, monotonic()
            self._slow.append(follower)
            self._lagging.set()
            return 0
        follower.queued = False
        sent = len(pending)
        if follower.batch or (self._wire.always_arrays and sent > 1):
            data = self._wire.array([each for topic, first in pending.items() for each in topic.payloads_since(first)])
        elif sent == 1:
            ((topic, first),) = pending.items()
            data = topic.frames_since(first)
        else:
            data = b"".join([topic.frames_since(first) for topic, first in pending.items()])
        pending.clear()
        if sent:
            follower.write(data)
        return sent

    async def _watch_slow(self) -> None:
        while True:
            if not self._slow:
                self._lagging.clear()
                await self._lagging.wait()
            await asyncio.sleep(_LOOK_S)
            now = monotonic()
            slow, self._slow = self._slow, []
            for follower in slow:
                waiting = follower.transport.get_write_buffer_size()
                if not waiting or not follower.pending:
                    self._line_up(follower)
                elif waiting >= follower.buffered and now - follower.moved_at >= self._stall_s:
                    self._cut.inc()
                    self.gone(follower)
                    follower.cut()
                else:
                    if waiting < follower.buffered:  # more is no progress: a ping was added
                        follower.buffered, follower.moved_at = waiting, now
                    self._slow.append(follower)
