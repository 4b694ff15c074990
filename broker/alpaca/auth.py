"""Who is calling, by Alpaca's headers: the key's id and secret are the two halves of one of our tokens."""

import base64
import binascii

from aiohttp import web

from broker.alpaca.errors import AlpacaError, as_alpaca_error
from broker.auth import Authenticator, Caller, NotAllowed, NotAuthenticated, Scope, TooManyTries
from broker.http import CALLER
from broker.peers import ADDRESS


class AlpacaAuth:
    """Turns Alpaca's ways of naming a key into the customer behind it."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    @staticmethod
    def header(request: web.Request) -> str | None:
        """Our Authorization header, for whichever there are. Raises AlpacaError 401."""
        headers = request.headers
        key, secret = headers.get("APCA-API-KEY-ID"), headers.get("APCA-API-SECRET-KEY")
        if key is not None or secret is not None:
            return _bearer(key or "", secret or "")
        scheme, _, content = headers.get("Authorization", "").partition(" ")
        return _bearer(*_basic(content)) if scheme.lower() == "basic" else headers.get("Authorization")

    def caller(self, request: web.Request) -> Caller:
        """The customer whom the gate has let in."""
        return request[CALLER]

    async def of_handshake(self, request: web.Request) -> Caller:
        """The customer of a stream whose handshake says so. Raises AlpacaError 401, 403, 429."""
        return await self._reader(self.header(request), request)

    def trader(self, request: web.Request) -> Caller:
        """The same, for what places orders. Raises AlpacaError 401, 403 where the customer is suspended."""
        caller = self.caller(request)
        if caller.suspended:
            raise AlpacaError(403, None, "account is suspended and cannot trade")
        return caller

    async def of_key(self, key: str, secret: str, request: web.Request) -> Caller:
        """The customer behind a key and its secret, as streams send them. Raises AlpacaError 401, 403, 429."""
        return await self._reader(_bearer(key, secret), request)

    async def _reader(self, header: str | None, request: web.Request) -> Caller:
        try:
            caller = await self._authenticator.customer(header, request[ADDRESS])
            caller.require(Scope.READ)
        except (NotAuthenticated, NotAllowed, TooManyTries) as error:
            raise as_alpaca_error(error) or unauthorized() from error
        return caller


def unauthorized() -> AlpacaError:
    """401."""
    return AlpacaError(401, None, "unauthorized.")


def _bearer(key: str, secret: str) -> str:
    if not key or not secret:
        raise unauthorized()
    return f"Bearer {key}.{secret}"


def _basic(content: str) -> tuple[str, str]:
    try:
        key, _, secret = base64.b64decode(content, validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError) as error:
        raise unauthorized() from error
    return key, secret
