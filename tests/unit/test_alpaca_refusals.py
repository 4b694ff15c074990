"""Every refusal of ours has an answer in Alpaca's form, and the common ones have Alpaca's words."""

import json

import pytest
import structlog
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from broker.alpaca.errors import AlpacaError, answers, as_alpaca_error
from broker.alpaca.refusals import ANSWERS, answer
from broker.auth import NotAuthenticated
from broker.batch import Overloaded
from broker.core.messages import Refusal, Refused
from broker.db import DatabaseUnavailable
from broker.exchange import ExchangeUnavailable
from broker.http import ApiError
from broker.shards import Unanswered


def test_the_table_is_total() -> None:
    assert set(ANSWERS) == set(Refusal)


@pytest.mark.parametrize("refusal", Refusal)
def test_each_refusal_has_a_status_and_its_code(refusal: Refusal) -> None:
    error = answer(Refused(refusal, "because.", {"symbol": "AAPL"}), "AAPL")
    assert error.status in {403, 422, 429}
    assert error.code == error.status * 100_000 + 10_000
    assert error.body()["message"]


def test_too_little_money_has_alpacas_words_and_figures() -> None:
    refused = Refused(Refusal.INSUFFICIENT_FUNDS, "no.", {"available": "5.00", "needed": "7.00", "quantity": 1})
    assert answer(refused).body() == {
        "code": 40310000,
        "message": "insufficient buying power",
        "buying_power": "5.00",
        "cost_basis": "7.00",
    }


def test_too_few_shares_have_alpacas_words_and_figures() -> None:
    refused = Refused(Refusal.INSUFFICIENT_SHARES, "no.", {"needed": 70, "available": 0})
    assert answer(refused, "AAPL", (70, 70)).body() == {
        "code": 40310000,
        "message": "insufficient qty available for order (requested: 70, available: 0)",
        "available": "0",
        "existing_qty": "70",
        "held_for_orders": "70",
        "symbol": "AAPL",
    }


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (AlpacaError(422, 40010001, "x"), 422, 40010001),
        (ApiError(400, "invalid_json", "x"), 400, 40010000),
        (ApiError(413, "body_too_large", "x"), 413, 41310000),
        (NotAuthenticated("x"), 401, 40110000),
        (Overloaded("x"), 429, 42910000),
        (Unanswered("x"), 503, 50310000),
        (DatabaseUnavailable("x"), 503, 50310000),
        (ExchangeUnavailable("x"), 503, 50310000),
    ],
)
def test_only_what_was_not_done_is_answered_with_what_clients_send_again(
    failure: Exception, status: int, code: int
) -> None:
    error = as_alpaca_error(failure)
    assert error is not None
    assert (error.status, error.code) == (status, code)
    assert (error.status in {429, 504}) is isinstance(failure, Overloaded)


def test_a_bug_is_nothing_that_we_expect() -> None:
    assert as_alpaca_error(KeyError("x")) is None


async def test_a_bug_is_answered_in_alpacas_form_too() -> None:
    async def breaks(_: web.Request) -> web.Response:
        raise KeyError("a bug")

    request = make_mocked_request("GET", "/v2/account")
    with structlog.testing.capture_logs() as logged:
        response = await answers(breaks)(request)
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    body = json.loads(response.body)
    assert (response.status, body["code"]) == (500, 50010000)
    assert "a bug" not in body["message"]
    assert [each["event"] for each in logged] == ["request.failed"]
