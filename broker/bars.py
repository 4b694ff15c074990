"""What is traded, as bars of minutes and days: counted in memory, written to the database every few seconds.

The database is the one home of past bars; in memory is what runs, and what is not written yet. A bar that was begun
without knowing what the database has of it (a trade came late, or the database did not answer at the start) is written
only after that was counted in. What is written holds all of a bar's trades, so writing it twice changes nothing.

Brokers that hear the same feed write the same bars, and the fuller telling holds. Where one of them counts in what the
other has just written of the same trades, they count twice: that can happen to a bar to which a trade comes more than a
minute late, and to those of a broker that starts while the database is away.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from broker.config import Config
from broker.core.bars import (
    DAY,
    MINUTE,
    Bar,
    Kept,
    Series,
    Timeframe,
    Traded,
    aggregate,
    day_of,
    minute_of,
    told_twice,
)
from broker.core.money import Money
from broker.core.types import Symbol
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase
from broker.metrics import Metrics

log = structlog.get_logger()

_AHEAD = timedelta(seconds=5)
"""An exchange's clock may be so far ahead of ours."""
_OLDEST = timedelta(days=1)
_PIECE = 2_000
"""Bars in one statement, a few milliseconds of work."""
_SOON_S = 1.0
"""When to try again what the start could not read."""
_TELL_EVERY = timedelta(minutes=1)


