"""Finds the recipients of a broadcast, for messages whose URN does not show their task.

RapidPro sends to a contact's preferred URN, which may differ from the posted one, and an anonymous workspace hides all
URNs. Then a row belongs to a task only if all recipients of the broadcast are known.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.rapidpro.client import Failure, Listing, RapidPro, Rows
from cht_rapidpro.domain.delivery import read_ref
from cht_rapidpro.domain.outgoing import Ambiguous, BroadcastId, pair_of
from cht_rapidpro.domain.reconcile import Listed, read_listed
from cht_rapidpro.domain.task import messages, tasks
from cht_rapidpro.jobs.documents.retry import until_it_works
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch

_REFS: Final = 100  # a request


class Recipients:
    def __init__(self, couch: Couch, rapidpro: RapidPro, settings: SettingsWatch) -> None:
        self._couch = couch
        self._rapidpro = rapidpro
        self._settings = settings

    async def listed(self, base: str, broadcast: BroadcastId) -> Listed | Failure | None:
        """Returns the broadcast as RapidPro lists it, with its recipients; None if RapidPro has none."""
        answer = await self._rapidpro.list_rows(base, Listing.BROADCASTS, {"id": broadcast}, None)
        if not isinstance(answer, Rows):
            return answer if isinstance(answer, Failure) else Ambiguous("a position in a listing that has none")
        return next((row for row in filter(None, map(read_listed, answer.rows)) if row.id == broadcast), None)

    async def of_tasks(self, broadcasts: Sequence[BroadcastId]) -> dict[BroadcastId, tuple[str, ...]]:
        """Returns the URNs in the tasks that hold these broadcasts: the only source in an anonymous workspace."""
        found: dict[BroadcastId, list[str]] = defaultdict(list)
        values: Any = self._settings.settings.values if self._settings.settings else {}
        for start in range(0, len(broadcasts), _REFS):
            wanted = broadcasts[start : start + _REFS]
            holders = await until_it_works(self._couch.holders, wanted)
            docs = await until_it_works(self._couch.read, sorted(set().union(*holders.values())))
            for task in (task for doc in docs.values() for task in tasks(doc)):
                if (ref := read_ref(task)) in wanted and ref is not None:
                    # A task of several messages has the broadcast of one of them.
                    found[ref] += [pair_of(message, values).urn for message in messages(task)[:1]]
        return {broadcast: tuple(urns) for broadcast, urns in found.items()}
