"""The simulated workspace: broadcasts, messages, runs and contacts, and the rules that make one from the other.

No HTTP here. Every change is one synchronous step, so no request ever sees half a broadcast. Rows are kept
oldest first with rising ids and never change their order (`created_on` never steps back), which lets the lists
be cut by bisection; posting costs the same for the first broadcast and the millionth.
"""

import heapq
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Literal

from . import expressions
from .records import Broadcast, Contact, ContactStatus, Message, Run, at, uuid7

FIRST_MESSAGE_ID = 100_001  # far from the broadcasts' ids, so that a test sees them mixed up
SENT = frozenset({"wired", "sent", "delivered", "read"})
LOOP_REPEATS, LOOP_SECONDS = 20, 300.0  # the engine's loop guard


class Workspace:
    """The state and the rules; what a test may set freely are plain attributes."""

    def __init__(
        self,
        token: str,
        country: str = "KE",
        clock: Callable[[], float] = time.time,
        progress: Sequence[tuple[float, str]] = (),
    ) -> None:
        self.uuid = uuid7(clock())
        self.country = country
        self.clock = clock
        self.progress = progress  # (seconds after creation, status) for each new message
        self.tokens = {token}
        self.powerless_tokens: set[str] = set()  # valid, but their user's role may do nothing
        self.suspended = False
        self.anonymous = False  # URNs are hidden
        self.community = False  # answers as the community's 9.0.0 does, where that differs
        self.unresolvable: set[str] = set()  # normalised URNs that lead to no contact
        self.globals: dict[str, str] = {}
        self.broadcasts: list[Broadcast] = []
        self.runs: list[Run] = []
        self._messages: list[Message] = []
        self._messages_of: dict[int, list[Message]] = {}
        self._contacts: dict[str, Contact] = {}
        self._waiting: dict[str, Run] = {}  # by contact
        self._flows = defaultdict[str, str](lambda: uuid7(self._now()))
        self._repeats: dict[tuple[str, str], list[float]] = {}
        self._due: list[tuple[float, int, int, str]] = []
        self._latest = 0.0

    @property
    def messages(self) -> list[Message]:
        """Both directions, oldest first, in the state that the clock has brought them to."""
        self._advance()
        return self._messages

    def messages_of(self, broadcast: int) -> list[Message]:
        """Empty for an unknown id, as in RapidPro."""
        self._advance()
        return self._messages_of.get(broadcast, [])

    def flow_uuid(self, name: str) -> str:
        return self._flows[name]

    @property
    def flows(self) -> dict[str, str]:
        """UUIDs by name, of every flow that was ever named."""
        return dict(self._flows)

    def add_contact(
        self,
        *urns: str,
        name: str = "",
        fields: Mapping[str, str] | None = None,
        status: ContactStatus = "active",
    ) -> Contact:
        """A contact with normalised `urns`, the preferred one first; it takes them from their former contact."""
        contact = Contact(uuid7(self._now()), urns, name, fields or {}, status)
        self._contacts.update(dict.fromkeys(urns, contact))
        return contact

    def create_broadcast(self, urns: Sequence[str], text: str) -> Broadcast:
        """`urns` normalised, `text` trimmed. One message for each contact, to its preferred URN."""
        now = self._now()
        broadcast = Broadcast(len(self.broadcasts) + 1, uuid7(now), tuple(urns), text, at(now))
        self.broadcasts.append(broadcast)
        contacts = dict.fromkeys(self._contact(urn) for urn in urns if urn not in self.unresolvable)
        self._messages_of[broadcast.id] = [self._send(broadcast, contact, now) for contact in contacts]
        if not contacts:
            broadcast.status = "failed"
        return broadcast

    def receive(self, urn: str, text: str, *, flow: str | None = None, waits: bool = False) -> Message:
        """An SMS from a phone, `urn` normalised: handled by `flow`, see `handle`, or left in the inbox."""
        message = self._add_message(
            self._now(), self._contact(urn), urn=urn, text=text, direction="in", status="handled"
        )
        if flow is not None:
            self.handle(message, flow, waits=waits)
        return message

    def handle(self, message: Message, flow: str, *, waits: bool = False) -> Run:
        """The flow takes the message, in the run that waits for this contact, else in a new one.

        `waits`: the run then waits for another message instead of ending.
        """
        run = self._waiting.get(message.contact.uuid) or self.start_run(message.contact, flow)
        now = at(self._now())
        message.flow, message.modified_on = run.flow, now
        run.inputs.append(message)
        run.modified_on, run.exited_on = now, None if waits else now
        if not waits:
            del self._waiting[message.contact.uuid]
        return run

    def start_run(self, contact: Contact, flow: str) -> Run:
        """A run as people start it by hand: it waits for the contact's first message."""
        now = self._now()
        run = Run(len(self.runs) + 1, uuid7(now), flow, contact, at(now), at(now))
        self.runs.append(run)
        self._waiting[contact.uuid] = run
        return run

    def move(self, target: int | Message, status: str) -> None:
        """Set the status of a message, or of a broadcast's messages, or of a broadcast that has none.

        Any status in any order, as upstream. Raises KeyError for an unknown broadcast.
        """
        self._advance()
        messages = [target] if isinstance(target, Message) else self._messages_of[target]
        for message in messages:
            _mark(message, status, at(self._now()))
        if isinstance(target, int) and not messages:
            self.broadcasts[target - 1].status = status

    def _now(self) -> float:
        self._latest = max(self._latest, self.clock())
        return self._latest

    def _contact(self, urn: str) -> Contact:
        return self._contacts.get(urn) or self.add_contact(urn)

    def _send(self, broadcast: Broadcast, contact: Contact, now: float) -> Message:
        refused = contact.status != "active" or self._loops(contact, broadcast.text, now)
        message = self._add_message(
            now,
            contact,
            urn=contact.urns[0],
            text=self._evaluated(broadcast.text, contact),
            direction="out",
            status="failed" if refused else "queued",
            broadcast=broadcast.id,
        )
        if not refused:
            for order, (seconds, status) in enumerate(self.progress):
                heapq.heappush(self._due, (now + seconds, message.id, order, status))
        return message

    def _add_message(
        self,
        now: float,
        contact: Contact,
        *,
        urn: str,
        text: str,
        direction: Literal["in", "out"],
        status: str,
        broadcast: int | None = None,
        flow: str | None = None,
    ) -> Message:
        message = Message(
            FIRST_MESSAGE_ID + len(self._messages),
            uuid7(now),
            broadcast,
            contact,
            urn,
            text,
            direction,
            status,
            created_on=at(now),
            modified_on=at(now),
            flow=flow,
        )
        self._messages.append(message)
        return message

    def _loops(self, contact: Contact, text: str, now: float) -> bool:
        """Whether the engine takes it for two machines answering each other."""
        times = self._repeats.setdefault((contact.uuid, text), [])
        times.append(now)
        del times[: -LOOP_REPEATS - 1]
        return len(times) > LOOP_REPEATS and times[0] > now - LOOP_SECONDS

    def _evaluated(self, text: str, contact: Contact) -> str:
        if "@" not in text:
            return text
        urn = contact.urns[0]
        fields: expressions.Value = {key.lower(): value for key, value in contact.fields.items()}
        person: dict[str, expressions.Value] = {
            expressions.DEFAULT: contact.name or urn.partition(":")[2],
            "uuid": contact.uuid,
            "name": contact.name,
            "first_name": contact.name.partition(" ")[0],
            "urn": urn,
            "fields": fields,
        }
        urns = {each.partition(":")[0]: each for each in reversed(contact.urns)}
        known = {key.lower(): value for key, value in self.globals.items()}
        return expressions.evaluate(text, {"contact": person, "fields": fields, "globals": known, "urns": urns})

    def _advance(self) -> None:
        """Apply what the progress script has made due."""
        now = self._now() if self._due else 0.0
        while self._due and self._due[0][0] <= now:
            due, message_id, _, status = heapq.heappop(self._due)
            _mark(self._messages[message_id - FIRST_MESSAGE_ID], status, at(due))


def _mark(message: Message, status: str, now: datetime) -> None:
    message.status, message.modified_on = status, now
    if message.direction == "out":
        message.sent_on = (message.sent_on or now) if status in SENT else None
