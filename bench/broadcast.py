"""The reference for the stream: a bare aiohttp server that sends the same bytes to the same clients.

It reads the same feed, makes the message once, and sends it to one follower after the other with `send_str`.

    FEED=http://127.0.0.1:8090 python -m bench.broadcast      (prints its port)
"""

import asyncio
import os
import sys
from collections import defaultdict
from contextlib import suppress

import aiohttp
import orjson
import uvloop
from aiohttp import web

FOLLOWERS: dict[str, list[web.WebSocketResponse]] = defaultdict(list)


async def stream(request: web.Request) -> web.WebSocketResponse:
    """Follow what the messages ask for."""
    socket = web.WebSocketResponse(compress=False, heartbeat=15)
    await socket.prepare(request)
    async for message in socket:
        for symbol in orjson.loads(message.data)["symbols"]:
            FOLLOWERS[symbol].append(socket)
    for sockets in FOLLOWERS.values():
        if socket in sockets:
            sockets.remove(socket)
    return socket


async def broadcast() -> None:
    """From the feed to the followers."""
    async with aiohttp.ClientSession() as session, session.ws_connect(os.environ["FEED"] + "/v1/feed") as feed:
        async for message in feed:
            for quote in orjson.loads(message.data)["quotes"]:
                data = {
                    "symbol": quote["symbol"],
                    "bid": quote["bid"],
                    "bid_size": quote["bid_size"],
                    "ask": quote["ask"],
                    "ask_size": quote["ask_size"],
                    "last": quote["last"],
                    **dict.fromkeys(("last_size", "last_at", "open", "high", "low", "previous_close")),
                    "volume": 0,
                    "timestamp": quote["at"].replace("+00:00", "Z"),
                    "stale": False,
                }
                text = orjson.dumps({"type": "quote_update", "data": data}).decode()
                for socket in [*FOLLOWERS[quote["symbol"]]]:
                    with suppress(ConnectionError):
                        await socket.send_str(text)


async def main() -> None:
    """Serve until killed."""
    app = web.Application()
    app.add_routes([web.get("/api/v1/stream", stream)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.gather(broadcast())


if __name__ == "__main__":
    sys.exit(uvloop.run(main()))
