"""The last hour in memory: outcomes and waiting times of messages by minute, and the last events.

For the operator's page; Prometheus keeps the long history. Invariant: the history stays under 1 MB, however many events
there are and however long their ids are. `now` is in seconds of any steady clock, so that setting the machine's clock
does not change a chart; only `Event.at` is a date.
"""

import math
from array import array
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

MINUTES: Final = 60
REMEMBERED: Final = 500  # events
LONGEST_ID: Final = 64
LONGEST_REASON: Final = 200
_LEAST_WAIT: Final = 0.01  # seconds: all shorter ones are one
_GROWTH: Final = 1.1
_BUCKETS: Final = 168  # up to a day


@dataclass(frozen=True, slots=True)
class MessageRef:
    """Which message a fact is about; "" where that is not known. `message`: its uuid, `gateway_ref`: RapidPro's id."""

    doc: str
    message: str = ""
    number: str = ""
    gateway_ref: str = ""


@dataclass(frozen=True, slots=True)
class MessageEvent:
    """What became of one message; `waited`: seconds until it did, where that is worth a chart.

    `failure`: why it will not arrive, "" where it may.
    """

    direction: str
    outcome: str
    about: MessageRef
    waited: float | None = None
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """A fact, and when it was one, in ms since the epoch."""

    at: int
    fact: MessageEvent


class Waits:
    """Quantiles of durations to within 5 %, in a fixed size: each bucket is a tenth wider than the one before."""

    def __init__(self) -> None:
        self._buckets = array("Q", bytes(8 * _BUCKETS))

    def add(self, seconds: float) -> None:
        place = math.log(max(seconds, _LEAST_WAIT) / _LEAST_WAIT, _GROWTH)
        self._buckets[min(int(place), _BUCKETS - 1)] += 1

    def quantile(self, share: float) -> float | None:
        """The duration, in seconds, that this share of all does not exceed; None where there is none."""
        wanted = share * sum(self._buckets)
        reached = 0
        for place, count in enumerate(self._buckets):
            reached += count
            if count and reached >= wanted:
                return float(_LEAST_WAIT * _GROWTH ** (place + 0.5))
        return None


@dataclass(slots=True)
class Minute:
    """`counts`: by direction and outcome; `least`: of each sampled figure."""

    number: int
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    waits: Waits = field(default_factory=Waits)
    least: dict[str, float] = field(default_factory=dict)


class History:
    """`note` and `sample` write, the other methods read."""

    def __init__(self) -> None:
        self._minutes: deque[Minute] = deque(maxlen=MINUTES)
        self._events: deque[Event] = deque(maxlen=REMEMBERED)
        self._failures: deque[tuple[str, str]] = deque(maxlen=REMEMBERED)

    def note(self, event: Event, now: float) -> None:
        fact = event.fact
        minute = self._minute(now)
        minute.counts[fact.direction, fact.outcome] += 1
        if fact.waited is not None:
            minute.waits.add(fact.waited)
        if fact.failure:
            self._failures.append((shortened(fact.about.doc), fact.failure[:LONGEST_REASON]))
        about = _shortened(fact.about)
        if about is not fact.about or fact.failure:
            event = Event(event.at, MessageEvent(fact.direction, fact.outcome, about, fact.waited))
        self._events.append(event)

    def sample(self, name: str, value: float, now: float) -> None:
        least = self._minute(now).least
        least[name] = min(value, least.get(name, value))

    def minutes(self, now: float) -> list[Minute]:
        """The last sixty, the present one last; one in which nothing happened is empty."""
        known = {minute.number: minute for minute in self._minutes}
        last = _number(now)
        return [known.get(number) or Minute(number) for number in range(last - MINUTES + 1, last + 1)]

    def recent(self, count: int) -> list[Event]:
        """The last events, the newest first."""
        return list(islice(reversed(self._events), count))

    def failures(self) -> list[tuple[str, str]]:
        """The last messages that failed: the document and the reason of each."""
        return list(self._failures)

    def find(self, text: str) -> list[Event]:
        """Returns the remembered events of the message, document or broadcast with this id, the newest first."""
        wanted = shortened(text)
        return [event for event in reversed(self._events) if wanted in _ids(event.fact.about)]

    def _minute(self, now: float) -> Minute:
        number = _number(now)
        if not self._minutes or self._minutes[-1].number < number:
            self._minutes.append(Minute(number))
        return self._minutes[-1]


def total(minutes: Sequence[Minute]) -> Counter[tuple[str, str]]:
    """The counts of all of them, by direction and outcome."""
    return sum((minute.counts for minute in minutes), Counter())


def shortened(text: str) -> str:
    """Shortens an id for the history: ids come from outside and may be of any length."""
    return text if len(text) <= LONGEST_ID else text[: LONGEST_ID - 1] + "…"


def _shortened(about: MessageRef) -> MessageRef:
    texts = (about.doc, about.message, about.number, about.gateway_ref)
    return about if max(map(len, texts)) <= LONGEST_ID else MessageRef(*map(shortened, texts))


def _ids(about: MessageRef) -> Iterator[str]:
    return (text for text in (about.doc, about.message, about.gateway_ref) if text)


def _number(now: float) -> int:
    return int(now // 60)
