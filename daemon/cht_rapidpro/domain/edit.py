"""Edits of documents, which decide anew on each revision that they are given and may be applied again without harm.

A text to a whole district is one document with thousands of tasks, each settled separately. So edits of tasks are
applied together, in one pass over the document: with one pass for each edit, the time would grow with the square of the
number of tasks.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby

from cht_rapidpro.domain.task import Doc, MessageId, Task, map_tasks, message_ids, tasks

Edit = Callable[[Doc], Doc]


@dataclass(frozen=True, slots=True)
class TaskEdit:
    """An edit of the tasks that hold one message: a single task, except in unusual documents.

    `change` is given those tasks and returns what takes their places; the same objects where there is nothing to do.
    """

    uuid: MessageId
    change: Callable[[Sequence[Task]], Sequence[Task]]

    def __call__(self, doc: Doc) -> Doc:
        return edited(doc, [self])


def each(uuid: MessageId, change: Callable[[Task], Task]) -> TaskEdit:
    """Returns an edit of each task that holds the message, independent of the other ones."""
    return TaskEdit(uuid, lambda found: [change(task) for task in found])


def edited(doc: Doc, edits: Iterable[Edit]) -> Doc:
    """Returns the document after these edits, in their order; `doc` itself if nothing changed."""
    for are_of_tasks, row in groupby(edits, key=lambda edit: isinstance(edit, TaskEdit)):
        if are_of_tasks:
            doc = _edit_tasks(doc, [edit for edit in row if isinstance(edit, TaskEdit)])
        else:
            doc = reduce(lambda doc, edit: edit(doc), row, doc)
    return doc


def _edit_tasks(doc: Doc, edits: Sequence[TaskEdit]) -> Doc:
    found = list(tasks(doc))
    places = _places(found, {edit.uuid for edit in edits})
    for edit in edits:
        mine = places.get(edit.uuid, [])
        for place, task in zip(mine, edit.change([found[place] for place in mine]), strict=True):
            found[place] = task
    left = iter(found)
    return map_tasks(doc, lambda _: next(left))


def holding(doc: Doc, uuids: Collection[MessageId]) -> dict[MessageId, list[Task]]:
    """Returns the tasks that hold these messages, even if their number or text was emptied meanwhile."""
    found = list(tasks(doc))
    return {uuid: [found[place] for place in places] for uuid, places in _places(found, uuids).items()}


def _places(found: Sequence[Task], uuids: Collection[MessageId]) -> dict[MessageId, list[int]]:
    places: dict[MessageId, list[int]] = {}
    for place, task in enumerate(found):
        for uuid in message_ids(task):
            if uuid in uuids:
                places.setdefault(uuid, []).append(place)
    return places
