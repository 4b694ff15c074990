"""The attack of `make fuzz`, as long as every push can wait: a real broker, hostile requests, the books at the end."""

import os
from pathlib import Path

import pytest

from tests.fuzz.campaign import Campaign

REQUESTS = int(os.environ.get("FUZZ_REQUESTS", "25000"))
SECONDS = 20.0
"""A busy machine sends fewer: what counts is what came of them."""
LEAST = 1_000


@pytest.mark.timeout(240)
async def test_1_23_no_hostile_request_is_let_in_or_answered_with_a_fault(tmp_path: Path) -> None:
    report = await Campaign(tmp_path, seed=7, requests=REQUESTS, seconds=SECONDS).run()
    assert report["failures"] == [], report["examples"]
    assert report["requests"] >= LEAST
    assert {name for name, number in report["sent"].items() if number} >= {
        *("malformed HTTP", "odd HTTP", "no token, or a wrong one", "hostile body or query", "somebody else's id"),
        *("a customer's token for the operator's routes", "callback that is repeated", "callback of another time"),
        *("forged callback: retired key", "forged callback: other body", "WebSocket"),
    }
