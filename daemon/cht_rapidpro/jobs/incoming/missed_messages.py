"""Finds the messages without a record in a page of RapidPro's listing: a class for each kind of id that a flow sends.

Each class reads pages of its `listing` with its `query`. `before`, in ms of RapidPro's clock: younger messages are left
for the next listing, because their webhook may be on its way.
"""

from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.adapters.rapidpro.client import Listing
from cht_rapidpro.domain.backfill import NO_MESSAGE_IDS, NO_MESSAGE_IDS_ABOUT, Input, read_inputs
from cht_rapidpro.domain.runs import Recorded, Run, read_runs, unrecorded
from cht_rapidpro.domain.task import timestamp
from cht_rapidpro.errors import OperatorActionRequiredError
from cht_rapidpro.jobs.incoming.stored_messages import RecordedMessages
from cht_rapidpro.jobs.rapidpro_pages.listings import Listings

# How long a message may wait until its run begins, and how far back a contact's runs are looked at.
_DAY: Final = 24 * 3_600_000


@dataclass(frozen=True, slots=True)
class Missed:
    """A message without a record, under the id that the flow gave it; `input` None: RapidPro does not show the
    message.
    """

    id: str
    at: int
    input: Input | None

    @property
    def is_storable(self) -> bool:
        """Whether the webhook would have stored it."""
        return self.input is not None and self.input.posted_as(self.id) is not None


class MissedMessages:
    """For a flow that sends `input.uuid`: the id is the message's own."""

    listing: Final = Listing.MESSAGES

    def __init__(self, recorded: RecordedMessages, flow: str) -> None:
        self._recorded = recorded
        self._flow = flow

    def query(self, after: int) -> dict[str, str]:
        return {"folder": "flows", "after": timestamp(after)}

    async def recorded(self, rows: list[object]) -> list[int]:
        """Returns when the recorded messages came, ms since the epoch, the latest first. Raises
        OperatorActionRequiredError.
        """
        came = {message.uuid: message.at for message in self._inputs(rows)}
        return sorted((came[uuid] for uuid in await self._recorded.known(came)), reverse=True)

    async def find(self, base: str, rows: list[object], before: int) -> AsyncGenerator[Missed, None]:
        inputs = [message for message in self._inputs(rows) if message.at <= before]
        known = await self._recorded.known({message.uuid: message.at for message in inputs})
        for message in inputs:
            if message.uuid not in known:
                yield Missed(message.uuid, message.at, message)

    def _inputs(self, rows: list[object]) -> list[Input]:
        inputs = read_inputs(rows, self._flow)
        if not all(message.uuid for message in inputs):
            raise OperatorActionRequiredError(NO_MESSAGE_IDS, about=NO_MESSAGE_IDS_ABOUT)
        return inputs


class MissedRuns:
    """For a flow that sends `run.uuid`: the message has to be found among the contact's.

    `clock`: RapidPro's, in ms since the epoch.
    """

    listing: Final = Listing.RUNS

    def __init__(self, recorded: RecordedMessages, listings: Listings, flow: str, clock: Callable[[], int]) -> None:
        self._recorded = recorded
        self._listings = listings
        self._flow = flow
        self._clock = clock

    def query(self, after: int) -> dict[str, str]:
        return {"flow": self._flow, "after": timestamp(after), "paths": "false"}

    async def recorded(self, rows: list[object]) -> list[int]:
        """Returns when the recorded runs began, ms since the epoch, the latest first."""
        began = {run.uuid: run.started for run in read_runs(rows, self._flow)}
        return sorted((began[uuid] for uuid in await self._recorded.known(began)), reverse=True)

    async def find(self, base: str, rows: list[object], before: int) -> AsyncGenerator[Missed, None]:
        runs = [run for run in read_runs(rows, self._flow) if run.responded and run.modified <= before]
        known = await self._recorded.known({run.uuid: run.started for run in runs})
        contacts: dict[str, list[Run]] = {}
        for run in runs:
            if run.uuid not in known or run.may_have_taken_several:
                contacts.setdefault(run.contact, []).append(run)
        for contact, asked in contacts.items():
            for missed in await self._of(base, contact, asked, before):
                yield missed

    async def _of(self, base: str, contact: str, asked: Collection[Run], before: int) -> list[Missed]:
        """Yields the missed messages of one contact's runs.

        The messages are listed first: each of them has its run in the second listing. A run that began in between has
        no message in the first one, and must not take another's.
        """
        query = {"contact": contact, "after": timestamp(min(run.started for run in asked) - _DAY)}
        now = self._clock()
        rows = await self._listings.whole(base, Listing.MESSAGES, query)
        inputs = [message for message in read_inputs(rows, self._flow) if message.at <= before]
        rows = await self._listings.whole(base, Listing.RUNS, {**query, "paths": "false"})
        runs = await self._with_texts([run for run in read_runs(rows, self._flow) if run.started <= now])
        wanted = {run.uuid: run for run in asked}
        found = [(run, message) for run, message in unrecorded(runs, inputs) if run.uuid in wanted]
        posted = {arrival for run, message in found if (arrival := message.posted_as(run.uuid))}
        seconds = await self._recorded.seconds(posted)
        lost = wanted.keys() - {run.uuid for run, _ in found} - {each.run.uuid for each in runs if each.exists}
        return [
            *(Missed(run.uuid, at.at, at) for run, at in found if at.posted_as(run.uuid) not in seconds),
            *(Missed(uuid, wanted[uuid].started, None) for uuid in sorted(lost)),
        ]

    async def _with_texts(self, runs: Collection[Run]) -> list[Recorded]:
        ids = [run.uuid for run in runs]
        known = await self._recorded.known({run.uuid: run.started for run in runs})
        texts = await self._recorded.texts(ids)
        return [Recorded(run, run.uuid in known, tuple(texts[run.uuid])) for run in runs]
