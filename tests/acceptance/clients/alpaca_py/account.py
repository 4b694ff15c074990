"""Account, clock, calendar, assets, configurations, history, activities and watchlists."""

from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

from alpaca.trading.client import TradingClient
from alpaca.trading.enums import AssetClass, AssetExchange, AssetStatus, CorporateActionType
from alpaca.trading.models import AccountConfiguration
from alpaca.trading.requests import (
    CreateWatchlistRequest,
    GetAssetsRequest,
    GetCalendarRequest,
    GetCorporateAnnouncementsRequest,
    GetOptionContractsRequest,
    UpdateWatchlistRequest,
)

from tests.acceptance.clients.alpaca_py.desk import BUY, SELL, Desk, eventually, refused, step


@step
def reads_its_account(desk: Desk) -> None:
    account = desk.trading.get_account()
    assert account.status.value == "ACTIVE"
    assert account.currency == "USD"
    assert Decimal(account.cash) == Decimal(account.equity) == Decimal(account.portfolio_value) == 100_000
    assert Decimal(account.buying_power) == 100_000
    assert account.multiplier in {"1", "2", "4"}
    assert (account.trading_blocked, account.account_blocked, account.trade_suspended_by_user) == (False, False, False)
    assert account.daytrade_count == 0
    assert account.id == desk.trading.get_account().id != desk.other.trading.get_account().id


@step
def sees_a_purchase_in_its_account(desk: Desk) -> None:
    order = desk.bought(10)
    paid = Decimal(order.filled_avg_price) * 10
    account = desk.trading.get_account()
    assert Decimal(account.cash) == 100_000 - paid
    assert Decimal(account.long_market_value) > 0
    assert Decimal(account.equity) == Decimal(account.cash) + Decimal(account.long_market_value)


@step
def open_orders_lessen_its_buying_power(desk: Desk) -> None:
    price = desk.far_below()
    order = desk.resting(price)
    assert Decimal(desk.trading.get_account().buying_power) == 100_000 - Decimal(str(price)) * 10
    desk.trading.cancel_order_by_id(order.id)
    desk.in_status(order, "canceled")
    assert Decimal(desk.trading.get_account().buying_power) == 100_000


@step
def authenticates_in_every_way_the_sdk_has(desk: Desk) -> None:
    from alpaca.data.historical import StockHistoricalDataClient
    from alpaca.data.requests import StockLatestQuoteRequest

    number = desk.trading.get_account().account_number
    with_token = TradingClient(oauth_token=f"{desk.key}.{desk.secret}", url_override=desk.url)
    assert with_token.get_account().account_number == number
    basic = StockHistoricalDataClient(desk.key, desk.secret, use_basic_auth=True, url_override=desk.url)
    assert basic.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols="AAPL"))["AAPL"].ask_price > 0


@step
def is_told_that_its_key_is_wrong(desk: Desk) -> None:
    for key, secret in ((desk.key, "wrong"), ("wrong", desk.secret), (desk.key, desk.other.secret)):
        with refused(401, 40110000):
            TradingClient(key, secret, url_override=desk.url).get_account()
        with refused(401, 40110000):
            Desk(desk.url, key, secret, set()).quote()


@step
def an_unknown_path_is_a_404_that_it_can_read(desk: Desk) -> None:
    with refused(404, 40410000):
        desk.trading.get("/nothing/here")


@step
def reads_the_clock(desk: Desk) -> None:
    clock = desk.trading.get_clock()
    assert clock.is_open is True
    assert clock.timestamp.tzinfo is not None
    assert clock.next_close > clock.timestamp
    assert clock.next_open > clock.timestamp


@step
def reads_the_calendar(desk: Desk) -> None:
    start = desk.now().date()
    days = desk.trading.get_calendar(GetCalendarRequest(start=start, end=start + timedelta(days=13)))
    assert 1 <= len(days) <= 14
    assert [day.date for day in days] == sorted({day.date for day in days})
    assert all(start <= day.date <= start + timedelta(days=13) and day.open < day.close for day in days)
    assert len(desk.trading.get_calendar()) >= len(days)


