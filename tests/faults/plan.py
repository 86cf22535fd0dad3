"""Which faults come, in which order and how long each lasts: a plan that a seed repeats.

Drawn like cards: a deck holds every kind at least once and is shuffled whole, so that a run that gets through one deck
has had all kinds, and a long run has them in every order. The plan is repeatable; what exactly a fault meets is not,
since processes run beside each other.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tests.faults.times import CLAIM_TIMEOUT, TIMEOUT


class Kind(StrEnum):
    """In the words of the report."""

    DAEMON_KILLED = "daemon killed (SIGKILL) and started"
    DAEMON_STOPPED = "daemon stopped (SIGSTOP) and continued"
    COUCHDB_KILLED = "CouchDB killed and started"
    COUCHDB_STOPPED = "CouchDB stopped and started"
    COUCHDB_LOSES = "CouchDB's answers to writes lost"
    COUCHDB_LATE = "CouchDB's answers late"
    CLOCK_SET = "clock of a daemon set, hours off"
    RESET_BEFORE = "reset, nothing created"
    RESET_AFTER = "reset, broadcast created"
    ERROR_BEFORE = "500, nothing created"
    ERROR_AFTER = "500, broadcast created"
    SILENCE_BEFORE = "silence, nothing created"
    SILENCE_AFTER = "silence, broadcast created"
    HALF_BODY = "half an answer, broadcast created"
    LATE_ANSWER = "answer later than the timeout, created at once"
    LATE_EFFECT = "answer later than the timeout, created late"
    THROTTLED = "429 with Retry-After"
    THROTTLED_UNTOLD = "429 without Retry-After"
    FORBIDDEN = "403"
    MOVED = "301"
    NOT_FOUND = "404"
    PROXY_PAGE = "400 with HTML"


# After these the daemon pauses for a minute before it tries again; a restart ends the pause.
PAUSING: Final = frozenset({Kind.FORBIDDEN, Kind.MOVED, Kind.NOT_FOUND, Kind.PROXY_PAGE})

_DAEMON: Final = frozenset({Kind.DAEMON_KILLED, Kind.DAEMON_STOPPED})
_COUCHDB: Final = frozenset({Kind.COUCHDB_KILLED, Kind.COUCHDB_STOPPED, Kind.COUCHDB_LOSES, Kind.COUCHDB_LATE})
_LONGEST_STEP: Final = 5 * 3600.0  # seconds by which a clock is wrong
_SECONDS: Final[Mapping[Kind, tuple[float, float]]] = {
    Kind.DAEMON_KILLED: (0.0, 1.0),
    Kind.DAEMON_STOPPED: (0.2, 1.5 * CLAIM_TIMEOUT),
    Kind.COUCHDB_KILLED: (0.0, 1.0),
    Kind.COUCHDB_STOPPED: (0.0, 1.0),
    Kind.COUCHDB_LOSES: (0.1, 0.6),
    Kind.COUCHDB_LATE: (0.2, 1.5 * TIMEOUT),
    Kind.CLOCK_SET: (-_LONGEST_STEP, _LONGEST_STEP),
    Kind.SILENCE_BEFORE: (2 * TIMEOUT, 3 * TIMEOUT),
    Kind.SILENCE_AFTER: (2 * TIMEOUT, 3 * TIMEOUT),
    Kind.LATE_ANSWER: (1.2 * TIMEOUT, 1.8 * TIMEOUT),
    Kind.LATE_EFFECT: (1.2 * TIMEOUT, 1.8 * TIMEOUT),
}
_LONGEST_REST: Final = 0.4
_MOST_REQUESTS: Final = 3


@dataclass(frozen=True, slots=True)
class Injection:
    """`rest`: seconds before it; `seconds`: how long the trouble lasts, or how wrong a clock is; `daemon`: which one,
    where it is one's.

    `requests`: how many of RapidPro's requests it happens to, where it happens there.
    """

    kind: Kind
    rest: float
    seconds: float
    daemon: int
    requests: int


def plan(seed: int, daemons: int) -> Iterator[list[Injection]]:
    """Decks, without end. A daemon that is alone is never stopped: all would wait with it, and nothing would happen."""
    source = random.Random(seed)  # noqa: S311 - no secret
    while True:
        deck = [kind for kind in Kind for _ in range(_cards(kind, daemons))]
        source.shuffle(deck)
        yield [_injection(kind, source, daemons) for kind in deck]


def kinds(daemons: int) -> list[Kind]:
    """Those that a deck holds."""
    return [kind for kind in Kind if _cards(kind, daemons)]


def _cards(kind: Kind, daemons: int) -> int:
    if kind is Kind.DAEMON_STOPPED:
        return 1 if daemons > 1 else 0
    return 2 if kind is Kind.DAEMON_KILLED else 1


def _injection(kind: Kind, source: random.Random, daemons: int) -> Injection:
    is_at_rapidpro = kind not in _DAEMON | _COUCHDB | PAUSING | {Kind.CLOCK_SET}
    return Injection(
        kind,
        rest=source.uniform(0, _LONGEST_REST),
        seconds=source.uniform(*_SECONDS.get(kind, (0.0, 0.0))),
        daemon=source.randrange(daemons),
        requests=source.randint(1, _MOST_REQUESTS) if is_at_rapidpro else 1,
    )
