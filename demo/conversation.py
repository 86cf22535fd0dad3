"""The demo's conversation: an SMS from a phone becomes a record in CHT, and CHT's answer an SMS on the same phone.

The phone, RapidPro's flow and CHT are played here; the gateway has both directions to do. What is said and what must
come of it is written down before, as with every scene: exactly one record for each SMS, with what the form says is in
it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from demo.database import Database, Doc
from demo.medic import message, task
from demo.rapidpro import RapidPro
from demo.scene import Scene, Sms

_FLOW: Final = "Relay to CHT"


@dataclass(frozen=True, slots=True)
class Inbound:
    """An SMS from a phone, the record that must come of it (None: the key is absent), and CHT's answer to it."""

    what: str
    text: str
    record: dict[str, Any]
    answer: Sms


def conversation() -> list[Inbound]:
    return [
        Inbound(
            "a report by SMS",
            "PREG Amina 12",
            {"form": "PREG", "fields": {"patient_name": "Amina", "weeks_since_lmp": 12}, "errors": []},
            Sms("the answer to the report", "+254712345014", "Asante! Amina amesajiliwa."),
        ),
        Inbound(
            "a plain text by SMS",
            "Habari, mtoto ana homa 🤒",
            {"form": None, "fields": {}, "errors": []},
            Sms("the answer to the text", "+254712345015", "Tafadhali mlete kituoni."),
        ),
    ]


@dataclass(slots=True)
class Conversation:
    """Goes on by a step at each look."""

    database: Database
    rapidpro: RapidPro
    unsent: list[Inbound]
    sent: dict[str, Inbound] = field(default_factory=dict)  # by the `_id` that the record must have
    answered: set[str] = field(default_factory=set)
    records: Sequence[Doc] = ()

    async def step(self) -> list[Scene]:
        """The next SMS, or CHT's answer to one whose record is there; the scenes that begin with it."""
        self.records = await self._read()
        if self.unsent:
            return [await self._send(self.unsent.pop(0))]
        for record in self.records:
            if record["_id"] in self.sent.keys() - self.answered:
                await self._answer(record["_id"])
        return []

    async def _send(self, inbound: Inbound) -> Scene:
        received = await self.rapidpro.relay.receive(f"tel:{inbound.answer.to}", inbound.text, flow=_FLOW)
        self.sent[received.uuid] = inbound
        return Scene(tasks=[[inbound.answer]], doc_id=received.uuid)

    async def _answer(self, doc_id: str) -> None:
        """What Sentinel does with a report that it has understood."""
        sms = self.sent[doc_id].answer
        answer = task(message(sms.text, sms.to, uuid=sms.uuid))
        await self.database.edit(doc_id, lambda doc: {**doc, "tasks": [*doc["tasks"], answer]})
        self.answered.add(doc_id)

    async def _read(self) -> Sequence[Doc]:
        answer = await self.database.request("GET", "_all_docs", include_docs="true")
        return [row["doc"] for row in answer["rows"] if "sms_message" in row["doc"]]

    @property
    def is_right(self) -> bool:
        return not self.unsent and len(self.records) == len(self.sent) and not any(map(self.problems, self.sent))

    def verdicts(self) -> Iterator[tuple[bool, str]]:
        """For each SMS whether its record is as it must be, in words."""
        for doc_id, inbound in self.sent.items():
            problems = self.problems(doc_id)
            found = (
                f"found: {', '.join(problems)}" if problems else f"{inbound.text!r} is one record: {_short(inbound)}"
            )
            yield not problems, f"{inbound.what:<24} {found}"
        if len(self.records) != len(self.sent):
            yield False, f"{len(self.sent)} SMS came in, {len(self.records)} records are there"

    def problems(self, doc_id: str) -> list[str]:
        record = next((each for each in self.records if each["_id"] == doc_id), None)
        if record is None:
            return ["no record"]
        expected = self.sent[doc_id].record
        return [f"{key} {record.get(key)!r}" for key, value in expected.items() if record.get(key) != value]


def _short(inbound: Inbound) -> str:
    record = inbound.record
    fields = ", ".join(f"{name} {value}" for name, value in record["fields"].items())
    return f"form {record['form']}, {fields}" if record["form"] else "no form"
