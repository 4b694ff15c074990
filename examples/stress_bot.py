"""Places orders as fast as they are answered, hears every fill on the stream, and then reckons: do cash and positions
agree with what its fills say? Exit code 1 if not.

    python examples/stress_bot.py 2000 16                  # orders, workers
"""

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from decimal import Decimal
from typing import Any

import aiohttp

URL, KEY, SECRET = (os.environ[f"APCA_API_{name}"] for name in ("BASE_URL", "KEY_ID", "SECRET_KEY"))
HEADERS = {"APCA-API-KEY-ID": KEY, "APCA-API-SECRET-KEY": SECRET}
SYMBOLS = ["AAPL", "AMD", "KO", "MSFT"]
ENDED = {"filled", "canceled", "expired", "rejected"}


class Bot:
    """What it placed, what it heard, and what follows from that."""

    def __init__(self, http: aiohttp.ClientSession, orders: int, seed: int) -> None:
        self.http, self.left, self.rng = http, orders, random.Random(seed)
        self.cash, self.shares, self.answers = Decimal(0), Counter[str](), Counter[str]()
        self.open: set[str] = set()
        self.ended: set[str] = set()
        self.fills = 0
        self.ending = asyncio.Event()

    async def call(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        """One request."""
        async with self.http.request(method, f"{URL}/v2{path}", headers=HEADERS, **more) as response:
            text = await response.text()
            return response.status, json.loads(text) if text else None

    async def work(self) -> None:
        """Place one order after another: most of them cannot rest, and those that might are for the day."""
        while self.left > 0:
            self.left -= 1
            order = {"symbol": self.rng.choice(SYMBOLS), "qty": str(self.rng.randint(1, 5)), "type": "market"}
            order |= {"side": self.rng.choice(["buy", "buy", "sell"]), "time_in_force": self.rng.choice(["day", "ioc"])}
            status, answer = await self.call("POST", "/orders", json=order)
            self.answers[f"{status}" if status == 200 else f"{status} {answer['message'].split('(')[0].strip()}"] += 1
            if status == 200 and answer["id"] not in self.ended:
                self.open.add(answer["id"])

    def hear(self, update: Any) -> None:
        """Book what the stream says."""
        if update["event"] in {"fill", "partial_fill"}:
            order, qty = update["order"], int(update["qty"])
            sign = 1 if order["side"] == "buy" else -1
            self.cash -= sign * qty * Decimal(update["price"])
            self.shares[order["symbol"]] += sign * qty
            self.fills += 1
        if update["order"]["status"] in ENDED:
            self.ended.add(update["order"]["id"])
            self.open.discard(update["order"]["id"])
            self.ending.set()

    async def listen(self, listening: asyncio.Event) -> None:
        """Follow the stream of this account's orders."""
        async with self.http.ws_connect(f"{URL}/stream") as stream:
            await stream.send_json({"action": "authenticate", "data": {"key_id": KEY, "secret_key": SECRET}})
            await stream.send_json({"action": "listen", "data": {"streams": ["trade_updates"]}})
            async for frame in stream:
                message = json.loads(frame.data)
                if message["stream"] == "trade_updates":
                    self.hear(message["data"])
                elif message["stream"] == "listening":
                    listening.set()

    async def fees(self) -> Decimal:
        """What the account was charged beside the prices: a negative number."""
        total, token = Decimal(0), None
        while True:
            query = {"activity_types": "FEE", "page_size": "100"} | ({"page_token": token} if token else {})
            _, rows = await self.call("GET", "/account/activities", params=query)
            total += sum((Decimal(row["net_amount"]) for row in rows), Decimal(0))
            if len(rows) < 100:
                return total
            token = rows[-1]["id"]

    async def positions(self) -> dict[str, int]:
        """Shares by symbol."""
        _, rows = await self.call("GET", "/positions")
        return {row["symbol"]: int(row["qty"]) for row in rows}


async def main(orders: int, workers: int) -> int:
    seed = int(os.environ.get("SEED", time.time_ns() % 1_000_000))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
        bot = Bot(http, orders, seed)
        _, before = await bot.call("GET", "/account")
        bot.shares.update(await bot.positions())
        fees_before = await bot.fees()
        listening = asyncio.Event()
        listener = asyncio.create_task(bot.listen(listening))
        await asyncio.wait_for(listening.wait(), 10)
        began = time.perf_counter()
        await asyncio.gather(*(bot.work() for _ in range(workers)))
        took = time.perf_counter() - began
        async with asyncio.timeout(30):
            while bot.open:  # the stream has not said yet how they ended
                bot.ending.clear()
                await bot.ending.wait()
        listener.cancel()
        _, after = await bot.call("GET", "/account")
        fees = await bot.fees() - fees_before
        positions = await bot.positions()
    print(f"{orders} orders in {took:.2f} s: {orders / took:,.0f} orders/s; {bot.fills} fills; seed {seed}")
    for answer, count in bot.answers.most_common():
        print(f"  {count:6} x {answer}")
    expected = Decimal(before["cash"]) + bot.cash + fees
    print(f"cash       ${after['cash']}, by its fills and ${-fees} of fees ${expected}")
    print(f"positions  {positions}, by its fills {dict(+bot.shares)}")
    right = Decimal(after["cash"]) == expected and positions == dict(+bot.shares)
    print("They agree." if right else "They DIFFER.")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]))))
