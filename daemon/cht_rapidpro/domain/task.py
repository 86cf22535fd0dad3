"""A CHT document and the message tasks inside it, as plain JSON values.

Documents stay plain dicts: a closed model would drop the fields it does not know when the document is written back. No
function changes a document in place. A change makes a copy along the changed path, and returns the *same* object if
there was nothing to change, so that no revision is written without a change. Tasks are found by the uuid of a message
and never by index, because other programs re-order and delete them at any time
(docs/cht.md#where-outgoing-messages-are).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final, NewType

from cht_rapidpro.domain.statuses import State

DocId = NewType("DocId", str)
MessageId = NewType("MessageId", str)
MessageKey = tuple[DocId, MessageId]

Doc = dict[str, Any]
Task = dict[str, Any]

LATEST: Final = 8_640_000_000_000_000  # ms: the range of JavaScript's dates, on both sides of the epoch
_FIRST: Final = -62_135_596_800_000
_LAST: Final = 253_402_300_799_999

TASK_LISTS: Final = ("tasks", "scheduled_tasks")
SENDABLE: Final = (State.PENDING, State.FORWARDED_TO_GATEWAY)  # no set: a state may be unhashable


@dataclass(frozen=True, slots=True)
class Message:
    """One SMS of a task: `to` as CHT wrote it (not normalised), `text` as the phone has to show it."""

    uuid: MessageId
    to: str
    text: str


def read_message(value: object) -> Message | None:
    """The message, or None where one of uuid, to and message is missing or empty (CHT sends no such message)."""
    if not isinstance(value, dict):
        return None
    uuid, to, text = value.get("uuid"), value.get("to"), value.get("message")
    if isinstance(to, int) and not isinstance(to, bool) and to:
        to = str(to)
    if isinstance(uuid, str) and isinstance(to, str) and isinstance(text, str) and uuid and to and text:
        return Message(MessageId(uuid), to, text)
    return None


class Lack(StrEnum):
    """A required part that a message lacks, or has in an unusable form."""

    MESSAGE = "message"  # all three
    UUID = "uuid"
    NUMBER = "number"
    TEXT = "text"


_FIELDS: Final = {"uuid": Lack.UUID, "to": Lack.NUMBER, "message": Lack.TEXT}
_SOUND: Final = {"uuid": "u", "to": "1", "message": "t"}


def lack(fields: dict[str, object]) -> Lack | None:
    """Returns the first part that `read_message` misses; None if the message can be sent."""
    lacking = [_FIELDS[name] for name in _FIELDS if read_message({**_SOUND, name: fields.get(name)}) is None]
    return Lack.MESSAGE if len(lacking) == len(_FIELDS) else next(iter(lacking), None)


def message_fields(value: object) -> dict[str, object]:
    """The message of a row's value of the view `messages_by_state`, under the names that it has in the document."""
    found = value if isinstance(value, dict) else {}
    return {"uuid": found.get("id"), "to": found.get("to"), "message": found.get("content")}


def unlisted(doc: Doc) -> Iterator[tuple[str, Lack]]:
    """What tasks that are to be sent lack, where CHT's view `messages_by_state` has no row of it.

    The uuid of the message, "" where it has none, and what is missing. The view leaves out a message with an empty
    uuid, number or text, and a task whose list of messages is empty or no list; of other faults it has a row.
    """
    for task in tasks(doc):
        if task.get("state") in SENDABLE:
            yield from _unlisted(task.get("messages"))


def _unlisted(found: object) -> Iterator[tuple[str, Lack]]:
    if _is_falsy(found):
        return  # the view has a row that says so
    if not isinstance(found, list) or not found:
        yield "", Lack.MESSAGE
        return
    for message in found:
        fields = message if isinstance(message, dict) else {}
        reason = lack(fields)
        if reason is not None and any(_is_falsy(fields.get(name)) for name in _FIELDS):
            yield fields["uuid"] if isinstance(fields.get("uuid"), str) else "", reason


def _is_falsy(value: object) -> bool:
    """As JavaScript says; [] and {} are not."""
    return not value and not isinstance(value, list | dict)


def messages(task: Task) -> tuple[Message, ...]:
    """The messages of a task that can be sent, in their order, each uuid once."""
    read: dict[MessageId, Message] = {}
    for message in map(read_message, _message_list(task)):
        if message is not None:
            read.setdefault(message.uuid, message)
    return tuple(read.values())


