"""The tasks whose broadcast met with trouble, which may be about these tasks (a firewall rule, for example) and not
about RapidPro.

Invariant: one message that RapidPro, or a proxy in front of it, refuses does not prevent other messages from being
sent.
"""

from collections import Counter
from typing import Final

from cht_rapidpro.domain.circuit_breaker import TROUBLE_PAUSE
from cht_rapidpro.domain.task import MessageKey
from cht_rapidpro.jobs.outgoing.claimed_task import ClaimedTask

_REMEMBERED: Final = 1000
_LONGEST_PAUSE: Final = 3600.0  # seconds


class MessageBackoff:
    """Counts how often each task met with trouble since its last result."""

    def __init__(self) -> None:
        self._times = Counter[MessageKey]()

    def max_batch_size(self, held: ClaimedTask, max_batch_size: int) -> int:
        """Returns how many messages a broadcast with one of this task's may have; `max_batch_size`: how many
        other broadcasts may have.

        The trouble may be about one message of a group. A task of several messages holds one gateway_ref, so each of
        them keeps its own broadcast.
        """
        return 1 if len(held.messages) > 1 else max(1, max_batch_size >> self._times[held.keys[0]])

    def step_back(self, held: ClaimedTask, now: int) -> None:
        """Lets other tasks go first after the pause. `now`: ms since the epoch.

        The first time the task queues behind the waiting ones; after further trouble it waits, longer each time.
        """
        if len(self._times) > _REMEMBERED:
            self._times.clear()
        key = held.keys[0]
        self._times[key] += 1
        held.due = max(held.due, now)
        if self._times[key] > 1:
            held.pause = min(TROUBLE_PAUSE * 2.0 ** (self._times[key] - 2), _LONGEST_PAUSE)

    def forget(self, held: ClaimedTask) -> None:
        """Forgets a task that got a result."""
        self._times.pop(held.keys[0], None)
