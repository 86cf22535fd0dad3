"""An incoming SMS before it is a document: what is taken, and the ids that make a repetition harmless.

The invariant: one message id, one `_id`. Webhooks are repeated, spooled rows are replayed, the backfill meets what the
webhook has stored; all of them arrive at the same `_id`, where CouchDB lets only the first one in. Without it each
of these would be a second report of the same birth.
"""

import json
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cht_rapidpro.domain.task import Doc, DocId

Id = str | int | float

PREFIX: Final = "rapidpro-sms:"
_NAMESPACE: Final = uuid.UUID("5b1d2c0e-6a3f-5f3c-9d55-0f7a3c1b8e42")  # never to change: every `_id` hangs on it
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NO_DIGIT: Final = re.compile(r"\D")
_EXACT: Final = 10**15  # a number up to here is written alike by every language


@dataclass(frozen=True, slots=True)
class Arrival:
    """One incoming SMS. `id` and `sender` as the flow sent them; `at`: ms since the epoch, the `reported_date`."""

    id: Id
    sender: Id
    content: str
    at: int


@dataclass(frozen=True, slots=True)
class Saved:
    """A new document."""


@dataclass(frozen=True, slots=True)
class AlreadyStored:
    """The same message has, or had, its document."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """On this machine's disk; the document follows."""


Stored = Saved | AlreadyStored | Spooled


def read_arrival(body: object, at: int) -> Arrival | str:
    """The message of a webhook's body, or the name of the field that keeps it from being one (CHT.md)."""
    fields = body if isinstance(body, Mapping) else {}
    given, sender, content = fields.get("id"), fields.get("from"), fields.get("content")
    if not _is_id(given):
        return "id"
    if not _is_id(sender):
        return "from"
    if not isinstance(content, str) or not content:
        return "content"
    return Arrival(_whole(given), _whole(sender), whole_text(content), at)


def _is_id(value: object) -> bool:
    """A text or a finite number, and not empty, which to JavaScript zero is, too."""
    if isinstance(value, bool) or not value:
        return False
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _whole(value: Any) -> Id:
    return whole_text(value) if isinstance(value, str) else value


def whole_text(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair: CouchDB refuses a request that holds one."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def id_text(given: Id) -> str:
    """The id as text: `41`, `41.0` and `"41"` are one id."""
    if isinstance(given, float) and given.is_integer() and abs(given) < _EXACT:
        return str(int(given))
    return whole_text(given) if isinstance(given, str) else str(given)


def doc_id(given: Id) -> DocId:
    """The `_id` of the message. RapidPro's own ids are time-ordered, which CouchDB's B-tree takes twice as fast."""
    text = id_text(given)
    return DocId(PREFIX + (text.lower() if _UUID.fullmatch(text) else str(uuid.uuid5(_NAMESPACE, text))))


def second_id(given: Id, content: str) -> DocId:
    """The `_id` of another message under an id that is taken: a flow that waits sends one `run.uuid` several times."""
    name = json.dumps([id_text(given), whole_text(content)])
    return DocId(PREFIX + str(uuid.uuid5(_NAMESPACE, name)))


def legacy_keys(given: Id) -> tuple[Id, ...]:
    """The keys of the view `medic-sms/messages_by_gateway_ref` under which CHT's own gateway may have put the id."""
    text = id_text(given)
    if isinstance(given, float):
        return (text, given)
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
    return (text,) if number is None or str(number) != text else (text, number)


def is_legacy(doc: Doc) -> bool:
    """Whether the document, found by such a key, is an incoming record of CHT's own gateway.

    The view has outgoing tasks, too, and our own records.
    """
    return isinstance(doc.get("sms_message"), dict) and not str(doc.get("_id")).startswith(PREFIX)


def is_of(doc: Doc, arrival: Arrival) -> bool:
    """Whether the stored document is of this message, and not of another one under the same id.

    The number is compared by its digits: a webhook may bring `254…` and RapidPro's list `+254…`.
    """
    sms = doc.get("sms_message")
    if not isinstance(sms, Mapping):
        return True  # somebody has made another thing of it; its id says whose it was
    stored, arrived = str(sms.get("message")), arrival.content
    return stored.strip() == arrived.strip() and _same_number(sms.get("from", doc.get("from")), arrival.sender)


def is_repetition(first: Arrival, second: Arrival) -> bool:
    """Whether two arrivals of one id are one message."""
    return first.content.strip() == second.content.strip() and _same_number(first.sender, second.sender)


def _same_number(first: object, second: object) -> bool:
    one, other = str(first), str(second)
    digits = _NO_DIGIT.sub("", one), _NO_DIGIT.sub("", other)
    return digits[0] == digits[1] if all(digits) else one == other
