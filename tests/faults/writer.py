"""CHT's part of a run: writes documents, edits them, clears and mutes tasks, makes scheduled ones pending.

It keeps a model of every document, changed by the same edits as the stored one and never read back from it, so that
whatever somebody else changed shows as a difference. It clears and mutes only what is pending or scheduled in the
revision that it writes against: then nobody had claimed it, and nobody may ever send it.
"""

import asyncio
import copy
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from demo.database import Database, DatabaseError, Doc
from demo.medic import data_record, iso_time, task
from tests.faults.documents import tasks_of
from tests.faults.wait import FAILED, is_away, status_of, until_answered

Edit = Callable[[Doc], None]  # changes a document in place; the same change to the model and to what is stored

_ROUND: Final = 0.3  # seconds between two rounds
_NEW_ONES: Final = 30  # documents that are interesting, because their messages are on their way
_AT_ONCE: Final = 20  # writes
_CONFLICT: Final = 409
_GONE: Final = 404
_DELETED: Final = 0.1  # of the rounds
_OFFLINE: Final = 3.0  # seconds
_AHEAD: Final = 1000  # edits, more than the gateway makes on its branch: the phone's wins for good


@dataclass
class Model:
    """A document as the writer alone has made it; `writes`: the revisions that are its.

    `withdrawn`: when (seconds since the epoch) it cleared a task that was claimed already, by the uuid of its first
    message; that one may have been sent before. `cleared_here`: the same for those that nobody had claimed on the
    branch that it saw; whether one was claimed on another branch is to be seen in the leaves. `is_offline`: a phone
    works on it; `has_branches`: one has done so.
    """

    doc: Doc
    writes: int = 1
    withdrawn: dict[str, float] = field(default_factory=dict)
    cleared_here: dict[str, float] = field(default_factory=dict)
    is_offline: bool = False
    has_branches: bool = False
    is_deleted: bool = False

    @property
    def tasks(self) -> list[Doc]:
        return tasks_of(self.doc)


