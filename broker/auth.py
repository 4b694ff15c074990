"""Who is calling: API keys of customers and of operators, and the admin token.

A token is `keyId.secret`. Only the secret's SHA-256 is stored (it has 256 random bits: a slow hash would add latency
and nothing else); it is compared as bytes in constant time, against nothing where there is no such key. Keys in use are
kept in memory, bounded, and leave it at once when they are revoked, get another end or their customer is suspended.
What another process does the database tells at once (broker.listen); it is looked for all the time besides, for all
keys at once; while neither is possible, a key in memory is good for no longer than key_cache_s.

Wrong tokens are counted by address. Whoever sends too many hears so without a look into the database; keys in memory
open all the same, so that nobody locks out a customer from behind the same address. A key that is not in memory counts
as wrong while it is read, so that those that come all at once do not all get to the database.
"""

import asyncio
import hashlib
import hmac
import math
import secrets
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from time import monotonic, time
from typing import Any
from weakref import WeakValueDictionary

import structlog

from broker.config import Config
from broker.core.types import CustomerId
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase
from broker.limits import RateLimiter

log = structlog.get_logger()

KEY_ID_PREFIX = "key_"
ADMIN_TOKEN = "admin-token"  # noqa: S105 - its name, not itself
"""What the admin token is called where operators' keys have an id."""
_TOKEN_MAX = 256
_KEPT_S = 600.0
"""A key is read again after this, whatever the looks find: a change by hand may not show in what they look at.
revoked_keys.sql looks further ahead than this for keys that end."""
_RETRY_S = 0.5
"""After a look that failed the next one comes so soon: until one succeeds no key in memory is sure for long."""
_SAY_EVERY_S = 10.0
"""Whoever sends too many wrong tokens is named in the log at most this often: it shall not fill it."""
_UNKNOWN_MAX = 10_000
"""Key ids that are known to open nothing, kept so that they cost no query for key_cache_s, at about 150 bytes each."""


class Scope(StrEnum):
    """What a key is good for."""

    READ = "read"
    TRADE = "trade"
    ADMIN = "admin"


CUSTOMER_SCOPES = frozenset({Scope.READ, Scope.TRADE})
"""What a customer's key may have, and has if nothing else was said."""


class NotAuthenticated(Exception):
    """There is no valid token; the message says what is missing, never what would have been right."""


class NotAllowed(Exception):
    """The key is valid, and not for this; the message says what it lacks."""


class TooManyTries(Exception):
    """Too many wrong tokens came from there; it may try again after `wait_s`."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("Too many wrong tokens came from your address. Wait, then try again with the right one.")
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class Caller:
    """A customer behind a valid key."""

    customer_id: CustomerId
    key_id: str
    suspended: bool
    scopes: frozenset[str] = CUSTOMER_SCOPES
    expires_at: float | None = None  # seconds since 1970

    def require(self, scope: Scope) -> None:
        """Raises NotAllowed where the key is not for this."""
        if scope not in self.scopes:
            raise NotAllowed(f'This key lacks the scope "{scope}": it has {", ".join(sorted(self.scopes))}.')


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key as it is shown once; `token` is what a client sends."""

    key_id: str
    secret: str

    @property
    def token(self) -> str:
        """The bearer token of this key."""
        return f"{self.key_id}.{self.secret}"

    @property
    def secret_hash(self) -> bytes:
        """What is stored of it."""
        return _hash(self.secret)


def new_key() -> NewKey:
    """A key with 256 bits of secret."""
    return NewKey(KEY_ID_PREFIX + secrets.token_hex(8), secrets.token_urlsafe(32))


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def bearer(header: str | None) -> str:
    """The token of an Authorization header. Raises NotAuthenticated."""
    if not header:
        raise NotAuthenticated("Send your token in a header: Authorization: Bearer <token>.")
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.isascii() or not 0 < len(token) <= _TOKEN_MAX:
        raise NotAuthenticated("The Authorization header must be: Bearer <token>.")
    return token


@dataclass(frozen=True, slots=True)
class _Known:
    """A key in memory, as it was read at a moment (monotonic seconds); an operator's has no caller."""

    key_id: str
    secret_hash: bytes
    caller: Caller | None
    expires_at: float | None
    read_at: float


