"""WebSocket frames, most of which no client would send."""

import json
import random
import struct

from tests.fuzz import values

STREAMS = ["/api/v1/stream", "/api/v1/orders/stream", "/stream", "/v2/iex", "/v2/sip"]

_WORDS = ["subscribe", "unsubscribe", "authenticate", "auth", "listen", "", "x" * 200]
_FIELDS = ["symbols", "channels", "batch", "token", "key", "secret", "data", "trades", "quotes", "bars", "streams", "x"]


def handshake(path: str, *headers: str) -> bytes:
    """The request for a stream; a lone surrogate in a header is a byte."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: b",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
    ]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *headers]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n"


def frame(
    opcode: int, payload: bytes, *, fin: bool = True, masked: bool = True, reserved: int = 0, length: int = -1
) -> bytes:
    """One frame; `length` is what it says instead of the truth."""
    size = len(payload) if length < 0 else length
    first = (fin << 7) | (reserved << 4) | opcode
    mask_bit = masked << 7
    if size < 126:
        head = struct.pack("!BB", first, mask_bit | size)
    elif size < 65_536:
        head = struct.pack("!BBH", first, mask_bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, mask_bit | 127, size & (2**64 - 1))
    return head + (b"\0\0\0\0" if masked else b"") + payload


def message(rng: random.Random) -> bytes:
    """What a client could have meant to say."""
    fields = [f'"action":{json.dumps(rng.choice(_WORDS))}']
    for name in rng.sample(_FIELDS, rng.randint(0, 3)):
        right = rng.choice(
            ['["AAPL"]', '["quotes"]', "true", '{"streams":["trade_updates"]}', '["*"]', '["AAPL","MSFT"]']
        )
        fields.append(f'"{name}":{right if rng.random() < 0.6 else rng.choice(values.JSON)}')
    text = rng.choice(values.JSON) if rng.random() < 0.15 else "{" + ",".join(fields) + "}"
    return text.encode("utf-8", "surrogatepass")


def harmless(rng: random.Random) -> bytes:
    """A frame in form, whatever it says: the socket stays open."""
    chance = rng.random()
    if chance < 0.8:
        return frame(1, message(rng))
    if chance < 0.9:
        said = message(rng)
        cut = rng.randrange(len(said) + 1)
        return frame(1, said[:cut], fin=False) + frame(9, b"ping") + frame(0, said[cut:])
    return frame(2, rng.randbytes(rng.choice([0, 1, 20, 300]))) if chance < 0.95 else frame(9, rng.randbytes(20))


def last(rng: random.Random) -> bytes:
    """What ends the socket, or should."""
    return rng.choice(
        [
            frame(1, b"\xff\xfe"),
            frame(1, b"{", masked=False),
            frame(1, b"{" * 70_000),
            frame(1, b"{", length=2**63),
            frame(1, b"", length=2**64 - 1),
            frame(1, b"{", reserved=rng.randint(1, 7)),
            frame(rng.choice([3, 4, 7, 11, 15]), b"x"),
            frame(0, b"not begun"),
            frame(1, b"a", fin=False) + frame(1, b"b"),
            frame(1, b"a" * 60_000, fin=False) + frame(0, b"a" * 60_000),
            frame(9, b"a" * 126),
            frame(9, b"a", fin=False),
            frame(8, b"\x03"),
            frame(8, struct.pack("!H", rng.choice([0, 999, 1004, 1005, 1006, 1015, 5000, 65535]))),
            frame(8, struct.pack("!H", 1000) + b"\xff\xfe"),
            frame(8, b""),
            frame(8, struct.pack("!H", 1000) + b"bye"),
            rng.randbytes(rng.choice([1, 2, 14, 300])),
            b"GET /api/v1/balance HTTP/1.1\r\nHost: b\r\n\r\n",
            b"",
        ]
    )
