"""Equal messages in documents that CouchDB cannot write or read: a broadcast may be theirs, and no daemon can say so.

Another daemon's claim on such a message cannot be taken over. It would block equal messages until an operator repairs
the document. So the message counts as one more ambiguous message: if every message has a broadcast, or none has one, it
does not matter which broadcast belongs to which message (docs/exactly-once.md#look-up-ambiguous-messages).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from cht_rapidpro.domain.reconcile import BroadcastQuery, Matched, NotFound, TooRecent, Verdict
from cht_rapidpro.domain.task import DocId, MessageKey


@dataclass(frozen=True, slots=True)
class Contested:
    """Fewer broadcasts than messages, and one of the messages is in `doc_id`, which has to be repaired first."""

    doc_id: DocId


def contested(
    queries: Collection[BroadcastQuery], rivals: Collection[BroadcastQuery], verdicts: Mapping[MessageKey, Verdict]
) -> dict[MessageKey, Contested]:
    """Returns the questions whose verdict does not hold; `verdicts`: those on the questions and the rivals together."""
    found: dict[MessageKey, Contested] = {}
    for pair in {rival.pair for rival in rivals}:
        own = [query.key for query in queries if query.pair == pair]
        others = [rival.key for rival in rivals if rival.pair == pair]
        kinds = [verdicts[key] for key in (*own, *others)]
        if any(isinstance(kind, NotFound) for kind in kinds) and any(
            isinstance(kind, Matched | TooRecent) for kind in kinds
        ):
            found |= dict.fromkeys(own, Contested(others[0][0]))
    return found
