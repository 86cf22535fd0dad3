"""An incoming SMS before it is a document: which webhooks are accepted, and the ids that make a repetition harmless.

Invariant: one message id, one document. Webhooks are repeated, spooled rows are replayed, the backfill finds messages
that the webhook has stored; all of them get the same `_id`, which CouchDB stores only once. Without it each of these
would be a second report of the same birth.

CHT words its replies after the first registration in the order of the `_id`s, so these sort by time as CHT's own do:
each is a UUID of version 7, whose first 48 bits are milliseconds since the epoch (docs/cht.md#incoming-records).
"""

import hashlib
import json
import math
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cht_rapidpro.domain.task import Doc, DocId

Id = str | int | float

DAY: Final = 86_400_000
REPEATED_WITHIN: Final = 7  # days after which the same id is another message, unless it is time-ordered itself
_MIDNIGHT: Final = 600_000  # ms around midnight UTC in which two daemons may use different days
_SHORT: Final = 8  # digits that are no phone number
_MAX_MS: Final = 2**48 - 1
_HASH_BYTES: Final = 10
_FORMER: Final = "rapidpro-sms:"
_NAMESPACE: Final = uuid.UUID("5b1d2c0e-6a3f-5f3c-9d55-0f7a3c1b8e42")
_HEX: Final = "[0-9a-f]"
_UUID: Final = re.compile(f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}", re.IGNORECASE | re.ASCII)
_VERSION_7: Final = re.compile(
    f"{_HEX}{{8}}-{_HEX}{{4}}-7{_HEX}{{3}}-[89ab]{_HEX}{{3}}-{_HEX}{{12}}", re.IGNORECASE | re.ASCII
)
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_NO_DIGIT: Final = re.compile(r"\D")
_EXACT: Final = 10**15  # a number up to here is written alike by every language


@dataclass(frozen=True, slots=True)
class InboundMessage:
    """One incoming SMS. Id, sender and content as the flow sent them; `at`: ms since the epoch, the `reported_date`."""

    id: Id
    sender: Id
    content: Id
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


def read_arrival(body: object, at: int) -> InboundMessage | str:
    """Returns the message of a webhook's body, or the name of the invalid field (docs/cht.md#incoming-records)."""
    fields = body if isinstance(body, Mapping) else {}
    given, sender, content = fields.get("id"), fields.get("from"), fields.get("content")
    if not _is_id(given):
        return "id"
    if not _is_id(sender):
        return "from"
    if not _is_id(content):
        return "content"
    return InboundMessage(_whole(given), _whole(sender), _whole(content), at)


def _is_id(value: object) -> bool:
    """A text or a finite number, and not empty, which to JavaScript zero is, too."""
    if isinstance(value, bool) or not value:
        return False
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _whole(value: Any) -> Id:
    return whole_text(value) if isinstance(value, str) else value


def whole_text(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair: CouchDB refuses a request that holds one."""
    return text if text.isascii() else _LONE_SURROGATE.sub("\ufffd", text)


def id_text(given: Id) -> str:
    """The id as text: `41`, `41.0` and `"41"` are one id."""
    if isinstance(given, float) and given.is_integer() and abs(given) < _EXACT:
        return str(int(given))
    return whole_text(given) if isinstance(given, str) else str(given)


def shown_id(given: Id) -> str:
    """The id as a log may show it: a flow can send anything as `id`, a text or a phone number, too."""
    text = id_text(given)
    if _UUID.fullmatch(text) or (text.isascii() and text.isdigit() and len(text) <= _SHORT):
        return text
    return f"({len(text)} characters)"


def is_ordered(given: Id) -> bool:
    """Whether the id is a UUID of version 7, as current versions of RapidPro make them: it is the `_id` then."""
    return _VERSION_7.fullmatch(id_text(given)) is not None


def doc_id(given: Id, at: int) -> DocId:
    """The `_id` of the message. `at`: ms since the epoch, of which the day counts where the id has no time of its own.

    These ids never change: they are in databases, and a version that computed other ids would store every message
    again.
    """
    text = id_text(given)
    return DocId(text.lower()) if is_ordered(given) else _shaped(_day(at), text)


def second_id(arrival: InboundMessage) -> DocId:
    """Returns the `_id` of a second message under a used id: it depends on id, sender and content.

    A flow that waits sends one `run.uuid` several times, a miswired one the same id for everyone. On the day of a
    time-ordered id it sorts after what has that id.
    """
    text, day = id_text(arrival.id), _day(arrival.at)
    own = int(text[:8] + text[9:13], 16) if is_ordered(arrival.id) else day
    name = json.dumps(
        [text.lower() if is_ordered(arrival.id) else text, _who(arrival.sender), str(arrival.content).strip()]
    )
    return _shaped(own if day <= own < day + DAY else day, name)


def days_around(arrival: InboundMessage, *, later: int) -> list[InboundMessage]:
    """The arrival as it would have been on the days on which the same message may have come, its own day first."""
    days = (*range(-REPEATED_WITHIN, 0), *range(1, later + 1))
    return [arrival, *(replace(arrival, at=arrival.at + day * DAY) for day in days)]


def is_near_midnight(arrival: InboundMessage) -> bool:
    """Whether another daemon, or a repetition a moment later, may take another day for the day of arrival."""
    return min(arrival.at % DAY, -arrival.at % DAY) <= _MIDNIGHT


def former_id(given: Id) -> DocId:
    """The `_id` that this program gave before its `_id`s sorted by time."""
    text = id_text(given)
    return DocId(_FORMER + (text.lower() if _UUID.fullmatch(text) else str(uuid.uuid5(_NAMESPACE, text))))


def _day(at: int) -> int:
    return at - at % DAY


def _shaped(ms: int, name: str) -> DocId:
    """A UUID of version 7's shape, with this time, whose other bits are a hash of the name."""
    time = min(max(ms, 0), _MAX_MS).to_bytes(6)
    data = bytearray(time + hashlib.sha256(name.encode()).digest()[:_HASH_BYTES])
    data[6] = 0x70 | (data[6] & 0x0F)
    data[8] = 0x80 | (data[8] & 0x3F)
    return DocId(str(uuid.UUID(bytes=bytes(data))))


def legacy_keys(given: Id) -> tuple[Id, ...]:
    """The keys of the view `medic-sms/messages_by_gateway_ref` under which a record of the id may stand."""
    text = id_text(given)
    if isinstance(given, float):
        return (text, given)
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
    return (text,) if number is None or str(number) != text else (text, number)


def is_incoming(doc: Doc) -> bool:
    """Whether the document, found by such a key, is an incoming record; the view has outgoing tasks, too."""
    return isinstance(doc.get("sms_message"), dict)


def is_of(doc: Doc, arrival: InboundMessage) -> bool:
    """Whether the stored document is of this message, and not of another one under the same id.

    The number is compared by its digits: a webhook may bring `254…` and RapidPro's list `+254…`.
    """
    sms = doc.get("sms_message")
    if not isinstance(sms, Mapping):
        return True  # the document was changed by hand; its `_id` shows which message it was
    stored, arrived = str(sms.get("message")), str(arrival.content)
    return stored.strip() == arrived.strip() and is_sent_by(doc, arrival)


def is_sent_by(doc: Doc, arrival: InboundMessage) -> bool:
    """Whether the stored document is of this sender."""
    sms = doc.get("sms_message")
    return not isinstance(sms, Mapping) or _who(sms.get("from", doc.get("from"))) == _who(arrival.sender)


def _who(sender: object) -> str:
    """The digits of a number, however it is written; the text of a sender that has none."""
    return _NO_DIGIT.sub("", str(sender)) or str(sender)
