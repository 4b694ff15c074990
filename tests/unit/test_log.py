"""What is logged has no secrets in it; looking for them takes no longer than reading; and it holds up nobody."""

import errno
import io
import json
import logging

import pytest
import structlog

from broker.log import redacted
from tests.conftest import logging_at


@pytest.mark.parametrize(
    ("text", "without"),
    [
        ("postgres://me:planted@host/db", "postgres://me:***@host/db"),
        ("at 'postgres://me:pl@n:ted@host/db', then", "at 'postgres://me:***@host/db', then"),
        ("http://a/b postgres://me:planted@host", "http://a/b postgres://me:***@host"),
        ("http://a/,postgres://:planted@host", "http://a/,postgres://:***@host"),
        (f"postgres://me:{'p' * 5_000}@host", "postgres://me:***@host"),
        ("http://127.0.0.1:8080/me@host", "http://127.0.0.1:***@host"),
        ("http://127.0.0.1:8080/ me@host", "http://127.0.0.1:8080/ me@host"),
        ("/admin/v1/customers?adminToken=planted&x=1", "/admin/v1/customers?adminToken=***&x=1"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, without: str) -> None:
    assert redacted(text) == without


@pytest.mark.parametrize("part", ["://:", "://", "://a:b", "?token", "&tokentoken", "password=", "Bearer ", "x"])
def test_a_long_text_takes_no_longer_than_its_length(part: str) -> None:
    """Were the time to grow with the square of the length, this would take hours."""
    assert redacted(part * 200_000)


class Full(io.StringIO):
    """A log on a disk that fills up."""

    is_full = False

    def write(self, text: str) -> int:
        """As a file does."""
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_a_log_that_takes_no_line_stops_nobody_and_says_so_afterwards() -> None:
    stream = Full()
    with logging_at("error", stream):
        stream.is_full = True
        structlog.get_logger().error("something.failed")
        logging.getLogger("library").error("this as well")
        stream.is_full = False
        structlog.get_logger().error("something.else")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line.get("lines")) for line in lines] == [("log.lines_lost", 2), ("something.else", None)]
    closed = io.StringIO()
    with logging_at("error", closed):
        closed.close()
        structlog.get_logger().error("something.failed")
