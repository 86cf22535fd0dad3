"""What the daemon knows about itself, put together for people, for Prometheus and for systemd.

Every figure is read from its owner at the moment somebody asks; nothing is kept twice. `figures` and `healths` are
plain, so that whoever composes the daemon adds a line for each of its parts. Error texts pass the log's mask: the page
is as public as the journal.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from importlib.metadata import version
from typing import Any, Final

from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.health import Health
from cht_rapidpro.jobs.settings import SettingsWatch
from cht_rapidpro.logs import masked
from cht_rapidpro.metrics import Figure
from cht_rapidpro.pulse import Pulse

_COUNTED: Final = {"queue_messages": "waiting", "ambiguous_messages": "in doubt", "incoming_messages": "coming in"}


class Overall(StrEnum):
    OK = "ok"
    DEGRADED = "degraded"  # something is away or refuses us; no message is lost
    UNREADY = "unready"  # an incoming message could not be stored anywhere


class Status:
    """`figures`: how each is read, by its name in `metrics.GAUGES`; `healths`: of the dependencies.

    `can_store`: False while an incoming message could be stored nowhere. `miswired`: what is wrong with the flow.
    """

    def __init__(self, me: Instance, settings: SettingsWatch, healths: Iterable[Health]) -> None:
        self._me = me
        self._settings = settings
        self._started = time.monotonic()
        self.healths = list(healths)
        self.can_store: Callable[[], bool] = lambda: True
        self.miswired: Callable[[], list[dict[str, Any]]] = list
        self._jobs: list[asyncio.Task[Any]] = []
        self._pulses: list[Pulse] = []
        self.figures: dict[str, Callable[[], Figure]] = {
            "sending_enabled": lambda: int(settings.target is not None),
            "dependency_up": lambda: {health.dependency: int(health.error is None) for health in self.healths},
        }

    def read(self) -> dict[str, Figure]:
        """All figures at present."""
        return {name: read() for name, read in self.figures.items()}

    def watch(self, pulses: Iterable[Pulse], jobs: Iterable[asyncio.Task[Any]]) -> None:
        """Parts of the program that have to get on, and jobs none of which ends by itself."""
        self._pulses += pulses
        self._jobs += jobs

    def stalled(self) -> set[str]:
        """The parts that do not get on, or have ended."""
        stuck = {pulse.job for pulse in self._pulses if pulse.stalled_for() is not None}
        return stuck | {job.get_name() for job in self._jobs if job.done()}

    def overall(self) -> Overall:
        if not self.can_store():
            return Overall.UNREADY
        is_degraded = any(health.error is not None for health in self.healths)
        return Overall.DEGRADED if is_degraded else Overall.OK

    def snapshot(self) -> dict[str, Any]:
        """All of it, as JSON types."""
        choice = self._settings.choice
        return {
            "version": version("cht-rapidpro"),
            "instance": self._me.id,
            "name": self._me.name,
            "uptime_seconds": round(time.monotonic() - self._started),
            "state": self.overall(),
            "sending": choice.why if choice else "the app settings were not read yet",
            "stalled": sorted(self.stalled()),
            "figures": self.read(),
            "dependencies": list(self._dependencies()),
            "miswired": self.miswired(),
        }

    def _dependencies(self) -> Iterator[dict[str, Any]]:
        for health in self.healths:
            yield {
                "name": health.dependency,
                "condition": health.condition,
                "for_seconds": round(time.monotonic() - health.since),
                "last_error": masked(str(health.last_error)) if health.last_error else None,
            }

    def line(self) -> str:
        """One line for systemd: what is not as it should be, and what waits."""
        figures = self.read()
        counted = [f"{figures[name]:g} {what}" for name, what in _COUNTED.items() if name in figures]
        ill = [f"{each.dependency} {each.condition}" for each in self.healths if each.error is not None]
        return "; ".join(["sending" if self._settings.target else "not sending", ", ".join(counted), *ill])
