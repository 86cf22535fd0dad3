"""Decides how many messages of one text share a broadcast (`[outgoing] coalesce`).

RapidPro takes a hundred numbers a request, so that a queue of hours takes minutes. But the delivery states of a message
with its own broadcast are exact, so while few messages wait each has its own. An anonymous workspace hides the numbers,
so it would be unknown which of a broadcast's recipients got it: there nothing is grouped. While it is not known whether
a workspace is anonymous, the gateway asks RapidPro first.
"""

import math
from typing import Final, Literal

from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.domain.outgoing import MAX_URNS
from cht_rapidpro.jobs.outgoing.batches import BatchAccumulator
from cht_rapidpro.jobs.outgoing.send_queue import SendQueue

_LONG: Final = 2.0  # seconds
_USUAL: Final = 0.1  # seconds that a broadcast takes, before the first one
_WEIGHT: Final = 20  # of the mean, in broadcasts


class BatchingPolicy:
    """`per_hour`: [rapidpro] requests_per_hour; more messages than a minute's share of it are a long queue.

    So are more than the open slots send in two seconds, if each takes as long as the last ones did.
    """

    def __init__(
        self,
        rapidpro: RapidPro,
        send_queue: SendQueue,
        ready: BatchAccumulator,
        coalesce: Literal["auto", "off", "always"],
        per_hour: int | None,
    ) -> None:
        self._rapidpro = rapidpro
        self._send_queue = send_queue
        self._ready = ready
        self._coalesce = coalesce
        self._has_asked = False
        self._took = _USUAL
        self.limit(per_hour)

    def limit(self, per_hour: int | None) -> None:
        self._share = math.inf if per_hour is None else per_hour / 60

    def answered(self, seconds: float) -> None:
        """Takes note of how long a broadcast took."""
        self._took += (seconds - self._took) / _WEIGHT

    def max_batch_size(self, base: str | None, slots: int) -> int:
        """How many messages of one text a broadcast to the RapidPro at `base` may have. `slots`: broadcasts that may
        be in flight.
        """
        return (
            MAX_URNS if self._is_wanted(slots) and base is not None and self._rapidpro.hides_urns(base) is False else 1
        )

    def has_to_ask(self, base: str | None, slots: int) -> bool:
        """Whether to ask RapidPro now if the workspace hides its numbers."""
        is_known = base is None or self._rapidpro.hides_urns(base) is not None
        return not (is_known or self._has_asked) and self._is_wanted(slots) and self._send_queue.has_alike()

    def asked(self) -> None:
        """Called after RapidPro was asked; without an answer, its first answer to a broadcast will show it."""
        self._has_asked = True

    def reset(self) -> None:
        """Forgets the workspace: address or token has changed."""
        self._has_asked = False

    def _is_wanted(self, slots: int) -> bool:
        match self._coalesce:
            case "always":
                return True
            case "auto":
                waiting = math.inf if self._send_queue.more else len(self._send_queue) + self._ready.messages
                return waiting > min(self._share, _LONG * slots / self._took)
            case "off":
                return False
