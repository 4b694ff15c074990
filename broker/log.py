"""Logs: one JSON object a line on standard error, with the request and trade it is about. Never a secret."""

import logging
import re
import sys
from typing import TextIO

import orjson
import structlog

# Without locals: they hold tokens and secrets.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


# What a secret looks like, wherever it turns up: nobody should log one, and an error may repeat what it was given.
_SECRETS = [
    (re.compile(r"(\bpassword['\"]?\s*[=:]\s*)('[^']*'|[^\s&'\"]+)", re.IGNORECASE), r"\1***"),
    (re.compile(r"\b(key_[0-9a-f]{16}\.)[\w-]+"), r"\1***"),
    (re.compile(r"\b(Bearer[\s+]+)[^\s\"'\\]+", re.IGNORECASE), r"\1***"),
    (re.compile(r"\bwhsec_[\w+/=-]+"), "whsec_***"),
    (re.compile(r"([?&][^\s=&?]{0,40}(?:token|secret|password)[^\s=&?]{0,40}=)[^\s&\"']+", re.IGNORECASE), r"\1***"),
]
_WORD = re.compile(r"[^\s\"']+")
_USER = re.compile(r"://[^\s/?#\"':@]*:")


def redacted(text: str) -> str:
    """The text without what looks like a secret: passwords in URLs and DSNs, tokens, signing secrets."""
    if "://" in text and "@" in text:
        text = _WORD.sub(_without_password, text)
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _without_password(word: re.Match[str]) -> str:
    """Of user:password@host: a password may have any character, an @ as well.

    Not one pattern, which would look for the @ from every "://" on: as long as the square of the text's length.
    """
    user, end = _USER.search(word[0]), word[0].rfind("@")
    return word[0] if user is None or end < user.end() else f"{word[0][: user.end()]}***{word[0][end:]}"


def _dump(event: object, default: object) -> str:
    return redacted(orjson.dumps(event, default=str).decode())


class _Lines:
    """Writes lines, as structlog asks for. What cannot be written must stop nobody who had something to say.

    With the disk full, or nobody at the end of the pipe, lines are counted, and told of once one goes through.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = 0

    def msg(self, line: str) -> None:
        """Write one."""
        try:
            if self._lost:
                print(
                    _dump({"event": "log.lines_lost", "level": "error", "lines": self._lost}, None), file=self._stream
                )
            print(line, file=self._stream, flush=True)
            self._lost = 0
        except (OSError, ValueError):  # ValueError: the stream is closed
            self._lost += 1

    log = debug = info = warn = warning = error = critical = exception = fatal = msg


def configure(level: str, stream: TextIO | None = None) -> None:
    """Set up structlog, and bring what libraries log through the standard module into the same form."""
    number = logging.getLevelNamesMapping()[level.upper()]
    lines = _Lines(stream or sys.stderr)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _TRACEBACKS,
            structlog.processors.JSONRenderer(serializer=_dump),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[_ToStructlog()], force=True)


class _ToStructlog(logging.Handler):
    """What aiohttp and asyncio have to say."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        log.log(record.levelno, "library", message=record.getMessage(), exc_info=record.exc_info or None)
