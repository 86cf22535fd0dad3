"""What in a CHT document is the gateway's to change, and what never is.

The fault suite compares everything else with what was written, value by value: without that, a gateway that drops a
field it does not know would pass.
"""

from typing import Final

from demo.database import Doc

TASK_LISTS: Final = ("tasks", "scheduled_tasks")
_OWNED: Final = frozenset({"state", "state_details", "state_history", "gateway_ref"})


def tasks_of(doc: Doc) -> list[Doc]:
    """All tasks of a document that has both lists."""
    return [task for name in TASK_LISTS for task in doc[name]]


def foreign(doc: Doc) -> Doc:
    """The document without the gateway's part: the owned fields of its tasks, and the revision."""
    rest = {
        name: [{key: value for key, value in task.items() if key not in _OWNED} for task in doc[name]]
        for name in TASK_LISTS
    }
    return {key: value for key, value in (doc | rest).items() if key != "_rev"}
