"""The data that the page is drawn from, and the format of its values.

Figures, dependencies and outcomes that do not exist are not drawn; those that this package does not know appear under
their own names. So a new part of the daemon is on the page as soon as it has figures.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from cht_rapidpro.domain.history import Event, Minute, total


class Tone(StrEnum):
    """How serious a condition is; the page always says it in words, too."""

    OK = "ok"
    WARN = "warn"  # heals itself
    BAD = "bad"  # an operator must act


@dataclass(frozen=True, slots=True)
class View:
    """`now`: ms since the epoch; `status`: the answer of /status; `minutes`: the last sixty; `recent`: the newest
    first.
    """

    now: int
    status: Mapping[str, Any]
    minutes: Sequence[Minute]
    recent: Sequence[Event]

    def figure(self, name: str) -> float | None:
        """Returns a figure without a label; None if the daemon has no such part."""
        value = self.status["figures"].get(name)
        return value if isinstance(value, int | float) else None

    def has(self, name: str) -> bool:
        return name in self.status["figures"]

    def labelled(self, name: str) -> Mapping[str, float | None]:
        """Returns a figure with a value for each value of its label."""
        value = self.status["figures"].get(name)
        return value if isinstance(value, Mapping) else {}

    def totals(self) -> Counter[tuple[str, str]]:
        """The counts of the last hour."""
        return total(self.minutes)

    def since(self, seconds: float) -> str:
        return clock(self.now - round(seconds * 1000))


def clock(ms: int) -> str:
    """Formats a time as in the log: UTC."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%H:%M:%S}"
