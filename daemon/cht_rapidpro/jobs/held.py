"""A task that we hold the claim of, and the turns of its messages to be sent.

The unit of a claim is the task: one with several messages sends each, and is settled once, when all have a result.
"""

import asyncio
from dataclasses import dataclass, field

from cht_rapidpro.domain.claim import Claim, Past
from cht_rapidpro.domain.history import About
from cht_rapidpro.domain.outgoing import Created, Pair, Refused
from cht_rapidpro.domain.task import DocId, Message, MessageId
from cht_rapidpro.jobs.backlog import Key


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on two clocks. `wall`: ms since the epoch, as documents say it; `loop`: s, for ages."""

    wall: int
    loop: float


@dataclass(slots=True, eq=False)
class HeldTask:
    """A task under our claim, made or last renewed at `claimed` (before the write, so that it is older than it seems).

    `earlier`: the claim that ours followed directly; its holder may have sent the messages. `past`: what the document
    says of such sends, None where there is no earlier claim. `began`: when this process claimed the task first, and
    `rapidpro_began` the same on RapidPro's clock (ms), None where RapidPro had not told it.
    """

    doc_id: DocId
    messages: tuple[Message, ...]
    due: int
    claimed: Moment
    earlier: Claim | None
    past: Past | None
    rapidpro_began: int | None = None
    results: dict[MessageId, Created | Refused] = field(default_factory=dict)
    attempts: int = 0  # that may have had an effect: in flight, in doubt ever since, or an earlier holder's
    is_lost: bool = False
    is_earlier_process: bool = False  # whether `earlier` is of a process of ours that ended before this one began
    pause: float = 0.0  # seconds to stay away once released: it met with trouble, others shall be tried
    company: int = 1  # how many messages of the same text a broadcast with one of these may have
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock)
    began: Moment = field(init=False)
    seen: float = field(init=False)  # loop time: when the document was last known to want it sent

    def __post_init__(self) -> None:
        self.began, self.seen = self.claimed, self.claimed.loop

    @property
    def uuid(self) -> MessageId:
        """The message that the task is found by."""
        return self.messages[0].uuid

    @property
    def keys(self) -> list[Key]:
        return [(self.doc_id, message.uuid) for message in self.messages]

    def about(self, message: Message, gateway_ref: str = "") -> About:
        """What the metrics are told of one of its messages."""
        return About(self.doc_id, message.uuid, message.to, gateway_ref)

    @property
    def is_unused(self) -> bool:
        """Whether surely nothing of it was sent, so that it can be given back."""
        return not self.results and not self.attempts

    @property
    def is_complete(self) -> bool:
        return len(self.results) == len(self.messages)


@dataclass(frozen=True, slots=True, order=True)
class Turn:
    """A message that may be posted next; the oldest due goes first. `pair`: how RapidPro gets it, if it can."""

    due: int
    number: int
    task: HeldTask = field(compare=False)
    message: Message = field(compare=False)
    pair: Pair | Refused = field(compare=False)

    @property
    def company(self) -> int:
        return self.task.company if isinstance(self.pair, Pair) else 1
