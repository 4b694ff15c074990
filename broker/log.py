"""Logs: one JSON object a line on standard error, with the request and trade it is about. Never a secret."""

import logging
import sys
from typing import TextIO

import orjson
import structlog

# Without locals: they hold tokens and secrets.
_TRACEBACKS = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))


def _dump(event: object, default: object) -> str:
    return orjson.dumps(event, default=str).decode()


def configure(level: str, stream: TextIO | None = None) -> None:
    """Set up structlog, and bring what libraries log through the standard module into the same form."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _TRACEBACKS,
            structlog.processors.JSONRenderer(serializer=_dump),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[_ToStructlog()], force=True)


class _ToStructlog(logging.Handler):
    """What aiohttp and asyncio have to say."""

    def emit(self, record: logging.LogRecord) -> None:
        log = structlog.get_logger(record.name)
        log.log(record.levelno, "library", message=record.getMessage(), exc_info=record.exc_info or None)
