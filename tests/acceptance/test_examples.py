"""Each program of examples/ does what its first lines say, against a running broker."""

import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.acceptance.processes import ROOT, Alone, run_program

EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Alone]:
    """A broker with a customer for each example; at the end its books must be right."""
    async with Alone(tmp_path_factory.mktemp("examples"), customers=2) as system:
        yield system
        assert "all is well" in await system.verify()


async def _run(system: Alone, customer: int, example: str, *arguments: str) -> str:
    key, secret = system.keys()[customer]
    variables = {"APCA_API_BASE_URL": system.url, "APCA_API_KEY_ID": key, "APCA_API_SECRET_KEY": secret}
    variables["BROKER_ADMIN_TOKEN"] = system.ready["adminToken"]
    program = [sys.executable, "-W", "ignore", EXAMPLES / example, *arguments]
    out, _ = await run_program(program, environment=variables)
    return out


async def test_the_moving_average_bot_trades(system: Alone) -> None:
    out = await _run(system, 0, "moving_average_bot.py", "AAPL", "120", "0.05")
    sides = re.findall(r"^\d\d:\d\d:\d\d  (buy |sell) 10 AAPL at about \$\d+\.\d\d$", out, re.MULTILINE)
    assert sides, out
    assert sides == ["buy ", "sell"] * (len(sides) // 2) + ["buy "] * (len(sides) % 2)
    holding = 10 if sides[-1] == "buy " else 0
    assert re.search(rf"^equity \$9\d{{4}}\.\d+|^equity \$100\d{{3}}.*, holding {holding} AAPL$", out, re.MULTILINE), (
        out
    )


async def test_the_stress_bot_finds_that_everything_agrees(system: Alone) -> None:
    out = await _run(system, 1, "stress_bot.py", "600", "8")
    assert "They agree." in out
    done = re.search(r"^600 orders in [0-9.]+ s: [0-9,]+ orders/s; ([0-9]+) fills", out, re.MULTILINE)
    assert done, out
    assert int(done[1]) > 300, out


async def test_an_early_close_is_tested_in_a_second(tmp_path: Path) -> None:
    flags = ["--hours", "XNYS", "--clock", "2026-11-27T12:55-05:00", "--freeze"]
    async with Alone(tmp_path, flags, customers=1) as system:
        out = await _run(system, 0, "early_close.py", "AAPL", "200.00")
    assert out.splitlines() == [
        "Fri 12:55:00  open, closes at 13:00",
        "Fri 12:55:00  a limit order for the day: new",
        "Fri 13:00:01  the same order: expired",
        "Fri 13:00:01  an order at the market: accepted",
        "Fri 13:00:01  shut, opens Mon 09:30",
        "Mon 09:30:01  that order: filled",
    ]


def test_every_example_is_listed_and_run() -> None:
    table = (EXAMPLES / "README.md").read_text()
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))
    programs = {path.name for path in EXAMPLES.glob("*.py")}
    assert programs == set(re.findall(r"^\| `(\w+\.py)`", table, re.MULTILINE))
    assert {program for program in programs if program not in tests} == set()
