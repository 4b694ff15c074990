"""So that a killed exchange forgets nothing: an append-only file of JSON lines, read again at the next start.

Four kinds of line; of two about the same order the later one holds:

    {"order": {...}}                                  an order's whole state after it changed
    {"of": "0199…", "execution": {...}}               ... after it changed by one execution only
    {"number": 17, "url": "http://…", "event": {...}} an event that has to be delivered
    {"acked": [17, 18]}                               events that were delivered, or are never to be sent

Everything that one request changed goes out as one write() before its answer does. There is no fsync: what write()
took is the kernel's, and outlives a kill -9 of this process. Only a power cut could lose it, and a simulated exchange
does not have to survive that. The last line may be torn by the kill: its request was never answered.
"""

import fcntl
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from broker.simulator.orders import Execution, Order

FILE_NAME = "exchange.journal"


class JournalInUse(Exception):
    """Another exchange works in this journal folder."""


class JournalDamaged(Exception):
    """A line of the journal, other than a torn last one, cannot be read."""


class Callback(msgspec.Struct, gc=False):
    """An event on its way to a broker: numbered, encoded once."""

    number: int
    url: str
    body: bytes


class Record(msgspec.Struct, gc=False):
    """One line, of any kind."""

    order: Order | None = None
    of: str = ""
    execution: Execution | None = None
    number: int = 0
    url: str = ""
    event: msgspec.Raw = msgspec.Raw()
    acked: list[int] = []


_DECODE = msgspec.json.Decoder(Record)
_ENCODE = msgspec.json.Encoder()


def order_line(order: Order) -> bytes:
    """The line about an order's state."""
    return b'{"order":%s}\n' % _ENCODE.encode(order)


def execution_line(order_id: str, execution: Execution) -> bytes:
    """The line about one more execution of an order."""
    return b'{"of":"%s","execution":%s}\n' % (order_id.encode(), _ENCODE.encode(execution))


def callback_line(callback: Callback) -> bytes:
    """The line about an event to deliver."""
    return b'{"number":%d,"url":%s,"event":%s}\n' % (
        callback.number,
        _ENCODE.encode(callback.url),
        callback.body,
    )


def acked_line(callbacks: Iterable[Callback]) -> bytes:
    """The line about events that need no delivery any more."""
    return b'{"acked":%s}\n' % _ENCODE.encode([callback.number for callback in callbacks])


class Journal:
    """The file in its folder, which belongs to one process at a time (a lock that a kill releases)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / FILE_NAME
        self._fd: int | None = None
        self._size = 0
        self._folder_fd: int | None = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(self._folder_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise JournalInUse(f"another exchange works in {folder}") from error

    def replay(self) -> Iterator[Record]:
        """Read what was written, oldest first. Raises JournalDamaged."""
        if not self._path.exists():
            return
        with self._path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith(b"\n"):
                    return  # torn by a kill: a request that was never answered
                try:
                    yield _DECODE.decode(line)
                except msgspec.DecodeError as error:
                    raise JournalDamaged(f"{self._path}, line {number}: {error}") from error

    def rewrite(self, lines: Iterable[bytes]) -> None:
        """Start the file anew with these lines and open it for appending. Nothing is lost by a kill on the way."""
        fresh = self._path.with_suffix(".new")
        with fresh.open("wb") as file:
            file.writelines(lines)
        fresh.replace(self._path)
        self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND)
        self._size = os.fstat(self._fd).st_size

    def append(self, lines: Iterable[bytes]) -> None:
        """Write lines with one call, all or none. Raises OSError where the disk does not take all of them."""
        assert self._fd is not None, "rewrite() comes first"
        data = b"".join(lines)
        written = os.write(self._fd, data)
        if written != len(data):
            os.ftruncate(self._fd, self._size)  # so that it can be tried again
            raise OSError(f"the journal took {written} of {len(data)} bytes")
        self._size += written

    def close(self) -> None:
        """Release the file and the folder."""
        for fd in (self._fd, self._folder_fd):
            if fd is not None:
                os.close(fd)
        self._fd = self._folder_fd = None
