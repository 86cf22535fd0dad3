"""The messages that do not arrive, put together by reason: an operator fixes reasons, not messages.

Bounded in groups and in the length of each reason, so that a page always has room for the worst.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

_GROUPS: Final = 10
_LONGEST: Final = 200


@dataclass(frozen=True, slots=True)
class Group:
    """`what` is the matter with how many documents, and why; `example`: the id of the latest of them."""

    what: str
    reason: str
    documents: int
    example: str


def grouped(what: str, found: Iterable[tuple[str, str]]) -> Iterator[Group]:
    """The documents with their reasons as groups, the most documents first; ten at most."""
    by_reason: dict[str, dict[str, None]] = {}
    for doc, reason in found:
        docs = by_reason.setdefault(reason[:_LONGEST], {})
        docs.pop(doc, None)
        docs[doc] = None
    largest = sorted(by_reason.items(), key=lambda group: (-len(group[1]), group[0]))
    for reason, docs in largest[:_GROUPS]:
        yield Group(what, reason, len(docs), next(reversed(docs)))
