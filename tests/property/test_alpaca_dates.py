"""Whatever dates a question names, it is answered, or refused as a question: none is a fault of ours."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast
from unittest.mock import AsyncMock, Mock
from urllib.parse import urlencode

import orjson
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import example, given
from hypothesis import strategies as st

from broker.alpaca.account import AccountRoutes
from broker.alpaca.activities import ActivitiesRoutes
from broker.alpaca.errors import answers
from broker.config import Config
from broker.core.history import POINTS_MAX
from broker.http import CALLER
from broker.worth import Worth

offsets = st.integers(-1_439, 1_439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
dates = st.one_of(
    st.dates().map(str),
    st.datetimes(timezones=st.one_of(st.none(), offsets)).map(datetime.isoformat),
    st.sampled_from(["0001-01-01", "9999-12-31", "1969-12-31", "1970-01-01", "2028-02-29", "soon", "2027-02-29"]),
)
nows = st.one_of(
    st.integers(0, 230 * 365 * 1_440).map(
        lambda minutes: datetime(1971, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    ),
    st.just(datetime(2028, 2, 29, 12, tzinfo=UTC)),
)
periods = st.one_of(st.from_regex(r"\A[0-9]{1,4}[DWMAYdx]\Z"), st.just("all"))
timeframes = st.sampled_from(["1Min", "5Min", "15Min", "1H", "1D"])


def questions(required: dict[str, st.SearchStrategy[str]], **more: st.SearchStrategy[str]) -> Any:
    return st.fixed_dictionaries({}, optional={**required, **more})


def asked(handler: Callable[[web.Request], Any], query: dict[str, str]) -> tuple[int, Any]:
    request = make_mocked_request("GET", f"/?{urlencode(query)}")
    request[CALLER] = Mock()
    response = cast(web.Response, asyncio.run(answers(handler)(request)))  # type: ignore[arg-type]
    return response.status, orjson.loads(cast(bytes, response.body))


def empty() -> Any:
    """A database that knows nothing of who asks."""
    return Mock(fetch=AsyncMock(return_value=[]))


@given(
    nows,
    questions(dict.fromkeys(["start", "end", "date_start", "date_end"], dates), period=periods, timeframe=timeframes),
)
@example(datetime(2028, 2, 29, 12, tzinfo=UTC), {"period": "1M"})
@example(datetime(2026, 11, 22, tzinfo=UTC), {"date_end": "9999-12-31"})
@example(datetime(2026, 11, 22, tzinfo=UTC), {"start": "0020-01-01", "end": "0030-01-01"})
def test_a_history(now: datetime, query: dict[str, str]) -> None:
    database = empty()
    worth = Worth(database, lambda symbol: None)
    routes = AccountRoutes(database, Mock(), worth, Mock(), Mock(), lambda: now, Config())
    status, found = asked(routes.history, query)
    assert status in {200, 422}, found
    if status == 200:
        assert found["timestamp"] == sorted(found["timestamp"])
        assert len(found["timestamp"]) == len(found["equity"]) <= POINTS_MAX + 2


@given(questions(dict.fromkeys(["after", "until", "date"], dates)))
@example({"date": "9999-12-31"})
@example({"date": "0001-01-01"})
def test_activities(query: dict[str, str]) -> None:
    database = empty()
    status, found = asked(ActivitiesRoutes(database, Mock()).activities, query)
    assert status in {200, 422}, found
