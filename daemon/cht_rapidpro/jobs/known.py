"""Which broadcast each message of ours went out in, whether or not its document says so yet.

For the looks for messages in doubt: without it one would be given the broadcast of another. The invariant is the size:
the oldest entries go first. Tens of thousands pass here in a campaign, so each is two texts and not the six objects
that it stands for.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Final

from cht_rapidpro.domain.outgoing import BroadcastId, Urn
from cht_rapidpro.domain.reconcile import Key, Place
from cht_rapidpro.domain.task import DocId, MessageId

_BYTES: Final = 3 * 1024 * 1024  # about ten thousand messages
_OVERHEAD: Final = 200  # bytes of an entry besides its characters


class Known(Mapping[Key, Place]):
    """One place a message: what was thought before is gone. `limit`: bytes."""

    def __init__(self, limit: int = _BYTES) -> None:
        self._limit = limit
        self._size = 0
        self._entries: OrderedDict[str, str] = OrderedDict()

    def put(self, key: Key, place: Place) -> None:
        self.forget(key)
        self._entries[_joined(*key)] = _joined(*place)
        self._size += _size(_joined(*key), _joined(*place))
        while self._size > self._limit:
            self._size -= _size(*self._entries.popitem(last=False))

    def forget(self, key: Key) -> None:
        joined = _joined(*key)
        if (place := self._entries.pop(joined, None)) is not None:
            self._size -= _size(joined, place)

    def __getitem__(self, key: Key) -> Place:
        broadcast, urn = _parted(self._entries[_joined(*key)])
        return BroadcastId(broadcast), Urn(urn)

    def __iter__(self) -> Iterator[Key]:
        for joined in self._entries:
            doc_id, uuid = _parted(joined)
            yield DocId(doc_id), MessageId(uuid)

    def __len__(self) -> int:
        return len(self._entries)


def _joined(first: str, second: str) -> str:
    """Both in one text; the length of the first tells them apart, whatever characters they have."""
    return f"{len(first)}:{first}{second}"


def _parted(joined: str) -> tuple[str, str]:
    length, _, both = joined.partition(":")
    return both[: int(length)], both[int(length) :]


def _size(key: str, place: str) -> int:
    """About the bytes that the entry takes."""
    return len(key) + len(place) + _OVERHEAD