class Writer:
    """`models` by document id."""

    def __init__(self, medic: Database, messages: Iterator[Doc], seed: int) -> None:
        self.models: dict[str, Model] = {}
        self._medic = medic
        self._messages = messages
        self._source = random.Random(seed)  # noqa: S311 - no secret
        self._added = 0
        self._phones: set[asyncio.Task[None]] = set()

    async def run(self, messages: int, seconds: float, faults: asyncio.Task[None]) -> None:
        """Adds so many messages, evenly over the time, and as many more as come until the faults have ended."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        while self._added < messages or not faults.done():
            share = (loop.time() - start) / seconds
            await self._add(int(messages * share) - self._added)
            for work in _WORKS if self._new_ones() else ():
                await work(self)
            await asyncio.sleep(_ROUND)
        await asyncio.gather(*self._phones)

    async def finish(self) -> None:
        """Makes every other document's scheduled tasks pending; the rest stay scheduled and must never be sent."""
        left = iter([model for model in self.models.values() if not model.is_deleted][::2])

        async def promote() -> None:
            for model in left:
                await self._change(model, lambda doc: _enter(doc, {"scheduled"}, "pending", all_tasks=True))

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(promote())

    async def _add(self, messages: int) -> None:
        """At least so many, in one write; a document that is stored already was, by a try without an answer."""
        docs = []
        goal = self._added + messages
        while self._added < goal:
            docs.append(self._record())
        for doc in docs:
            self.models[doc["_id"]] = Model(copy.deepcopy(doc))
        if docs:
            await until_answered(self._medic.bulk, docs)

    def _record(self) -> Doc:
        lists: dict[str, list[Doc]] = {"tasks": [], "scheduled_tasks": []}
        for _ in range(self._source.choice((1, 1, 1, 2, 3))):
            name = self._source.choice(("tasks", "tasks", "scheduled_tasks"))
            lists[name].append(self._task(is_scheduled=name == "scheduled_tasks"))
        return data_record(*lists["tasks"], scheduled_tasks=lists["scheduled_tasks"], edits=0, kept={"é": [1.5, None]})

    def _task(self, *, is_scheduled: bool) -> Doc:
        count = self._source.choice((1, 1, 1, 2))
        self._added += count
        state = self._source.choice(("pending", "scheduled")) if is_scheduled else "pending"
        return task(*(next(self._messages) for _ in range(count)), state=state, group=self._added, type="reminder")

    async def _edit(self) -> None:
        """As somebody who works on the record while its messages are on their way."""
        await self._change(self._new_one(), lambda _: _annotate)

    async def _withdraw(self) -> None:
        state = self._source.choice(("cleared", "muted"))
        model = self._new_one()

        def choose(doc: Doc) -> Edit | None:
            open_tasks = [task for task in tasks_of(doc) if task["state"] in ("pending", "scheduled")]
            if open_tasks and model.has_branches:  # a losing branch may hold the claim under which it was sent
                model.cleared_here.setdefault(open_tasks[0]["messages"][0]["uuid"], time.time())
            return _enter(doc, {"pending", "scheduled"}, state)

        await self._change(model, choose)

    async def _promote(self) -> None:
        await self._change(self._new_one(), lambda doc: _enter(doc, {"scheduled"}, "pending"))

    async def _withdraw_late(self) -> None:
        """Clears a task that a daemon has claimed and not settled: from then on it is not wanted."""
        model = self._new_one()

        def choose(doc: Doc) -> Edit | None:
            claimed = [task for task in tasks_of(doc) if task["state"] == "forwarded-to-gateway"]
            if not claimed:
                return None
            model.withdrawn.setdefault(claimed[0]["messages"][0]["uuid"], time.time())
            return _enter(doc, {"forwarded-to-gateway"}, "cleared")

        await self._change(model, choose)

    async def _delete(self) -> None:
        """A document with its messages in whatever state; now and then, for most shall be sent."""
        if self._source.random() > _DELETED:
            return
        model = self._new_one()
        if model.has_branches or model.is_offline or model.is_deleted:
            return  # to delete one branch would bring the other one back
        model.is_deleted = True
        for each in model.tasks:
            model.withdrawn[each["messages"][0]["uuid"]] = time.time()
        while True:
            try:
                await until_answered(self._medic.delete, model.doc["_id"])
            except DatabaseError as error:
                if error.status == _CONFLICT:
                    continue
                if error.status != _GONE:
                    raise
            model.withdrawn |= dict.fromkeys(model.withdrawn, time.time())
            return

    async def _edit_offline(self) -> None:
        """A phone edits the document as it is now and syncs seconds later: its branch wins."""
        model = self._new_one()
        if model.is_offline or model.is_deleted:
            return
        model.is_offline = model.has_branches = True
        base = await until_answered(self._medic.get, model.doc["_id"])
        phone = asyncio.create_task(self._sync(model, base, self._source.uniform(0.2, _OFFLINE)))
        self._phones.add(phone)
        phone.add_done_callback(self._phones.discard)

    async def _sync(self, model: Model, base: Doc, seconds: float) -> None:
        await asyncio.sleep(seconds)
        start, own = base["_rev"].split("-")
        now = await until_answered(self._medic.get, model.doc["_id"])
        edits = int(now["_rev"].partition("-")[0]) - int(start) + _AHEAD
        for changed in (base, model.doc):
            _annotate(changed)
        ids = ["f" * 32, *(f"{number:032x}" for number in range(1, edits)), own]
        number = int(start) + edits
        leaf = {**base, "_rev": f"{number}-{ids[0]}", "_revisions": {"start": number, "ids": ids}}
        await until_answered(self._put_leaf, leaf)
        model.writes += edits
        model.is_offline = False

    async def _put_leaf(self, leaf: Doc) -> None:
        await self._medic.request("POST", "_bulk_docs", body={"docs": [leaf], "new_edits": False})

    def _new_ones(self) -> list[Model]:
        newest = list(self.models.values())[-_NEW_ONES:]
        return [model for model in newest if not (model.is_offline or model.is_deleted)]

    def _new_one(self) -> Model:
        return self._source.choice(self._new_ones() or list(self.models.values())[-1:])

    async def _change(self, model: Model, choose: Callable[[Doc], Edit | None]) -> None:
        """Makes the edit that `choose` finds for the latest revision, if it finds one; again after each conflict."""
        known = {*model.withdrawn, *model.cleared_here}
        await self._change_latest(model, choose)
        for stamps in (model.withdrawn, model.cleared_here):
            stamps |= {uuid: time.time() for uuid in stamps if uuid not in known}

    async def _change_latest(self, model: Model, choose: Callable[[Doc], Edit | None]) -> None:
        """What `choose` marks as withdrawn counts only when its edit was stored: the next revision may be another's."""
        stamps = model.withdrawn, model.cleared_here
        while True:
            doc = await until_answered(self._medic.get, model.doc["_id"])
            known = [set(each) for each in stamps]
            edit = choose(doc)
            marked = [set(each) - before for each, before in zip(stamps, known, strict=True)]
            if edit is None or await self._put(model, doc, edit):
                return
            for each, uuids in zip(stamps, marked, strict=True):
                for uuid in uuids:
                    del each[uuid]

    async def _put(self, model: Model, doc: Doc, edit: Edit) -> bool:
        """False on a conflict, or where CouchDB went away before it was stored."""
        number = model.writes
        for changed in (doc, new := copy.deepcopy(model.doc)):
            edit(changed)
            changed["edits"] = number  # tells whether it was stored, when the answer is lost
        try:
            await self._medic.put(doc)
        except FAILED as error:
            if status_of(error) == _CONFLICT:
                return False
            if not is_away(error):
                raise
            stored = await until_answered(self._medic.get, doc["_id"])
            if stored["edits"] != number:
                return False
        model.doc, model.writes = new, number + 1
        return True


def _annotate(doc: Doc) -> None:
    doc["fields"] = {**doc["fields"], f"note {doc['edits']}": "seen"}


def _enter(doc: Doc, states: set[str], state: str, *, all_tasks: bool = False) -> Edit | None:
    """Brings the first task in one of these states, or all of them, into another one; None where there is none."""
    found = [task["messages"][0]["uuid"] for task in tasks_of(doc) if task["state"] in states]
    chosen = set(found if all_tasks else found[:1])
    timestamp = iso_time(datetime.now(UTC))

    def edit(changed: Doc) -> None:
        for each in tasks_of(changed):
            if each["messages"][0]["uuid"] in chosen:
                each["state"] = state
                each["state_history"] = [*each["state_history"], {"state": state, "timestamp": timestamp}]

    return edit if chosen else None


_WORKS: Final = (
    Writer._withdraw,
    Writer._edit,
    Writer._promote,
    Writer._withdraw_late,
    Writer._edit_offline,
    Writer._delete,
)
