"""The documents of the demo, and where each of their messages must end.

Every kind of message that has ever gone wrong in a gateway has a scene, and every message a fate that is written down
before the daemon starts: the demo is a proof and no show. Each message has a number of its own, so that a broadcast
tells by its URN which message it was made of, also when the text came out wrong.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final
from uuid import uuid4

from cht_rapidpro.domain.statuses import State
from demo.database import Doc
from demo.medic import data_record, iso_time, message, task


@dataclass(frozen=True, slots=True)
class Fate:
    """Where a message must end. `details`: the task's `state_details`, "" if none are written.

    `is_sent`: exactly one broadcast, which RapidPro delivers; else none.
    """

    state: State
    details: str = ""
    is_sent: bool = False

    def __str__(self) -> str:
        reached = f"{self.state} ({self.details})" if self.details else f"stays {self.state}"
        return f"{'one broadcast' if self.is_sent else 'no broadcast'}, {reached}"


SENT: Final = Fate(State.DELIVERED, "Delivered", is_sent=True)
BAD_NUMBER: Final = Fate(State.FAILED, "Invalid URN: tel:phone1. Ensure phone numbers contain country codes.")
TOO_LONG: Final = Fate(State.FAILED, "Text too long: 4399 characters, RapidPro takes 4096")


@dataclass(frozen=True, slots=True)
class Sms:
    """One message. `state`: of its task when written; `urn`: where the broadcast must go, "": to `to` as it is."""

    what: str
    to: str
    text: str
    fate: Fate = SENT
    state: State = State.PENDING
    urn: str = ""
    uuid: str = field(default_factory=lambda: str(uuid4()))

    @property
    def expected_urn(self) -> str:
        return self.urn or f"tel:{self.to}"


Task = Sequence[Sms]


@dataclass(frozen=True, slots=True)
class Scene:
    """One document; a task is the sequence of its messages."""

    tasks: Sequence[Task] = ()
    scheduled_tasks: Sequence[Task] = ()
    doc_id: str = field(default_factory=lambda: str(uuid4()))

    def document(self) -> Doc:
        return data_record(
            *map(_as_cht_writes, self.tasks),
            doc_id=self.doc_id,
            scheduled_tasks=[_as_cht_writes(each) for each in self.scheduled_tasks],
        )

    def all_tasks(self) -> Iterator[Task]:
        yield from self.tasks
        yield from self.scheduled_tasks


def _as_cht_writes(messages: Task) -> Doc:
    return task(*(message(sms.text, sms.to, uuid=sms.uuid) for sms in messages), state=messages[0].state)


def make_due(doc: Doc, now: datetime) -> Doc:
    """What Sentinel does when the time has come: `scheduled` tasks become `pending`."""
    entry = {"state": str(State.PENDING), "timestamp": iso_time(now)}
    return {**doc, "scheduled_tasks": [_due(each, entry) for each in doc["scheduled_tasks"]]}


def _due(each: Doc, entry: dict[str, str]) -> Doc:
    if each["state"] != State.SCHEDULED:
        return each
    return {**each, "state": entry["state"], "state_history": [*each["state_history"], entry]}


def _number(last: int) -> str:
    return f"+254712345{last:03}"


def backlog() -> list[Scene]:
    """What waits before the daemon starts: only its sweep finds it."""
    left = State.FORWARDED_TO_GATEWAY
    return [
        Scene(tasks=[[Sms("left by another gateway", _number(1), "Still waiting.", state=left)]]),
        Scene(scheduled_tasks=[[Sms("a reminder", _number(2), "Please visit Amina this week.")]]),
    ]


def arrivals() -> list[Scene]:
    """What is written while the daemon runs, in this order."""
    return [
        Scene(tasks=[[Sms("a reply", _number(13), "Asante! Ripoti ya ujauzito imepokelewa 🤰")]]),
        Scene(
            tasks=[
                [Sms("two tasks: the first", _number(3), "Your report was received.")],
                [Sms("two tasks: the second", _number(4), "Juma has sent a report.")],
            ]
        ),
        Scene(
            tasks=[
                [
                    Sms("one task: message one", _number(5), "Clinic day is on Monday."),
                    Sms("one task: message two", _number(6), "Bring the child's card."),
                ]
            ]
        ),
        Scene(
            scheduled_tasks=[
                [Sms("scheduled, due later", _number(7), "Time for the ANC visit.", state=State.SCHEDULED)]
            ]
        ),
        Scene(tasks=[[Sms("a bad number", "phone1", "Nobody can read this.", BAD_NUMBER)]]),
        Scene(tasks=[[Sms("a national number", "0712 345 008", "Habari!", urn=f"tel:{_number(8)}")]]),
        Scene(tasks=[[Sms("a text with @", _number(9), "Mail hc@example.org, not @contact or @globals.api_key")]]),
        Scene(tasks=[[Sms("a text over 4096", _number(10), "Read this. " * 400, TOO_LONG)]]),
        Scene(
            tasks=[[Sms("cleared", _number(11), "Out of date.", Fate(State.CLEARED), State.CLEARED)]],
            scheduled_tasks=[[Sms("muted", _number(12), "Not wanted.", Fate(State.MUTED), State.MUTED)]],
        ),
        Scene(tasks=[[Sms("without a number", "", "To nobody.", Fate(State.PENDING))]]),
    ]
