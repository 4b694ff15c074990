"""HTTP that is none, or that two readers could read in two ways. Each breaks its connection."""

import gzip
import random
import zlib
from collections.abc import Callable

BODY = b'{"stockTicker":"AAPL","type":"BUY","quantity":1}'
SMUGGLED = b"POST /admin/v1/customers HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}"
HEAD = b"POST /api/v1/trades HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\n"
GET = b"GET /api/v1/balance HTTP/1.1\r\nHost: b\r\n"


def _sized(head: bytes, body: bytes = BODY) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def bomb(megabytes: int) -> bytes:
    """A gzip of so many megabytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = packer.compress(b"[" * 1_000_000) + packer.flush(zlib.Z_FULL_FLUSH)
    return piece + piece[10:] * (megabytes - 1)


_CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
_BOMB = bomb(40)

REFUSED: dict[str, bytes] = {
    "no method": b" / HTTP/1.1\r\nHost: b\r\n\r\n",
    "unknown method": b"FETCH / HTTP/1.1\r\nHost: b\r\n\r\n",
    "method with NUL": b"GE\0T / HTTP/1.1\r\nHost: b\r\n\r\n",
    "no version": b"GET /\r\nHost: b\r\n\r\n",
    "version 9.9": b"GET / HTTP/9.9\r\nHost: b\r\n\r\n",
    "version in letters": b"GET / HTTP/one\r\nHost: b\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(50) + b"\r\n\r\n",
    "space in the path": b"GET /api v1 HTTP/1.1\r\nHost: b\r\n\r\n",
    "NUL in the path": b"GET /api\0 HTTP/1.1\r\nHost: b\r\n\r\n",
    "raw bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\nHost: b\r\n\r\n",
    "path of 40,000 bytes": b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: b\r\n\r\n",
    "header of 40,000 bytes": GET + b"X: " + b"a" * 40_000 + b"\r\n\r\n",
    "name of 40,000 bytes": GET + b"a" * 40_000 + b": 1\r\n\r\n",
    "head of 80,000 bytes": GET + (b"X: " + b"a" * 8_000 + b"\r\n") * 10 + b"\r\n",
    "300 headers": GET + b"X: a\r\n" * 300 + b"\r\n",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no colon": GET + b"Authorization Bearer x\r\n\r\n",
    "space before the colon": GET + b"Authorization : Bearer x\r\n\r\n",
    "NUL in a name": GET + b"X\0: 1\r\n\r\n",
    "NUL in a value": GET + b"Authorization: Bearer \0\r\n\r\n",
    "carriage return in a value": GET + b"Idempotency-Key: a\rX: b\r\n\r\n",
    "folded header": GET + b"X: a\r\n b\r\n\r\n",
    "folded first header": b"GET / HTTP/1.1\r\n Host: b\r\n\r\n",
    "length and chunks": HEAD + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": HEAD + b"Content-Length: 2\r\nContent-Length: 48\r\n\r\n" + BODY + SMUGGLED,
    "two equal lengths": HEAD + b"Content-Length: 48\r\nContent-Length: 48\r\n\r\n" + BODY,
    "list of lengths": HEAD + b"Content-Length: 48, 48\r\n\r\n" + BODY,
    "length below zero": HEAD + b"Content-Length: -1\r\n\r\n",
    "length with a plus": HEAD + b"Content-Length: +48\r\n\r\n" + BODY,
    "length in hexadecimal": HEAD + b"Content-Length: 0x30\r\n\r\n" + BODY,
    "length with an underscore": HEAD + b"Content-Length: 4_8\r\n\r\n" + BODY,
    "length that is empty": HEAD + b"Content-Length:\r\n\r\n" + BODY,
    "length beyond 64 bits": HEAD + b"Content-Length: 99999999999999999999999\r\n\r\n",
    "chunk without a size": _CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n",
    "chunk with a negative size": _CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n",
    "chunk with an underscore": _CHUNKED + b"1_0\r\n" + b"a" * 16 + b"\r\n0\r\n\r\n",
    "chunk with 0x": _CHUNKED + b"0x1\r\na\r\n0\r\n\r\n",
    "chunk longer than its size": _CHUNKED + b"1\r\nabc\r\n0\r\n\r\n",
    "chunk of 2^64": _CHUNKED + b"10000000000000000\r\na\r\n0\r\n\r\n",
    "chunks ended by a line feed": _CHUNKED + b"1\na\n0\n\n",
    "size of a chunk without end": _CHUNKED + b"0" * 40_000,
    "unknown transfer coding": HEAD + b"Transfer-Encoding: chunke\r\nContent-Length: 2\r\n\r\n{}",
    "transfer coding before chunked, twice": HEAD + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "transfer coding with a tab": HEAD + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
}
"""Each of these is an error; the connection ends with the answer."""

ODD: dict[str, bytes] = {
    "gzip bomb": HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(_BOMB) + _BOMB,
    "gzip": _sized(HEAD + b"Content-Encoding: gzip\r\n", gzip.compress(BODY)),
    "body that is too large": _sized(HEAD, b" " * 70_000),
    "callback that is too large": b"POST /webhooks/exchange HTTP/1.1\r\nHost: b\r\nContent-Length: 99999999\r\n\r\n{",
    "length of 10^15": HEAD + b"Content-Length: 1000000000000000\r\n\r\n{",
    "absolute form": b"GET http://evil.example/api/v1/balance HTTP/1.1\r\nHost: b\r\n\r\n",
    "absolute form of another scheme": b"GET ftp://evil.example/x HTTP/1.1\r\nHost: b\r\n\r\n",
    "authority form": b"GET evil.example:80 HTTP/1.1\r\nHost: b\r\n\r\n",
    "authority that is none": b"GET http://[::1:80/ HTTP/1.1\r\nHost: b\r\n\r\n",
    "port that is none": b"GET http://a:99999999/ HTTP/1.1\r\nHost: b\r\n\r\n",
    "tunnel": b"CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    "tunnel to nowhere": b"CONNECT / HTTP/1.1\r\nHost: b\r\n\r\n",
    "asterisk": b"OPTIONS * HTTP/1.1\r\nHost: b\r\n\r\n",
    "trace": b"TRACE / HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer x\r\n\r\n",
    "wrong host": b"GET /api/v1/balance HTTP/1.1\r\nHost: evil.example\r\n\r\n",
    "host that is none": b"GET /docs HTTP/1.1\r\nHost: a b:c:d/\\\r\n\r\n",
    "host with a bracket": b"GET /openapi.json HTTP/1.1\r\nHost: [\r\n\r\n",
    "HTTP/1.0": b"GET /api/v1/balance HTTP/1.0\r\n\r\n",
    "HTTP/1.0 with chunks": HEAD.replace(b"1.1", b"1.0") + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "HTTP/0.9": b"GET /\r\n\r\n",
    "upgrade to h2c": GET + b"Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n" + bytes(30),
    "upgrade without a key": GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "upgrade of a POST": HEAD + b"Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\n{}" + SMUGGLED,
    "expect": HEAD + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
    "expect something else": HEAD + b"Expect: the-unexpected\r\nContent-Length: 2\r\n\r\n{}",
    "trailers": _CHUNKED + b"2\r\n{}\r\n0\r\nAuthorization: Bearer x\r\n\r\n",
    "trailer without end": _CHUNKED + b"2\r\n{}\r\n0\r\n" + b"X: a\r\n" * 500 + b"\r\n",
    "chunk extensions": _CHUNKED + b"2;" + b"a=b;" * 500 + b"\r\n{}\r\n0\r\n\r\n",
    "a body of a GET": GET + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "two tokens": GET + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n",
    "line feeds alone": GET.replace(b"\r\n", b"\n") + b"\n",
    "empty lines before": b"\r\n\r\n\r\n" + GET + b"\r\n",
    "an encoding that is none": _sized(HEAD.replace(b"application/json", b"application/json; charset=\xff")),
    "multipart": _sized(HEAD.replace(b"application/json", b"multipart/form-data; boundary=x"), b"--x\r\n\r\n--x--"),
    "parts of an escape": b"GET /%c0%ae%c0%ae/%2e%2e/%252e%252e/%u002e HTTP/1.1\r\nHost: b\r\n\r\n",
    "a path of dots": b"GET /api/v1/../../admin/v1/controls HTTP/1.1\r\nHost: b\r\n\r\n",
    "a fragment": b"GET /api/v1/balance#x HTTP/1.1\r\nHost: b\r\n\r\n",
    "a query of 30,000 bytes": b"GET /api/v1/quotes?symbols=" + b"A," * 15_000 + b" HTTP/1.1\r\nHost: b\r\n\r\n",
    "cookies": GET + b"Cookie: " + b"a=b; " * 1_000 + b'c="\r\n\r\n',
    "ranges": GET + b"Range: bytes=" + b"0-," * 1_000 + b"\r\nIf-Modified-Since: \xff\r\n\r\n",
}
"""Odd, but HTTP: some are answered, and none may do harm. The connection may end with the answer."""

HALF: list[bytes] = [
    *(
        b"",
        b"\r\n",
        b"G",
        b"GET ",
        b"GET / HTTP/1.1",
        b"GET / HTTP/1.1\r\nHost: b",
        b"POST /api/v1/trades HTTP/1.1\r\nHost",
    ),
    *(HEAD + b"Content-Length: 48\r\n\r\n" + BODY[:20], _CHUNKED + b"30\r\n" + BODY[:20], _CHUNKED + b"30", GET),
]
"""Whoever sent one of these hangs up."""

_REFUSED, _ODD = list(REFUSED.values()), list(ODD.values())


def twisted(data: bytes, rng: random.Random) -> bytes:
    """The bytes with a few changed, left out, or said twice."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        at = rng.randrange(min(len(data), 300) + 1)
        change = rng.random()
        if change < 0.5:
            data = data[:at] + bytes([rng.choice(b"\0\t\n\r :;,/?#%-_0159azAZ\x7f\x80\xff")]) + data[at + 1 :]
        elif change < 0.75:
            data = data[:at] + data[at + rng.randrange(1, 8) :]
        else:
            data = data[:at] + data[at : at + rng.randrange(1, 30)] * 2 + data[at:]
    return data


def refused(rng: random.Random) -> bytes:
    """Never answered with anything but an error."""
    return rng.choice(_REFUSED)


def odd(rng: random.Random) -> bytes:
    """Odd, or one of the others changed in a few bytes."""
    if rng.random() < 0.5:
        return rng.choice(_ODD)
    return twisted(
        rng.choice([HEAD + b"Content-Length: 48\r\n\r\n" + BODY, GET + b"\r\n", *_REFUSED[:6], _CHUNKED]), rng
    )


def garbage(rng: random.Random) -> bytes:
    """Bytes."""
    return rng.randbytes(rng.choice([1, 10, 100, 1000])) + b"\r\n\r\n"


Maker = Callable[[random.Random], bytes]
