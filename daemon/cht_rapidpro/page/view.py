"""What the page is drawn from, and how its words are spelled.

Figures, dependencies and outcomes that are not there are not drawn; those that nobody has thought of here appear under
their own names. So a new part of the daemon shows on the page as soon as its figures are there.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from cht_rapidpro.domain.history import Event, Minute, total


class Tone(StrEnum):
    """How serious it is; always said in words, too."""

    OK = "ok"
    WARN = "warn"  # heals itself
    BAD = "bad"  # a human must act


@dataclass(frozen=True, slots=True)
class View:
    """`now`: ms since the epoch; `status`: what /status says; `minutes`: the last sixty; `recent`: the newest first."""

    now: int
    status: Mapping[str, Any]
    minutes: Sequence[Minute]
    recent: Sequence[Event]

    def figure(self, name: str) -> float | None:
        """One that has no label; None also where the daemon has no such part."""
        value = self.status["figures"].get(name)
        return value if isinstance(value, int | float) else None

    def has(self, name: str) -> bool:
        return name in self.status["figures"]

    def labelled(self, name: str) -> Mapping[str, float | None]:
        """One that has a value for each of its label's."""
        value = self.status["figures"].get(name)
        return value if isinstance(value, Mapping) else {}

    def totals(self) -> Counter[tuple[str, str]]:
        """Of the last hour."""
        return total(self.minutes)

    def since(self, seconds: float) -> str:
        return clock(self.now - round(seconds * 1000))


def clock(ms: int) -> str:
    """As in the log: UTC."""
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%H:%M:%S}"
