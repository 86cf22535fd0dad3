"""Equal messages in documents that nobody can write or read: they may have one of the broadcasts and cannot say so.

Another daemon's claim on such a message cannot be taken over, so it would keep equal messages from being decided for
as long as nobody repairs its document. It is counted as one more message in doubt instead: where all broadcasts are
there, or none is, it does not matter which one is whose.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cht_rapidpro.domain.reconcile import Absent, Found, Key, Question, Verdict, Young
from cht_rapidpro.domain.task import DocId


@dataclass(frozen=True, slots=True)
class Contested:
    """Fewer broadcasts than messages, and one of these is in `doc_id`, which has to be repaired before it can tell."""

    doc_id: DocId


def contested(
    questions: Collection[Question], rivals: Collection[Question], verdicts: Mapping[Key, Verdict]
) -> dict[Key, Contested]:
    """The questions of which no verdict can be kept; `verdicts` are those on the questions and the rivals together."""
    found: dict[Key, Contested] = {}
    for pair in {rival.pair for rival in rivals}:
        own = [question.key for question in questions if question.pair == pair]
        others = [rival.key for rival in rivals if rival.pair == pair]
        kinds = [verdicts[key] for key in (*own, *others)]
        if any(isinstance(kind, Absent) for kind in kinds) and any(isinstance(kind, Found | Young) for kind in kinds):
            found |= dict.fromkeys(own, Contested(others[0][0]))
    return found
