"""Where a look begins, and which rows of RapidPro's are messages that the flow has posted."""

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.backfill import Checkpoint, IdIs, Input, checkpoint, read_inputs, source_of
from cht_rapidpro.domain.incoming import InboundMessage
from cht_rapidpro.errors import TransientError

SOURCE: Final = source_of("flow-1", "run")
HOUR: Final = 3_600_000
NOW: Final = 1_000 * HOUR


def stored(earliest: int, until: int, source: str = SOURCE) -> dict[str, object]:
    return Checkpoint(source, earliest, until).for_storage()


# What CouchDB remembers, what the spool file does, `backfill_from`, and the look to go on from.
LOOKS: Final[dict[str, tuple[dict[str, object], int | None, int | None, Checkpoint]]] = {
    "the first start": ({}, None, None, Checkpoint(SOURCE, NOW, NOW)),
    "the first start, from": ({}, None, NOW - HOUR, Checkpoint(SOURCE, NOW - HOUR, NOW - HOUR)),
    "the first start, from tomorrow": ({}, None, NOW + HOUR, Checkpoint(SOURCE, NOW + HOUR, NOW)),
    "a later one": (stored(5, 70), 60, None, Checkpoint(SOURCE, 5, 70)),
    "the spool's is newer": (stored(5, 70), 80, None, Checkpoint(SOURCE, 5, 80)),
    "CouchDB has forgotten": ({}, 80, None, Checkpoint(SOURCE, 80, 80)),
    "CouchDB has forgotten, from": ({}, 80, 20, Checkpoint(SOURCE, 20, 80)),
    "from is set later": (stored(50, 70), None, 20, Checkpoint(SOURCE, 20, 70)),
    "a look from the future": (stored(5, NOW + HOUR), None, None, Checkpoint(SOURCE, 5, NOW)),
    "another flow": (stored(5, 70, source_of("flow-2", "run")), 80, 20, Checkpoint(SOURCE, NOW, NOW)),
    "another kind of id": (stored(5, 70, source_of("flow-1", "message")), 80, None, Checkpoint(SOURCE, NOW, NOW)),
    "damaged": ({"source": SOURCE, "earliest": True, "until": "x"}, 80, None, Checkpoint(SOURCE, 80, 80)),
}


@pytest.mark.parametrize(("found", "spooled", "begin", "look"), LOOKS.values(), ids=LOOKS)
def test_the_look_to_go_on_from(
    found: dict[str, object], spooled: int | None, begin: int | None, look: Checkpoint
) -> None:
    assert checkpoint(found, spooled, SOURCE, begin, NOW) == look


@pytest.mark.parametrize(
    ("id_is", "look", "after"),
    [
        ("message", Checkpoint("", 0, NOW), NOW - 24 * HOUR),
        ("run", Checkpoint("", 0, NOW), NOW - HOUR // 6),
        ("message", Checkpoint("", NOW - HOUR, NOW), NOW - HOUR),
        ("run", Checkpoint("", NOW, NOW), NOW),
    ],
)
def test_looks_overlap_but_not_into_the_past_of_the_site(id_is: IdIs, look: Checkpoint, after: int) -> None:
    assert look.after(id_is) == after


@given(st.lists(st.integers(1, 100 * HOUR), min_size=1, max_size=20), st.sampled_from(["message", "run"]))
def test_no_moment_lies_between_two_looks(steps: list[int], id_is: IdIs) -> None:
    now, seen_until = NOW, NOW
    found: dict[str, object] = {}
    for step in steps:
        look = checkpoint(found, None, SOURCE, None, now)
        assert look.after(id_is) <= seen_until
        assert look.earliest == NOW, "the first start is remembered"
        found = Checkpoint(SOURCE, look.earliest, now).for_storage()
        now, seen_until = now + step, now


def row(**more: Any) -> dict[str, Any]:
    return {
        "uuid": "m-1",
        "contact": {"uuid": "c-1", "name": None},
        "urn": "tel:+254712345678",
        "direction": "in",
        "flow": {"uuid": "flow-1", "name": "relay"},
        "text": "hello",
        "created_on": "2026-11-22T07:37:45.550141Z",
        **more,
    }


AT: Final = 1_795_333_065_550


def test_rows_become_what_the_flow_posts() -> None:
    (message,) = read_inputs([row()], "flow-1")
    assert message == Input("m-1", "c-1", "tel:+254712345678", "hello", AT)
    assert message.posted_as("run-1") == InboundMessage("run-1", "+254712345678", "hello", AT)


@pytest.mark.parametrize(
    "foreign",
    [row(flow={"uuid": "flow-2"}), row(flow=None), row(direction="out"), None, [], {"flow": "flow-1"}],
)
def test_a_row_that_is_no_input_of_the_flow_is_left_out(foreign: object) -> None:
    assert read_inputs([foreign], "flow-1") == []


@pytest.mark.parametrize("broken", [{"uuid": None}, {"contact": None}, {"created_on": "now"}, {"urn": 7}, {"text": []}])
def test_a_row_of_ours_that_is_no_message_makes_the_listing_incomplete(broken: dict[str, Any]) -> None:
    with pytest.raises(TransientError) as raised:
        read_inputs([row(**broken)], "flow-1")
    assert "hello" not in str(raised.value)


@pytest.mark.parametrize(
    ("urn", "text", "sender"),
    [
        ("tel:+254712345678", " \n", "+254712345678"),
        ("tel:20880", "hello", "tel:20880"),  # the flow's expression leaves it like this
        ("tel:+254712345678", "", None),
        ("whatsapp:254712345678", "hello", None),
        (None, "hello", None),
    ],
)
def test_a_message_that_the_webhook_would_refuse_is_not_posted(urn: str | None, text: str, sender: str | None) -> None:
    (message,) = read_inputs([row(urn=urn, text=text)], "flow-1")
    assert message.posted_as("m-1") == (None if sender is None else InboundMessage("m-1", sender, text, AT))


def test_a_text_that_is_null_is_empty() -> None:
    (message,) = read_inputs([row(text=None)], "flow-1")
    assert message.posted_as("m-1") is None
