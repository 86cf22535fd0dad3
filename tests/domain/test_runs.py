"""Which message a flow posted under which run: no message twice, none lost, and nothing guessed."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cht_rapidpro.domain.backfill import Input
from cht_rapidpro.domain.runs import Recorded, Run, read_runs, unrecorded
from cht_rapidpro.errors import TransientError

FLOW, CONTACT = "flow-1", "contact-1"
MINUTE = 60_000


def message(text: str, at: float) -> Input:
    """`at`: seconds."""
    return Input(f"m-{text}", CONTACT, "tel:+254712345678", text, round(at * 1000))


def run(name: str, started: float, modified: float | None = None, *, responded: bool = True) -> Run:
    end = started if modified is None else modified
    return Run(name, CONTACT, round(started * 1000), round(end * 1000), responded)


def missing(name: str, started: float, modified: float | None = None, *, responded: bool = True) -> Recorded:
    return Recorded(run(name, started, modified, responded=responded), exists=False)


def stored(name: str, started: float, *texts: str, modified: float | None = None) -> Recorded:
    return Recorded(run(name, started, modified), exists=True, texts=texts)


def gone(name: str, started: float, modified: float | None = None) -> Recorded:
    return Recorded(run(name, started, modified), exists=True)


# Runs, messages (text and seconds), and what is to be stored under which run.
CASES: dict[str, tuple[list[Recorded], list[Input], list[tuple[str, str]]]] = {
    "the message just before": ([missing("r", 1)], [message("a", 0)], [("r", "a")]),
    "by a clock that is behind": ([missing("r", 1, 2)], [message("a", 4)], [("r", "a")]),
    "stored": ([stored("r", 1, "a")], [message("a", 0)], []),
    "stored with other white space": ([stored("r", 1, "a\n")], [message(" a", 0)], []),
    "deleted": ([gone("r", 1)], [message("a", 0)], []),
    "no message at all": ([missing("r", 1)], [], []),
    "one of several": (
        [stored("r1", 1, "a"), missing("r2", 101), stored("r3", 201, "c")],
        [message("a", 0), message("b", 100), message("c", 200)],
        [("r2", "b")],
    ),
    "the same text twice": (
        [stored("r1", 1, "a"), missing("r2", 101)],
        [message("a", 0), message("a", 100)],
        [("r2", "a")],
    ),
    "several waited to be handled": (
        [missing("r1", 3600), missing("r2", 3601), missing("r3", 3602)],
        [message("a", 0), message("b", 1), message("c", 2)],
        [("r1", "a"), ("r2", "b"), ("r3", "c")],
    ),
    "several waited, one is stored": (
        [missing("r1", 3600), stored("r2", 3601, "b"), missing("r3", 3602)],
        [message("a", 0), message("b", 1), message("c", 2)],
        [("r1", "a"), ("r3", "c")],
    ),
    "the second came while the first was posted": (
        [missing("r1", 1, 16), missing("r2", 16, 31)],
        [message("a", 0), message("b", 8)],
        [("r1", "a"), ("r2", "b")],
    ),
    "a run that takes three": (
        [missing("r", 1, 300)],
        [message("a", 0), message("b", 100), message("c", 299)],
        [("r", "a"), ("r", "b"), ("r", "c")],
    ),
    "a run that takes three at once": (
        [missing("r", 60, 62)],
        [message("a", 0), message("b", 1), message("c", 2)],
        [("r", "a"), ("r", "b"), ("r", "c")],
    ),
    "a run that takes three, of which one is stored": (
        [stored("r", 1, "b", modified=300)],
        [message("a", 0), message("b", 100), message("c", 299)],
        [("r", "a"), ("r", "c")],
    ),
    "a run whose first document is deleted": (
        [gone("r", 1, 300)],
        [message("a", 0), message("b", 100)],
        [],
    ),
    "a flow that posts something else": (
        [stored("r", 1, "REG a b", modified=300)],
        [message("a", 0), message("b", 100)],
        [],
    ),
    "begun by hand": (
        [stored("r1", 1, "a"), missing("r2", 600, 705)],
        [message("a", 0), message("b", 700)],
        [("r2", "b")],
    ),
    "begun by hand, without an answer": (
        [stored("r1", 1, "a"), missing("r2", 600, responded=False)],
        [message("a", 0)],
        [],
    ),
    "a run that takes two, of which the second is stored": (
        [stored("r", 60, "b", modified=62)],
        [message("a", 0), message("b", 1)],
        [("r", "a")],
    ),
}


@pytest.mark.parametrize(("runs", "messages", "expected"), CASES.values(), ids=CASES)
def test_each_message_goes_to_the_run_that_took_it(
    runs: list[Recorded], messages: list[Input], expected: list[tuple[str, str]]
) -> None:
    assert [(found.uuid, taken.text) for found, taken in unrecorded(runs, messages)] == expected
    backwards = unrecorded(reversed(runs), reversed(messages))
    assert [(found.uuid, taken.text) for found, taken in backwards] == expected, "the order of the listing is no matter"


@dataclass
class Happened:
    """What RapidPro's engine did with one contact, and what CouchDB has of it."""

    runs: list[Recorded] = field(default_factory=list)
    messages: list[Input] = field(default_factory=list)
    stored: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)


