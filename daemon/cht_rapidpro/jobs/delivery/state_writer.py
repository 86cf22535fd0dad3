"""Writes delivery states into tasks: one history entry for each change, none without a change.

The edit decides on the latest document whether a task may go to its new state (domain/delivery.py), because other
programs may have changed the task since it was read.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Literal

import structlog

from cht_rapidpro.domain.delivery import advance, read_outstanding
from cht_rapidpro.domain.history import MessageRef
from cht_rapidpro.domain.statuses import State, StateChange
from cht_rapidpro.domain.task import Task, gateway_ref, history, timestamp
from cht_rapidpro.errors import PermanentError
from cht_rapidpro.jobs.delivery.tracker import DeliveryTracker, TrackedMessage, loop_ms
from cht_rapidpro.jobs.documents.writer import Writer
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.telemetry.metrics import Metrics, Outcome

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_FINAL: Final = (State.SENT, State.DELIVERED, State.FAILED)
_COUNTED: Final = {State.DELIVERED: Outcome.DELIVERED, State.FAILED: Outcome.FAILED}
FRESH: Final = 2000  # ms
_UNKNOWN: Final = 100  # statuses that were logged


class StateWriter:
    """`write`: "all", or "final" for sent, delivered and failed alone; `wall_clock`: ms, for the history."""

    def __init__(
        self,
        writer: Writer,
        tracker: DeliveryTracker,
        settings: SettingsWatch,
        write: Literal["all", "final"],
        wall_clock: Callable[[], int],
        metrics: Metrics,
    ) -> None:
        self._writer = writer
        self._tracker = tracker
        self._settings = settings
        self._write = write
        self._wall_clock = wall_clock
        self._metrics = metrics
        self._unknown: set[str] = set()

    def tell_unknown(self, status: str) -> None:
        """Logs an unknown status, once for each; it changes nothing."""
        if status not in self._unknown and len(self._unknown) < _UNKNOWN:
            self._unknown.add(status)
            log.warning("status.unknown", status=status[:40])

    def tell_unmatched(self, watched: TrackedMessage, means: str) -> None:
        """Logs that RapidPro has messages of the broadcast, but none can be matched to the task."""
        task = watched.task
        log.warning("state.unmatched", doc=task.doc_id, message=task.uuid, gateway_ref=task.broadcast, means=means)

    def is_fresh(self, watched: TrackedMessage, now: int) -> bool:
        """Whether the task changed so recently that Sentinel may be writing its document. `now`: loop time in ms."""
        return now - watched.entered < FRESH

    def is_news(self, watched: TrackedMessage, change: StateChange) -> bool:
        """Whether the task, as last seen, has to be set to this state."""
        if self._write == "final" and change.state not in _FINAL:
            return False
        if watched.task.state == State.FAILED and change.state != State.DELIVERED:
            return False
        return (watched.task.state, watched.task.details) != change

    async def write(self, changes: Iterable[tuple[TrackedMessage, StateChange]]) -> None:
        """Writes the changes together, so that the writer can gather them."""
        async with asyncio.TaskGroup() as group:
            for watched, change in changes:
                group.create_task(self._write_one(watched, change))

    async def _write_one(self, watched: TrackedMessage, change: StateChange) -> None:
        task = watched.task
        known = log.bind(doc=task.doc_id, message=task.uuid, gateway_ref=task.broadcast)
        now = self._wall_clock()
        try:
            found = await self._writer.apply_to_task(task.doc_id, advance(task.uuid, task.broadcast, change, now))
        except PermanentError as error:
            known.error("state.rejected", state=change.state, error=str(error), means="the document cannot say so")
            self._tracker.drop(watched)
            return
        meant = [each for each in found if gateway_ref(each) == task.broadcast]
        if _has_made(meant, change, now):
            known.info("state.changed", state=change.state, details=change.details)
            if outcome := _COUNTED.get(change.state):
                number = task.urns[0].removeprefix("tel:") if task.urns else ""
                self._metrics.count(
                    outcome, MessageRef(task.doc_id, task.uuid, number, task.broadcast), _failure(change)
                )
        self._follow(watched, next(iter(meant), None))

    def _follow(self, watched: TrackedMessage, task: Task | None) -> None:
        """Updates the watchlist with the task's present state; a finished task leaves the list."""
        values = self._settings.settings.values if self._settings.settings else {}
        found = read_outstanding(watched.task.doc_id, task, values) if task is not None else None
        if found is None:
            self._tracker.drop(watched)
        else:
            self._tracker.hold(found, loop_ms(), self._wall_clock())


def _failure(change: StateChange) -> str:
    return f"RapidPro could not send it: {change.details}" if change.state is State.FAILED else ""


def _has_made(tasks: Iterable[Task], change: StateChange, now: int) -> bool:
    """Whether one of the tasks has the history entry that this edit has written."""
    expected = {"state": change.state, "state_details": change.details, "timestamp": timestamp(now)}
    return any(entries[-1] == expected for task in tasks if (entries := history(task)))
