"""One line of the check: how it is, what that means, what to do.

A finding never holds a secret or a phone number; its `about` names the place in a closed vocabulary, for machines.
"""

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """`NOTE`: it works, and something should be known; `BAD`: messages will not flow, or not as they should."""

    GOOD = "✓"
    NOTE = "!"
    BAD = "✗"


@dataclass(frozen=True, slots=True)
class Finding:
    """`about`: such as `couchdb.views`; `says`: what was found and what it means; `remedy`: "" where nothing is due."""

    mark: Mark
    about: str
    says: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.mark} {self.about}: {self.says}{f' → {self.remedy}' if self.remedy else ''}"


def good(about: str, says: str) -> Finding:
    return Finding(Mark.GOOD, about, says)


def note(about: str, says: str, remedy: str = "") -> Finding:
    return Finding(Mark.NOTE, about, says, remedy)


def bad(about: str, says: str, remedy: str) -> Finding:
    return Finding(Mark.BAD, about, says, remedy)