@step
def reads_the_assets(desk: Desk) -> None:
    assets = {asset.symbol: asset for asset in desk.trading.get_all_assets()}
    apple = assets["AAPL"]
    assert (apple.tradable, apple.fractionable, apple.status) == (True, False, AssetStatus.ACTIVE)
    assert apple.asset_class is AssetClass.US_EQUITY
    assert isinstance(apple.exchange, AssetExchange)
    active = GetAssetsRequest(status=AssetStatus.ACTIVE, asset_class=AssetClass.US_EQUITY)
    assert {asset.symbol for asset in desk.trading.get_all_assets(active)} == set(assets)
    assert desk.trading.get_all_assets(GetAssetsRequest(asset_class=AssetClass.CRYPTO)) == []
    assert desk.trading.get_all_assets(GetAssetsRequest(status=AssetStatus.INACTIVE)) == []


@step
def reads_one_asset_by_symbol_and_by_id(desk: Desk) -> None:
    apple = desk.trading.get_asset("AAPL")
    assert apple.symbol == "AAPL"
    assert desk.trading.get_asset(apple.id) == apple
    for unknown in ("NOSUCH", uuid4()):
        with refused(404, 40410000):
            desk.trading.get_asset(unknown)


@step
def suspends_its_own_trading(desk: Desk) -> None:
    before = desk.trading.get_account_configurations()
    assert isinstance(before, AccountConfiguration)
    assert before.suspend_trade is False
    after = desk.trading.set_account_configurations(before.model_copy(update={"suspend_trade": True}))
    assert after.suspend_trade is True
    assert desk.trading.get_account().trade_suspended_by_user is True
    with refused(403, 40310000, "new orders are rejected by user request"):
        desk.market()
    assert desk.trading.get_orders() == []
    desk.trading.set_account_configurations(before)
    assert desk.trading.get_account_configurations().suspend_trade is False
    desk.bought(1)


@step
def sets_its_configurations_and_leaves_alone_what_is_null(desk: Desk) -> None:
    before = desk.trading.get_account_configurations()
    changed = desk.trading.set_account_configurations(before.model_copy(update={"ptp_no_exception_entry": True}))
    assert changed == before.model_copy(update={"ptp_no_exception_entry": True})
    body = dict.fromkeys(before.model_dump())
    assert desk.trading.patch("/account/configurations", body)["ptp_no_exception_entry"] is True
    assert desk.trading.get_account_configurations() == changed


@step
def reads_its_portfolio_history(desk: Desk) -> None:
    desk.bought(10)
    if hasattr(TradingClient, "get_portfolio_history"):
        from alpaca.trading.requests import GetPortfolioHistoryRequest

        desk.trading.get_portfolio_history()
        request = GetPortfolioHistoryRequest(period="1D", timeframe="1Min", extended_hours=True)
        history = desk.trading.get_portfolio_history(request)
    else:
        from alpaca.trading.models import PortfolioHistory

        query = {"period": "1D", "timeframe": "1Min", "extended_hours": True}
        history = PortfolioHistory(**desk.trading.get("/account/portfolio/history", query))
    assert history.timeframe == "1Min"
    rows = len(history.timestamp)
    assert rows == len(history.equity) == len(history.profit_loss) == len(history.profit_loss_pct) > 0
    assert history.timestamp == sorted(history.timestamp)
    assert 99_000 < history.equity[-1] < 101_000


@step
def reads_its_activities(desk: Desk) -> None:
    bought = desk.bought(10, "AAPL")
    other = desk.bought(3, "MSFT")
    rows = desk.trading.get("/account/activities")
    fills = [row for row in rows if row["activity_type"] == "FILL"]
    assert sum(int(row["qty"]) for row in fills if row["order_id"] == str(bought.id)) == 10
    newest = fills[0]
    assert (newest["order_id"], newest["symbol"], newest["side"]) == (str(other.id), "MSFT", "buy")
    assert (newest["cum_qty"], newest["leaves_qty"], newest["type"], newest["order_status"]) == (
        *("3", "0", "fill"),
        "filled",
    )
    assert UUID(newest["account_id"]) == desk.trading.get_account().id
    assert datetime.fromisoformat(newest["transaction_time"])
    assert desk.trading.get("/account/activities/FILL", {"direction": "asc"}) == list(reversed(fills))
    assert desk.trading.get("/account/activities", {"category": "non_trade_activity", "activity_types": "DIV"}) in (
        [],
        None,
    )


@step
def pages_through_its_activities(desk: Desk) -> None:
    for _ in range(3):
        desk.bought(1)
    everything = desk.trading.get("/account/activities/FILL")
    paged: list[object] = []
    while True:
        query = {"page_size": 2} | ({"page_token": paged[-1]["id"]} if paged else {})
        page = desk.trading.get("/account/activities/FILL", query)
        paged += page
        if len(page) < 2:
            break
    assert paged == everything
    assert len(everything) >= 3


