"""The daemon's status, for people, for Prometheus and for systemd.

Every figure is read from its owner at the moment of the request; no figure is kept twice. `figures`, `healths` and
`problems` are plain, so that the composition root adds a line for each part of the daemon. Every view of the status is
made from `findings`, so that no two can disagree. Error texts pass the log's mask, because the page is as public as the
journal.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Final

from cht_rapidpro.domain.attention import Group, grouped
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.domain.findings import Dependency, Finding, Level, counted, find, worst
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.telemetry.dependency_health import Health
from cht_rapidpro.telemetry.liveness import Liveness
from cht_rapidpro.telemetry.logs import masked, masked_id
from cht_rapidpro.telemetry.metrics import Figure

_COUNTED: Final = {"queue_messages": "waiting", "ambiguous_messages": "ambiguous", "incoming_messages": "coming in"}
_VERSION: Final = version("cht-rapidpro")  # read once: it searches the disk
_UP: Final = {"works": 1, "lost": 0, "refused": 0}


class Status:
    """`figures`: the function that reads each, by its name in `metrics.GAUGES`; `healths`: of the dependencies.

    `can_store`: False while an incoming message cannot be stored; `problems`: the problems of single parts. `paused`:
    the pause of sending, None if there is none. `stuck`: by kind of problem, the documents with their reasons.
    `miswired`: mistakes in the flow. `leftovers`: what another gateway would send again.
    """

    def __init__(self, me: Instance, settings: SettingsWatch, healths: Iterable[Health]) -> None:
        self._me = me
        self._settings = settings
        self._started = time.monotonic()
        self.healths = list(healths)
        self.can_store: Callable[[], bool] = lambda: True
        self.stuck: dict[str, Callable[[], Iterable[tuple[str, str]]]] = {}
        self.paused: Callable[[], dict[str, Any] | None] = lambda: None
        self.leftovers: Callable[[], dict[str, int]] = dict
        self.miswired: Callable[[], list[dict[str, Any]]] = list
        self.problems: list[Callable[[], Iterable[Finding]]] = [settings.problems, self._stalls, self._miswirings]
        self._jobs: list[asyncio.Task[Any]] = []
        self._pulses: list[Liveness] = []
        self.figures: dict[str, Callable[[], Figure]] = {
            "sending_enabled": lambda: int(settings.target is not None),
            "dependency_up": lambda: {health.dependency: _UP.get(health.condition) for health in self.healths},
        }

    def read(self) -> dict[str, Figure]:
        """Reads all figures."""
        own = {name: read() for name, read in self.figures.items()}
        state = worst(self._findings(own))
        return {"state": {level: int(level is state) for level in Level}, **own}

    def spooled(self) -> int:
        """How many incoming messages wait in the spool."""
        read = self.figures.get("spooled_messages")
        found = read() if read is not None else None
        return int(found.get("waiting") or 0) if isinstance(found, Mapping) else 0

    def watch(self, pulses: Iterable[Liveness], jobs: Iterable[asyncio.Task[Any]]) -> None:
        """Adds parts that have to make progress, and jobs that must not end by themselves."""
        self._pulses += pulses
        self._jobs += jobs

    def stalled(self) -> set[str]:
        """The parts that make no progress, or have ended."""
        stuck = {liveness.job for liveness in self._pulses if liveness.stalled_for() is not None}
        return stuck | {job.get_name() for job in self._jobs if job.done()}

    def findings(self) -> list[Finding]:
        """The present findings, the worst first."""
        return self._findings({name: read() for name, read in self.figures.items()})

    def snapshot(self) -> dict[str, Any]:
        """The whole status, as JSON types."""
        choice = self._settings.choice
        figures = {name: read() for name, read in self.figures.items()}
        findings = self._findings(figures)
        state = worst(findings)
        return {
            "version": _VERSION,
            "instance": self._me.id,
            "name": self._me.name,
            "uptime_seconds": round(time.monotonic() - self._started),
            "state": state,
            "stores": self.can_store(),
            "paused": self.paused(),
            "findings": [asdict(finding) for finding in findings],
            "sending": choice.why if choice else "the app settings were not read yet",
            "stalled": sorted(self.stalled()),
            "figures": {"state": {level: int(level is state) for level in Level}, **figures},
            "dependencies": [_plain(each) for each in self._dependencies()],
            "miswired": self.miswired(),
            "stuck": [asdict(group) for group in self._stuck()],
        }

    def tell(self) -> None:
        """Logs changes that only the passing of time has caused."""
        for health in self.healths:
            health.tell()

    def line(self) -> str:
        """The line for systemd: the state, the findings, and what waits."""
        figures = {name: read() for name, read in self.figures.items()}
        findings = self._findings(figures)
        amiss = [finding.what.rstrip(".") for finding in findings if finding.level is not Level.OK]
        counted = [f"{figures[name]:g} {what}" for name, what in _COUNTED.items() if name in figures]
        sends = "not sending" if self._settings.target is None else "paused" if self.paused() else "sending"
        return "; ".join([worst(findings), *amiss, ", ".join([sends, *counted])])

    def _findings(self, figures: dict[str, Figure]) -> list[Finding]:
        others = [finding for problems in self.problems for finding in problems()]
        return find(self._dependencies(), figures, others, can_store=self.can_store())

    def _stuck(self) -> Iterator[Group]:
        for what, read in self.stuck.items():
            yield from grouped(what, ((masked_id(doc), masked(reason)) for doc, reason in read()))

    def _dependencies(self) -> Iterator[Dependency]:
        """RapidPro is needed only for sending, and its other scopes have no harmless request that would show their
        state.
        """
        for health in self.healths:
            yield Dependency(
                name=health.dependency,
                condition=health.condition,
                for_seconds=round(time.monotonic() - health.since),
                error=masked(str(health.last_error)) if health.last_error else None,
                is_needed=health.dependency == "couchdb"
                or (health.dependency == "rapidpro" and self._settings.target is not None),
            )

    def _miswirings(self) -> Iterator[Finding]:
        """The flow's messages are stored as CHT stores them, so its mistakes do not make the daemon `broken`."""
        for found in self.miswired():
            yield Finding(
                Level.DEGRADED,
                f"RapidPro's flow sends a wrong `{found['field']}`: {found['sends']}.",
                f"{counted(found['times'], 'time')} since the start.",
                advice="Correct the flow's webhook body: docs/operations/connect-rapidpro.md has it.",
            )

    def _stalls(self) -> Iterator[Finding]:
        for job in sorted(self.stalled()):
            advice = "systemd's watchdog starts the daemon again; without systemd restart it, and report the log."
            yield Finding(Level.BROKEN, f"A part of the daemon makes no progress: {job}.", advice=advice)


def _plain(found: Dependency) -> dict[str, Any]:
    return {
        "name": found.name,
        "condition": found.condition,
        "for_seconds": found.for_seconds,
        "last_error": found.error,
    }
