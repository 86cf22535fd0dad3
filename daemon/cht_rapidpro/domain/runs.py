"""Matches messages to runs, for a flow that sends `run.uuid` as the id.

RapidPro names no run in its messages and no message in its runs. But a contact's messages are handled one after the
other, so that its runs and the messages that they took have the same order; and a run whose document exists shows by
its text which message it stands for. Invariant: a message that has a document gets no second one, for every order of
runs and messages and whichever of them are missing. A message that cannot be matched is not stored.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import msgspec

from cht_rapidpro.domain.backfill import Input, Named, convert, flow_of, to_ms

# A run that posts one message and ends is mostly over within a second; one that lives longer may have taken others.
_LONG: Final = 5_000
# By which the clocks of RapidPro's parts may differ: one stamps the message, another one the run.
_SKEW: Final = 5_000


@dataclass(frozen=True, slots=True)
class Run:
    """`started` and `modified`: ms; `responded`: it has taken a message at all."""

    uuid: str
    contact: str
    started: int
    modified: int
    responded: bool

    @property
    def may_have_taken_several(self) -> bool:
        return self.modified - self.started > _LONG


@dataclass(frozen=True, slots=True)
class Recorded:
    """A run and its documents: `exists` or existed; `texts`: of those that were not deleted."""

    run: Run
    exists: bool
    texts: tuple[str, ...] = ()


class _RunRow(msgspec.Struct):
    uuid: str
    contact: Named
    created_on: datetime
    modified_on: datetime
    responded: bool = True


def read_runs(rows: Iterable[object], flow: str) -> list[Run]:
    """The flow's runs among these rows of runs.json. Raises TransientError for a row of ours that is no run."""
    read = (convert(row, _RunRow) for row in rows if flow_of(row) == flow)
    return [
        Run(row.uuid, row.contact.uuid, to_ms(row.created_on), to_ms(row.modified_on), row.responded) for row in read
    ]


def unrecorded(runs: Iterable[Recorded], inputs: Iterable[Input]) -> list[tuple[Run, Input]]:
    """The messages without a document, oldest first, each with the run that took it; all of one contact.

    `inputs` has every message of the contact that one of the `runs` may have taken, and `runs` every run that may have
    taken one of these messages, so that what has a document is known to have one.
    """
    ordered = sorted(runs, key=lambda recorded: recorded.run.started)
    free = sorted(inputs, key=lambda message: message.at)
    explained = [recorded for recorded in ordered if _take_recorded(recorded, free)]
    found = []
    # Backwards: a message that waited to be handled is older than runs that began before its own did.
    for recorded in reversed(ordered):
        if recorded.run.responded and recorded not in explained:
            message = _take_first(recorded.run, free)
            if message and not recorded.exists:
                found.append((recorded.run, message))
    # A document with another text: the flow posts something else than its messages. A deleted document: its message is
    # unknown. The other messages of such a run are not stored.
    for message in free:
        taker = _taker(ordered, message)
        if taker and (taker in explained or not taker.exists):
            found.append((taker.run, message))
    return sorted(found, key=lambda pair: pair[1].at)


def _take_recorded(recorded: Recorded, free: list[Input]) -> bool:
    """Takes the messages that these documents stand for; whether there was one at all."""
    latest = recorded.run.modified + _SKEW

    def take(text: str) -> Input | None:
        return _take(
            free, reversed(free), lambda message: message.text.strip() == text.strip() and message.at <= latest
        )

    return any([*map(take, recorded.texts)])


def _take_first(run: Run, free: list[Input]) -> Input | None:
    """The message that the run began with: the last one before it; or the first one of a run begun by hand."""
    started, modified = run.started + _SKEW, run.modified + _SKEW
    return _take(free, reversed(free), lambda message: message.at <= started) or _take(
        free, free, lambda message: message.at <= modified
    )


def _take(free: list[Input], order: Iterable[Input], fits: Callable[[Input], bool]) -> Input | None:
    found = next(filter(fits, order), None)
    if found:
        free.remove(found)
    return found


def _taker(ordered: Sequence[Recorded], message: Input) -> Recorded | None:
    """The run that went on when the message came; else the next one, which took it later."""
    going_on = [each for each in ordered if each.run.started < message.at <= each.run.modified + _SKEW]
    following = (each for each in ordered if each.run.started >= message.at)
    return going_on[-1] if going_on else next(following, None)
