"""Carries a plan of faults out on a cluster, and counts what was met.

A fault at RapidPro waits there for a request, so it counts when a request has met it, not when it was set up.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from demo.rapidpro import Answer, Call, Delay, Fault, HalfBody, Hang, Reset
from demo.rapidpro.faults import Faults, Trouble
from tests.faults.cluster import Cluster
from tests.faults.plan import PAUSING, Injection, Kind
from tests.support.fault_proxy import until

_HTML: Final = "text/html"
_JSON: Final = "application/json"
_MOST_WAITING: Final = 4  # faults set up and not met
_PATIENCE: Final = 4.0  # seconds for a fault to be met; there may be nothing to send

# What RapidPro does, and whether it has created the broadcast before.
_TROUBLES: Final[Mapping[Kind, Callable[[float], tuple[Trouble, bool]]]] = {
    Kind.RESET_BEFORE: lambda _: (Reset(), False),
    Kind.RESET_AFTER: lambda _: (Reset(), True),
    Kind.ERROR_BEFORE: lambda _: (Answer(500, "<html>Server Error</html>", _HTML), False),
    Kind.ERROR_AFTER: lambda _: (Answer(500, "<html>Server Error</html>", _HTML), True),
    Kind.SILENCE_BEFORE: lambda seconds: (Hang(seconds), False),
    Kind.SILENCE_AFTER: lambda seconds: (Hang(seconds), True),
    Kind.HALF_BODY: lambda _: (HalfBody(), True),
    Kind.LATE_ANSWER: lambda seconds: (Delay(seconds), True),
    Kind.LATE_EFFECT: lambda seconds: (Delay(seconds), False),
    Kind.THROTTLED: lambda _: (Answer(429, '{"detail":"throttled"}', _JSON, {"Retry-After": "1"}), False),
    Kind.THROTTLED_UNTOLD: lambda _: (Answer(429, '{"detail":"throttled"}', _JSON), False),
    Kind.FORBIDDEN: lambda _: (Answer(403, '{"detail":"Invalid token"}', _JSON), False),
    Kind.MOVED: lambda _: (Answer(301, "", headers={"Location": "https://example.org/"}), False),
    Kind.NOT_FOUND: lambda _: (Answer(404, "<html>nothing here</html>", _HTML), False),
    Kind.PROXY_PAGE: lambda _: (Answer(400, "<html>bad request</html>", _HTML), False),
}


@dataclass(frozen=True, slots=True)
class Post:
    """A POST of a broadcast that RapidPro has got. `call` says what came of it, `token` which daemon it is from."""

    call: Call
    token: str
    body: object
    fault: str | None


@dataclass(frozen=True, slots=True)
class Done:
    """A step of the plan, and when it began and ended (seconds since the epoch)."""

    began: float
    ended: float
    injection: Injection


class CountedFaults(Faults):
    """RapidPro's faults, which remember the ones that a request has met, and every POST."""

    def __init__(self) -> None:
        super().__init__()
        self.met: list[Fault] = []
        self.posts: list[Post] = []

    def take(self, call: Call, request: web.Request, body: bytes) -> Fault | None:
        fault = super().take(call, request, body)
        if fault is not None:
            self.met.append(fault)
        if call.method == "POST":
            token = request.headers.get("Authorization", "").rpartition(" ")[2]
            self.posts.append(Post(call, token, json.loads(body), None if fault is None else repr(fault)))
        return fault


class Injector:
    """`done`: faults by kind, as they came; `log`: the steps in their order."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._kinds: dict[int, tuple[Fault, Kind]] = {}  # by identity: equal faults may be of two kinds
        self._faults = cluster.rapidpro.wire.faults = CountedFaults()
        self._others: Counter[Kind] = Counter()
        self.log: list[Done] = []

    @property
    def done(self) -> Counter[Kind]:
        return self._others + Counter(self._kinds[id(fault)][1] for fault in self._faults.met)

    @property
    def posts(self) -> list[Post]:
        return self._faults.posts

    async def run(self, plan: Iterator[list[Injection]], seconds: float) -> None:
        """Carries out as many whole decks as begin within this time, at least one."""
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        for deck in plan:
            for injection in deck:
                await asyncio.sleep(injection.rest)
                began = time.time()
                await self._inject(injection)
                self.log.append(Done(began, time.time(), injection))
            await self._met(0)
            if loop.time() >= end:
                return

    async def calm(self) -> None:
        """Nothing fails any more, and everything runs."""
        self._faults.clear()
        await self._cluster.restart_daemons()

    async def _inject(self, injection: Injection) -> None:
        match injection.kind:
            case Kind.DAEMON_KILLED:
                await self._cluster.kill_daemon(injection.daemon, injection.seconds)
            case Kind.DAEMON_STOPPED:
                await self._cluster.stop_daemon(injection.daemon, injection.seconds)
            case Kind.COUCHDB_KILLED | Kind.COUCHDB_STOPPED as kind:
                await self._cluster.restart_couchdb(injection.seconds, kill=kind is Kind.COUCHDB_KILLED)
            case Kind.COUCHDB_LOSES:
                await self._cluster.lose_answers(injection.daemon, injection.seconds)
            case Kind.COUCHDB_LATE:
                await self._cluster.delay_answers(injection.daemon, injection.seconds)
            case Kind.CLOCK_SET:
                self._cluster.set_clock(injection.daemon, injection.seconds)
            case _:
                await self._trouble_rapidpro(injection)
                return
        self._others[injection.kind] += 1

    async def _trouble_rapidpro(self, injection: Injection) -> None:
        trouble, after = _TROUBLES[injection.kind](injection.seconds)
        for _ in range(injection.requests):
            fault = Fault("POST broadcasts", trouble, after=after)
            self._kinds[id(fault)] = fault, injection.kind
            self._faults.add(fault)
        is_pausing = injection.kind in PAUSING
        await self._met(0 if is_pausing else _MOST_WAITING)
        if is_pausing:
            await self._cluster.restart_daemons()

    async def _met(self, left: int) -> None:
        with suppress(TimeoutError):  # nothing is being sent: the plan goes on, the fault waits
            await until(lambda: len(self._faults) <= left, _PATIENCE)
