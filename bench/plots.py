"""Plots of a run of bench.place_trade: latency against offered load, and peak throughput beside the references.

    .venv/bench/plots/bin/python -m bench.plots bench/results/place_trade-….jsonl     # writes ….svg beside it

It runs in an environment of its own, which has Matplotlib and nothing of ours. Marks are medians of the rounds, bars
reach from the least to the most.
"""

import importlib
import json
import statistics
import sys
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_LATENCIES = {
    "ack_p50": ("201, p50", "tab:blue", "-"),
    "ack_p99": ("201, p99", "tab:blue", "--"),
    "filled_p50": ("FILLED as the client hears it, p50", "tab:orange", "-"),
    "filled_p99": ("FILLED as the client hears it, p99", "tab:orange", "--"),
}


def main(path: Path) -> None:
    """Both plots, in one file beside the results."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    matplotlib = importlib.import_module("matplotlib")
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = path.stem  # the same results make the same file
    figure, (left, right) = importlib.import_module("matplotlib.pyplot").subplots(1, 2, figsize=(13, 5))
    _latency(left, [row for row in rows if row.get("offered_per_s") and row["server"] == "broker"])
    _peak(right, [row for row in rows if "settled_per_s" in row and "offered_per_s" not in row])
    figure.suptitle(f"{path.stem}: {rows[0]['machine']}", fontsize=7, wrap=True)
    figure.tight_layout()
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    print(path.with_suffix(".svg"))


def _latency(axes: Any, rows: list[Row]) -> None:
    rates = sorted({row["offered_per_s"] for row in rows})
    for name, (label, colour, style) in _LATENCIES.items():
        spreads = [_spread([row[name] for row in rows if row["offered_per_s"] == rate]) for rate in rates]
        axes.errorbar(rates, *_with_bars(spreads), label=label, color=colour, linestyle=style, marker="o", capsize=3)
    axes.set(xlabel="trades offered a second (open loop)", ylabel="ms from the moment that it was due", yscale="log")
    axes.set_title("PlaceTrade: latency against load")
    axes.grid(alpha=0.3, which="both")
    axes.legend()


def _peak(axes: Any, rows: list[Row]) -> None:
    settings = sorted({_setting(row) for row in rows})
    spreads = {each: _spread([row["settled_per_s"] for row in rows if _setting(row) == each]) for each in settings}
    best = {server: max(each for each in settings if each[0] == server) for server, _ in settings}
    servers = sorted(best, key=lambda server: spreads[best[server]][1])
    labels = [f"{server}\n{best[server][1] or 'in process, no'} connections" for server in servers]
    middles, bars = _with_bars([spreads[best[server]] for server in servers])
    axes.barh(labels, middles, xerr=bars, capsize=3, color=["tab:blue" if s == "broker" else "0.7" for s in servers])
    axes.set(xlabel="settled trades a second (closed loop)", title="Peak: trades whose fill is committed")
    axes.grid(alpha=0.3, axis="x")


def _setting(row: Row) -> tuple[str, int]:
    return row["server"], row.get("connections", 0)


def _spread(values: list[float]) -> tuple[float, float, float]:
    return min(values), statistics.median(values), max(values)


def _with_bars(spreads: list[tuple[float, float, float]]) -> tuple[list[float], list[list[float]]]:
    """Medians, and how far it is from each to the least and to the most."""
    below = [middle - least for least, middle, _ in spreads]
    above = [most - middle for _, middle, most in spreads]
    return [middle for _, middle, _ in spreads], [below, above]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
