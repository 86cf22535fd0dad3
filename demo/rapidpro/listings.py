"""The GET endpoints: filters, folders and pages of 250 rows, newest first.

A page ends at a position (time, id), not at an offset, so what arrives meanwhile neither repeats nor hides a
row. The oddities are the point: an unparseable date lists nothing with status 200, an empty `broadcast` lists
everything, and a word where an id belongs is a crash.
"""

import base64
import binascii
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, Protocol, TypeVar

from . import rows
from .answers import SERVER_ERROR, RefusedError, detail
from .records import Message, Run
from .workspace import SENT, Workspace

Query = Mapping[str, str]
Position = tuple[datetime, float]  # of a row in its order


class Record(Protocol):
    @property
    def id(self) -> int: ...
    @property
    def uuid(self) -> str: ...
    @property
    def created_on(self) -> datetime: ...


R = TypeVar("R", bound=Record)

FOLDERS: Mapping[str, Callable[[Message], bool]] = {
    "outbox": lambda message: message.direction == "out" and message.status in {"queued", "errored"},
    "sent": lambda message: message.direction == "out" and message.status in SENT,
    "failed": lambda message: message.direction == "out" and message.status == "failed",
    "inbox": lambda message: message.direction == "in" and message.flow is None,
    "flows": lambda message: message.direction == "in" and message.flow is not None,
}


class Page(NamedTuple):
    """Rows, newest first, and the cursor of the next page if there is one."""

    rows: list[rows.Row]
    cursor: str | None


def broadcasts(workspace: Workspace, query: Query, size: int) -> Page:
    found = _between(_identified(workspace.broadcasts, query), query)
    query = _readable(query, workspace)
    return _page(found, query, size, _created, lambda broadcast: rows.broadcast(broadcast, workspace))


def messages(workspace: Workspace, query: Query, size: int) -> Page:
    _exclusive(query, "contact", "folder", "label", "broadcast")
    found = _between(_identified(_messages(workspace, query), query), query)
    order: Callable[[Message], Position] = _created
    if folder := query.get("folder"):
        found = list(filter(FOLDERS.get(folder, _nothing), found))
    if folder == "sent":
        order = _sent
        found = sorted(found, key=order)
    query = _readable(query, workspace)
    return _page(found, query, size, order, lambda message: rows.message(message, workspace))


def runs(workspace: Workspace, query: Query, size: int) -> Page:
    """By their modified_on, the order as well as the filters."""
    _exclusive(query, "flow", "contact")
    found = _between(sorted(_identified(workspace.runs, query), key=_modified), query, _modified)
    if flow := query.get("flow"):
        found = [run for run in found if workspace.flow_uuid(run.flow) == flow]
    if contact := query.get("contact"):
        found = [run for run in found if run.contact.uuid == contact]
    paths = query.get("paths") != "false"
    query = _readable(query, workspace)
    return _page(found, query, size, _modified, lambda run: rows.run(run, workspace, paths=paths))


def _messages(workspace: Workspace, query: Query) -> Sequence[Message]:
    if broadcast := query.get("broadcast"):
        return workspace.messages_of(_number(broadcast))
    if contact := query.get("contact"):
        return [message for message in workspace.messages if message.contact.uuid == contact]
    return [] if query.get("label") else workspace.messages


def _nothing(message: Message) -> bool:
    """`archived`, and every folder that RapidPro does not have."""
    return False


def _page(
    found: Sequence[R], query: Query, size: int, order: Callable[[R], Position], row: Callable[[R], rows.Row]
) -> Page:
    cursor = query.get("cursor")
    end = bisect_left(found, _position(cursor), key=order) if cursor else len(found)
    start = max(0, end - size)
    shown = [row(record) for record in reversed(found[start:end])]
    return Page(shown, _cursor(order(found[start])) if start else None)


def _created(record: Record) -> Position:
    return record.created_on, record.id


def _modified(run: Run) -> Position:
    return run.modified_on, run.id


def _sent(message: Message) -> Position:
    return message.sent_on or message.created_on, message.id


def _exclusive(query: Query, *names: str) -> None:
    if sum(1 for name in names if query.get(name)) > 1:
        raise RefusedError(detail(400, f"You may only specify one of the {', '.join(names)} parameters"))


def _identified(records: Sequence[R], query: Query) -> Sequence[R]:
    if wanted := query.get("id"):
        number = _number(wanted)
        index = bisect_left(records, number, key=lambda record: record.id)
        records = [record for record in records[index : index + 1] if record.id == number]
    if uuid := query.get("uuid"):
        records = [record for record in records if record.uuid == uuid]
    return records


def _between(records: Sequence[R], query: Query, order: Callable[[R], Position] | None = None) -> Sequence[R]:
    """Those created (or what `order` says) from `after` to `before`, both inclusive; none if either is no date."""
    key = order or _created
    after, before = query.get("after"), query.get("before")
    try:
        low = bisect_left(records, (_date(after), -math.inf), key=key) if after else 0
        high = bisect_left(records, (_date(before), math.inf), key=key) if before else len(records)
    except ValueError:
        return []
    return records if high - low == len(records) else records[low:high]


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise RefusedError(SERVER_ERROR) from error


def _date(text: str) -> datetime:
    date = datetime.fromisoformat(text)
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _position(cursor: str) -> Position:
    try:
        date, _, number = base64.b64decode(cursor, validate=True).decode().partition("|")
        return _date(date), int(number)
    except (binascii.Error, ValueError) as error:
        raise RefusedError(detail(404, "Invalid cursor")) from error


def _readable(query: Query, workspace: Workspace) -> Query:
    """The query, where its cursor can be read; one that cannot is a crash in the community's 9.0.0."""
    if workspace.community and (cursor := query.get("cursor")):
        try:
            _position(cursor)
        except RefusedError as error:
            raise RefusedError(SERVER_ERROR) from error
    return query


def _cursor(position: Position) -> str:
    date, number = position
    return base64.b64encode(f"{date.isoformat()}|{number}".encode()).decode()
