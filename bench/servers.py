"""Starts what is measured: broker, exchange and references, each a process of its own on 127.0.0.1.

    with started(folder / "broker", "--shards", "2") as broker:  # with an exchange of its own
        broker.url, broker.tokens, broker.dsn, broker.process, broker.exchange

A data folder that exists is taken as it is: the same customers, with the same tokens.
"""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from broker.core.signing import encode_secret
from broker.simulator.tickers import listed_tickers

BROKER = str(Path(sys.executable).with_name("broker"))
CUSTOMERS = 1000
MOST_A_SHARE = 300 * 10_000
"""In $0.0001: so the $100,000 of a customer last for all trades of a run."""
SYMBOLS = [each.symbol for each in listed_tickers() if each.price < MOST_A_SHARE][:100]
ENVIRONMENT = {
    **os.environ,
    "BROKER_WEBHOOK_SECRETS": encode_secret(bytes(range(32))),
    "BROKER_LOG_LEVEL": "warning",
}
_DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
_END_S = 30.0


@dataclass(frozen=True)
class Exchange:
    """The simulated exchange."""

    url: str
    process: "subprocess.Popen[bytes]"


@dataclass(frozen=True)
class Broker:
    """A broker that is ready, with its demo customers."""

    url: str
    admin_token: str
    tokens: list[str]
    dsn: str
    process: "subprocess.Popen[bytes]"
    exchange: Exchange

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return int(self.url.rsplit(":", 1)[1])


def module(name: str) -> tuple[str, str, str]:
    """The command that runs a module of ours."""
    return sys.executable, "-m", name


@contextmanager
def process(*command: str, **environment: str) -> Iterator[tuple["subprocess.Popen[bytes]", str]]:
    """A process and its first line, until the block ends. Raises RuntimeError where it says nothing and ends."""
    running = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**ENVIRONMENT, **environment}
    )
    assert running.stdout is not None
    try:
        line = running.stdout.readline().decode()
        if not line:
            raise RuntimeError(f"{' '.join(command)} ended with {running.wait(_END_S)} and said nothing")
        yield running, line
    finally:
        running.terminate()
        running.wait(_END_S)


@contextmanager
def exchange(*flags: str) -> Iterator[Exchange]:
    """The simulated exchange; it fills at once and keeps no journal, unless flags say otherwise."""
    with process(BROKER, "exchange", "--port", "0", "--json", *flags) as (running, line):
        yield Exchange(json.loads(line)["url"], running)


@contextmanager
def broker(data: Path, at: Exchange, *flags: str, customers: int = CUSTOMERS) -> Iterator[Broker]:
    """A broker on this data folder, with a PostgreSQL of its own in there that is checked to be durable."""
    command = (BROKER, "serve", "--port", "0", "--json", "--exchange", at.url, "--data", str(data))
    with process(*command, "--demo", str(customers), *flags) as (running, line):
        ready = json.loads(line)
        tokens = [customer["token"] for customer in ready["customers"]]
        check_durable(ready["database"])
        yield Broker(ready["url"], ready["adminToken"], tokens, ready["database"], running, at)


@contextmanager
def started(
    data: Path, *flags: str, exchange_flags: tuple[str, ...] = (), customers: int = CUSTOMERS
) -> Iterator[Broker]:
    """A broker on this data folder, with an exchange of its own."""
    with exchange(*exchange_flags) as at, broker(data, at, *flags, customers=customers) as ready:
        yield ready


def fetch(dsn: str, sql: str, *arguments: object) -> list[asyncpg.Record]:
    """The rows of one query, by a connection of its own."""

    async def ask() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(dsn, server_settings={"search_path": "broker"})
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    return asyncio.run(ask())


def check_durable(dsn: str) -> dict[str, str]:
    """The settings that a commit's durability hangs on, checked to be on, and the version. Raises RuntimeError."""
    found = {name: str(fetch(dsn, f"SHOW {name}")[0][0]) for name in (*_DURABLE, "server_version")}
    if any(found[name] != "on" for name in _DURABLE):
        raise RuntimeError(f"what is measured here has to be durable: {found}")
    return found
