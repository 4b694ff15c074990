"""A trading day through Alpaca's SDK, from 8:00 until after the evening session, in a few seconds."""

import sys
from pathlib import Path

from tests.acceptance.processes import Alone, answer_of


async def test_a_day_from_before_the_opening_until_after_the_evening(tmp_path: Path) -> None:
    flags = ["--hours", "XNYS", "--clock", "2026-11-24T08:00-05:00", "--freeze"]
    async with Alone(tmp_path, flags, customers=1) as system:
        told = {"url": system.url, "keys": system.keys(), "admin": system.ready["adminToken"]}
        program = [sys.executable, "-W", "ignore", "-m", "tests.acceptance.clients.drive_hours"]
        seen = await answer_of(program, told)
        assert "all is well" in await system.verify()
    early = {"market": "accepted", "opening": "new", "opening_far": "new", "limit": "new"}
    early |= {"early": "filled", "evening": "new"}
    opened = early | {"market": "filled", "opening": "filled", "opening_far": "canceled"}
    opened |= {"closing": "new", "gtc": "new"}
    closed = opened | {"limit": "expired", "closing": "filled", "late": "filled", "tomorrow": "accepted"}
    night = closed | {"evening": "expired"}
    assert seen == {"08:00": early, "09:30": opened, "16:00": closed, "20:00": night}