@st.composite
def histories(draw: st.DrawFn, *, delays: bool, deletions: bool) -> Happened:
    """Messages handled one after the other; each run takes one or, waiting, several; each webhook works or does not."""
    happened = Happened()
    now = came = 0
    for number in range(draw(st.integers(1, 5))):
        inputs = []
        started = 0
        for turn in range(draw(st.integers(1, 3))):
            if not delays:
                came = now
            came += draw(st.sampled_from([100, 20_000, 10 * MINUTE]))
            now = max(now, came) + (draw(st.sampled_from([50, 3_000, 60 * MINUTE])) if delays else 50)
            started = started or now
            inputs.append(Input(f"{number}.{turn}", CONTACT, "tel:+1", f"{number}.{turn}", came))
            now += draw(st.sampled_from([10, 15_000]))  # the webhook
        _record(draw, happened, Run(f"r{number}", CONTACT, started, now, responded=True), inputs, deletions=deletions)
        now += 6_000
        came = came if delays else now
    return happened


def _record(draw: st.DrawFn, happened: Happened, run: Run, inputs: list[Input], *, deletions: bool) -> None:
    there = [each.text for each in inputs if draw(st.booleans())]
    removed = bool(there) and deletions and draw(st.booleans())
    happened.messages += inputs
    happened.runs.append(Recorded(run, bool(there), () if removed else tuple(there)))
    (happened.deleted if removed else happened.stored).update(there)


@settings(max_examples=300)
@given(histories(delays=True, deletions=False))
def test_nothing_is_lost_and_nothing_stored_twice(happened: Happened) -> None:
    found = [taken.text for _, taken in unrecorded(happened.runs, happened.messages)]
    assert len(found) == len(set(found))
    assert not happened.stored & set(found)
    lost = {each.text for each in happened.messages} - happened.stored - set(found)
    assert not lost


@settings(max_examples=300)
@given(histories(delays=False, deletions=True))
def test_a_deleted_message_does_not_come_back(happened: Happened) -> None:
    found = {taken.text for _, taken in unrecorded(happened.runs, happened.messages)}
    assert not found & (happened.stored | happened.deleted)


def row(**more: Any) -> dict[str, Any]:
    return {
        "uuid": "r",
        "flow": {"uuid": FLOW, "name": "relay"},
        "contact": {"uuid": CONTACT, "urn": None, "name": None},
        "responded": True,
        "created_on": "2026-11-22T07:37:45.550141Z",
        "modified_on": "2026-11-22T07:37:46.000000Z",
        **more,
    }


def test_rows_of_other_flows_are_left_out() -> None:
    started = round(datetime(2026, 11, 22, 7, 37, 45, 550_141, UTC).timestamp() * 1000)
    rows = [row(), row(flow={"uuid": "other"}), row(flow=None), None]
    assert read_runs(rows, FLOW) == [Run("r", CONTACT, started, started + 450, responded=True)]


@pytest.mark.parametrize("broken", [{"uuid": None}, {"contact": None}, {"created_on": "yesterday"}, {"modified_on": 7}])
def test_a_row_of_ours_that_is_no_run_makes_the_listing_incomplete(broken: dict[str, Any]) -> None:
    with pytest.raises(TransientError):
        read_runs([row(**broken)], FLOW)
