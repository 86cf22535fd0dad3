"""The broadcasts that this daemon's messages went out in, which their documents may not name yet.

The look-up of ambiguous messages needs them, or it would assign the broadcast of one message to another. Invariant: the
size in bytes is bounded; the oldest entries go first. A campaign makes tens of thousands of entries: each is two texts,
which take less memory than a key and a place do.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

from cht_rapidpro.domain.outgoing import BroadcastId, Urn
from cht_rapidpro.domain.reconcile import RecipientSlot
from cht_rapidpro.domain.task import DocId, MessageId, MessageKey

_BYTES: Final = 3 * 1024 * 1024  # about ten thousand messages
_OVERHEAD: Final = 200  # bytes of an entry besides its characters


class Known(Mapping[MessageKey, RecipientSlot]):
    """One place a message: a new one replaces the earlier one. `limit`: bytes."""

    def __init__(self, limit: int = _BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._entries: OrderedDict[str, str] = OrderedDict()

    def put(self, key: MessageKey, place: RecipientSlot) -> None:
        self.forget(key)
        self._entries[_joined(*key)] = _joined(*place)
        self._size += _size(_joined(*key), _joined(*place))
        while self._size > self._limit:
            self._size -= _size(*self._entries.popitem(last=False))

    def forget(self, key: MessageKey) -> None:
        joined = _joined(*key)
        if (place := self._entries.pop(joined, None)) is not None:
            self._size -= _size(joined, place)

    def __getitem__(self, key: MessageKey) -> RecipientSlot:
        broadcast, urn = _parted(self._entries[_joined(*key)])
        return BroadcastId(broadcast), Urn(urn)

    def __iter__(self) -> Iterator[MessageKey]:
        for joined in self._entries:
            doc_id, uuid = _parted(joined)
            yield DocId(doc_id), MessageId(uuid)

    def __len__(self) -> int:
        return len(self._entries)


def _joined(first: str, second: str) -> str:
    """Both in one text. The length of the first separates them, since either may contain any character."""
    return f"{len(first)}:{first}{second}"


def _parted(joined: str) -> tuple[str, str]:
    length, _, both = joined.partition(":")
    return both[: int(length)], both[int(length) :]


def _size(key: str, place: str) -> int:
    """About the bytes that the entry takes."""
    return len(key) + len(place) + _OVERHEAD