_NOBODYS = bytes(32)
"""Compared with where there is no such key, so that this takes as long; nothing has it as its hash."""
_NOT_VALID = "This token is not valid, has expired or was revoked."


class Authenticator:
    """Turns a token into its customer, or an operator."""

    def __init__(self, database: Database, admin_token: str, config: Config) -> None:
        self._database = database
        self._admin_hash = _hash(admin_token)
        self._cache_max = config.key_cache_max
        self._cache_s = config.key_cache_s
        self._keys: OrderedDict[str, _Known] = OrderedDict()  # the one that was read first comes first
        self._wait_s = config.place_wait_s
        self._reading: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # one look-up of a key at a time
        self._turns = asyncio.Semaphore(max(1, config.pool_max // 2))  # the rest of the pool is for who is known
        self._unknown: OrderedDict[str, float] = OrderedDict()  # when they were read, the first one first
        self._failures = RateLimiter(
            config.auth_failures_per_minute, 60, config.auth_failures_per_minute, config.auth_addresses_max
        )
        self._said_at = -math.inf
        self._changes = 0
        self._has_suspended = False  # whether a suspended customer's key may be in memory
        self._looked_at: datetime | None = None  # the database's time
        self._sure_until = 0.0  # monotonic seconds: until then the last look holds
        self._news = asyncio.Event()
        self.on_forget: Callable[[], None] = lambda: None
        """Who wants to know that a key may have become invalid: what is open on it must end."""

    async def customer(self, header: str | None, address: str = "") -> Caller:
        """The customer behind an Authorization header. Raises NotAuthenticated, TooManyTries."""
        known = await self._known(bearer(header), address)
        if known.caller is None:
            raise NotAuthenticated("This is an operator's key. Send a customer's.")
        return known.caller

    async def operator(self, header: str | None, address: str = "") -> str:
        """The id of the operator's key in an Authorization header. Raises NotAuthenticated, TooManyTries."""
        token = bearer(header)
        if hmac.compare_digest(self._admin_hash, _hash(token)):
            return ADMIN_TOKEN
        known = await self._known(token, address)
        if known.caller is not None:
            raise NotAuthenticated("This is a customer's key. Send the admin token or an operator's key.")
        return known.key_id

    async def _known(self, token: str, address: str) -> _Known:
        key_id, _, secret = token.partition(".")
        known = self._keys.get(key_id)
        if known is None or not self._is_good(known):
            if known is None:
                self._refuse(self._failures.wait(address, _now_ns()), address)
            known = await self._load(key_id, address)
        is_right = hmac.compare_digest(_NOBODYS if known is None else known.secret_hash, _hash(secret))
        if known is None or not is_right or (known.expires_at is not None and known.expires_at <= time()):
            self._refuse(self._failures.take(address, _now_ns()), address)
            raise NotAuthenticated(_NOT_VALID)
        return known

    def _refuse(self, wait_ns: int, address: str) -> None:
        if not wait_ns:
            return
        now = monotonic()
        if now >= self._said_at + _SAY_EVERY_S:
            self._said_at = now
            log.warning("auth.too_many_failures", address=address)
        raise TooManyTries(wait_ns / 1e9)

    def _is_good(self, known: _Known) -> bool:
        now = monotonic()
        return now < known.read_at + (_KEPT_S if now < self._sure_until else self._cache_s)

    async def _load(self, key_id: str, address: str) -> _Known | None:
        """The key as somebody has just read it, or as we read it. Raises TooManyTries, DatabaseUnavailable."""
        if not key_id.startswith(KEY_ID_PREFIX) or "\0" in key_id:
            return None
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(self._wait_s):
                    await held.enter_async_context(self._reading.setdefault(key_id, asyncio.Lock()))
                    if self._opens_nothing(key_id):
                        return None
                    known = self._keys.get(key_id)
                    if known is not None and self._is_good(known):
                        return known
                    await held.enter_async_context(self._turns)
            except TimeoutError as error:
                raise DatabaseUnavailable("too many keys wait to be read") from error
            if known is not None:
                return await self._read(key_id)
            self._refuse(self._failures.take(address, _now_ns()), address)
            try:
                return await self._read(key_id)
            finally:
                self._failures.give_back(address, _now_ns())

    async def _read(self, key_id: str) -> _Known | None:
        changes, read_at = self._changes, monotonic()
        rows = await self._database.fetch("customer_of_key", key_id)
        if not rows:
            self._keys.pop(key_id, None)
            self._unknown[key_id] = read_at
            _bound(self._unknown, _UNKNOWN_MAX)
            return None
        known = _known(key_id, rows[0], read_at)
        # It may have been revoked, or its customer suspended, while we read: good for this call, not to be kept.
        if changes != self._changes:
            return known
        self._has_suspended |= known.caller is not None and known.caller.suspended
        self._keys[key_id] = known
        self._keys.move_to_end(key_id)
        _bound(self._keys, self._cache_max)
        return known

    def _opens_nothing(self, key_id: str) -> bool:
        read_at = self._unknown.get(key_id)
        if read_at is None or monotonic() < read_at + self._cache_s:
            return read_at is not None
        del self._unknown[key_id]
        return False

    def notice(self) -> None:
        """A key or a customer's status may have changed in the database: look at once."""
        self._news.set()

    async def run(self) -> None:
        """Look what other processes have done to keys and customers, at once when told and every so often, for ever."""
        while True:
            was_told, pause_s = self._news.is_set(), self._cache_s / 4  # one that fails leaves time for others
            self._news.clear()
            try:
                await self._look()
            except (DatabaseUnavailable, RefusedByDatabase) as error:  # refused: where it does not let us in
                log.warning("keys.not_looked_at", error=str(error))
                pause_s = min(pause_s, _RETRY_S)
            if was_told:
                self.on_forget()
            try:
                async with asyncio.timeout(pause_s):
                    await self._news.wait()
            except TimeoutError:
                pass

    async def _look(self) -> None:
        began = monotonic()
        if self._looked_at is None:
            self._keys.clear()  # what was read before the first look may have been revoked before what it looks at
        (changed,) = await self._database.fetch("revoked_keys", self._looked_at)
        suspended = {row["customer_id"] for row in await self._database.fetch("suspended_customers")}
        self._changes += 1  # what is being read now may be older
        for key_id in changed["key_ids"]:
            self._keys.pop(key_id, None)
        for key_id, expires_at in zip(changed["ending"], changed["ends"], strict=True):
            known = self._keys.get(key_id)
            if known is not None and known.expires_at != expires_at.timestamp():
                del self._keys[key_id]
        if suspended or self._has_suspended:
            self._forget_if(lambda caller: caller.suspended != (caller.customer_id in suspended))
            self._has_suspended = bool(suspended)
        self._looked_at, self._sure_until = changed["at"], began + self._cache_s

    def forget(self, customer_id: CustomerId) -> None:
        """A key or the status of this customer changed: read it again at its next call."""
        self._changes += 1
        self._forget_if(lambda caller: caller.customer_id == customer_id)
        self.on_forget()

    def forget_key(self, key_id: str) -> None:
        """The same of one key."""
        self._changes += 1
        self._keys.pop(key_id, None)
        self.on_forget()

    def _forget_if(self, is_meant: Callable[[Caller], bool]) -> None:
        keys = self._keys.items()
        for key_id in [key_id for key_id, known in keys if known.caller is not None and is_meant(known.caller)]:
            del self._keys[key_id]


def _known(key_id: str, row: Any, read_at: float) -> _Known:
    expires_at = None if row["expires_at"] is None else row["expires_at"].timestamp()
    caller = None
    if row["customer_id"] is not None:
        suspended = row["status"] == "suspended"
        caller = Caller(row["customer_id"], key_id, suspended, frozenset(row["scopes"]), expires_at)
    return _Known(key_id, row["secret_hash"], caller, expires_at, read_at)


def _bound(kept: OrderedDict[str, Any], most: int) -> None:
    if len(kept) > most:
        kept.popitem(last=False)


def _now_ns() -> int:
    return int(monotonic() * 1e9)
