"""The senders' numbers as CHT writes them, worked out once for those who write again.

Normalising a number is more work than the rest of a record, and most messages come from people who have written before.
Invariant: what is kept is bounded in bytes, and is what would be worked out anew.
"""

from typing import Final

from cht_rapidpro.domain.phone import Numbering

_REMEMBERED: Final = 1000  # numbers, of about 250 bytes each
_LONGEST: Final = 30  # characters of a number that is kept


class Senders:
    """Of one version of the app settings."""

    def __init__(self, numbering: Numbering) -> None:
        self._numbering = numbering
        self._known: dict[str, str] = {}

    def normalized(self, sender: object) -> object:
        """The number, or the sender as it is where CHT leaves it as it is."""
        if not isinstance(sender, str) or len(sender) > _LONGEST:
            return self._numbering.normalize(sender) or sender
        if (known := self._known.get(sender)) is None:
            known = self._numbering.normalize(sender) or sender
            self._remember(sender, known)
        return known

    def _remember(self, sender: str, known: str) -> None:
        if len(self._known) >= _REMEMBERED:
            del self._known[next(iter(self._known))]  # the one that was met first
        self._known[sender] = known
