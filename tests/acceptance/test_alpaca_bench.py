"""The test bench as a bot sees it through Alpaca's SDK: rejections, partial and late fills, prices that meet its stops,
halts, a reset."""

import sys
from pathlib import Path

from tests.acceptance.processes import Alone, answer_of


async def test_a_bot_meets_what_the_bench_says(tmp_path: Path) -> None:
    async with Alone(tmp_path, customers=1) as system:
        told = {"url": system.url, "keys": system.keys(), "admin": system.ready["adminToken"]}
        told["customer"] = system.ready["customers"][0]["customerId"]
        program = [sys.executable, "-W", "ignore", "-m", "tests.acceptance.clients.drive_bench"]
        heard = await answer_of(program, told)
        assert "all is well" in await system.verify()
    begins = [["pending_new", None, None], ["new", None, None]]
    waits = [["pending_new", None, None], ["held", None, None]]
    assert heard == {
        "rejected": [["pending_new", None, None], ["rejected", None, None]],
        "partly": [
            *begins,
            ["partial_fill", 3, 3],
            ["partial_fill", 4, 7],
            ["pending_cancel", None, None],
            ["canceled", None, None],
        ],
        "late": [*begins, ["fill", 5, 5]],
        "priced": [*begins, ["fill", 10, 10]],
        "halted": [["pending_new", None, None], ["rejected", None, None]],
        "trailing": [*begins, ["fill", 5, 0]],
        "entry": [*begins, ["fill", 10, 10]],
        "profit": [*waits, ["new", None, None], ["pending_cancel", None, None], ["canceled", None, None]],
        "stop": [*waits, ["new", None, None], ["fill", 10, 0]],
    }
