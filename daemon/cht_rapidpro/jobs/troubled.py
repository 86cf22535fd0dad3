"""The tasks whose broadcast met with trouble: it may be about them (a firewall's rule, say) and not about everything.

Invariant: one message that RapidPro, or what stands before it, will not have keeps no other from being sent.
"""

from collections import Counter
from typing import Final

from cht_rapidpro.domain.valve import TROUBLE_PAUSE
from cht_rapidpro.jobs.backlog import Key
from cht_rapidpro.jobs.held import HeldTask

_REMEMBERED: Final = 1000
_LONGEST_PAUSE: Final = 3600.0  # seconds


class Troubled:
    """How often each met with it since it last got a result."""

    def __init__(self) -> None:
        self._times = Counter[Key]()

    def company(self, held: HeldTask, company: int) -> int:
        """How many messages a broadcast with one of this task may have, where `company` is what others may have.

        The trouble may be one of a group's alone; and a task of several messages holds one gateway_ref, so each of
        them keeps a broadcast of its own.
        """
        return 1 if len(held.messages) > 1 else max(1, company >> self._times[held.keys[0]])

    def step_back(self, held: HeldTask, now: int) -> None:
        """Lets others be tried first after the pause. `now`: ms since the epoch.

        Once it queues behind what waits already; when it meets with trouble again it stays away, ever longer.
        """
        if len(self._times) > _REMEMBERED:
            self._times.clear()
        key = held.keys[0]
        self._times[key] += 1
        held.due = max(held.due, now)
        if self._times[key] > 1:
            held.pause = min(TROUBLE_PAUSE * 2.0 ** (self._times[key] - 2), _LONGEST_PAUSE)

    def forget(self, held: HeldTask) -> None:
        """It got a result."""
        self._times.pop(held.keys[0], None)
