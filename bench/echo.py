"""The reference for acknowledgements: a bare aiohttp handler that reads the same request and answers as many bytes."""

import asyncio

import uvloop
from aiohttp import web

ANSWER = (
    b'{"tradeId":"01a20103-afdc-755b-94a6-259c794db6ea","stockTicker":"AAPL","type":"BUY","quantity":10,'
    b'"createdAt":"2026-11-22T02:09:08.591341Z","status":"PLACED",'
    b'"reason":"Stored; its turn comes when your earlier trades are done."}'
)


async def echo(request: web.Request) -> web.Response:
    """Read it, answer."""
    await request.read()
    return web.Response(body=ANSWER, status=201, content_type="application/json")


async def main() -> None:
    """Serve until killed."""
    app = web.Application()
    app.add_routes([web.post("/api/v1/trades", echo)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
