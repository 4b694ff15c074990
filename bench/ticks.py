"""An exchange that only ticks: a feed of made-up quotes at a rate that is set while it runs. A process of its own.

python -m bench.ticks 100        (prints its port; POST /rate with a number of ticks a second in the body)
"""

import asyncio
import sys
from datetime import UTC, datetime

import orjson
import uvloop
from aiohttp import web


class Ticks:
    """The feed: one quote in a message, the symbols one after the other, evenly spaced."""

    def __init__(self, symbols: int) -> None:
        self.symbols = [f"T{number:03}" for number in range(symbols)]
        self.rate = 0.0
        self.sequence = 1
        self.sockets: set[web.WebSocketResponse] = set()

    def quote(self, symbol: str) -> dict[str, object]:
        cents = 10_000 + self.sequence % 1_000
        at = datetime.now(UTC).isoformat(timespec="microseconds")
        prices = {"bid": f"{cents / 100:.2f}", "ask": f"{(cents + 2) / 100:.2f}", "last": f"{(cents + 1) / 100:.2f}"}
        return {"symbol": symbol, **prices, "at": at, "bid_size": 300, "ask_size": 500}

    async def feed(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        snapshot = [self.quote(symbol) for symbol in self.symbols]
        self.sockets.add(socket)
        await socket.send_str(
            orjson.dumps({"type": "snapshot", "sequence": self.sequence, "quotes": snapshot}).decode()
        )
        async for _ in socket:
            pass
        self.sockets.discard(socket)
        return socket

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        due, number = loop.time(), 0
        while True:
            await asyncio.sleep(0.001)
            if not self.rate:
                due = loop.time()
                continue
            while due <= loop.time():
                due += 1 / self.rate
                number += 1
                self.sequence += 1
                quotes = [self.quote(self.symbols[number % len(self.symbols)])]
                message = orjson.dumps({"type": "quotes", "sequence": self.sequence, "quotes": quotes}).decode()
                for socket in [*self.sockets]:
                    await socket.send_str(message)

    async def set_rate(self, request: web.Request) -> web.Response:
        self.rate = float(await request.text())
        return web.Response()

    async def list(self, _: web.Request) -> web.Response:
        return web.json_response({"symbols": [{"symbol": each, "name": each} for each in self.symbols]})


async def main() -> None:
    """Tick until killed."""
    ticks = Ticks(int(sys.argv[1]))
    app = web.Application()
    app.add_routes(
        [web.get("/v1/feed", ticks.feed), web.get("/v1/symbols", ticks.list), web.post("/rate", ticks.set_rate)]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await ticks.run()


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
