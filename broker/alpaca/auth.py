"""Who is calling, by Alpaca's headers: the key's id and secret are the two halves of one of our tokens."""

import base64
import binascii

from aiohttp import web

from broker.alpaca.errors import AlpacaError
from broker.auth import Authenticator, Caller, NotAuthenticated


class AlpacaAuth:
    """Turns Alpaca's ways of naming a key into the customer behind it."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    async def caller(self, request: web.Request) -> Caller:
        """The customer behind a request. Raises AlpacaError 401."""
        headers = request.headers
        key, secret = headers.get("APCA-API-KEY-ID"), headers.get("APCA-API-SECRET-KEY")
        if key is not None or secret is not None:
            return await self.of_key(key or "", secret or "")
        scheme, _, content = headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "basic":
            key, secret = _basic(content)
            return await self.of_key(key, secret)
        return await self._of_header(headers.get("Authorization"))

    async def trader(self, request: web.Request) -> Caller:
        """The same, for what places orders. Raises AlpacaError 401, 403 where the customer is suspended."""
        caller = await self.caller(request)
        if caller.suspended:
            raise AlpacaError(403, None, "account is suspended and cannot trade")
        return caller

    async def of_key(self, key: str, secret: str) -> Caller:
        """The customer behind a key and its secret, as the streams send them. Raises AlpacaError 401."""
        if not key or not secret:
            raise unauthorized()
        return await self._of_header(f"Bearer {key}.{secret}")

    async def _of_header(self, header: str | None) -> Caller:
        try:
            return await self._authenticator.customer(header)
        except NotAuthenticated as error:
            raise unauthorized() from error


def unauthorized() -> AlpacaError:
    """401."""
    return AlpacaError(401, None, "unauthorized.")


def _basic(content: str) -> tuple[str, str]:
    try:
        key, _, secret = base64.b64decode(content, validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError) as error:
        raise unauthorized() from error
    return key, secret
