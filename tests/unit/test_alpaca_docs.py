"""docs/alpaca.md names every route of Alpaca's trading API, and no other; each declares what it takes and answers."""

import re
from pathlib import Path
from typing import Any, cast

import pytest

from broker.alpaca.api import AlpacaApi
from broker.config import Config
from broker.openapi import operation_of

PAGE = Path(__file__).parents[2] / "docs" / "alpaca.md"
NOTHING = cast(Any, type("Nothing", (), {"view": None})())
ROUTES = [
    route
    for route in AlpacaApi(*[NOTHING] * 10, Config()).routes()  # type: ignore[misc]
    if route.method != "*"
]


def test_every_route_is_named_and_no_other_is() -> None:
    named = set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /v2/[^`]*)`", PAGE.read_text("utf-8")))
    assert named == {f"{each.method} {each.path}" for each in ROUTES}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_declares_what_it_takes_and_answers(route: Any) -> None:
    declared = operation_of(route.handler)
    assert declared is not None
    assert (declared.status == 204) is (declared.answer is None)
