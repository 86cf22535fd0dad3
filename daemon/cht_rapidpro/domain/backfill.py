"""Backfill: which window to list for messages that arrived while the gateway was off, and which rows belong to the
flow.

A flow that sends `input.uuid` names each message, and a listing of messages shows everything that is needed. A flow
that sends `run.uuid` names the run, which may have taken several messages; `runs.py` tells them apart. Both ways assume
a relay flow, which posts every message that it takes, unchanged. All times are ms since the epoch of RapidPro's clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal, TypeVar

import msgspec

from cht_rapidpro.domain.incoming import InboundMessage, whole_text
from cht_rapidpro.errors import TransientError

NO_MESSAGE_IDS: Final = (
    "this RapidPro does not show what input.uuid is (its messages have no uuid, as in 9.0.0): with"
    ' [incoming] id_is = "message" nothing can be fetched; let the flow send run.uuid, and set id_is = "run"'
)
NO_MESSAGE_IDS_ABOUT: Final = "message ids"
IdIs = Literal["message", "run"]
_Kind = TypeVar("_Kind")

# A message is listed by its time of arrival and may be handled long afterwards; a run is listed by its last change, and
# appears when its transaction ends.
_OVERLAPS: Final[Mapping[IdIs, int]] = {"message": 24 * 3_600_000, "run": 600_000}
# A flow that is calling the webhook now gets its answer within 15 s: younger messages are left for the next listing.
GRACE: Final = 60_000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The position: every message of this source that came from `earliest` until `until` is stored.

    `source`: the flow and what it sends as id. `earliest`: nothing before it is fetched, because it is older than the
    first start, or was stored under ids of another kind.
    """

    source: str
    earliest: int
    until: int

    def after(self, id_is: IdIs) -> int:
        """The moment at which the next listing begins."""
        return max(self.earliest, self.until - _OVERLAPS[id_is])

    def for_storage(self) -> dict[str, object]:
        return {"source": self.source, "earliest": self.earliest, "until": self.until}


def source_of(flow: str, id_is: IdIs) -> str:
    return f"{id_is} {flow}"


def other(id_is: IdIs) -> IdIs:
    """The other kind of id."""
    return "message" if id_is == "run" else "run"


@dataclass(frozen=True, slots=True)
class Evidence:
    """When the latest message came that is recorded under the configured kind of id, and under the other one; ms."""

    own: int | None
    other: int | None

    @property
    def contradicts(self) -> bool:
        """Whether the flow's latest message shows that it sends the other kind."""
        return self.other is not None and (self.own is None or self.own <= self.other)


def checkpoint(
    stored: Mapping[str, object], spooled: int | None, source: str, begin: int | None, now: int
) -> Checkpoint:
    """Returns the position to continue from. `stored`: the position in CouchDB ({}: none); `spooled`: the one in the
    spool file.

    The very first one begins at `begin`, `[incoming] backfill_from`, else now. So does one after the flow or its kind
    of id was changed, but never before now: the same messages would be missed under their new ids.
    """
    found = stored.get("source")
    if found is not None and found != source:
        return Checkpoint(source, now, now)
    earliest, until = _ms(stored.get("earliest")), _ms(stored.get("until"))
    until = max(until or 0, spooled or 0) or (now if begin is None else begin)
    if begin is not None:
        earliest = begin
    # A position in the future comes from a wrong clock.
    until = min(until, now)
    return Checkpoint(source, until if earliest is None else earliest, until)


def _ms(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(frozen=True, slots=True)
class Input:
    """A message that the flow has taken. `uuid` "": RapidPro shows none (9.0.0); `urn` None: nor the number."""

    uuid: str
    contact: str
    urn: str | None
    text: str
    at: int

    @property
    def sender(self) -> str:
        """The sender as the flow writes it: `replace(urns.tel, "tel:+", "+")`; empty for a contact without a number."""
        return self.urn.replace("tel:+", "+") if self.urn and self.urn.startswith("tel:") else ""

    def posted_as(self, id: str) -> InboundMessage | None:  # noqa: A002 - the field's name
        """Returns what the flow posts; None if the webhook refuses it, because sender or text is missing."""
        if not self.sender or not self.text:
            return None
        return InboundMessage(id, self.sender, whole_text(self.text), self.at)


class Named(msgspec.Struct):
    """A reference from one of RapidPro's rows to another object."""

    uuid: str


class _MessageRow(msgspec.Struct):
    contact: Named
    created_on: datetime
    uuid: str = ""
    urn: str | None = None
    text: str | None = None


def read_inputs(rows: Iterable[object], flow: str) -> list[Input]:
    """Returns the incoming messages among these rows of messages.json that the flow has taken.

    Raises TransientError for a row of this flow that is not a message: without it the listing is not complete.
    """
    return [_read_input(row) for row in rows if flow_of(row) == flow and _field(row, "direction") == "in"]


def _read_input(row: object) -> Input:
    read = convert(row, _MessageRow)
    return Input(read.uuid, read.contact.uuid, read.urn, read.text or "", to_ms(read.created_on))


def convert(row: object, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.convert(row, kind)
    except msgspec.ValidationError as error:
        raise TransientError(f"RapidPro lists a row that is none: {error}") from error


def flow_of(row: object) -> object:
    return _field(_field(row, "flow"), "uuid")


def _field(row: object, name: str) -> object:
    return row.get(name) if isinstance(row, Mapping) else None


def to_ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
