"""Whether an operator has paused sending, as the relay asks it before each POST.

The file is the one truth (`adapters/host/pause_file.py`): a pause ordered while the daemon was down holds from its
start, and one ordered while it runs holds within a second. Incoming messages and delivery states do not ask here.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

import structlog

from cht_rapidpro.adapters.host.pause_file import PauseFile
from cht_rapidpro.concurrency.signal import Signal
from cht_rapidpro.domain.findings import Finding
from cht_rapidpro.domain.pause import Pause

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_INTERVAL: Final = 0.4  # seconds between two looks at the file: sending stops within one second


class PauseWatch:
    """`wall_clock`: ms since the epoch. Sending is held until the file was read for the first time."""

    def __init__(self, file: PauseFile, wall_clock: Callable[[], int]) -> None:
        self._file = file
        self._wall_clock = wall_clock
        self._found: Pause | None = None
        self._is_known = False
        self._reported: Pause | None = None
        self._changed = Signal[()]()
        self.subscribe = self._changed.subscribe  # called when a pause begins, changes or ends

    @property
    def pause(self) -> Pause | None:
        """The one in force; None: there is none."""
        found = self._found
        return None if found is None or found.is_over(self._wall_clock()) else found

    @property
    def is_on(self) -> bool:
        return not self._is_known or self.pause is not None

    @property
    def is_draining(self) -> bool:
        """Whether nothing is to be sent until all that is claimed was decided."""
        return (pause := self.pause) is not None and pause.drains

    @property
    def left(self) -> float | None:
        """Seconds until it ends by itself; None where it has no end, or there is none."""
        pause = self.pause
        return None if pause is None or pause.until is None else (pause.until - self._wall_clock()) / 1000

    def problems(self) -> Iterator[Finding]:
        if (pause := self.pause) is not None:
            yield pause.finding()

    def plain(self) -> dict[str, Any] | None:
        """For `/status` and `/ready`; None: sending is not paused."""
        return None if (pause := self.pause) is None else pause.plain()

    async def run(self) -> NoReturn:
        while True:
            self._found = await asyncio.to_thread(self._file.read)
            is_first, self._is_known = not self._is_known, True
            if self.pause != self._reported or is_first:
                self._report()
            await asyncio.sleep(_INTERVAL)

    def _report(self) -> None:
        before, self._reported = self._reported, self.pause
        if self._reported is not None and self._reported.problem:
            log.error(
                "pause.unreadable", problem=self._reported.problem, means="nothing is sent until `resume` or `pause`"
            )
        elif self._reported is not None:
            log.warning("sending.paused", **self._reported.plain())
        elif before is not None:
            log.info("sending.resumed")
        self._changed.emit()
