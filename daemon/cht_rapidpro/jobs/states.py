"""Writes what RapidPro says about messages into their tasks: one history entry a change, none without a change.

Whether a task may still go to its new state is decided on the document itself (domain/delivery.py): it may have been
changed by others since it was read.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Literal

import structlog

from cht_rapidpro.domain.delivery import advance, read_outstanding
from cht_rapidpro.domain.history import About
from cht_rapidpro.domain.statuses import State, StateChange
from cht_rapidpro.domain.task import Task, gateway_ref, history, timestamp
from cht_rapidpro.errors import PermanentError
from cht_rapidpro.jobs.settings import SettingsWatch
from cht_rapidpro.jobs.watchlist import Watched, Watchlist, loop_ms
from cht_rapidpro.jobs.writer import Writer
from cht_rapidpro.metrics import Metrics, Outcome

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_FINAL: Final = (State.SENT, State.DELIVERED, State.FAILED)
_COUNTED: Final = {State.DELIVERED: Outcome.DELIVERED, State.FAILED: Outcome.FAILED}
FRESH: Final = 2000  # ms
_UNKNOWN: Final = 100  # statuses told; RapidPro has ten


class States:
    """`write`: "all", or "final" for sent, delivered and failed alone; `wall_clock`: ms, for the history."""

    def __init__(
        self,
        writer: Writer,
        watchlist: Watchlist,
        settings: SettingsWatch,
        write: Literal["all", "final"],
        wall_clock: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._writer = writer
        self._watchlist = watchlist
        self._settings = settings
        self._write = write
        self._wall_clock = wall_clock
        self._metrics = metrics
        self._unknown: set[str] = set()

    def tell_unknown(self, status: str) -> None:
        """A status that nobody knows changes nothing; one WARNING a status."""
        if status not in self._unknown and len(self._unknown) < _UNKNOWN:
            self._unknown.add(status)
            log.warning("status.unknown", status=status[:40])

    def tell_unmatched(self, watched: Watched, means: str) -> None:
        """RapidPro has messages of the broadcast, and none of them is surely the task's."""
        task = watched.task
        log.warning("state.unmatched", doc=task.doc_id, message=task.uuid, gateway_ref=task.broadcast, means=means)

    def is_fresh(self, watched: Watched, now: int) -> bool:
        """Whether the task changed so lately that Sentinel may be writing its document. `now`: of the loop, in ms."""
        return now - watched.entered < FRESH

    def is_news(self, watched: Watched, change: StateChange) -> bool:
        """Whether the task, as we know it, is to be brought to this state."""
        if self._write == "final" and change.state not in _FINAL:
            return False
        if watched.task.state == State.FAILED and change.state != State.DELIVERED:
            return False
        return (watched.task.state, watched.task.details) != change

    async def write(self, changes: Iterable[tuple[Watched, StateChange]]) -> None:
        """Together, for the writer to gather."""
        async with asyncio.TaskGroup() as group:
            for watched, change in changes:
                group.create_task(self._write_one(watched, change))

    async def _write_one(self, watched: Watched, change: StateChange) -> None:
        task = watched.task
        known = log.bind(doc=task.doc_id, message=task.uuid, gateway_ref=task.broadcast)
        now = self._wall_clock()
        try:
            found = await self._writer.apply_to_task(task.doc_id, advance(task.uuid, task.broadcast, change, now))
        except PermanentError as error:
            known.error("state.rejected", state=change.state, error=str(error), means="the document cannot say so")
            self._watchlist.drop(watched)
            return
        meant = [each for each in found if gateway_ref(each) == task.broadcast]
        if _has_made(meant, change, now):
            known.info("state.changed", state=change.state, details=change.details)
            if outcome := _COUNTED.get(change.state):
                number = task.urns[0].removeprefix("tel:") if task.urns else ""
                self._metrics.count(outcome, About(task.doc_id, task.uuid, number, task.broadcast), _failure(change))
        self._follow(watched, next(iter(meant), None))

    def _follow(self, watched: Watched, task: Task | None) -> None:
        """The task as it is now; what waits for nothing any more leaves the list."""
        values = self._settings.settings.values if self._settings.settings else {}
        found = read_outstanding(watched.task.doc_id, task, values) if task is not None else None
        if found is None:
            self._watchlist.drop(watched)
        else:
            self._watchlist.hold(found, loop_ms(), self._wall_clock())


def _failure(change: StateChange) -> str:
    return f"RapidPro could not send it: {change.details}" if change.state is State.FAILED else ""


def _has_made(tasks: Iterable[Task], change: StateChange, now: int) -> bool:
    """Whether one of the tasks says what this very edit has written into it."""
    expected = {"state": change.state, "state_details": change.details, "timestamp": timestamp(now)}
    return any(entries[-1] == expected for task in tasks if (entries := history(task)))
