"""Reports on their way from the exchange to the shards: what could not be taken in is asked for again, until it is.

A callback is repeated by the exchange until it is answered. What was looked up, or decided at the desk, nobody would
repeat; and a trade that has ended nobody watches any more.
"""

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

from broker.batch import Overloaded, ReadAgain
from broker.config import Config
from broker.core.messages import Report
from broker.core.types import TradeId
from broker.db import DatabaseUnavailable, RefusedByDatabase
from broker.exchange import Exchange, ExchangeUnavailable
from broker.shards import BrokenRule, Unanswered

log = structlog.get_logger()

_DENIED_S = 3600.0
"""Two denials that lie further apart are not one that goes on."""
NOT_TAKEN = (Overloaded, Unanswered, BrokenRule, ReadAgain, DatabaseUnavailable, RefusedByDatabase)
"""Why reports could not be taken in: the sweep asks again."""


class Reports:
    """Those of one exchange."""

    def __init__(
        self,
        exchange: Exchange,
        take: Callable[[Sequence[Report]], Awaitable[object]],
        config: Config,
        now: Callable[[], float],
    ) -> None:
        self._exchange = exchange
        self._take = take
        self._config = config
        self._now = now
        self._unheard: deque[tuple[float, TradeId]] = deque(maxlen=config.recent_trades_max)  # reports not taken in
        self._denials: OrderedDict[TradeId, tuple[float, float]] = OrderedDict()  # of what it spoke of: first, last

    async def take(self, reports: Sequence[Report]) -> None:
        """Take reports in; where that is not possible now, the sweep will ask again."""
        try:
            await self._take(reports)
        except NOT_TAKEN as error:
            log.warning("reports.not_taken", error=str(error), reports=len(reports))
            due = self._now() + self._config.look_after_s
            self._unheard.extend((due, trade_id) for trade_id in {report.trade_id: None for report in reports})

    @property
    def are_due(self) -> bool:
        """Whether it is time to ask again."""
        return bool(self._unheard) and self._unheard[0][0] <= self._now()

    async def ask_again(self, is_at_work: Callable[[TradeId], bool]) -> None:
        """One of the reports may have ended the trade, so that nobody would ask for the others."""
        trade_ids: list[TradeId] = []
        while self.are_due and len(trade_ids) < self._config.look_batch_max:
            trade_ids.append(self._unheard.popleft()[1])
        ended = [trade_id for trade_id in dict.fromkeys(trade_ids) if not is_at_work(trade_id)]
        try:
            await self.ask(ended)
        except (ExchangeUnavailable, *NOT_TAKEN) as error:
            log.warning("reports.not_taken", error=str(error), trades=len(ended))
            due = self._now() + self._config.look_max_s
            self._unheard.extend((due, trade_id) for trade_id in ended)

    async def ask(self, trade_ids: Sequence[TradeId]) -> None:
        """Ask about trades that the exchange has spoken of, and take in what it says of them.

        Raises ExchangeUnavailable, also where it does not know one that it spoke of, until it insists; and what taking
        in raises.
        """
        size = self._config.look_batch_max
        for start in range(0, len(trade_ids), size):
            asked = trade_ids[start : start + size]
            found = await self._exchange.lookup(asked)
            for trade_id in found:
                self._denials.pop(trade_id, None)
            await self._take([report for reports in found.values() for report in reports])
            self._refuse_denials([each for each in asked if each not in found])

    def _refuse_denials(self, denied: Sequence[TradeId]) -> None:
        """What it spoke of it knows, unless it has just come back without its books: one denial is not believed."""
        now = self._now()
        doubted = []
        for each in denied:
            first, last = self._denials.pop(each, (now, now))
            first = first if now - last < _DENIED_S else now
            self._denials[each] = first, now
            if now - first < self._config.forgotten_after_s:
                doubted.append(each)
        for each in denied if not doubted else ():
            self._denials.pop(each, None)  # a trade may be asked for twice at once
        while len(self._denials) > self._config.recent_trades_max:
            self._denials.popitem(last=False)
        if doubted:
            words = f"{len(doubted)} of {len(denied)} orders that the exchange spoke of it does not know: {doubted[0]}"
            raise ExchangeUnavailable(words)
