"""Everything that can be set, in one frozen object: flags, else BROKER_* variables, else the default with its reason.

A field gives its name to flag and variable: `place_wait_s` is `--place-wait-s` and BROKER_PLACE_WAIT_S. Secrets have
no flag, since a process list shows flags. A variable with _FILE at its end names a file that has the value.
"""

import argparse
import dataclasses
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

from broker.core.fees import DEFAULT_FEES, format_fees, parse_fees
from broker.core.margin import Rates
from broker.origins import read_origins
from broker.peers import read_proxies


class ConfigError(Exception):
    """A setting cannot be used; the message says which, and what it takes."""


def _setting(default: Any, why: str, *, secret: bool = False, group: str = "limits") -> Any:
    return field(default=default, repr=not secret, metadata={"why": why, "secret": secret, "group": group})


def _main(default: Any, why: str, *, secret: bool = False) -> Any:
    return _setting(default, why, secret=secret, group="main")


def _risk(default: Any, why: str) -> Any:
    return _setting(default, why, group="risk")


def default_data() -> Path:
    """Where data lies by default: a system folder for root, the user's data folder otherwise."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/stockbroker")
    home = os.environ.get("XDG_DATA_HOME") or os.path.join(os.environ.get("HOME") or ".", ".local", "share")
    return Path(home) / "stockbroker"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of `broker serve`. Durations in seconds, sizes in bytes unless the name says otherwise."""

    host: str = _main("127.0.0.1", "address to listen on")
    port: int = _main(8080, "port to listen on; 0 takes a free one")
    admin_listen: str | None = _main(
        None, "HOST:PORT of a port of their own for /admin and /metrics, which are then not on the main one"
    )
    callback_listen: str | None = _main(None, "HOST:PORT of a port of their own for the exchange's callbacks, likewise")
    tls_cert: Path | None = _main(None, "PEM file with the certificate and its chain: all ports speak TLS then")
    tls_key: Path | None = _main(None, "PEM file with its private key; SIGHUP reads both again")
    reuse_port: bool = _main(
        False, "share the ports with another broker on the same database, so that one can take over from the other"
    )
    allowed_origins: str = _main(
        "", "web pages of other hosts that may open WebSockets: https://desk.example.com, with commas between"
    )
    trusted_proxies: str = _main(
        "", "proxies whose X-Forwarded-For says from where a client comes: 127.0.0.1,10.0.0.0/8; without, all are one"
    )
    data: Path = _main(default_data(), "data folder: the embedded database, its lock, generated secrets")
    database: str | None = _main(
        None, "PostgreSQL DSN; without it the broker runs its own PostgreSQL in the data folder"
    )
    runtime_database: str | None = _main(
        None, "DSN of a login role in broker_runtime, as which the broker then works; without it that of --database"
    )
    exchange: str | None = _main(None, "URL of the exchange; without it a simulated one runs inside the broker")
    venues: str = _main("", "more exchanges, as name=URL with commas between: west=http://127.0.0.1:8091")
    routes: str = _main("", "what is traded at those, as symbol=name with commas between; the rest goes to --exchange")
    public_url: str | None = _main(
        None, "base URL under which the exchange reaches this broker (default: host and port)"
    )
    feed: str = _main("", "quotes from a recording instead of --exchange: the path of a file that broker record made")
    quotes: str | None = _main(
        None, "share one feed among several brokers: the URL of a Redis, like redis://127.0.0.1:6379/0"
    )
    hours: Literal["always", "XNYS"] = _main("always", "hours of the simulated exchange: always, or New York's: XNYS")
    clock: str | None = _main(
        None, "time at which the simulated exchange's clock begins, and with it market time: 2026-11-27T12:55-05:00"
    )
    freeze: bool = _main(False, "the simulated exchange's clock stands still until it is set or advanced")
    seed: int = _main(1, "seed of the simulated exchange's prices and misbehaviour")
    log_level: str = _main("info", "debug, info, warning or error; JSON lines on standard error")
    admin_token: str | None = _main(None, "token for /admin/v1; generated and kept in the data folder", secret=True)
    webhook_secrets: str | None = _main(
        None, "whsec_… secrets the exchange signs with, comma-separated while one is rotated", secret=True
    )

    collar_bps: int = _risk(500, "a market BUY reserves the ask plus this many 1/10,000: prices move before it fills")
    order_quantity_max: int = _risk(1_000_000, "shares in one order: more is a slip of the finger")
    order_value_max: int = _risk(50_000_000, "dollars in one order: more is a slip of the finger")
    position_max: int = _risk(10_000_000, "shares of one symbol that a customer may have and have ordered")
    price_away_bps: int = _risk(5_000, "a limit this many 1/10,000 past the quote is a slip of the finger")
    orders_per_second: int = _risk(5_000, "orders of one customer in one second: no honest program sends more")
    duplicate_window_ms: int = _risk(
        0, "the same order again within this is refused, unless it has a client_order_id; 0 lets it pass"
    )
    day_trading_rule: Literal["intraday_margin", "pattern_day_trader", "off"] = _risk(
        "intraday_margin", "FINRA's rule since 2026, the one before it (4th day trade in 5 days needs $25,000), or none"
    )
    margin_initial_bps: int = _risk(5_000, "what part of a purchase on margin must be the customer's own: Regulation T")
    margin_maintenance_bps: int = _risk(2_500, "... and of a position that is kept: FINRA 4210; below it a margin call")
    margin_symbols: str = _risk("", "symbols with rates of their own, as symbol=initial/maintenance: GME=10000/10000")
    margin_equity_min: int = _risk(2_000, "dollars of equity below which a margin account gets no credit: FINRA 4210")
    margin_credit_max: int = _risk(
        10_000_000, "dollars that a new margin account may ever owe: the database's own limit"
    )
    fees: str = _risk(
        format_fees(DEFAULT_FEES),
        "the fee table: SEC and FINRA fees on sales, no commission; docs/fees.md has the form",
    )

    shards: int = _setting(1, "workers, each with a database connection: one fills a core, with the largest batches")
    batch_max: int = _setting(128, "commands in one commit: beyond it only latency grows")
    shard_queue_max: int = _setting(5_000, "commands that wait in a shard at most, however fast it is; beyond it 503")
    queue_wait_s: float = _setting(
        0.15, "new orders are let in while they would wait no longer than this: some four full batches at the peak"
    )
    customer_open_max: int = _setting(2_000, "unfinished trades of one customer, so that one cannot fill the memory")
    open_trades_max: int = _setting(200_000, "unfinished trades in memory, at about 1 KB each")
    account_cache_max: int = _setting(50_000, "accounts a shard keeps in memory, at about 1 KB each")
    recent_trades_max: int = _setting(
        50_000, "finished trades a shard remembers, so that repeated callbacks cost no query"
    )
    place_wait_s: float = _setting(1.8, "a client waits this long for its commit, then hears 503")
    order_wait_s: float = _setting(1.0, "an order's answer waits so long for the exchange's, then says where it stands")
    key_cache_s: float = _setting(5.0, "what another process revokes or suspends ends here within this time")
    key_cache_max: int = _setting(100_000, "API keys kept in memory, at about 300 bytes each")
    key_overlap_s: float = _setting(3_600.0, "a rotated key goes on opening for so long by default")
    key_overlap_max_s: float = _setting(2_592_000.0, "... and never longer than this (30 days)")
    requests_per_second: int = _setting(
        1_000, "requests of one customer: a third of what one core answers, so that nobody takes it all"
    )
    requests_burst: int = _setting(2_000, "... and so many at once; cancels have as many again, of their own")
    auth_failures_per_minute: int = _setting(
        100, "wrong tokens from one address; beyond it 429 without a look into the database"
    )
    auth_addresses_max: int = _setting(10_000, "addresses with wrong tokens kept in memory, at about 200 bytes each")

    audit_body_max: int = _setting(
        4_096, "characters of an operator's request in the audit log; of longer ones the size"
    )
    audit_kept_max: int = _setting(
        10_000, "records of what stopped trading while the database was away, kept for it; at most 5 kB each"
    )
    audit_heads_s: float = _setting(
        60.0, "the heads of the audit log are written to the log this often if they changed"
    )
    metrics_sample_s: float = _setting(15.0, "figures of /metrics that the database has to count are this old at most")

    body_max: int = _setting(64 * 1024, "bytes in a request's body; the largest honest one has 300")
    body_wait_s: float = _setting(5.0, "a body must have arrived within this time: aiohttp itself sets no limit")
    head_wait_s: float = _setting(5.0, "... and so must a request's line and headers, once they have begun")
    answer_wait_s: float = _setting(
        10.0, "a client that takes nothing of its answer for so long is cut off; streams have stream_stall_s"
    )
    keepalive_s: float = _setting(75.0, "an idle connection is closed after this")
    connections_max: int = _setting(
        30_000, "open connections on one port; all at most the system's limit on open files, less 256 for other things"
    )
    connections_address_max: int = _setting(
        10_000, "... from one address (of IPv6 a /64) on the main port; of this machine and trusted proxies any number"
    )
    orders_under_way_max: int = _setting(
        5_000, "requests for new orders at once, at about 20 KB each: some wait a second for the exchange"
    )
    page_max: int = _setting(500, "rows in one page of a list")

    send_batch_max: int = _setting(64, "orders in one request to the exchange")
    send_in_flight_max: int = _setting(4, "requests to the exchange at once, so that one slow answer delays few")
    exchange_timeout_s: float = _setting(5.0, "an unanswered call to the exchange counts as unknown after this")
    look_after_s: float = _setting(1.0, "a trade the exchange is silent about is asked for after this, then ever rarer")
    look_batch_max: int = _setting(100, "trades asked for in one request: their ids must fit into a URL")
    look_max_s: float = _setting(15.0, "... but at least this often, so that none takes more than a minute")
    forgotten_after_s: float = _setting(30.0, "an order the exchange took and then denies for so long is sent again")
    rest_look_s: float = _setting(60.0, "an order that rests at the exchange is asked for this often")
    venue_down_after_s: float = _setting(
        30.0, "orders for an exchange that has been away for so long are refused; before that they wait for it"
    )
    webhook_body_max: int = _setting(1024 * 1024, "bytes in a callback: 256 events of 400 bytes and some room")
    lookup_body_max: int = _setting(
        32 * 1024 * 1024, "bytes in the exchange's answer about 100 orders: 200,000 executions of theirs"
    )
    webhook_events_max: int = _setting(256, "events in one callback")
    webhook_window_s: float = _setting(300.0, "an older signature is valid only with what the exchange says when asked")

    feed_message_max: int = _setting(
        4 * 1024 * 1024, "bytes in a message of the quote feed: 20,000 symbols and some room"
    )
    feed_silence_s: float = _setting(
        5.0, "a silent feed is pinged after this, and connected anew if half of it brings nothing"
    )
    feed_retry_max_s: float = _setting(5.0, "longest pause before a lost feed is connected again")
    quote_stale_s: float = _setting(
        15.0, "quotes of a feed that has been away for so long are stale: market orders are refused until it is back"
    )
    quotes_wait_s: float = _setting(2.0, "a start waits so long for the first prices, then goes on without them")

    bars_save_s: float = _setting(5.0, "bars are written this often: what a crash may cost a chart")
    bars_unsaved_max: int = _setting(
        100_000, "bars kept while the database is away, the newest, at about 350 bytes each"
    )
    bars_kept_days: int = _setting(
        7, "minute bars older than this are deleted, daily ones never: 30 MB a day and 235 symbols"
    )
    bars_page_max: int = _setting(10_000, "bars in one answer: a week of minutes")

    tape_quotes_max: int = _setting(
        50_000, "quotes kept in memory, the newest, in equal shares for all symbols, at about 250 bytes each"
    )
    tape_trades_max: int = _setting(50_000, "... and trades, at about 300 bytes each")
    data_symbols_max: int = _setting(1_000, "symbols in one question for market data in Alpaca's form")

    stream_sockets_max: int = _setting(10_000, "open streams of all customers")
    stream_customer_max: int = _setting(1_000, "open streams of one customer: a desk with as many screens")
    stream_strangers_max: int = _setting(
        1_000, "WebSockets that have not said yet whose they are; customers' own are apart"
    )
    stream_address_strangers_max: int = _setting(
        50, "... of those, from one address: older clients come again and again with a wrong key"
    )
    stream_symbols_max: int = _setting(1_000, "symbols that one stream may follow: each costs memory")
    stream_message_max: int = _setting(64 * 1024, "bytes in a message of a client's: 1,000 symbols and some room")
    stream_auth_s: float = _setting(5.0, "a WebSocket without Authorization header must say within this who it is")
    stream_refusal_s: float = _setting(
        1.0, "a wrong key in Alpaca's form is refused after this: older clients try again at once, for ever"
    )
    stream_ping_s: float = _setting(
        15.0, "a stream that is silent is pinged after this, and cut if half of it brings nothing"
    )
    stream_buffer_max: int = _setting(32 * 1024, "bytes on their way to a client; beyond it, only what is newest waits")
    stream_stall_s: float = _setting(15.0, "a client that takes nothing at all for so long is cut off")
    stream_batch_s: float = _setting(0.05, "a client that asks for batches gets one at most this often")
    order_stream_queue_max: int = _setting(
        1_000, "events that wait for a slow order stream; then it reads the database"
    )
    order_stream_page: int = _setting(500, "events that a resuming order stream reads at once")
    order_stream_check_s: float = _setting(2.0, "order streams look this often for what another process has done")

    hook_addresses: Literal["public", "any"] = _setting(
        "public", "where webhooks may lead: with any also to loopback and private networks, and over http", group="main"
    )
    hooks_max: int = _setting(5, "webhooks of one customer")
    hooks_in_flight_max: int = _setting(32, "deliveries to webhooks at once, so that slow ones hold up few others")
    hook_timeout_s: float = _setting(10.0, "a webhook that has not answered within this has failed")
    hook_retry_max_s: float = _setting(3_600.0, "longest pause before a failed delivery is tried again")
    hook_give_up_s: float = _setting(259_200.0, "a webhook that fails for so long (three days) is disabled")
    hook_look_s: float = _setting(1.0, "webhooks that are due are looked for this often")

    poison_pause_s: float = _setting(5.0, "a customer whose next trade breaks a rule of ours is tried again after this")
    controls_every_s: float = _setting(2.0, "what another process switched is read this often")
    price_sample_s: float = _setting(60.0, "prices of what customers hold are kept this often, for their history")
    clock_every_s: float = _setting(
        1.0, "the exchange's clock is asked for this often: it may be one that a test controls"
    )
    clock_wait_s: float = _setting(2.0, "a start waits so long for the exchange's clock, then goes on without it")
    bench_accounts_max: int = _setting(1_000, "accounts made by one request: some seconds of work")
    bench_customers_max: int = _setting(10_000, "customers reset by one request: more would hold up everybody's orders")
    recover_every_s: float = _setting(60.0, "open trades that no shard has in memory are looked for this often")

    pool_max: int = _setting(8, "database connections for reading; the shards have their own")
    database_timeout_s: float = _setting(5.0, "a statement that takes longer has failed; all take milliseconds")
    drain_s: float = _setting(3.0, "at SIGTERM, waiting work gets this long; what is left goes on at the next start")

    def __post_init__(self) -> None:
        """Refuse what cannot work, with a sentence."""
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be 0 to 65535, not {self.port}")
        self._check_words()
        self._check_ports()
        if self.quotes is not None and re.match(r"rediss?://[^\s]+$|unix://[^\s]+$", self.quotes) is None:
            raise ConfigError(
                f"quotes must be the URL of a Redis, like redis://127.0.0.1:6379/0, not {_shown(self.quotes)}"
            )
        self._check_risk()
        self._check_clock()
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if each.metadata["group"] == "limits" and not 0 < value < math.inf:
                raise ConfigError(f"{each.name} must be above zero, not {value}")
            if each.metadata["group"] == "risk" and isinstance(value, int) and not 0 <= value <= _RISK_MAX:
                raise ConfigError(f"{each.name} must be 0 to {_RISK_MAX}, not {value}")
        try:
            read_venues(self.venues)
        except ValueError as error:
            raise ConfigError(f"venues cannot be used: {error}") from error
        for name, url in (("exchange", self.exchange), ("public_url", self.public_url)):
            if url is not None and not _is_http_url(url):
                raise ConfigError(f"{name} must be a URL like http://127.0.0.1:8090, not {_shown(url)}")
        if not _is_encodable(self.host):
            raise ConfigError(f"host must be a name or an address, not {self.host[:80]!r}")
        if self.admin_token is not None:
            self._check_admin_token(self.admin_token)

    def _check_admin_token(self, token: str) -> None:
        if re.fullmatch(r"[!-~]*", token) is None:
            wrong = "one with a blank, or another character that is none"
        elif len(token) < 16:
            wrong = f"one of {len(token)}, which can be guessed"
        elif len(token) > 256:
            wrong = f"one of {len(token)}"
        else:
            return
        raise ConfigError(f"admin_token must be 16 to 256 visible ASCII characters: BROKER_ADMIN_TOKEN has {wrong}")

    def _check_words(self) -> None:
        """Settings that take one of a few words."""
        words = {
            "hours": ("always", "XNYS"),
            "hook_addresses": ("public", "any"),
            "day_trading_rule": ("intraday_margin", "pattern_day_trader", "off"),
            "log_level": ("debug", "info", "warning", "error"),
        }
        for name, allowed in words.items():
            value = getattr(self, name)
            if value not in allowed:
                sentence = f"{name.replace('_', ' ') if name == 'log_level' else name} must be "
                raise ConfigError(f"{sentence}{', '.join(allowed[:-1])} or {allowed[-1]}, not {value}")

    def _check_ports(self) -> None:
        """Settings of how and where it listens."""
        for name in ("admin_listen", "callback_listen"):
            try:
                read_address(getattr(self, name) or "127.0.0.1:0")
            except ValueError as error:
                raise ConfigError(f"{name} must be HOST:PORT, like 127.0.0.1:9090: {error}") from error
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ConfigError("tls_cert and tls_key belong together: give both, or neither")
        if self.reuse_port and not (self.database and self.exchange):
            raise ConfigError(
                "reuse_port is for several brokers on one database and one exchange: give database and exchange as well"
            )
        try:
            read_origins(self.allowed_origins)
        except ValueError as error:
            raise ConfigError(f"allowed_origins cannot be used: {error}") from error
        try:
            read_proxies(self.trusted_proxies)
        except ValueError as error:
            raise ConfigError(f"trusted_proxies cannot be used: {error}") from error

    def _check_clock(self) -> None:
        if self.exchange is not None and (self.clock is not None or self.freeze):
            raise ConfigError("clock and freeze are of the simulated exchange inside the broker, not of --exchange")

    def _check_risk(self) -> None:
        """What stands in the settings as text or belongs together."""
        try:
            Rates(self.margin_initial_bps, self.margin_maintenance_bps)
            read_margin_symbols(self.margin_symbols)
        except ValueError as error:
            raise ConfigError(f"the margin rates cannot be used: {error}") from error
        try:
            parse_fees(self.fees)
        except ValueError as error:
            raise ConfigError(f"fees cannot be used: {error}") from error


