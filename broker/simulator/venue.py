"""The exchange at work: each outcome is journalled, then told: to its brokers, and to everybody on the feed.

Between the two stands nothing that could suspend.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain, count
from random import Random
from sys import intern

import msgspec
import structlog

from broker.simulator.admission import execution_price
from broker.simulator.agenda import Agenda
from broker.simulator.amendments import Refusal
from broker.simulator.bench import Bench
from broker.simulator.books import Books
from broker.simulator.callbacks import Callbacks
from broker.simulator.exchange import Exchange
from broker.simulator.faults import Faults
from broker.simulator.feed import Feed
from broker.simulator.journal import Callback, Journal, acked_line, callback_line, execution_line, order_line
from broker.simulator.market import Market, Quote
from broker.simulator.orders import Orders
from broker.simulator.outcome import Outcome
from broker.simulator.script import Due, Script
from broker.simulator.sessions import Sessions
from broker.simulator.settings import ExchangeSettings
from broker.simulator.wire import Bust, CancelResult, Correction, NewOrder, OrderState, Result, Trade, Unreadable

log = structlog.get_logger(__name__)

_ENCODE = msgspec.json.Encoder()


TOO_MANY_CALLBACKS = "too many callbacks wait"


class Unavailable(Exception):
    """The exchange cannot take orders now; the message says why."""


class Venue:
    """Exchange, journal and callbacks together. `open` it inside the event loop that it is to work in."""

    def __init__(self, settings: ExchangeSettings, secret: bytes, market: Market, books: Books, feed: Feed) -> None:
        self._settings = settings
        self._clock = settings.clock
        self.faults = Faults(settings.misbehaviour, Random(f"{settings.seed} faults"))  # noqa: S311 - no secret
        self._orders = Orders(settings.finished_max)
        self._books = books
        self._feed = feed
        sessions = Sessions(settings.hours, settings.misbehaviour.closed)
        script = Script(settings.script_max)
        at_once = not settings.fill_delay_ms
        self._exchange = Exchange(books, self._orders, self.faults, sessions, script, fills_at_once=at_once)
        self.bench = Bench(self._exchange, books, market, script, settings.clock, settings.hours, self._tell)
        self._callbacks = Callbacks(secret, self.faults, settings.delivery, self._acknowledged)
        self._resting = Agenda[tuple[str, list[int]]](self._fill_due)
        self._scripted = Agenda[Due](self._go_on)
        self._numbers = count(1)
        self._journal: Journal | None = None
        self._unwritten: list[bytes] = []  # what a full disk did not take; bounded, since no orders are taken meanwhile
        self._untold: list[Callback] = []  # ... and what may be told only after it
        self._unshown: list[tuple[str, list[Quote], list[Trade]]] = []  # ... to the feed
        self._broken: str | None = None

    async def open(self) -> None:
        """Come back to where the journal ends: open orders rest again, unacknowledged events are sent again."""
        if self._settings.journal is None:
            return
        self._journal = Journal(self._settings.journal)
        pending = await asyncio.to_thread(self._recover, self._journal)
        self._callbacks.push(pending)
        self._tell(self._exchange.recover(self._clock()))
        log.info("exchange.recovered", open_orders=self._orders.open_count, callbacks=len(pending))

    async def close(self) -> None:
        """Stop within a moment; what is not delivered stays in the journal."""
        self._resting.close()
        self._scripted.close()
        await self._callbacks.close()
        if self._journal is not None:
            self._journal.close()

    def check(self, batch: Iterable[NewOrder | Unreadable] = ()) -> None:
        """Raises Unavailable where these orders cannot be taken, or none at all."""
        self.check_journal()
        if self._orders.open_count >= self._settings.open_max:
            raise Unavailable(f"{self._settings.open_max} orders are open, and no more fit")
        for url, events in Counter(new.callback_url for new in batch if isinstance(new, NewOrder)).items():
            if not self._callbacks.has_room(url, events):
                raise Unavailable(f"too many callbacks wait for {url}")

    async def accept(self, batch: Sequence[NewOrder | Unreadable]) -> list[Result]:
        """Take orders. When this returns, whatever it answers outlives a kill of the exchange."""
        outcome = self._exchange.accept(batch, self._clock())
        await self._promise(outcome)
        return outcome.results

    async def cancel(self, order_ids: Sequence[str]) -> list[CancelResult]:
        """Cancel orders. What it answers outlives a kill likewise."""
        self.check_journal()
        outcome = self._exchange.cancel(order_ids, self._clock())
        await self._promise(outcome)
        return outcome.cancels

    def bust(self, execution_id: str, bust: Bust) -> OrderState | Refusal:
        """Take an execution back; the order's state after it."""
        self.check_journal()
        return self._amended(self._exchange.bust(execution_id, bust.reason, self._clock()))

    def correct(self, execution_id: str, correction: Correction) -> OrderState | Refusal:
        """Put another execution in its place; the order's state after it. Raises Inadmissible."""
        self.check_journal()
        price = None if correction.price is None else execution_price(correction.price)
        return self._amended(self._exchange.correct(execution_id, correction.quantity, price, self._clock()))

    def tick(self, *, moves: bool) -> None:
        """Let the market act. It stands still while what it does could not be written down."""
        if self._broken is None or self._write([]):
            self._tell(self._exchange.tick(self._clock(), moves))

    def advance(self) -> None:
        """Let the session begin or end where it is time to, and see that what waits stays bounded."""
        if self._broken is not None and not self._write([]):
            return
        self._tell(self._exchange.advance(self._clock()))
        for url in self._callbacks.overfull():
            self._tell(self._exchange.cancel_all(url, TOO_MANY_CALLBACKS, self._clock()))

    def lookup(self, order_ids: Iterable[str]) -> list[OrderState]:
        """The states of those orders that are known. Raises Unavailable where memory is ahead of the journal."""
        self.check_journal()
        found = (self._orders.get(order_id) for order_id in order_ids)
        return [order.state() for order in found if order is not None]

    async def _promise(self, outcome: Outcome) -> None:
        """Write down what is about to be answered, and tell it. Raises Unavailable where it could not be written."""
        callbacks = self._record(outcome)
        self._show(outcome)
        self._rest(outcome)
        if self._broken is not None:
            raise Unavailable(self._broken)
        if self.faults.settings.callback_first:
            await self._callbacks.deliver_first(callbacks)
        else:
            self._callbacks.push(callbacks)

    def _tell(self, outcome: Outcome) -> None:
        """Write down and tell what happened without anybody having asked."""
        callbacks = self._record(outcome)
        self._show(outcome)
        self._rest(outcome)
        self._callbacks.push(callbacks)

    def _show(self, outcome: Outcome) -> None:
        """What everybody may see goes to the feed; while the disk is full it waits."""
        quotes = [self._books.quotes[symbol] for symbol in self._books.requoted()]
        if self._broken is None:
            self._feed.note(outcome.at, quotes, outcome.trades)
        else:
            self._unshown.append((outcome.at, quotes, outcome.trades))

    def _amended(self, outcome: Outcome | Refusal) -> OrderState | Refusal:
        if isinstance(outcome, Refusal):
            return outcome
        self._tell(outcome)
        if self._broken is not None:
            raise Unavailable(self._broken)
        return list(outcome.changed.values())[-1].state()

    def _record(self, outcome: Outcome) -> list[Callback]:
        """Write down what changed; the numbered events that may be told now: none while the disk is full."""
        callbacks = [Callback(next(self._numbers), url, _ENCODE.encode(event)) for url, event in outcome.events]
        if self._journal is None or not (outcome.changed or outcome.executed):
            return callbacks
        lines = [order_line(order) for order in outcome.changed.values()]
        lines += [execution_line(*executed) for executed in outcome.executed if executed[0] not in outcome.changed]
        if self._write([*lines, *map(callback_line, callbacks)]):
            return callbacks
        self._untold += callbacks
        return []

    def _write(self, lines: list[bytes]) -> bool:
        """Whether these lines, and those before them, are in the journal; else they are tried again later."""
        assert self._journal is not None
        self._unwritten += lines
        try:
            self._journal.append(self._unwritten)
        except OSError as error:
            was, self._broken = self._broken, f"the journal cannot be written: {error}"
            if was is None:
                log.error("journal.failed", error=str(error))
            return False
        self._unwritten.clear()
        if self._broken is not None:
            self._broken = None
            log.info("journal.mended", callbacks=len(self._untold))
            untold, self._untold = self._untold, []
            self._callbacks.push(untold)
            unshown, self._unshown = self._unshown, []
            for shown in unshown:
                self._feed.note(*shown)
        return True

    def check_journal(self) -> None:
        """Raises Unavailable while memory is ahead of the journal; what memory holds may not be told meanwhile."""
        if self._broken is not None and not self._write([]):
            raise Unavailable(self._broken)

    def _acknowledged(self, callbacks: Sequence[Callback]) -> None:
        if self._journal is not None:
            self._write([acked_line(callbacks)])

    def _rest(self, outcome: Outcome) -> None:
        """What trades later."""
        for order_id, parts in outcome.resting:
            delay_ms = self._settings.fill_delay_ms or self.faults.settings.partial_gap_ms
            self._resting.add(delay_ms / 1000, (order_id, parts))
        for due in outcome.due:
            self._scripted.add(due.after_ms / 1000, due)

    def _go_on(self, now_due: list[Due]) -> None:
        for due in now_due:
            self._tell(self._exchange.go_on(due, self._clock()))

    def _fill_due(self, due: list[tuple[str, list[int]]]) -> None:
        """The next part of each order whose time has come."""
        for order_id, parts in due:
            self._tell(self._exchange.fill(order_id, parts[0], self._clock()))
            if len(parts) > 1:
                self._resting.add(self.faults.settings.partial_gap_ms / 1000, (order_id, parts[1:]))

    def _recover(self, journal: Journal) -> list[Callback]:
        """Read the journal into memory and write it anew without what is settled. Runs in a thread, alone."""
        pending: dict[int, Callback] = {}
        number = 0
        for record in journal.replay():
            if record.order is not None:
                known = self._orders.get(record.order.id)
                if known is None or not known.is_finished or record.order.is_finished:
                    self._orders.put(record.order)
            elif record.execution is not None:
                executed = self._orders.get(record.of)
                assert executed is not None, record.of
                executed.execute(record.execution)
                self._orders.put(executed)
            elif record.number:
                number = record.number
                pending[number] = Callback(number, intern(record.url), bytes(record.event))
            for acked in record.acked:
                pending.pop(acked, None)
        journal.rewrite(chain(map(order_line, self._orders.all()), map(callback_line, pending.values())))
        self._numbers = count(number + 1)
        return list(pending.values())
