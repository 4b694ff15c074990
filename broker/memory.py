"""What a shard remembers: the accounts that it decides on, and what it reads of the database for a batch.

An account is in memory with all its open orders; it stays while it has any, and else until others were used since. What
was decided and not committed is forgotten as a whole.
"""

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice

from broker.batch import Item, Known
from broker.config import Config
from broker.core import groups
from broker.core.account import Account
from broker.core.corporate import AdjustPosition
from broker.core.messages import Advance, CancelTrade, MoveCash, PlaceTrade, ReplaceTrade, Report
from broker.core.reset import ResetAccount
from broker.core.states import TERMINAL
from broker.core.types import CustomerId, Status, Trade, TradeId
from broker.db import StaleAccounts
from broker.ports import Desk, Store


class Memory:
    """The accounts of one shard. What it finds at work or held, the desk hears of."""

    def __init__(self, store: Store, desk: Desk, config: Config) -> None:
        self._store = store
        self._desk = desk
        self._config = config
        self.accounts: dict[CustomerId, Account] = {}  # least recently used first
        self.open_trades = 0  # of all of them
        self._counted: dict[CustomerId, int] = {}  # ... and of each
        self._recent: deque[tuple[dict[TradeId, Trade], TradeId]] = deque()  # Account.ended, the oldest first
        self._placed: dict[CustomerId, Account] = {}  # those with Account.placed, in the order of their next look

    # -------------------------------------------------------------- reading

    async def load(self, items: Sequence[Item]) -> Known:
        """Read what the batch needs and the cache does not have."""
        outdated = [item for item in items if self._is_outdated(item)]
        if outdated:
            self.forget(outdated)
        missing = {item.customer_id for item in items} - self.accounts.keys()
        if missing:
            for account in (await self._store.load_accounts(sorted(missing))).values():
                self._remember(account)
        known = Known()
        wanted = {(item.customer_id, id_) for item in items for id_ in self._unknown_trades(item)}
        if wanted:
            found = await self._store.trades_by_id(sorted({id_ for _, id_ in wanted}))
            # Somebody else's trade, which a customer may name, is none of this batch's business.
            known.trades = {id_: trade for id_, trade in found.items() if (trade.customer_id, id_) in wanted}
            self._refuse_if_outdated(known.trades.values())
            for trade in known.trades.values():
                if trade.status in TERMINAL:  # by a commit of ours that was not answered, or by another process
                    self._desk.done(trade.trade_id)
        keys = [
            (item.customer_id, item.command.idempotency_key)
            for item in items
            if isinstance(item.command, PlaceTrade) and item.command.idempotency_key
        ]
        if keys:
            known.keys = await self._store.trades_by_key(keys)
        await self._load_what_is_rare(items, known)
        return known

    def _is_outdated(self, item: Item) -> bool:
        """Whether another process has changed a customer of ours: what it holds back, we have to watch for as well."""
        if not isinstance(item.command, Advance) or item.command.version is None:
            return False
        account = self.accounts.get(item.customer_id)
        return account is not None and account.version < item.command.version

    async def _load_what_is_rare(self, items: Sequence[Item], known: Known) -> None:
        commands = [item.command for item in items]
        client_ids = [
            (each.customer_id, each.client_order_id)
            for each in commands
            if isinstance(each, PlaceTrade | ReplaceTrade)
            and each.client_order_id
            and each.client_order_id != str(each.trade_id)  # which nobody has used before
        ]
        if client_ids:
            known.client_ids = await self._store.trades_by_client_id(client_ids)
        references = [each.reference for each in commands if isinstance(each, MoveCash)]
        if references:
            known.cash = await self._store.cash_by_reference(references)
        references = [each.reference for each in commands if isinstance(each, AdjustPosition)]
        if references:
            known.adjusted = await self._store.adjusted(references)
        references = [each.reference for each in commands if isinstance(each, ResetAccount)]
        if references:
            known.reset = await self._store.reset(references)

    def _remember(self, account: Account) -> None:
        self.accounts[account.customer_id] = account
        self._count(account)
        for trade in account.working.values():
            self._desk.watch(trade)
        for trade in account.held.values():
            if groups.is_armed(account, trade):
                self._desk.hold(trade)

    def _count(self, account: Account) -> None:
        self.open_trades += account.open_trades - self._counted.get(account.customer_id, 0)
        self._counted[account.customer_id] = account.open_trades

    def _unknown_trades(self, item: Item) -> Iterable[TradeId]:
        """The trades of a command that the cache cannot tell us about."""
        match item.command:
            case PlaceTrade(trade_id=trade_id):
                return [trade_id] if item.retried else []
            case Report(trade_id=trade_id) | CancelTrade(trade_id=trade_id):
                return [] if self._is_known(item.customer_id, trade_id) else [trade_id]
            case ReplaceTrade(trade_id=trade_id, replaces=old):
                unknown = [] if self._is_known(item.customer_id, old) else [old]
                return [*unknown, trade_id] if item.retried else unknown
            case _:
                return []

    def _is_known(self, customer_id: CustomerId, trade_id: TradeId) -> bool:
        account = self.accounts.get(customer_id)
        if account is None:
            return False
        return trade_id in account.working or trade_id in account.held or trade_id in account.ended

    def _refuse_if_outdated(self, trades: Iterable[Trade]) -> None:
        """A trade that is open in the database and not in the cache: another process was at work on its customer."""
        for trade in trades:
            account = self.accounts.get(trade.customer_id)
            if trade.status in TERMINAL or account is None:
                continue
            waits = trade.trade_id in account.held or any(t.trade_id == trade.trade_id for t in account.waiting)
            at_rest = trade.status in {Status.PLACED, Status.HELD}
            if not (waits if at_rest else trade.trade_id in account.working):
                raise StaleAccounts(f"customer {trade.customer_id} has open trades that were not known")

    # -------------------------------------------------------------- keeping and forgetting

    def forget(self, items: Iterable[Item]) -> None:
        """Nothing that was decided on may be decided on again: finished trades change too, by late words."""
        for customer_id in {item.customer_id for item in items}:
            if self.accounts.pop(customer_id, None) is not None:
                self.open_trades -= self._counted.pop(customer_id)
                self._placed.pop(customer_id, None)

    def remember_end(self, trade: Trade) -> None:
        """With its account, and no longer than that is remembered: after it was read again, it may have changed."""
        ended = self.accounts[trade.customer_id].ended
        if trade.trade_id not in ended:
            self._recent.append((ended, trade.trade_id))
        ended[trade.trade_id] = trade

    def keep(self, touched: Mapping[CustomerId, Account]) -> None:
        """Take note of what was decided and is durable, and let go of what was not used for longest.

        Never of an account with open trades.
        """
        for account in touched.values():
            self._count(account)
        while len(self._recent) > self._config.recent_trades_max:
            ended, trade_id = self._recent.popleft()
            ended.pop(trade_id, None)
        self._forget_placed(touched.values())
        if len(self.accounts) <= self._config.account_cache_max:
            return
        for customer_id in touched:
            self.accounts[customer_id] = self.accounts.pop(customer_id)
        excess = len(self.accounts) - self._config.account_cache_max
        oldest = list(islice(self.accounts.values(), 2 * excess))
        for account in [account for account in oldest if account.open_trades == 0][:excess]:
            del self.accounts[account.customer_id], self._counted[account.customer_id]
            self._placed.pop(account.customer_id, None)

    def _forget_placed(self, touched: Collection[Account]) -> None:
        """Let go of orders that no check of conduct looks back on any more: nobody else would, of who places no more.

        The newest order tells the time: while nobody places, nothing grows. In turn, and at each time more accounts
        than came, so that all are looked at.
        """
        placing = [account for account in touched if account.placed]
        if not placing:
            return
        now = max(account.placed[-1].created_at for account in placing)
        self._placed.update((account.customer_id, account) for account in placing)
        for customer_id in [*islice(self._placed, len(placing) + 1)]:
            account = self._placed.pop(customer_id)
            if account.placed_until is not None and account.placed_until <= now:
                account.placed.clear()
            else:
                self._placed[customer_id] = account
