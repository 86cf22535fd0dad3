"""A task under this daemon's claim, and its messages that are ready to be sent.

The unit of a claim is the task: one with several messages sends each, and is settled once, when all have a result.
"""

import asyncio
from dataclasses import dataclass, field

from cht_rapidpro.domain.claim import Claim, Past
from cht_rapidpro.domain.history import MessageRef
from cht_rapidpro.domain.outgoing import Refused, SmsIdentity
from cht_rapidpro.domain.send_state import SendState
from cht_rapidpro.domain.task import DocId, Message, MessageId, MessageKey


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on two clocks. `wall`: ms since the epoch, for documents; `loop`: s, for ages."""

    wall: int
    loop: float


@dataclass(slots=True, eq=False)
class ClaimedTask:
    """A task under this daemon's claim, made or last renewed at `claimed`.

    `claimed` is taken before the write, so the computed age is never too small. `earlier`: the claim before this one;
    its holder may have sent the messages. `past`: the history of such sends, None without an earlier claim. `began`:
    when this process first claimed the task; `rapidpro_began`: the same on RapidPro's clock (ms), None if that was not
    known.
    """

    doc_id: DocId
    messages: tuple[Message, ...]
    due: int
    claimed: Moment
    earlier: Claim | None
    past: Past | None
    rapidpro_began: int | None = None
    is_lost: bool = False
    is_suspect: bool = False  # whether another gateway may have sent it before we took over
    is_earlier_process: bool = False  # whether `earlier` is of an earlier process of this daemon
    pause: float = 0.0  # seconds to wait after the release: it met with trouble, other tasks go first
    max_batch_size: int = 1  # how many messages of the same text a broadcast with one of these may have
    renewing: asyncio.Lock = field(default_factory=asyncio.Lock)
    state: SendState = field(init=False)
    began: Moment = field(init=False)
    seen: float = field(init=False)  # loop time: when the document was last known to want it sent

    def __post_init__(self) -> None:
        self.began, self.seen = self.claimed, self.claimed.loop
        self.state = SendState([message.uuid for message in self.messages], is_suspect=self.earlier is not None)

    @property
    def uuid(self) -> MessageId:
        """The message that the task is found by."""
        return self.messages[0].uuid

    @property
    def keys(self) -> list[MessageKey]:
        return [(self.doc_id, message.uuid) for message in self.messages]

    def about(self, message: Message, gateway_ref: str = "") -> MessageRef:
        """Returns one of its messages as the metrics need it."""
        return MessageRef(self.doc_id, message.uuid, message.to, gateway_ref)


@dataclass(frozen=True, slots=True, order=True)
class OutboundMessage:
    """A message that may be posted next; the oldest due goes first. `pair`: the message for RapidPro, or its
    refusal.
    """

    due: int
    number: int
    task: ClaimedTask = field(compare=False)
    message: Message = field(compare=False)
    pair: SmsIdentity | Refused = field(compare=False)

    @property
    def max_batch_size(self) -> int:
        return self.task.max_batch_size if isinstance(self.pair, SmsIdentity) else 1
