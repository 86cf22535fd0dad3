"""How busy the workspace is, learned from the pages of its messages that were read anyway.

The planner has to know how many rows lie between two of our messages before it asks for them. What nobody has seen is
taken for empty, and quarters of an hour without any look for the mean of the others: a guess that is too low leads to a
listing, and that costs no more than a single look-up and teaches; one that is too high would lead to look-ups, and
never be put right.
"""

from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from cht_rapidpro.domain.planner import Ruler

_BUCKET: Final = 900_000  # ms
_LOOKS: Final = 50  # kept of a quarter


class Traffic:
    """The rows of the listing of all messages, by quarters of an hour. Times are ms of RapidPro's clock."""

    def __init__(self) -> None:
        self._looks: dict[int, list[_Look]] = {}
        self._rows = self._sent = 1

    @property
    def sent_share(self) -> float:
        """Which part of all rows is in the folder `sent`."""
        return self._sent / self._rows

    def learn(self, after: int, before: int, moments: Sequence[int], sent: int) -> None:
        """A listing has shown every message created between the two, at these moments; `sent` of them in `sent`."""
        self._rows, self._sent = (self._rows + len(moments)) // 2 + 1, (self._sent + sent) // 2 + 1
        for quarter in range(after // _BUCKET, before // _BUCKET + 1):
            start, end = max(after, quarter * _BUCKET), min(before + 1, (quarter + 1) * _BUCKET)
            look = _Look(start, end, sum(1 for moment in moments if start <= moment < end))
            self._looks[quarter] = _with(look, self._looks.get(quarter, []))

    def forget(self, before: int) -> None:
        """Quarters of which nothing is asked any more."""
        self._looks = {quarter: looks for quarter, looks in self._looks.items() if quarter >= before // _BUCKET}

    def ruler(self, first: int, last: int) -> Ruler:
        """Positions between the two moments."""
        counted = {quarter: sum(look.rows for look in looks) for quarter, looks in self._looks.items()}
        mean = sum(counted.values()) / max(1, len(counted))
        start = first // _BUCKET
        rows = [counted.get(quarter, mean) for quarter in range(start, last // _BUCKET + 1)]
        before = [0.0, *accumulate(rows)]

        def position(moment: int) -> float:
            index = min(max(0, moment // _BUCKET - start), len(rows) - 1)
            return before[index] + rows[index] * (moment - (start + index) * _BUCKET) / _BUCKET

        return position


class _Look(NamedTuple):
    """The rows from `start` until before `end`."""

    start: int
    end: int
    rows: int


def _with(new: _Look, looks: list[_Look]) -> list[_Look]:
    """The looks without those that the new one makes out of date; all lie apart."""
    if any(
        look.start <= new.start and new.end <= look.end and look.end - look.start > new.end - new.start
        for look in looks
    ):
        return looks
    return [*(look for look in looks if look.end <= new.start or new.end <= look.start), new][-_LOOKS:]
