"""The claimed messages that wait to be posted, gathered into broadcasts.

Messages of one text that may share a broadcast (`ClaimedTask.max_batch_size`) wait as one group, independent of their
claims; a broadcast is taken from a group only when it is about to be posted. No number is in a broadcast twice, in any
spelling: RapidPro would send one SMS for the two.
"""

import math
from collections.abc import Collection, Hashable
from typing import Final

from cht_rapidpro.domain.outgoing import SmsIdentity
from cht_rapidpro.domain.reconcile import alike
from cht_rapidpro.jobs.outgoing.claimed_task import ClaimedTask, OutboundMessage

_ALONE: Final = 1


class BatchAccumulator:
    """Its length is the number of broadcasts that it holds; `messages` counts their messages."""

    def __init__(self) -> None:
        self._groups: dict[Hashable, list[OutboundMessage]] = {}

    def __len__(self) -> int:
        return sum(math.ceil(len(turns) / turns[0].max_batch_size) for turns in self._groups.values())

    @property
    def messages(self) -> int:
        return sum(len(turns) for turns in self._groups.values())

    @property
    def tasks(self) -> set[ClaimedTask]:
        return {turn.task for turns in self._groups.values() for turn in turns}

    def put(self, turn: OutboundMessage) -> None:
        self._groups.setdefault(_group(turn), []).append(turn)

    def pop(self) -> list[OutboundMessage]:
        """Takes the messages of the next broadcast: the oldest due and the ones that share it. Must not be called when
        empty.
        """
        key, turns = min(self._groups.items(), key=lambda group: min(group[1]))
        chosen: dict[Hashable, OutboundMessage] = {}
        left = []
        for turn in sorted(turns):
            recipient = alike(turn.pair.urn) if isinstance(turn.pair, SmsIdentity) else turn.number
            if len(chosen) < turn.max_batch_size and recipient not in chosen:
                chosen[recipient] = turn
            else:
                left.append(turn)
        self._keep(key, left)
        return list(chosen.values())

    def remove(self, tasks: Collection[ClaimedTask]) -> None:
        for key, turns in list(self._groups.items()):
            self._keep(key, [turn for turn in turns if turn.task not in tasks])

    def _keep(self, key: Hashable, turns: list[OutboundMessage]) -> None:
        if turns:
            self._groups[key] = turns
        else:
            del self._groups[key]


def _group(turn: OutboundMessage) -> Hashable:
    """Returns the group's key: equal for messages that may share a broadcast."""
    if isinstance(turn.pair, SmsIdentity) and turn.max_batch_size > _ALONE:
        return turn.pair.text, turn.max_batch_size
    return turn.number
