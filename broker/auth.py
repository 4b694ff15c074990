"""Who is calling: API keys of customers, and the operator's token.

A token is `keyId.secret`. Only the secret's SHA-256 is stored (it has 256 random bits: a slow hash would add latency
and nothing else); it is compared as bytes in constant time. Keys in use are kept in memory, bounded, and leave it at
once when they are revoked or their customer is suspended. What another process does is looked for all the time, for all
keys at once; while that is not possible, a key in memory is good for no longer than key_cache_s.
"""

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from time import monotonic

import structlog

from broker.config import Config
from broker.core.types import CustomerId
from broker.db import Database, DatabaseUnavailable, RefusedByDatabase

log = structlog.get_logger()

KEY_ID_PREFIX = "key_"
_TOKEN_MAX = 256
_KEPT_S = 600.0
"""A key is read again after this, whatever the looks find: a change by hand may not show in what they look at."""


class NotAuthenticated(Exception):
    """There is no valid token; the message says what is missing, never what would have been right."""


@dataclass(frozen=True, slots=True)
class Caller:
    """A customer behind a valid key."""

    customer_id: CustomerId
    key_id: str
    suspended: bool


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
    """A key in memory, as it was read at a moment (monotonic seconds)."""

    secret_hash: bytes
    caller: Caller
    read_at: float


_NOT_VALID = "This token is not valid, or was revoked."


class Authenticator:
    """Turns a token into its customer."""

    def __init__(self, database: Database, admin_token: str, config: Config) -> None:
        self._database = database
        self._admin_hash = _hash(admin_token)
        self._cache_max = config.key_cache_max
        self._cache_s = config.key_cache_s
        self._keys: OrderedDict[str, _Known] = OrderedDict()  # the one that was read first comes first
        self._changes = 0
        self._looked_at: datetime | None = None  # the database's time
        self._sure_until = 0.0  # monotonic seconds: until then the last look holds
        self.on_forget: Callable[[], None] = lambda: None
        """Who wants to know that a key may have become invalid: what is open on it must end."""

    async def customer(self, header: str | None) -> Caller:
        """The customer behind an Authorization header. Raises NotAuthenticated."""
        key_id, _, secret = bearer(header).partition(".")
        known = self._keys.get(key_id)
        if known is None or not self._is_good(known):
            known = await self._load(key_id)
        if known is None or not hmac.compare_digest(known.secret_hash, _hash(secret)):
            raise NotAuthenticated(_NOT_VALID)
        return known.caller

    def _is_good(self, known: _Known) -> bool:
        now = monotonic()
        return now < known.read_at + (_KEPT_S if now < self._sure_until else self._cache_s)

    def require_operator(self, header: str | None) -> None:
        """Raises NotAuthenticated unless the header carries the admin token."""
        if not hmac.compare_digest(self._admin_hash, _hash(bearer(header))):
            raise NotAuthenticated("The admin token is not valid.")

    async def _load(self, key_id: str) -> _Known | None:
        if not key_id.startswith(KEY_ID_PREFIX) or "\0" in key_id:
            return None
        changes, read_at = self._changes, monotonic()
        rows = await self._database.fetch("customer_of_key", key_id)
        if not rows:
            self._keys.pop(key_id, None)
            return None
        row = rows[0]
        known = _Known(row["secret_hash"], Caller(row["customer_id"], key_id, row["status"] == "suspended"), read_at)
        # It may have been revoked while we read: good for this call, not to be kept. Nor is a suspended customer's:
        # nothing would tell when that one is active again.
        if changes != self._changes or known.caller.suspended:
            return known
        self._keys[key_id] = known
        self._keys.move_to_end(key_id)
        if len(self._keys) > self._cache_max:
            self._keys.popitem(last=False)
        return known

    async def run(self) -> None:
        """Look what other processes have done to keys and customers, for ever."""
        while True:
            try:
                await self._look()
            except (DatabaseUnavailable, RefusedByDatabase) as error:  # refused: where it does not let us in
                log.warning("keys.not_looked_at", error=str(error))
            await asyncio.sleep(self._cache_s / 2)

    async def _look(self) -> None:
        began = monotonic()
        if self._looked_at is None:
            self._keys.clear()  # what was read before the first look may have been revoked before what it looks at
        (revoked,) = await self._database.fetch("revoked_keys", self._looked_at)
        for key_id in revoked["key_ids"]:
            self._keys.pop(key_id, None)
        suspended = {row["customer_id"] for row in await self._database.fetch("suspended_customers")}
        if suspended:
            for key_id in [key_id for key_id, known in self._keys.items() if known.caller.customer_id in suspended]:
                del self._keys[key_id]
        self._looked_at, self._sure_until = revoked["at"], began + self._cache_s

    def forget(self, customer_id: CustomerId) -> None:
        """A key or the status of this customer changed: read it again at its next call."""
        self._changes += 1
        for key_id in [key_id for key_id, known in self._keys.items() if known.caller.customer_id == customer_id]:
            del self._keys[key_id]
        self.on_forget()
