"""Keeps the last hour for the operator's page.

`Metrics`, to which every part of the daemon reports the outcomes of messages, passes each fact on. So the page and
Prometheus cannot disagree, and nothing is reported twice. Phone numbers are masked before they are kept.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.domain.history import Event, History, MessageEvent, MessageRef
from cht_rapidpro.telemetry.logs import masked, masked_id, masked_number
from cht_rapidpro.telemetry.metrics import Figure, Metrics

_INTERVAL: Final = 10.0  # seconds between two samples
_SAMPLED: Final = "budget_left_requests"


class HistoryKeeper:
    """`figures`: of /status; `wall_clock`: ms since the epoch."""

    def __init__(
        self, metrics: Metrics, figures: Callable[[], Mapping[str, Figure]], wall_clock: Callable[[], int]
    ) -> None:
        self.history = History()
        self._figures = figures
        self._wall_clock = wall_clock
        metrics.subscribe(self._note)

    async def run(self) -> NoReturn:
        while True:
            left = self._figures().get(_SAMPLED)
            for scope, value in left.items() if isinstance(left, Mapping) else ():
                if value is not None:
                    self.history.sample(scope, value, loop_time())
            await asyncio.sleep(_INTERVAL)

    def _note(self, fact: MessageEvent) -> None:
        failure = masked(fact.failure) if fact.failure else ""
        shown = MessageEvent(fact.direction, fact.outcome, _masked(fact.about), fact.waited, failure)
        self.history.note(Event(self._wall_clock(), shown), loop_time())


def _masked(about: MessageRef) -> MessageRef:
    number = masked_number(about.number) if about.number else ""
    return MessageRef(masked_id(about.doc), masked_id(about.message), number, masked_id(about.gateway_ref))
