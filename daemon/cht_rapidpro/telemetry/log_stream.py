"""A stream for log lines that survives a full disk.

A full disk under stdout must not end the daemon: messages would stop because a log line cannot be written. Lines that
cannot be written are lost and counted; when writing works again, the count is logged first.
"""

import asyncio
from contextlib import suppress
from typing import TextIO

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class ForgivingStream:
    """Replaces a text stream for a logger; has only the methods that a logger calls."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lost = 0

    def write(self, text: str) -> None:
        try:
            self._stream.write(text)
        except OSError:
            self._lost += 1

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._lost += 1
            return
        if self._lost:
            with suppress(RuntimeError):  # without a running loop the count waits until there is one
                asyncio.get_running_loop().call_soon(self._report)  # not at once: the logger holds its lock

    def _report(self) -> None:
        lost, self._lost = self._lost, 0
        if lost:
            log.warning("log.lines_lost", lines=lost)
