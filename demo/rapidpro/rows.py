"""The API's JSON shapes of the workspace's records, key by key as RapidPro sends them.

Timestamps are datetimes here; msgspec writes them as RapidPro does (`2026-11-22T07:37:45.550141Z`). In an
anonymous workspace every URN is null.
"""

from collections.abc import Mapping

from .records import Broadcast, Contact, Message, Run
from .workspace import Workspace

Row = dict[str, object]
_COMMUNITY_STATUSES = frozenset({"queued", "wired", "sent", "delivered", "handled", "errored", "failed"})
_NEWER = ("uuid", "progress", "quick_replies")  # keys that the community's 9.0.0 lacks
CHANNEL: Row = {"uuid": "0192aaaa-0000-7000-8000-000000000001", "name": "Simulated phone company"}


def created(broadcast: Broadcast, workspace: Workspace) -> Row:
    """The answer to the POST: RapidPro has not looked for the recipients yet."""
    status = "queued" if workspace.community else "pending"
    return _broadcast(broadcast, workspace, status, {"total": -1, "started": 0})


def broadcast(broadcast: Broadcast, workspace: Workspace) -> Row:
    messages = len(workspace.messages_of(broadcast.id))
    has_ended = workspace.community and broadcast.status in {"completed", "failed"}  # processed is all that it says
    return _broadcast(
        broadcast, workspace, "sent" if has_ended else broadcast.status, {"total": messages, "started": messages}
    )


def _broadcast(broadcast: Broadcast, workspace: Workspace, status: str, progress: Row) -> Row:
    urns = None if workspace.anonymous else broadcast.urns
    row: Row = {
        "uuid": broadcast.uuid,
        "status": status,
        "progress": progress,
        "urns": urns,
        "contacts": [],
        "groups": [],
        "text": {"eng": broadcast.text},
        "attachments": {"eng": []},
        "quick_replies": {"eng": []},
        "base_language": "eng",
        "created_on": broadcast.created_on,
        "id": broadcast.id,
    }
    return _without(row, *_NEWER) if workspace.community else row


def message(message: Message, workspace: Workspace) -> Row:
    is_known = not workspace.community or message.status in _COMMUNITY_STATUSES
    row: Row = {
        "uuid": message.uuid,
        "contact": _contact(message.contact),
        "urn": None if workspace.anonymous else message.urn,
        "channel": CHANNEL,
        "direction": message.direction,
        "type": "text",
        "status": message.status if is_known else None,
        "visibility": "visible",
        "text": message.text,
        "attachments": [],
        "quick_replies": [],
        "labels": [],
        "flow": None if message.flow is None else _flow(message.flow, workspace),
        "broadcast": message.broadcast,
        "created_on": message.created_on,
        "sent_on": message.sent_on,
        "modified_on": message.modified_on,
        "id": message.id,
    }
    return _without(row, "uuid", "quick_replies") if workspace.community else row


def run(run: Run, workspace: Workspace, *, paths: bool) -> Row:
    urn = None if workspace.anonymous else run.contact.urns[0]
    values: Row = {}
    if run.inputs:
        text = run.inputs[-1].text
        result = {"name": "Response", "value": text, "input": text, "category": "All Responses"}
        values = {"response": {**result, "time": run.modified_on}}
    return {
        "uuid": run.uuid,
        "flow": _flow(run.flow, workspace),
        "contact": {**_contact(run.contact), "urn": urn},
        "responded": bool(run.inputs),
        "path": [] if paths else None,
        "values": values,
        "created_on": run.created_on,
        "modified_on": run.modified_on,
        "exited_on": run.exited_on,
        "exit_type": "completed" if run.exited_on else None,
        "id": run.id,
    }


def flows(workspace: Workspace, query: Mapping[str, str]) -> list[Row]:
    """The fields of GET flows.json that are used here."""
    wanted = query.get("uuid")
    return [
        {"uuid": uuid, "name": name, "type": "message", "archived": False}
        for name, uuid in workspace.flows.items()
        if wanted in (None, "", uuid)
    ]


def workspace(workspace: Workspace) -> Row:
    return {
        "uuid": workspace.uuid,
        "name": "Simulated workspace",
        "country": workspace.country,
        "languages": ["eng"],
        "timezone": "Africa/Nairobi",
        "date_style": "day_first",
        "anon": workspace.anonymous,
        "primary_language": "eng",
    }


def _without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


def _contact(contact: Contact) -> Row:
    return {"uuid": contact.uuid, "name": contact.name or None}


def _flow(name: str, workspace: Workspace) -> Row:
    return {"uuid": workspace.flow_uuid(name), "name": name}