def _message_list(task: Task) -> list[Any]:
    found = task.get("messages")
    return found if isinstance(found, list) else []


def tasks(doc: Doc) -> Iterator[Task]:
    """Yields every task of a document; skips other values in its task lists."""
    for name in TASK_LISTS:
        found = doc.get(name)
        if isinstance(found, list):
            yield from (task for task in found if isinstance(task, dict))


def map_tasks(doc: Doc, change: Callable[[Task], Task]) -> Doc:
    """Returns the document with `change` applied to every task; `doc` itself if nothing changed."""
    changed = {}
    for name in TASK_LISTS:
        found = doc.get(name)
        if isinstance(found, list):
            new = [change(task) if isinstance(task, dict) else task for task in found]
            if any(a is not b for a, b in zip(new, found, strict=True)):
                changed[name] = new
    return {**doc, **changed} if changed else doc


def is_sendable(task: Task) -> bool:
    return task.get("state") in SENDABLE and bool(messages(task))


def message_ids(task: Task) -> set[MessageId]:
    """Returns the uuids of its messages, even of a message whose number or text was emptied meanwhile."""
    uuids = (message.get("uuid") for message in _message_list(task) if isinstance(message, dict))
    return {MessageId(uuid) for uuid in uuids if isinstance(uuid, str)}


def due(task: Task, doc: Doc) -> int | None:
    """When the task was to be sent, in ms since the epoch, as the view `messages_by_state` computes it."""
    for value in (task.get("due"), task.get("timestamp"), doc.get("reported_date")):
        if value is not None and value not in ("", 0):  # truthy to JavaScript, where {} and [] are
            return milliseconds(value)
    return None


def milliseconds(value: object) -> int | None:
    """A moment in ms since the epoch, of a number or an ISO-8601 text; None for anything else.

    What lies outside of JavaScript's dates, a number of 400 digits say, counts as the nearest moment inside.
    """
    try:
        if isinstance(value, int | float):
            return int(min(max(value, -LATEST), LATEST)) if value == value else None
        return parse_timestamp(str(value))
    except (OverflowError, ValueError):
        return None


def parse_timestamp(text: str) -> int:
    """Milliseconds since the epoch of an ISO-8601 text (without offset: UTC). Raises ValueError, OverflowError."""
    moment = datetime.fromisoformat(text)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def timestamp(ms: int) -> str:
    """A moment as CHT writes it: ISO-8601, UTC, milliseconds; one outside of the years 1 to 9999 as the nearest."""
    ms = min(max(ms, _FIRST), _LAST)
    moment = datetime.fromtimestamp(ms // 1000, UTC).replace(microsecond=ms % 1000 * 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


@dataclass(frozen=True, slots=True)
class Change:
    """A state to be set: `gateway_ref` None keeps the one that stands there, an empty one drops it (a claim)."""

    state: State
    details: str
    gateway_ref: str | None = None


def history(task: Task) -> list[Any]:
    found = task.get("state_history")
    return found if isinstance(found, list) else []


def set_state(task: Task, change: Change, now: int) -> Task:
    """The task in its new state with one history entry more; the same object when it is in that state already."""
    return task if _is_already(task, change) else enter_state(task, change, now)


def enter_state(task: Task, change: Change, now: int) -> Task:
    """The task with one history entry more, also where state and details stay as they were (a renewed claim)."""
    new = {**task, "state": str(change.state), "state_details": change.details}
    if change.gateway_ref:
        new["gateway_ref"] = change.gateway_ref
    elif change.gateway_ref is not None:
        new.pop("gateway_ref", None)
    entry = {"state": str(change.state), "state_details": change.details, "timestamp": timestamp(now)}
    return {**new, "state_history": [*history(task), entry]}


def _is_already(task: Task, change: Change) -> bool:
    entries = history(task)
    last = entries[-1] if entries else None
    return (
        task.get("state") == change.state
        and isinstance(last, dict)
        and last.get("state") == change.state
        and task.get("state_details") == change.details
        and (change.gateway_ref is None or gateway_ref(task) == change.gateway_ref)
    )


def gateway_ref(task: Task) -> str:
    """The gateway_ref as text: CHT's own gateway stores a number, and number and text are the same ref
    (docs/cht.md#where-outgoing-messages-are).
    """
    ref = task.get("gateway_ref")
    return "" if ref is None else str(ref)
