"""Reads CHT's views of tasks by their last state, in the key formats of its versions.

The views only show which documents to read. They belong to CHT: none is created or changed here.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from cht_rapidpro.adapters.couchdb.client import PAGE, Couch, View
from cht_rapidpro.adapters.couchdb.errors import raise_for_status
from cht_rapidpro.domain.task import DocId

BY_LAST_UPDATED_STATE: Final[View] = ("medic-sms", "messages_by_last_updated_state")
GATEWAY_MESSAGES_BY_STATE: Final[View] = ("medic-sms", "gateway_messages_by_state")


@dataclass(frozen=True, slots=True)
class StateRow:
    """A task's last state. `changed`: when the task entered it, ms or any other value that CHT emitted; None: not in
    the view.
    """

    doc_id: DocId
    state: Any
    changed: Any


async def updated_since(couch: Couch, ms: int, page_size: int = PAGE) -> AsyncGenerator[list[StateRow], None]:
    """Yields the tasks whose last state is of this moment or later, in pages: tasks on their way first, newest first.

    The view's keys are `[group, ms, state]`, in older versions of CHT `[ms, state]`: numbers sort before texts, so each
    range is empty in a view of the other format.
    """
    for newest, oldest in (([""], [ms]), (["pending", {}], ["pending", ms]), (["final", {}], ["final", ms])):
        async with aclosing(couch.pages(BY_LAST_UPDATED_STATE, newest, oldest, page_size, descending=True)) as pages:
            async for rows in pages:
                yield [StateRow(DocId(row["id"]), row["key"][-1], row["key"][-2]) for row in rows]


async def unfinished(couch: Couch, since: object = None, page_size: int = PAGE) -> AsyncGenerator[list[StateRow], None]:
    """The tasks that are to be sent or on their way, the longest unchanged first, in pages; with CHT's newer keys only.

    `since`: the `changed` to begin at, None for all.
    """
    async with aclosing(couch.pages(BY_LAST_UPDATED_STATE, ["pending", since], ["pending", {}], page_size)) as pages:
        async for rows in pages:
            yield [StateRow(DocId(row["id"]), row["key"][-1], row["key"][-2]) for row in rows]


async def with_ref_in(couch: Couch, state: str, page_size: int = PAGE) -> AsyncGenerator[list[StateRow], None]:
    """Yields the tasks of any age in a state that have a gateway_ref, in pages; for a CHT without the view above."""
    async with aclosing(couch.pages(GATEWAY_MESSAGES_BY_STATE, state, state, page_size)) as pages:
        async for rows in pages:
            yield [StateRow(DocId(row["id"]), state, None) for row in rows]


async def has_view(couch: Couch, view: View) -> bool:
    """Whether CHT's design document has this view."""
    with couch.edge():
        async with couch.session.get(f"{couch.url}/_design/{view[0]}") as response:
            if response.status == 404:
                return False
            raise_for_status(response, couch.config)
            views = msgspec.json.decode(await response.read(), type=dict[str, Any]).get("views")
            return isinstance(views, dict) and view[1] in views
