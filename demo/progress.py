"""How the demo shows its progress where the output is no terminal: one plain line for each change.

A file or a CI log keeps what a live display would overwrite. `Display` is what both kinds can do; the choice between
them is made here, once, so that the story does not care who watches.
"""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from demo.sighting import Sighting, short_number
from demo.table import LiveTable


class Display(Protocol):
    """To be entered while the messages move; `say` is for before and after."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def show(self, sightings: Sequence[Sighting], requests: int, troubles: Sequence[str]) -> None:
        """`requests`: made to RapidPro; `troubles`: the daemon's last WARNING and ERROR events."""

    def say(self, text: str, style: str = "") -> None:
        """Prints the text as it is, however long; `style`: a colour, where there are colours."""


def open_display() -> Display:
    """A live table on a terminal, else plain lines."""
    return LiveTable() if sys.stdout.isatty() else PlainLines()


class PlainLines:
    """Tells every state that a task has entered, also one that it left between two looks."""

    def __init__(self) -> None:
        self._told: set[tuple[str, int, str]] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def show(self, sightings: Sequence[Sighting], requests: int, troubles: Sequence[str]) -> None:
        for sighting in sightings:
            what = f"{sighting.sms.what:<24} {short_number(sighting):>6}"
            for position, state in enumerate(sighting.history):
                self._tell(sighting.sms.uuid, position, f"{what}  {state}")
            if sighting.status:
                self._tell(sighting.sms.uuid, -1, f"{what}  RapidPro: {sighting.status}")
        for trouble in troubles:
            self._tell("", 0, trouble)

    def _tell(self, about: str, position: int, line: str) -> None:
        if (about, position, line) not in self._told:
            self._told.add((about, position, line))
            self.say(line)

    def say(self, text: str, style: str = "") -> None:
        print(text, flush=True)
