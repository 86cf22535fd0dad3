"""The documents in which no claim can be stored: each is logged once, and all other documents are used.

CouchDB may fail at one document for ever or refuse it, or the document cannot be decoded. Its messages wait and are
tried again from time to time; the operator has to see which documents these are, and why. The list is bounded, the
count is not.
"""

from collections import OrderedDict
from typing import Final

import structlog

from cht_rapidpro.domain.task import DocId

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_REMEMBERED: Final = 10_000


class HeldBack:
    """`len()` is the number of documents that are held back at present."""

    def __init__(self) -> None:
        self._reasons: OrderedDict[DocId, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._reasons)

    def hold(self, doc_id: DocId, reason: str) -> None:
        """Logs the document in one ERROR, unless it is held already: two reasons that alternate are one trouble.

        `reason` must not quote the document; the status shows the latest one.
        """
        is_new = doc_id not in self._reasons
        self._reasons[doc_id] = reason
        if is_new:
            log.error(
                "claim.rejected", doc=doc_id, error=reason, means="its messages are not sent: repair the document"
            )
        if len(self._reasons) > _REMEMBERED:
            self._reasons.popitem(last=False)

    def free(self, doc_id: DocId) -> None:
        """CouchDB has taken a change of it."""
        self._reasons.pop(doc_id, None)

    def reason(self, doc_id: DocId) -> str | None:
        """Why this document is held back; None: it is not."""
        return self._reasons.get(doc_id)

    def ids(self) -> set[DocId]:
        return set(self._reasons)

    def all(self) -> list[tuple[str, str]]:
        """Each document with the reason."""
        return list(self._reasons.items())
