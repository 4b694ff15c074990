"""The symbols that the exchange lists: tickers.csv beside this file, real names with plausible prices."""

import csv
from importlib.resources import files

from broker.core.money import parse_money
from broker.core.types import Symbol
from broker.simulator.market import Ticker


def listed_tickers() -> list[Ticker]:
    """Read the list. The names are real, the prices are where the walk of a made-up market begins."""
    text = files("broker.simulator").joinpath("tickers.csv").read_text(encoding="utf-8")
    return [
        Ticker(Symbol(row["symbol"]), row["name"], parse_money(row["price"]))
        for row in csv.DictReader(text.splitlines())
    ]