@step
def keeps_watchlists(desk: Desk) -> None:
    assert desk.trading.get_watchlists() == []
    made = desk.trading.create_watchlist(CreateWatchlistRequest(name="Mine", symbols=["AAPL", "MSFT"]))
    assert [asset.symbol for asset in made.assets] == ["AAPL", "MSFT"]
    assert [each.id for each in desk.trading.get_watchlists()] == [made.id]
    longer = desk.trading.add_asset_to_watchlist_by_id(made.id, "NVDA")
    assert [asset.symbol for asset in longer.assets] == ["AAPL", "MSFT", "NVDA"]
    shorter = desk.trading.remove_asset_from_watchlist_by_id(made.id, "MSFT")
    assert [asset.symbol for asset in shorter.assets] == ["AAPL", "NVDA"]
    renamed = desk.trading.update_watchlist_by_id(made.id, UpdateWatchlistRequest(name="Ours", symbols=["SPY"]))
    assert (renamed.name, [asset.symbol for asset in renamed.assets]) == ("Ours", ["SPY"])
    assert desk.trading.get_watchlist_by_id(made.id) == renamed
    assert renamed.account_id == desk.trading.get_account().id
    desk.trading.delete_watchlist_by_id(made.id)
    assert desk.trading.get_watchlists() == []
    with refused(404, 40410000):
        desk.trading.get_watchlist_by_id(made.id)


@step
def is_told_what_is_wrong_with_a_watchlist(desk: Desk) -> None:
    made = desk.trading.create_watchlist(CreateWatchlistRequest(name="Mine", symbols=[]))
    with refused(422, (40010001, 42210000)):
        desk.trading.create_watchlist(CreateWatchlistRequest(name="Mine", symbols=["AAPL"]))
    with refused(422, (40010001, 42210000)):
        desk.trading.create_watchlist(CreateWatchlistRequest(name="Other", symbols=["NOSUCH"]))
    with refused(404, 40410000):
        desk.other.trading.get_watchlist_by_id(made.id)
    with refused(404, 40410000):
        desk.trading.delete_watchlist_by_id(uuid4())


@step
def one_account_sees_nothing_of_another(desk: Desk) -> None:
    order = desk.bought(5)
    resting = desk.resting()
    other = desk.other
    for read in (order.id, resting.id):
        with refused(404, 40410000):
            other.trading.get_order_by_id(read)
    with refused(404, 40410000):
        other.trading.get_order_by_client_id(order.client_order_id)
    with refused(404, 40410000):
        other.trading.cancel_order_by_id(resting.id)
    with refused(404, 40410000, "position does not exist"):
        other.trading.get_open_position("AAPL")
    assert other.trading.get_orders() == other.trading.get_all_positions() == other.trading.cancel_orders() == []
    assert other.trading.get("/account/activities/FILL") == []
    assert desk.trading.get_order_by_id(resting.id).status.value == "new"
    with refused(403, 40310000):
        other.market(SELL, 5)


@step
def two_accounts_may_use_the_same_client_order_id(desk: Desk) -> None:
    mine = desk.market(BUY, 1, client_order_id="shared")
    theirs = desk.other.market(BUY, 2, client_order_id="shared")
    assert mine.id != theirs.id
    assert desk.trading.get_order_by_client_id("shared").id == mine.id
    assert desk.other.trading.get_order_by_client_id("shared").id == theirs.id
    eventually(lambda: len(desk.other.trading.get_all_positions()) == 1, "it is filled")
    desk.other.trading.close_all_positions(cancel_orders=True)


@step
def there_are_neither_options_nor_announcements(desk: Desk) -> None:
    today = desk.now().date()
    request = GetCorporateAnnouncementsRequest(
        ca_types=[CorporateActionType.DIVIDEND], since=today - timedelta(days=30), until=today
    )
    assert desk.trading.get_corporate_announcements(request) == []
    with refused(404, 40410000):
        desk.trading.get_corporate_announcement_by_id(uuid4())
    assert desk.trading.get_option_contracts(GetOptionContractsRequest()).option_contracts == []
    with refused(404, 40410000):
        desk.trading.get_option_contract("AAPL261218C00300000")
    with refused(403, 40310000, "options are not traded"):
        desk.trading.exercise_options_position("AAPL261218C00300000")
