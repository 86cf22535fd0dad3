"""The stream that log lines go to, when it cannot take them.

A full disk under stdout must not end the daemon: it would stop sending because it cannot say that it sends. Lines that
cannot be written are lost and counted, and the count is the first thing that is logged when writing works again.
"""

import asyncio
from contextlib import suppress
from typing import TextIO

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class ForgivingStream:
    """Takes the place of a text stream for a logger; only what a logger calls."""

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
            with suppress(RuntimeError):  # outside of a running loop the count waits for one
                asyncio.get_running_loop().call_soon(self._tell)  # not at once: the logger holds its lock

    def _tell(self) -> None:
        lost, self._lost = self._lost, 0
        if lost:
            log.warning("log.lines_lost", lines=lost)