def read_margin_symbols(text: str) -> dict[str, Rates]:
    """The rates in "GME=10000/10000,TSLA=8000/4000". Raises ValueError."""
    rates: dict[str, Rates] = {}
    for part in filter(None, text.split(",")):
        match = re.fullmatch(r"\s*([A-Z][A-Z0-9.]{0,11})=([0-9]{1,5})/([0-9]{1,5})\s*", part, re.ASCII)
        if match is None:
            raise ValueError(f"{part[:40]!r} is not symbol=initial/maintenance in 1/10,000, like GME=10000/10000")
        rates[match[1]] = Rates(int(match[2]), int(match[3]))
    return rates


def read_address(text: str) -> tuple[str, int]:
    """The host and port of "127.0.0.1:9090" or "[::1]:9090". Raises ValueError."""
    host, _, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in bare) != (bare != host) or not _is_encodable(bare):
        raise ValueError(f"{text[:80]!r} has no host")
    if re.fullmatch("[0-9]{1,5}", port, re.ASCII) is None or int(port) > 65535:
        raise ValueError(f"{text[:80]!r} has no port from 0 to 65535")
    return bare, int(port)


def read_venues(text: str) -> dict[str, str]:
    """The venues in "west=http://127.0.0.1:8091". Raises ValueError."""
    venues: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        name, _, url = part.strip().partition("=")
        if re.fullmatch(r"[a-z][a-z0-9_-]{0,19}", name, re.ASCII) is None or not _is_http_url(url):
            raise ValueError(f"{_shown(part)} is not name=URL, like west=http://127.0.0.1:8091")
        venues[name] = url.rstrip("/")
    return venues


