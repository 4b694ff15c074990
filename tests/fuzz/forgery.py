"""Callbacks that the exchange did not send, or not so, or not now."""

import base64
import json
import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from broker.core import signing

PATH = b"/webhooks/exchange"


def event(rng: random.Random, trade_id: str, **fields: Any) -> bytes:
    """A fill as the contract has it."""
    return json.dumps(
        {
            "type": "FILLED",
            "order_id": trade_id,
            "execution_id": f"forged-{rng.getrandbits(64):x}",
            "quantity": rng.randint(1, 100),
            "price": f"{rng.randint(1, 300)}.00",
            "filled_quantity": 1,
            **fields,
        }
    ).encode()


@dataclass(frozen=True, slots=True)
class Signed:
    """A callback before it is sent."""

    message_id: str
    timestamp: str
    signature: str
    body: bytes

    def request(self, path: bytes = PATH) -> bytes:
        """As HTTP."""
        headers = {
            "webhook-id": self.message_id,
            "webhook-timestamp": self.timestamp,
            "webhook-signature": self.signature,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value != LEFT_OUT)
        head = lines.encode("utf-8", "surrogateescape")
        return b"POST %s HTTP/1.1\r\nHost: b\r\n%sContent-Length: %d\r\n\r\n%s" % (
            path,
            head,
            len(self.body),
            self.body,
        )


LEFT_OUT = "\0"


def right(key: bytes, body: bytes, timestamp: int, message_id: str) -> Signed:
    """What the exchange would send."""
    return Signed(message_id, str(timestamp), signing.sign(key, message_id, timestamp, body), body)


@dataclass(frozen=True, slots=True)
class Forger:
    """Has keys that are not the broker's (one of them was, before it was changed), and callbacks that it overheard."""

    retired: bytes
    heard: list[Signed]
    trades: list[str]
    unix_time: Callable[[], float]
    own: Sequence[str] = ()  # orders to buy at $1.00, of the forger's own: who would not like them to fill?

    def forge(self, rng: random.Random) -> tuple[str, Signed]:
        """What kind of forgery it is, and the callback."""
        kind = rng.choice(_NAMES)
        return kind, _KINDS[kind](self, rng)

    def fresh(self, rng: random.Random, key: bytes) -> Signed:
        """A fill, signed with a key."""
        body = self.fill(rng) if rng.random() < 0.8 else event(rng, str(uuid.UUID(int=rng.getrandbits(128))))
        return right(key, body, int(self.unix_time()), f"msg_{rng.getrandbits(48):x}")

    def fill(self, rng: random.Random) -> bytes:
        """A fill of somebody's trade, or of one of the forger's own, at its price."""
        if self.own and rng.random() < 0.5:
            return event(rng, rng.choice(self.own), price="1.00", type="PARTIALLY_FILLED")
        return event(rng, rng.choice(self.trades))


def _with(signed: Signed, **changes: Any) -> Signed:
    parts = {
        "message_id": signed.message_id,
        "timestamp": signed.timestamp,
        "signature": signed.signature,
        "body": signed.body,
    }
    return Signed(**(parts | changes))


def _wrong_key(forger: Forger, rng: random.Random) -> Signed:
    key = rng.choice([rng.randbytes(32), bytes(32), b"", b"secret", b"whsec_"])
    return forger.fresh(rng, key)


def _retired_key(forger: Forger, rng: random.Random) -> Signed:
    return forger.fresh(rng, forger.retired)


def _other_body(forger: Forger, rng: random.Random) -> Signed:
    heard = rng.choice(forger.heard)
    at = rng.randrange(len(heard.body))
    changed = heard.body[:at] + bytes([heard.body[at] ^ (1 << rng.randrange(8))]) + heard.body[at + 1 :]
    body = rng.choice([changed, heard.body + b" ", b" " + heard.body, heard.body[:-1], b"", forger.fill(rng)])
    return _with(heard, body=body)


def _other_time(forger: Forger, rng: random.Random) -> Signed:
    heard = rng.choice(forger.heard)
    now = int(forger.unix_time())
    wrong = [
        str(now + rng.choice([-1, 1]) * rng.randint(1, 10**6) + 10**7),
        f"0{heard.timestamp}",
        f"{heard.timestamp}.0",
    ]
    wrong += [
        f"+{heard.timestamp}",
        f"-{heard.timestamp}",
        f"{heard.timestamp}e0",
        "",
        "NaN",
        "9" * 11,
        "9" * 4_000,
        "\uff11",
    ]
    return _with(heard, timestamp=rng.choice(wrong))


def _other_id(forger: Forger, rng: random.Random) -> Signed:
    heard = rng.choice(forger.heard)
    return _with(
        heard, message_id=rng.choice([f"msg_{rng.getrandbits(48):x}", "", heard.message_id + "x", "é", "\udcff"])
    )


def _left_out(forger: Forger, rng: random.Random) -> Signed:
    return _with(rng.choice(forger.heard), **{rng.choice(["message_id", "timestamp", "signature"]): LEFT_OUT})


def _other_signature(forger: Forger, rng: random.Random) -> Signed:
    heard = rng.choice(forger.heard)
    text = heard.signature.removeprefix("v1,")
    raw = base64.b64decode(text)
    at = rng.randrange(32)
    wrong = [
        "",
        text,
        "v1,",
        "v2," + text,
        "v1a," + text,
        "V1," + text,
        "v1," + text[:-1],
        "v1," + text[:10],
        "v1," + text.swapcase(),
    ]
    wrong += [
        "v1," + base64.b64encode(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]).decode(),
        "v1," + raw.hex(),
        "v1,\udcff",
    ]
    wrong += [
        "v1," + base64.b64encode(rng.randbytes(32)).decode(),
        " ".join(["v1,AAAA"] * 500),
        f"v1,{'A' * 20_000}",
        "v1;" + text,
    ]
    wrong += [f'"{heard.signature}"', f"v1={text}", "v1," + text.rstrip("=")]
    return _with(heard, signature=rng.choice(wrong))


def _resplit(forger: Forger, rng: random.Random) -> Signed:
    """The bytes that were signed, cut elsewhere: a part of the body becomes the time, what stood before it the id."""
    heard = rng.choice(forger.heard)
    whole = f"{heard.message_id}.{heard.timestamp}."
    return _with(heard, message_id=whole[:-1], timestamp=str(int(forger.unix_time())), body=heard.body)


def _swapped(forger: Forger, rng: random.Random) -> Signed:
    one = rng.choice(forger.heard)
    others = [each for each in forger.heard if each.body != one.body]
    return _with(one, body=rng.choice(others).body)


_KINDS: dict[str, Callable[[Forger, random.Random], Signed]] = {
    "wrong key": _wrong_key,
    "retired key": _retired_key,
    "other body": _other_body,
    "other time": _other_time,
    "other id": _other_id,
    "header left out": _left_out,
    "other signature": _other_signature,
    "cut elsewhere": _resplit,
    "body of another": _swapped,
}
_NAMES = list(_KINDS)
