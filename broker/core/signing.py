"""Signatures of webhooks, by the Standard Webhooks specification (https://www.standardwebhooks.com).

The exchange signs, the broker verifies. Verification reports how old a message is instead of refusing it: money
safety comes from the execution id, so an honest message that an outage delayed must not be thrown away.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Mapping

SECRET_PREFIX = "whsec_"  # noqa: S105 - the public prefix of every such secret
HEADER_ID, HEADER_TIMESTAMP, HEADER_SIGNATURE = "webhook-id", "webhook-timestamp", "webhook-signature"

_SECONDS = re.compile(r"0|[1-9][0-9]{0,10}", re.ASCII)
"""Up to the year 5138; an integer of any length would break whoever computes with it. As it was signed: no zeros before
it, which were not."""


class BadSignature(Exception):
    """The message was not signed with a secret of ours, or not signed at all."""


def decode_secret(text: str) -> bytes:
    """The key in a `whsec_…` secret. Raises ValueError where it is not one."""
    if not text.startswith(SECRET_PREFIX):
        raise ValueError(f"a webhook secret starts with {SECRET_PREFIX}")
    key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    if len(key) < 24:
        raise ValueError("a webhook secret holds at least 24 bytes of key in base64")
    return key


def encode_secret(key: bytes) -> str:
    """The `whsec_…` form of a key."""
    return SECRET_PREFIX + base64.b64encode(key).decode()


def sign(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of the signature header for one message; `timestamp` in seconds since 1970."""
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    digest = hmac.digest(key, signed, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()


def verify(keys: Iterable[bytes], headers: Mapping[str, str], body: bytes) -> int:
    """Check the signature over the raw bytes; the message's timestamp in seconds since 1970.

    Any of the keys will do (two are valid while one is rotated) and any of the header's signatures. Raises
    BadSignature; compares in constant time, as bytes, since a non-ASCII str would raise TypeError.
    """
    try:
        message_id = headers[HEADER_ID]
        seconds = headers[HEADER_TIMESTAMP]
        if _SECONDS.fullmatch(seconds) is None:
            raise BadSignature("the webhook-timestamp header takes seconds since 1970")
        if "." in message_id:  # where the id ends and the time begins would not be said by what was signed
            raise BadSignature("the webhook-id header takes no full stop")
        timestamp = int(seconds)
        offered = [part.encode() for part in headers[HEADER_SIGNATURE].split(" ") if part.startswith("v1,")]
        expected = [sign(key, message_id, timestamp, body).encode() for key in keys]
    except (KeyError, ValueError) as error:
        raise BadSignature("the webhook-id, -timestamp and -signature headers must be there") from error
    matches = [hmac.compare_digest(one, other) for one in expected for other in offered[:8]]
    if not any(matches):
        raise BadSignature("no signature matches")
    return timestamp
