"""Logs malformed requests and failed handlers of the HTTP servers: only a kind and a count.

aiohttp logs each of them with a traceback, and its texts quote the request: a key, a number, a message. Every client
that reaches the port can send such requests, without a key and in any number. So no part of a request is logged, and
each kind is logged once a minute.
"""

import logging
import math
import traceback
from collections.abc import Hashable
from typing import Final

import structlog
from aiohttp import http_exceptions, web

from cht_rapidpro.concurrency.timing import loop_time

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_PAUSE: Final = 60.0  # seconds between two lines about the same kind
_FRAMES: Final = 5
_OUR_FAULT: Final = "a fault of cht-rapidpro itself, in the last of these places: report it with this line"
# The first that fits; aiohttp's names are of its parser's making and tell an operator nothing.
_KINDS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (http_exceptions.LineTooLong, "a line or header is too long"),
    (http_exceptions.InvalidHeader, "a header is malformed"),
    (http_exceptions.ContentEncodingError, "the body is not compressed as it says"),
    (http_exceptions.PayloadEncodingError, "the body ends early or is malformed"),
    (http_exceptions.BadHttpMethod, "not HTTP, perhaps HTTPS sent to the port of HTTP"),
    (http_exceptions.HttpProcessingError, "not valid HTTP"),
    (web.RequestPayloadError, "the body cannot be read"),
)


class OnceAMinute:
    """Counts events by kind, and says when a log line is due."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, tuple[int, float]] = {}  # number since the last line, and its time

    def count(self, kind: Hashable) -> int | None:
        """Returns the number since the last line, this one included; None if no line is due yet."""
        now = loop_time()
        count, told = self._seen.get(kind, (0, -math.inf))
        is_due = now - told >= _PAUSE
        self._seen[kind] = (0, now) if is_due else (count + 1, told)
        return count + 1 if is_due else None


class ServerLog(logging.Logger):
    """The logger for one of aiohttp's servers. `listener`: its name in the log."""

    def __init__(self, listener: str) -> None:
        super().__init__(listener)
        self._seen = OnceAMinute()

    def handle(self, record: logging.LogRecord) -> None:
        """Handles a line of aiohttp; ignores lines without an exception, and clients that left."""
        error = record.exc_info[1] if record.exc_info else None
        if error is None or isinstance(error, ConnectionError):
            return
        kind = next((words for kinds, words in _KINDS if isinstance(error, kinds)), None)
        if kind is None:
            self._tell_failure(error)
        elif times := self._seen.count(kind):
            log.warning("request.malformed", listener=self.name, kind=kind, times=times)

    def _tell_failure(self, error: BaseException) -> None:
        """A fault in a handler of ours: where it is. The exception's text may quote the request."""
        frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
        where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
        if times := self._seen.count((type(error), *where[-1:])):
            log.error("request.failed", listener=self.name, error=_OUR_FAULT, where=where, times=times)