def _shown(url: str) -> str:
    """What is to be said of a URL that cannot be used: not its user and password, however it is misspelt."""
    return repr(url.rpartition("@")[2][:80])


def _is_http_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0 and " " not in text
    except ValueError:  # the port is no number, or an IPv6 address no address
        return False


def _is_encodable(host: str) -> bool:
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True


_RISK_MAX = 10**9


_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _convert(name: str, hint: Any, text: str) -> Any:
    if get_origin(hint) is Literal:
        return text  # __post_init__ checks it, as it must for those who make a Config themselves
    if hint is bool:
        if text.lower() not in _TRUTH:
            raise ConfigError(f"{name} takes true or false, not {text[:80]!r}")
        return _TRUTH[text.lower()]
    kind = next((arg for arg in get_args(hint) if arg is not type(None)), hint)
    try:
        return kind(text)
    except ValueError as error:
        what = "a whole number" if kind is int else "a number"
        raise ConfigError(f"{name} takes {what}, not {text[:80]!r}") from error


def add_flags(parser: argparse.ArgumentParser, names: Sequence[str] | None = None) -> None:
    """Add a flag for each setting (or only for those named) to a parser, in its groups."""
    groups: dict[str, Any] = {"main": parser}
    titles = {"limits": "each with the reason for its default", "risk": "what customers may do, and what it costs them"}
    for each in dataclasses.fields(Config):
        if each.metadata["secret"] or (names is not None and each.name not in names):
            continue
        name = each.metadata["group"]
        if name not in groups:
            groups[name] = parser.add_argument_group(name, titles[name])
        group = groups[name]
        default = "" if each.default is None else f" [{each.default}]"
        why = (each.metadata["why"] + default).replace("%", "%%")
        if each.default is False:
            group.add_argument(_flag(each.name), dest=each.name, action="store_const", const="true", help=why)
            continue
        group.add_argument(_flag(each.name), dest=each.name, metavar=each.name.rsplit("_", 1)[-1].upper(), help=why)


