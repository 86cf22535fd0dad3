"""`messages show`: everything known about one message, and why it has not been sent or what became of it.

Whole, with its text and number: an operator asks for one message only with a reason.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cht_rapidpro.commands.messages.site import Site, now
from cht_rapidpro.commands.messages.tracing import trace_of
from cht_rapidpro.domain.claim import claim_in
from cht_rapidpro.domain.explanation import Daemon, Known, explain
from cht_rapidpro.domain.reconcile import Listed
from cht_rapidpro.domain.task import (
    Doc,
    DocId,
    Message,
    MessageId,
    Task,
    due,
    gateway_ref,
    history,
    message_ids,
    messages,
    tasks,
    timestamp,
)
from cht_rapidpro.domain.trace import Trace
from cht_rapidpro.errors import TransientError


@dataclass(frozen=True, slots=True)
class Story:
    """One message of one task. `daemon`: None where none runs, a text where it does not answer."""

    doc: Doc
    task: Task
    uuid: MessageId
    trace: Trace
    daemon: Daemon | str | None
    me: str
    why: str

    @property
    def message(self) -> Message | None:
        return next((each for each in messages(self.task) if each.uuid == self.uuid), None)

    def plain(self) -> dict[str, Any]:
        """As JSON types."""
        moment, found = due(self.task, self.doc), self.message
        return {
            "message": self.uuid,
            "doc": self.doc["_id"],
            "to": found.to if found else None,
            "text": found.text if found else None,
            "state": self.task.get("state"),
            "state_details": self.task.get("state_details"),
            "due": None if moment is None else timestamp(moment),
            "gateway_ref": gateway_ref(self.task) or None,
            "history": [_entry(entry, self.me) for entry in history(self.task) if isinstance(entry, dict)],
            "rapidpro": _rapidpro(self.trace),
            "daemon": _daemon(self.daemon),
            "why": self.why,
        }


async def stories(site: Site, doc: Doc, uuid: MessageId) -> list[Story]:
    """Of each task of the document that holds the message: one, but for odd documents."""
    return [await _story(site, doc, task, uuid) for task in tasks(doc) if uuid in message_ids(task)]


async def _story(site: Site, doc: Doc, task: Task, uuid: MessageId) -> Story:
    trace = await trace_of(site, task, uuid)
    daemon: Daemon | str | None
    try:
        daemon = await site.daemon((DocId(doc["_id"]), uuid))
    except TransientError as error:
        daemon = str(error)
    outgoing = site.config.outgoing
    known = Known(
        now(),
        site.me,
        Daemon(troubles=[f"{daemon}."]) if isinstance(daemon, str) else daemon,
        trace,
        "" if site.choice.sends else site.choice.why,
        site.pause.end if site.pause else "",
        outgoing.sweep_interval,
        outgoing.claim_timeout,
        outgoing.expire_after,
    )
    return Story(doc, task, uuid, trace, daemon, site.me, explain(task, doc, known))


def _entry(entry: dict[str, Any], me: str) -> dict[str, Any]:
    claim = claim_in(entry)
    whose = {} if claim is None else {"claimed_by": "this gateway" if claim.instance == me else claim.instance}
    return {"at": entry.get("timestamp"), "state": entry.get("state"), "details": entry.get("state_details"), **whose}


def _rapidpro(trace: Trace) -> dict[str, Any]:
    if trace.problem:
        return {"problem": trace.problem}
    return {
        "broadcast": _broadcast(trace.broadcast) if trace.broadcast else None,
        "messages": [
            {"status": row.status, "urn": row.urn, "created_on": timestamp(row.created_on)} for row in trace.rows
        ],
        "may_be_its": [_broadcast(each) for each in trace.candidates],
    }


def _broadcast(found: Listed) -> dict[str, Any]:
    return {"id": found.id, "status": found.status, "created_on": timestamp(found.created_on)}


def _daemon(daemon: Daemon | str | None) -> dict[str, Any]:
    if not isinstance(daemon, Daemon):
        return {"problem": daemon or "no daemon is running"}
    told = {"phase": str(daemon.phase), "before_it": daemon.before_it, "next_look_in": daemon.next_look_in}
    return {key: value for key, value in (told | {"held_back": daemon.held_back or None}).items() if value is not None}


def as_text(story: Story) -> str:
    """Two columns; the sentence that matters comes first."""
    plain = story.plain()
    rows = [("", ""), *_rows(plain, story.trace)]
    width = max(len(name) for name, _ in rows)
    return "\n".join([story.why, *(f"{name:<{width}}  {value}".rstrip() for name, value in rows)])


def _rows(plain: dict[str, Any], trace: Trace) -> Iterator[tuple[str, str]]:
    for name in ("message", "doc", "to", "text", "state", "due", "gateway_ref"):
        yield name.replace("_", " "), "-" if plain[name] is None else str(plain[name])
    for place, entry in enumerate(plain["history"]):
        whose = f" [{entry['claimed_by']}]" if entry.get("claimed_by") == "this gateway" else ""
        details = f": {entry['details']}" if entry["details"] else ""
        yield "" if place else "history", f"{entry['at']}  {entry['state']}{details}{whose}"
    told = plain["rapidpro"]
    if trace.problem:
        yield "RapidPro", f"cannot be asked: {trace.problem}"
    elif told["broadcast"] is None and not told["messages"]:
        yield (
            "RapidPro",
            "was not asked: nothing says that it was tried"
            if not trace.candidates and not _tried(plain)
            else "shows nothing of it",
        )
    else:
        found = told["broadcast"]
        shown = f"broadcast {found['id']}: {found['status']}, made {found['created_on']}" if found else "no broadcast"
        yield "RapidPro", shown
        for row in told["messages"]:
            yield "", f"message to {row['urn'] or 'a hidden number'}: {row['status']}, made {row['created_on']}"
    for each in told.get("may_be_its", ()):
        yield "", f"broadcast {each['id']} of {each['created_on']} may be it: no other message has it"
    yield "daemon", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in plain["daemon"].items())


def _tried(plain: dict[str, Any]) -> bool:
    return bool(plain["gateway_ref"]) or any("claimed_by" in entry for entry in plain["history"])
