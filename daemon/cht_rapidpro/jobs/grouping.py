"""Whether messages of one text share a broadcast now, and how many (`[outgoing] coalesce`).

RapidPro takes a hundred numbers a request, which makes minutes of what would be an afternoon; but the states of a
message that has a broadcast of its own are exact, so while few wait each keeps one. In an anonymous workspace, which
hides the numbers, nobody could tell later which of a broadcast's recipients got it: there nothing is grouped, and while
it is not known whether a workspace is anonymous it is asked first.
"""

import math
from typing import Literal

from cht_rapidpro.adapters.rapidpro import RapidPro
from cht_rapidpro.domain.outgoing import MAX_URNS
from cht_rapidpro.jobs.backlog import Backlog
from cht_rapidpro.jobs.ready import Ready


class Grouping:
    """`per_hour`: [rapidpro] requests_per_hour; more messages than a minute's share of it are a long queue."""

    def __init__(
        self,
        rapidpro: RapidPro,
        backlog: Backlog,
        ready: Ready,
        coalesce: Literal["auto", "off", "always"],
        per_hour: int | None,
    ) -> None:
        self._rapidpro = rapidpro
        self._backlog = backlog
        self._ready = ready
        self._coalesce = coalesce
        self._has_asked = False
        self.limit(per_hour)

    def limit(self, per_hour: int | None) -> None:
        self._long_queue = math.inf if per_hour is None else per_hour / 60

    def company(self, base: str | None) -> int:
        """How many messages of one text a broadcast to the RapidPro at `base` may have."""
        return MAX_URNS if self._is_wanted() and base is not None and self._rapidpro.hides_urns(base) is False else 1

    def has_to_ask(self, base: str | None) -> bool:
        """Whether it is worth a request to learn if the workspace hides its numbers."""
        is_known = base is None or self._rapidpro.hides_urns(base) is not None
        return not (is_known or self._has_asked) and self._is_wanted() and self._backlog.has_alike()

    def asked(self) -> None:
        """The workspace was asked; where it did not answer, its first answer to a broadcast will tell."""
        self._has_asked = True

    def reset(self) -> None:
        """It is another workspace now, or another token."""
        self._has_asked = False

    def _is_wanted(self) -> bool:
        match self._coalesce:
            case "always":
                return True
            case "auto":
                waiting = math.inf if self._backlog.more else len(self._backlog) + self._ready.messages
                return waiting > self._long_queue
            case "off":
                return False
