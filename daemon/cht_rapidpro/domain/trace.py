"""What RapidPro shows of one message: its broadcast, its SMS, and what else could be it.

The one question behind it is "may the phone get it, or have got it?". Only RapidPro's own final failure says no: a
broadcast that is missing may be archived, or another workspace's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from cht_rapidpro.domain.delivery import MessageRow
from cht_rapidpro.domain.outgoing import SmsIdentity
from cht_rapidpro.domain.reconcile import Listed, is_same_number
from cht_rapidpro.domain.statuses import State, broadcast_outcome, message_outcome


class Fate(Enum):
    """What became of a message at RapidPro."""

    UNKNOWN = auto()  # RapidPro could not be asked
    MISSING = auto()  # it shows no such broadcast
    ALIVE = auto()  # it was sent, or may be sent yet
    DEAD = auto()  # RapidPro has given it up


@dataclass(frozen=True, slots=True)
class Trace:
    """`broadcast`: with the id of the task's gateway_ref; `rows`: its SMS to this number.

    `candidates`: broadcasts of this text, to this number where the workspace shows numbers, that no task holds.
    `problem`: why RapidPro could not be asked, "" where it was; `base`: its address.
    """

    broadcast: Listed | None = None
    rows: tuple[MessageRow, ...] = ()
    candidates: tuple[Listed, ...] = ()
    problem: str = ""
    base: str = ""

    @property
    def fate(self) -> Fate:
        if self.problem:
            return Fate.UNKNOWN
        if self.rows:
            return Fate.DEAD if all(_is_dead(row.status) for row in self.rows) else Fate.ALIVE
        if self.broadcast is None:
            return Fate.MISSING
        return Fate.DEAD if broadcast_outcome(self.broadcast.status).state is State.FAILED else Fate.ALIVE

    @property
    def status(self) -> str:
        """RapidPro's own word, the most alive first where there are several; "" where there is none."""
        if self.rows:
            return next((row.status for row in self.rows if not _is_dead(row.status)), self.rows[0].status)
        return self.broadcast.status if self.broadcast else ""


def _is_dead(status: str) -> bool:
    """`errored` is tried again by RapidPro, and an unknown status may be anything."""
    outcome = message_outcome(status)
    return outcome is not None and outcome.state is State.FAILED


def rows_of(pair: SmsIdentity, rows: Sequence[MessageRow]) -> tuple[MessageRow, ...]:
    """Those of a broadcast that are to this number; all where none can be told by it."""
    mine = tuple(row for row in rows if row.urn is not None and is_same_number(row.urn, pair.urn))
    return mine or tuple(rows)


def is_like(broadcast: Listed, pair: SmsIdentity) -> bool:
    """Whether a broadcast may be this message's: its text, and its number where the workspace shows numbers."""
    has_number = broadcast.urns is None or any(is_same_number(urn, pair.urn) for urn in broadcast.urns)
    return broadcast.text == pair.listed_text and has_number
