"""Sends systemd the status line, and feeds its watchdog only while every job makes progress.

A blocked loop does not feed the watchdog. Neither does a daemon with a job that has ended, or that is in a step that
does not end (`telemetry/liveness.py`), while other jobs run: it would look healthy and send nothing. systemd then
restarts it, and all state is durable.
"""

import asyncio
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.host.sd_notify import Notifier
from cht_rapidpro.jobs.status.status import Status

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_INTERVAL: Final = 5.0  # seconds between two status lines
_FEEDS: Final = 4  # within the time that systemd allows


class Watchdog:
    """`status` knows the parts, and makes the status line."""

    def __init__(self, notifier: Notifier, status: Status) -> None:
        self._notifier = notifier
        self._status = status
        self._reported: set[str] = set()

    async def run(self) -> NoReturn:
        timeout = self._notifier.watchdog_timeout
        interval = _INTERVAL if timeout is None else min(_INTERVAL, timeout / _FEEDS)
        while True:
            self._status.tell()
            self._notifier.status(self._status.line())
            if self._all_get_on():
                self._notifier.feed_watchdog()
            await asyncio.sleep(interval)

    def _all_get_on(self) -> bool:
        stalled = self._status.stalled()
        for job in stalled - self._reported:
            log.error("job.stalled", job=job, means="the watchdog is not fed any more: systemd restarts the daemon")
        self._reported = stalled
        return not stalled
