"""A feed that was recorded, in the place of a live one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from broker.recording import read_recording


class RecordedSource:
    """A recording that `broker record` made, played at the speed at which it was made, again and again.

    Its times are moved to now, so that its trades make bars of today.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now

    async def messages(self) -> AsyncGenerator[str | bytes, None]:
        """The recording, over and over: each time it begins with its snapshot."""
        while True:
            async for message in self._once():
                yield message

    async def _once(self) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        began, shift = loop.time(), None
        for line in read_recording(self._path):
            await asyncio.sleep(max(0.0, began + line.after_ms / 1000 - loop.time()))
            message = msgspec.json.decode(line.message)
            parts = [*message.get("quotes", ()), *message.get("trades", ())]
            if shift is None:  # what moved last before the recording began stands for its beginning
                times = [datetime.fromisoformat(part["at"]) for part in parts]
                shift = self._now() - max(times, default=self._now())
            for part in parts:
                part["at"] = (datetime.fromisoformat(part["at"]) + shift).isoformat()
            yield msgspec.json.encode(message)
