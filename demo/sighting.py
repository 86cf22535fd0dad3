"""What became of each message: its task as CouchDB has it, its broadcasts as RapidPro has them, and the verdict.

Both sides are read where the truth is, not from the daemon's own words: a gateway that logs a success and sends
nothing, or sends twice, must not pass.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.telemetry.logs import masked
from demo.database import Database, Doc
from demo.rapidpro import Broadcast, Message, RapidPro
from demo.scene import Scene, Sms, Task

DELIVERED: Final = "delivered"  # RapidPro's last status in the demo's progress script


@dataclass(frozen=True, slots=True)
class Sighting:
    """`task`: as it is in CouchDB, empty while its document is not written.

    `broadcasts` and `phone`: what RapidPro has for the message's URN, oldest first. `expected_ref`: the `gateway_ref`
    that the task must have, the id of its first message's broadcast, "" without one.
    """

    sms: Sms
    task: Doc
    broadcasts: Sequence[Broadcast]
    phone: Sequence[Message]
    expected_ref: str

    @property
    def state(self) -> str:
        return str(self.task.get("state", ""))

    @property
    def details(self) -> str:
        return str(self.task.get("state_details", ""))

    @property
    def gateway_ref(self) -> str:
        return str(self.task.get("gateway_ref", ""))

    @property
    def history(self) -> list[str]:
        return [entry["state"] for entry in self.task.get("state_history", [])]

    @property
    def status(self) -> str:
        """RapidPro's of the newest message, "" without one."""
        return self.phone[-1].status if self.phone else ""

    @property
    def is_right(self) -> bool:
        return not list(self.problems())

    def problems(self) -> Iterator[str]:
        """In what the message is not where it must be."""
        fate = self.sms.fate
        if self.state != fate.state:
            yield f"state {self.state or 'unknown'}"
        if self.details != fate.details:
            yield f"details {self.details!r}"
        if self.gateway_ref != self.expected_ref:
            yield f"gateway_ref {self.gateway_ref!r}, not {self.expected_ref!r}"
        if len(self.broadcasts) != int(fate.is_sent):
            yield f"{len(self.broadcasts)} broadcasts"
        if any(shown.text != self.sms.text for shown in self.phone):
            yield "another text on the phone"
        if self.status != (DELIVERED if fate.is_sent else ""):
            yield f"RapidPro says {self.status or 'nothing'}"


async def look(database: Database, rapidpro: RapidPro, scenes: Sequence[Scene]) -> list[Sighting]:
    """One sighting a message, in the order of the scenes. Raises DatabaseError."""
    keys = [scene.doc_id for scene in scenes]
    answer = await database.request("POST", "_all_docs", body={"keys": keys}, include_docs="true")
    docs = [row.get("doc") or {} for row in answer["rows"]]
    return [
        sighting
        for scene, doc in zip(scenes, docs, strict=True)
        for task in scene.all_tasks()
        for sighting in _sightings(task, doc, rapidpro)
    ]


def _sightings(messages: Task, doc: Doc, rapidpro: RapidPro) -> Iterator[Sighting]:
    first = _broadcasts(messages[0], rapidpro)
    for sms in messages:
        yield Sighting(
            sms,
            _find_task(doc, sms.uuid),
            _broadcasts(sms, rapidpro),
            [each for each in rapidpro.messages if each.urn == sms.expected_urn and each.direction == "out"],
            expected_ref=str(first[0].id) if first else "",
        )


def _broadcasts(sms: Sms, rapidpro: RapidPro) -> list[Broadcast]:
    return [each for each in rapidpro.broadcasts if sms.expected_urn in each.urns]


def _find_task(doc: Doc, uuid: str) -> Doc:
    for task in [*doc.get("tasks", []), *doc.get("scheduled_tasks", [])]:
        if any(message["uuid"] == uuid for message in task["messages"]):
            return dict(task)
    return {}


def short_number(sighting: Sighting) -> str:
    """As in the logs: its last three digits."""
    return masked(sighting.sms.to) or "–"


def counts(sightings: Sequence[Sighting], requests: int) -> str:
    """One line: how many messages are where."""
    written = [sighting for sighting in sightings if sighting.state]
    states = Counter(sighting.state for sighting in written)
    parts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    broadcasts = sum(len(sighting.broadcasts) for sighting in written)
    return f"{len(written)} messages: {parts} · {broadcasts} broadcasts in {requests} requests"
