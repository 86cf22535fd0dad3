"""The metrics for Prometheus: every name, help text and label value in one place.

The part that logs a fact also counts it; gauges are read at each request, from the status's figures. The registry is
separate from the library's default one, so that no library adds to it and two daemons in one process do not mix.
Invariant: label values are closed sets. A document id or a phone number as a label value would make a series for each
message, and would disclose it.
"""

import platform
from collections.abc import Iterator, Mapping
from enum import StrEnum
from importlib.metadata import version
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from cht_rapidpro.concurrency.signal import Signal
from cht_rapidpro.domain.history import MessageEvent, MessageRef

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_VERSION: Final = version("cht-rapidpro")  # read here, for it reads files
_NAMESPACE: Final = "cht_rapidpro"
_REQUEST_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_WAIT_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 6 * 3600, 86400)

# Without this line each counter would have a second, unused series. The library has no annotation here.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Outcome(StrEnum):
    """The outcome of an outgoing message; an ambiguous message is counted again when it is decided."""

    SENT = "sent"
    REFUSED = "refused"
    AMBIGUOUS = "ambiguous"
    ADOPTED = "adopted"
    RESENT = "resent"
    EXPIRED = "expired"
    DELIVERED = "delivered"
    FAILED = "failed"  # after it was sent


class Arrived(StrEnum):
    """The outcome of an incoming message, counted when its webhook is answered."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    SPOOLED = "spooled"
    FAILED = "failed"


_DIRECTIONS: Final[Mapping[type[StrEnum], str]] = {Outcome: "outgoing", Arrived: "incoming"}

Figure = float | None | Mapping[str, float | None]
"""A number, None where there is none at present, or a number for each value of a label."""

# The figures that `Status.figures` may hold: help text, and the label if the figure has one.
GAUGES: Final = {
    "queue_messages": ("Due messages that wait here to be claimed; the view may have more.", ""),
    "queue_oldest_seconds": ("How long ago the oldest message that waits or is ambiguous was due.", ""),
    "claimed_tasks": ("Tasks under a claim of this daemon: ready, in flight or ambiguous.", ""),
    "ambiguous_messages": ("Messages that may have been sent and have to be looked up.", ""),
    "takeover_messages": ("Messages from before a takeover: the other gateway may have sent them.", ""),
    "contested_messages": ("Messages that another gateway has sent while this one is chosen.", ""),
    "held_documents": ("Documents in which no claim can be stored; their messages are not sent.", ""),
    "unsendable_messages": ("Messages that are not sent until an operator acts; `held` counts documents.", "reason"),
    "text_limit_characters": ("The longest text that RapidPro takes, once a refusal told it.", ""),
    "outstanding_messages": ("Tasks whose delivery states are polled.", ""),
    "budget_left_requests": ("Requests to RapidPro that may start now.", "scope"),
    "budget_learned_requests": ("Requests an hour that RapidPro allows, where a 429 showed fewer than ours.", "scope"),
    "feed_lag_seconds": ("Time since CouchDB last reported whether there is something to send.", ""),
    "incoming_messages": ("Incoming messages that wait to be stored; their webhooks wait, too.", ""),
    "spooled_messages": ("Incoming messages in the spool; an operator must handle rejected ones.", "state"),
    "sending_enabled": ("1 while the app settings choose this gateway.", ""),
    "sending_paused": ("1 while `cht-rapidpro pause` holds sending.", ""),
    "pause_left_seconds": ("Time until the pause ends by itself; absent where it has no end.", ""),
    "dependency_up": ("0 while it is away or refuses the gateway, absent while that is not known.", "dependency"),
    "state": (
        "1 for the state that the daemon is in: ok, degraded (heals itself), broken (an operator must act).",
        "state",
    ),
}


class Metrics:
    """The counters and histograms that the jobs share. Subscribers also get the message that each fact is about."""

    def __init__(self) -> None:
        self._noted = Signal[MessageEvent]()
        self.subscribe = self._noted.subscribe
        self.registry = CollectorRegistry()
        messages = Counter(
            "messages",
            "Messages by outcome.",
            ["direction", "outcome"],
            namespace=_NAMESPACE,
            registry=self.registry,
        )
        # A series that begins at 0 shows its first increase.
        self._series = {
            (direction, str(outcome)): messages.labels(direction, outcome)
            for outcomes, direction in _DIRECTIONS.items()
            for outcome in outcomes
        }
        build = Gauge(
            "build_info",
            "1; the version that runs, and Python's.",
            ["version", "python"],
            namespace=_NAMESPACE,
            registry=self.registry,
        )
        build.labels(_VERSION, platform.python_version()).set(1)
        self._pending_to_sent = Histogram(
            "pending_to_sent_seconds",
            "From the moment a message was due until RapidPro had it.",
            namespace=_NAMESPACE,
            buckets=_WAIT_BUCKETS,
            registry=self.registry,
        )

    def include(self, *histograms: Histogram) -> None:
        """Adds the metrics that adapters own."""
        for histogram in histograms:
            self.registry.register(histogram)

    def count(self, outcome: Outcome | Arrived, about: MessageRef, failure: str = "") -> None:
        """Counts one message with this outcome; `failure`: why it will not arrive, if that is so."""
        self._report(MessageEvent(_DIRECTIONS[type(outcome)], outcome, about, failure=failure))

    def sent(self, about: MessageRef, due: int, now: int) -> None:
        """Counts a message that RapidPro took at `at`; both times are ms since the epoch, `due` 0 if unknown."""
        waited = max(0, now - due) / 1000 if due else None
        self._report(MessageEvent(_DIRECTIONS[Outcome], Outcome.SENT, about, waited))
        if waited is not None:
            self._pending_to_sent.observe(waited)

    def _report(self, fact: MessageEvent) -> None:
        self._series[fact.direction, fact.outcome].inc()
        self._noted.emit(fact)

    def render(self, figures: Mapping[str, Figure]) -> bytes:
        """Returns all metrics in Prometheus' text format. Reads /proc, so call it in a thread."""
        at_present = CollectorRegistry()
        at_present.register(_Gauges(figures))
        ProcessCollector(registry=at_present)
        return generate_latest(self.registry) + generate_latest(at_present)


def request_times(peer: str, *labels: str) -> Histogram:
    """Makes the histogram of request durations to a peer or to the webhook; the adapter owns it, `Metrics.include` adds
    it.
    """
    return Histogram(
        f"{peer}_request_seconds",
        f"How long requests to {peer} took, answered or not.",
        labels,
        namespace=_NAMESPACE,
        buckets=_REQUEST_BUCKETS,
        registry=None,
    )


class _Gauges(Collector):
    def __init__(self, figures: Mapping[str, Figure]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, figure in self._figures.items():
            help_text, label = GAUGES[name]
            family = GaugeMetricFamily(f"{_NAMESPACE}_{name}", help_text, labels=[label] if label else [])
            values = figure if isinstance(figure, Mapping) else {"": figure}
            for label_value, value in values.items():
                if value is not None:
                    family.add_metric([label_value] if label else [], value)
            yield family
