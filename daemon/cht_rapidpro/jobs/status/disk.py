"""Looks from time to time whether the disk of the spool has room for what comes in while CouchDB is away.

The spool itself notices a full disk only when it has to write, and then each message is turned away. Asked in a thread:
a disk may take its time to answer.
"""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.host.state_dir import LEAST_ROOM, has_room
from cht_rapidpro.domain.findings import Finding, Level

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_INTERVAL: Final = 30.0  # seconds


class Disk:
    """`folder`: of the spool."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._is_full = False

    async def run(self) -> NoReturn:
        while True:
            is_full = not await asyncio.to_thread(has_room, self._folder)
            if is_full and not self._is_full:
                log.error("disk.filled", folder=str(self._folder), least_bytes=LEAST_ROOM)
            elif self._is_full and not is_full:
                log.warning("disk.freed", folder=str(self._folder))
            self._is_full = is_full
            await asyncio.sleep(_INTERVAL)

    def problems(self) -> Iterator[Finding]:
        if self._is_full:
            yield Finding(
                Level.BROKEN,
                f"The disk of the spool has less than {LEAST_ROOM >> 20} MiB left.",
                advice=f"Incoming messages are turned away once it is full and CouchDB is away. Make room at"
                f" {self._folder}.",
            )
