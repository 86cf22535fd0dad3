"""A pause of sending that an operator has ordered, as it is kept in a file and shown everywhere.

It is no app setting and no key of the configuration: it must take effect at once, outlive a restart, and be undone by
one command. A file that cannot be read holds sending, too: an operator wanted it to stop.
"""

import json
from dataclasses import dataclass

from cht_rapidpro.domain.findings import Finding, Level
from cht_rapidpro.domain.task import milliseconds, timestamp


@dataclass(frozen=True, slots=True)
class Pause:
    """Moments in ms since the epoch; `until` None: no end. `problem`: why the file cannot be read, "" where it can.

    `drains`: what may have been sent is decided, and no claim stays.
    """

    since: int
    until: int | None
    problem: str = ""
    drains: bool = False

    def is_over(self, now: int) -> bool:
        return self.until is not None and now >= self.until

    @property
    def end(self) -> str:
        """As people read it."""
        return "until `cht-rapidpro resume`" if self.until is None else f"until {_clock(self.until)}"

    def finding(self) -> Finding:
        """What status, page, metrics and systemd tell of it."""
        if self.problem:
            return Finding(
                Level.BROKEN,
                "Sending is paused: the file of the pause cannot be read.",
                advice=f"{self.problem}. `cht-rapidpro resume` removes it, `cht-rapidpro pause` writes it anew.",
            )
        if self.drains:
            return Finding(
                Level.DEGRADED,
                f"Sending is drained {self.end}.",
                advice=f"An operator has ordered it at {_clock(self.since)}: nothing new is claimed, so that another"
                " gateway can be chosen. Incoming messages and delivery states go on.",
            )
        return Finding(
            Level.DEGRADED,
            f"Sending is paused {self.end}.",
            advice=f"An operator has ordered it at {_clock(self.since)}; `cht-rapidpro resume` ends it. Messages wait,"
            " none is lost; incoming messages and delivery states go on.",
        )

    def plain(self) -> dict[str, str | bool | None]:
        """As JSON types, for `/status` and `/ready`."""
        until = None if self.until is None else timestamp(self.until)
        return {"since": timestamp(self.since), "until": until, **({"drains": True} if self.drains else {})}


def written(pause: Pause) -> str:
    """The text of the file."""
    return json.dumps(pause.plain()) + "\n"


def read(text: str) -> Pause:
    """The pause that a file holds; one with a `problem` where it holds none."""
    try:
        found = json.loads(text)
        since, until = milliseconds(found["since"]), found["until"]
        end = None if until is None else milliseconds(until)
    except (ValueError, KeyError, TypeError, RecursionError):
        return unreadable("it does not hold what `cht-rapidpro pause` writes")
    if since is None or (until is not None and end is None):
        return unreadable("it holds a moment that is none")
    return Pause(since, end, drains=found.get("drains") is True)


def unreadable(problem: str) -> Pause:
    return Pause(0, None, problem)


def _clock(ms: int) -> str:
    """To the second, with its zone: an operator compares it with a clock."""
    return f"{timestamp(ms)[:19].replace('T', ' ')} UTC"
