"""One connection between two parts of the system, with a proxy on it that can be cut, slow, silent or half open."""

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_RESET = struct.pack("ii", 1, 0)
_LOST = (OSError, asyncio.IncompleteReadError)


class Link:
    """Listens on a port that stays the same, and leads each connection to wherever the other end is now."""

    def __init__(self, name: str, reach: Callable[[], Awaitable[Ends]]) -> None:
        self.name = name
        self.port = 0
        self.delay_s = 0.0
        self.connections = 0
        self._reach = reach
        self._cut = False
        self._flows = {"there": asyncio.Event(), "back": asyncio.Event()}
        self._open: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.heal()

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Let go of everything."""
        if self._server is not None:
            self._server.close()
        self.reset()
        await asyncio.sleep(0)

    def heal(self) -> None:
        """Everything flows again."""
        self._cut, self.delay_s = False, 0.0
        for flow in self._flows.values():
            flow.set()

    def cut(self) -> None:
        """Every connection is reset, and new ones as soon as they are made, until it is healed."""
        self._cut = True
        self.reset()

    def hold(self, *directions: str) -> None:
        """Nothing comes through any more, in one direction or both, while the connections stay open."""
        for direction in directions:
            self._flows[direction].clear()

    def reset(self) -> None:
        """Every connection that is open now ends, without a goodbye; what was on its way is lost."""
        for writer in self._open:
            with suppress(OSError):
                found = writer.get_extra_info("socket")
                if found is not None and found.family in {socket.AF_INET, socket.AF_INET6}:
                    found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()
        self._open.clear()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        ours = [writer]
        self._open.add(writer)
        try:
            if self._cut:
                return
            far_reader, far_writer = await self._reach()
            ours.append(far_writer)
            self._open.add(far_writer)
            if writer.transport.is_closing():  # it was reset meanwhile
                return
            there = asyncio.create_task(self._pump(reader, far_writer, "there"))
            back = asyncio.create_task(self._pump(far_reader, writer, "back"))
            try:
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        except _LOST:
            pass  # nobody is there: whoever asked finds the connection closed
        finally:
            for each in ours:
                self._open.discard(each)
                each.transport.abort() if self._cut else each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: str) -> None:
        with suppress(*_LOST):
            while data := await reader.read(2**16):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._flows[direction].wait()
                writer.write(data)
                await writer.drain()
