"""One finding of the check: a mark, what was found and what it means, and what to do.

A finding never holds a secret or a phone number. Its `about` names the subject, from a closed set, for programs.
"""

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    """`NOTE`: it works, and the operator should know something; `BAD`: messages do not flow, or not correctly."""

    GOOD = "✓"
    NOTE = "!"
    BAD = "✗"


@dataclass(frozen=True, slots=True)
class Finding:
    """`about`: such as `couchdb.views`; `says`: what was found and what it means; `remedy`: "" if there is nothing to
    do.
    """

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
