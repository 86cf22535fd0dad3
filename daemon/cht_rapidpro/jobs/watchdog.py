"""Tells systemd how we do, and feeds its watchdog only while every job gets on.

A loop that is blocked feeds nothing. Nor does a daemon whose job has ended, or has taken a step that does not end
(`pulse.py`), while all others run: it would look well and send nothing. systemd then starts it again, and all state is
durable.
"""

import asyncio
from typing import Final, NoReturn

import structlog

from cht_rapidpro.adapters.notify import Notifier
from cht_rapidpro.jobs.status import Status

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_INTERVAL: Final = 5.0  # seconds between two lines of status
_FEEDS: Final = 4  # within the time that systemd allows


class Watchdog:
    """`status` knows the parts, and what to say of the present."""

    def __init__(self, notifier: Notifier, status: Status) -> None:
        self._notifier = notifier
        self._status = status
        self._told: set[str] = set()

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
        for job in stalled - self._told:
            log.error("job.stalled", job=job, means="the watchdog is not fed any more: systemd starts us again")
        self._told = stalled
        return not stalled
