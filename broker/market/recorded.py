"""A feed that was recorded, in the place of a live one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from broker.market.feed import Message, WireQuote, WireTrade
from broker.recording import read_recording, recorded_at

_LEAST_S = 1.0
"""A round takes at least so long, also where nothing but the snapshot was recorded."""
_decode = msgspec.json.Decoder(Message).decode


class RecordedSource:
    """A recording that `broker record` made, played at the speed at which it was made, again and again.

    Its times are moved to now, so that its trades make bars of today.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now

    async def messages(self) -> AsyncGenerator[str | bytes, None]:
        """The recording, over and over: each time it begins with its snapshot."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            async for message in self._once():
                yield message
            await asyncio.sleep(began + _LEAST_S - loop.time())

    async def _once(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        began, shift = loop.time(), self._now() - recorded_at(self._path)
        for line in read_recording(self._path):
            await asyncio.sleep(max(0.0, began + line.after_ms / 1000 - loop.time()))
            message = _decode(line.message)
            parts: list[WireQuote | WireTrade] = [*message.quotes, *message.trades]
            if any(part.at.tzinfo is None for part in parts):
                raise ValueError("a time in the recording has no zone")
            for part in parts:
                part.at += shift
            yield msgspec.json.encode(message)