class Bars:
    """Counts the trades of all symbols. The bars that it hands out go on changing: look, and do not keep them."""

    def __init__(self, database: Database, now: Callable[[], datetime], config: Config, metrics: Metrics) -> None:
        self._database = database
        self._now = now
        self._config = config
        self._metrics = metrics
        self._minutes: dict[Symbol, Series] = {}
        self._days: dict[Symbol, Series] = {}
        self._before: dict[Symbol, Bar] = {}  # the last day bar before those in memory
        self._changed: list[Kept] = []
        self._untold: list[Kept] = []  # minutes that `closed` has not told of
        self._known_from: dict[Timeframe, datetime] = {}  # what began then or later was read, or began here
        self._saving = asyncio.Lock()
        self._ignored = 0
        self._told_ignored_at = datetime.min.replace(tzinfo=UTC)

    # -------------------------------------------------------------- count

    def add(self, trade: Traded) -> Bar | None:
        """Count a trade. The running minute of its symbol; None where that has not changed."""
        now = self._now()
        if not -_OLDEST <= trade.at - now <= _AHEAD:
            self._ignored += 1
            return None
        self._count(self._days, DAY, trade, now)
        return self._count(self._minutes, MINUTE, trade, now)

    def _count(
        self, all_series: dict[Symbol, Series], timeframe: Timeframe, trade: Traded, now: datetime
    ) -> Bar | None:
        series = all_series.get(trade.symbol)
        if series is None:
            series = all_series[trade.symbol] = Series()
        kept = series.at(trade.at, timeframe)
        if kept is None:
            kept = self._begin(series, timeframe, trade, now)
        else:
            kept.add(trade)
        if not kept.changed:
            kept.changed = True
            self._changed.append(kept)
        return kept.bar if kept is series.newest else None

    def _begin(self, series: Series, timeframe: Timeframe, trade: Traded, now: datetime) -> Kept:
        starts_at, ends_at = timeframe.start_of(trade.at), timeframe.end_of(trade.at)
        bar = Bar.of(starts_at, trade.price, trade.quantity)
        kept = Kept(trade.symbol, timeframe, bar, ends_at, trade.at, complete=False)
        known_from = self._known_from.get(timeframe)
        kept.complete = known_from is not None and known_from <= starts_at and not kept.is_past(now)
        series.put(kept, now)
        if timeframe is MINUTE and not kept.is_past(now):
            self._untold.append(kept)
        return kept

    # -------------------------------------------------------------- look

    def minute(self, symbol: Symbol) -> Bar | None:
        """This minute's bar; None before its first trade."""
        return _running(self._minutes.get(symbol), MINUTE, self._now())

    def day(self, symbol: Symbol) -> Bar | None:
        """Today's bar; None before the first trade of New York's day."""
        return _running(self._days.get(symbol), DAY, self._now())

    def previous_close(self, symbol: Symbol) -> Money | None:
        """The last price of the last day before today on which it was traded."""
        now, series, before = self._now(), self._days.get(symbol), self._before.get(symbol)
        for kept in series.kept.values() if series else ():
            if kept.complete and kept.ends_at <= now and (before is None or before.starts_at <= kept.bar.starts_at):
                before = kept.bar
        return before.close if before else None

    def closed(self, now: datetime) -> list[tuple[Symbol, Bar]]:
        """The minutes that have ended since the last call."""
        over = [kept for kept in self._untold if kept.ends_at <= now]
        if over:
            self._untold = [kept for kept in self._untold if kept.ends_at > now]
        return [(kept.symbol, kept.bar) for kept in over]

    # -------------------------------------------------------------- read

    async def read(self, symbol: Symbol, timeframe: Timeframe, start: datetime, end: datetime, limit: int) -> list[Bar]:
        """The first bars that begin at `start` or later, and before `end`; the running one as it is.

        It reads at most as many bars of a minute as the wanted ones are made of. Raises DatabaseUnavailable.
        """
        if start >= end:  # before the calendar is asked, which ends
            return []
        first = timeframe.start_of(start)
        begins_at = first if first == start else timeframe.end_of(start)
        if begins_at >= end:
            return []
        ends_at = timeframe.end_of(end - timedelta(microseconds=1))
        base = DAY if timeframe == DAY else MINUTE
        found: dict[datetime, Bar] = {}
        rows_max, since = limit * timeframe.minutes, begins_at
        while len(found) < rows_max:
            piece = min(_PIECE, rows_max - len(found))
            rows = await self._database.fetch("bars", symbol, base.text, since, ends_at, piece)
            found.update((row["starts_at"], _bar(row)) for row in rows)
            if len(rows) < piece:
                break
            since = rows[-1]["starts_at"] + timedelta(microseconds=1)
        self._overlay(found, symbol, base, begins_at, ends_at)
        bars = [found[at] for at in sorted(found)]
        return (bars if timeframe == base else aggregate(bars, timeframe))[:limit]

    def _overlay(
        self, found: dict[datetime, Bar], symbol: Symbol, base: Timeframe, begins_at: datetime, ends_at: datetime
    ) -> None:
        """Put what is in memory over what was read, which may be older."""
        series = (self._days if base is DAY else self._minutes).get(symbol)
        for at, kept in series.kept.items() if series else ():
            if begins_at <= at < ends_at:
                ours, saved = kept.bar.copy(at), found.get(at)
                if saved is not None and kept.complete:
                    ours = told_twice(saved, ours)
                elif saved is not None:
                    ours.precede(saved)
                found[at] = ours

    async def has_any(self, symbol: Symbol) -> bool:
        """Whether anything of it is known, whenever that was. Raises DatabaseUnavailable."""
        return symbol in self._days or bool(await self._database.fetch("has_bars", symbol))

    # -------------------------------------------------------------- load

    async def load(self) -> None:
        """Read what this day and this minute have so far; what was counted before that is counted in."""
        async with self._saving:
            assert not self._known_from, "what was read is counted in, and must not be again"
            try:
                await self._load()
            except (DatabaseUnavailable, RefusedByDatabase) as error:
                log.warning("bars.not_loaded", error=str(error))

    async def _load(self) -> None:
        now = self._now()
        today, minute = day_of(now), minute_of(now)
        rows = await self._database.fetch("load_bars", today, minute)
        for row in rows:
            symbol, bar = Symbol(row["symbol"]), _bar(row)
            if row["timeframe"] == MINUTE.text:
                self._take(self._minutes, symbol, MINUTE, bar, now)
            elif bar.starts_at >= today:
                self._take(self._days, symbol, DAY, bar, now)
            else:
                self._before[symbol] = bar
        self._known_from = {DAY: today, MINUTE: minute}

    def _take(
        self, all_series: dict[Symbol, Series], symbol: Symbol, timeframe: Timeframe, bar: Bar, now: datetime
    ) -> None:
        """A bar that was read, of which a part may have been counted here."""
        series = all_series.setdefault(symbol, Series())
        kept = series.kept.get(bar.starts_at)
        if kept is not None:
            kept.bar.precede(bar)
            kept.complete = True
            return
        kept = Kept(symbol, timeframe, bar, timeframe.end_of(bar.starts_at), bar.starts_at, complete=True)
        series.put(kept, now)
        if timeframe is MINUTE:
            self._untold.append(kept)

    # -------------------------------------------------------------- save

    async def run(self) -> None:
        """Write what changed, for ever; once a day delete what is too old."""
        tidied: datetime | None = None
        while True:
            await asyncio.sleep(
                self._config.bars_save_s if self._known_from else min(self._config.bars_save_s, _SOON_S)
            )
            await self.save()
            self._tell_ignored()
            today = day_of(self._now())
            if today != tidied and await self._tidied(today):
                tidied = today

    async def save(self) -> bool:
        """Write what changed; False where the database would not have it, and it waits for the next time."""
        async with self._saving:
            self._forget()
            try:
                if not self._known_from:
                    await self._load()
                await self._complete()
                await self._write()
            except (DatabaseUnavailable, RefusedByDatabase) as error:
                log.warning("bars.not_saved", error=str(error), waiting=len(self._changed))
                self._drop_oldest()
                return False
        return True

    def _forget(self) -> None:
        """Drop what is over and was written by an earlier call: whoever reads just now may not have seen it written."""
        now = self._now()
        for all_series in (self._minutes, self._days):
            for series in all_series.values():
                for kept in [each for each in series.kept.values() if not each.changed and each.is_past(now)]:
                    series.drop(kept)
                    if kept.timeframe is DAY:
                        self._note_before(kept)
        self._untold = [kept for kept in self._untold if not kept.is_past(now)]
        for symbol in [symbol for symbol, series in self._minutes.items() if not series.kept]:
            del self._minutes[symbol]

    def _note_before(self, kept: Kept) -> None:
        before = self._before.get(kept.symbol)
        if before is None or before.starts_at <= kept.bar.starts_at:
            self._before[kept.symbol] = kept.bar

    async def _complete(self) -> None:
        """Count in what the database has of the bars that were begun without it."""
        wanted = [kept for kept in self._changed if not kept.complete]
        for begin in range(0, len(wanted), _PIECE):
            piece = wanted[begin : begin + _PIECE]
            rows = await self._database.fetch("bars_at", *_keys(piece))
            saved = {(row["symbol"], row["timeframe"], row["starts_at"]): row for row in rows}
            for kept in piece:
                row = saved.get((kept.symbol, kept.timeframe.text, kept.bar.starts_at))
                if row is not None:
                    kept.bar.precede(_bar(row))
                kept.complete = True

    async def _write(self) -> None:
        # In one order, so that two brokers that write the same bars never wait for each other in a circle.
        waiting = sorted(
            (kept for kept in self._changed if kept.complete),
            key=lambda kept: (kept.symbol, kept.timeframe.text, kept.bar.starts_at),
        )
        self._changed = [kept for kept in self._changed if not kept.complete]
        for kept in waiting:
            kept.changed = False  # what is counted from now on marks it anew
        try:
            while waiting:
                await self._upsert(waiting[:_PIECE])
                del waiting[:_PIECE]
        finally:
            left = [kept for kept in waiting if not kept.changed]
            for kept in left:
                kept.changed = True
            self._changed += left

    async def _upsert(self, piece: Sequence[Kept]) -> None:
        """Write these; one that a rule of the schema refuses keeps none of the others from being written."""
        try:
            await self._database.fetch("save_bars", *_keys(piece), *_figures([kept.bar for kept in piece]))
        except RefusedByDatabase as error:
            if len(piece) == 1:
                log.error("bars.refused", symbol=piece[0].symbol, bar=str(piece[0].bar), error=str(error))
                return
            half = len(piece) // 2
            await self._upsert(piece[:half])
            await self._upsert(piece[half:])
        else:
            self._metrics.bars_saved.inc(len(piece))

    def _drop_oldest(self) -> None:
        """Keep no more minutes that are over than may wait for the database."""
        now = self._now()
        over = [kept for kept in self._changed if kept.timeframe is MINUTE and kept.ends_at <= now]
        many = len(over) - self._config.bars_unsaved_max
        if many <= 0:
            return
        over.sort(key=lambda kept: kept.bar.starts_at)
        dropped = set(over[:many])
        for kept in dropped:
            self._minutes[kept.symbol].drop(kept)
        self._changed = [kept for kept in self._changed if kept not in dropped]
        log.error(
            "bars.dropped", bars=many, oldest=str(over[0].bar.starts_at), note="the database is away for too long"
        )

    def _tell_ignored(self) -> None:
        now = self._now()
        if self._ignored and now - self._told_ignored_at >= _TELL_EVERY:
            log.warning("bars.trades_ignored", trades=self._ignored, note="their time is in the future, or a day ago")
            self._ignored, self._told_ignored_at = 0, now

    # -------------------------------------------------------------- delete

    async def _tidied(self, today: datetime) -> bool:
        try:
            await self.tidy(today - timedelta(days=self._config.bars_kept_days))
        except (DatabaseUnavailable, RefusedByDatabase) as error:
            log.warning("bars.not_deleted", error=str(error))
            return False
        return True

    async def tidy(self, kept_from: datetime) -> None:
        """Delete the bars of minutes that began before. Raises DatabaseUnavailable."""
        for row in await self._database.fetch("bar_symbols"):
            gone = _PIECE
            while gone == _PIECE:
                gone = (await self._database.fetch("delete_bars", row["symbol"], kept_from, _PIECE))[0]["gone"]


def _running(series: Series | None, timeframe: Timeframe, now: datetime) -> Bar | None:
    kept = series.at(now, timeframe) if series else None
    return kept.bar if kept else None


def _bar(row: Any) -> Bar:
    return Bar(
        row["starts_at"],
        row["open"],
        row["high"],
        row["low"],
        row["close"],
        row["volume"],
        row["value"],
        row["trades"],
    )


def _keys(piece: Sequence[Kept]) -> tuple[list[str], list[str], list[datetime]]:
    """Symbols, timeframes and beginnings."""
    return (
        [kept.symbol for kept in piece],
        [kept.timeframe.text for kept in piece],
        [kept.bar.starts_at for kept in piece],
    )


def _figures(bars: Sequence[Bar]) -> Iterator[list[int]]:
    """The other columns."""
    for name in ("open", "high", "low", "close", "volume", "value", "trades"):
        yield [getattr(bar, name) for bar in bars]