def from_environment(name: str, environment: Mapping[str, str]) -> str | None:
    """The variable, or what is in the file that <NAME>_FILE names: as containers are given it. Raises ConfigError."""
    text, path = environment.get(name) or None, environment.get(f"{name}_FILE") or None
    if path is None:
        return text
    if text is not None:
        raise ConfigError(f"{name} and {name}_FILE are both set: which of them counts is not for us to say")
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{name}_FILE names {path}, which cannot be read: {why}") from error


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Names that begin like ours and mean nothing, as misspelt ones do. BROKER_URL is for the operator's commands."""
    names = {f"BROKER_{each.name.upper()}" for each in dataclasses.fields(Config)} | {"BROKER_URL"}
    ours = sorted(name for name in environment if name.startswith("BROKER_"))
    return [name for name in ours if name not in names and name.removesuffix("_FILE") not in names]


def load(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Config:
    """The Config of these flags, else of the BROKER_* variables, else the defaults. Raises ConfigError."""
    hints = get_type_hints(Config)
    values: dict[str, Any] = {}
    for each in dataclasses.fields(Config):
        text = flags.get(each.name)
        if text is None:
            text = from_environment(f"BROKER_{each.name.upper()}", environment)
        if text is not None:
            values[each.name] = _convert(each.name, hints[each.name], text)
    return Config(**values)
