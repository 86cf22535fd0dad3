"""What is drawn, and what is not there to be drawn."""

import re
from typing import Any

import pytest

from cht_rapidpro.domain.history import REMEMBERED, History
from cht_rapidpro.page.charts import charts
from cht_rapidpro.page.document import document
from cht_rapidpro.page.flow import flow
from cht_rapidpro.page.parts import dependencies, events, parts, stuck
from tests.page.sight import INCOMING, dependency, event, view


def texts(drawing: str) -> list[str]:
    return re.findall(r">([^<]+)<", drawing)


def told(outcomes: dict[tuple[str, str], int]) -> History:
    history = History()
    for (direction, outcome), count in outcomes.items():
        for _ in range(count):
            history.note(event(outcome, direction), now=0.0)
    return history


def test_the_way_out_is_drawn_from_couchdb_to_what_was_sent() -> None:
    drawn = flow(view(history=told({("outgoing", "sent"): 2, ("outgoing", "adopted"): 1, ("outgoing", "refused"): 1})))
    spoken = "Outgoing: CouchDB works, then waiting 3 (oldest 2 s), then claimed 1, then RapidPro works,"
    assert f"{spoken} then sent / refused 3 / 1 (last hour)." in drawn
    assert "Incoming" not in drawn
    assert "delivered" not in drawn


def test_the_way_in_and_the_delivery_are_drawn_where_the_daemon_has_them() -> None:
    history = told({("incoming", "stored"): 2, ("incoming", "spooled"): 3, ("outgoing", "delivered"): 4})
    figures: dict[str, Any] = {
        "incoming_messages": 1,
        "spooled_messages": {"waiting": 3, "rejected": 1},
        "outstanding_messages": 7,
    }
    drawn = flow(view(history=history, **figures))
    assert "then on their way 7 (asked about), then delivered / failed 4 / 0 (last hour)." in drawn
    assert "RapidPro works, then received 5 (last hour; 1 waiting), then spooled 3 (1 rejected)," in drawn


@pytest.mark.parametrize(("condition", "word"), [("lost", "no answer"), ("refused", "refuses access")])
def test_the_worst_scope_of_rapidpro_is_rapidpros_state(condition: str, word: str) -> None:
    rapidpro = [dependency("rapidpro"), dependency("rapidpro runs.json", condition)]
    assert f"RapidPro {word}" in flow(view(dependency("couchdb"), *rapidpro))


def test_each_dependency_has_its_state_since_when_and_its_last_error() -> None:
    shown = texts(dependencies(view(dependency("couchdb"), dependency("rapidpro messages.json", "lost", "reset"))))
    assert shown[4:] == [
        *("CouchDB", "works", "22:09:20, for 4 min 0 s", "no error so far"),
        *("RapidPro messages.json", "does not answer", "22:09:20, for 4 min 0 s", "reset"),
    ]


def test_an_event_is_shown_with_what_is_known_of_it() -> None:
    shown = texts(events([event("ambiguous", message="m<1", number="…678", gateway_ref="9")], ""))
    assert shown[5:] == [
        "22:13:20",
        "→ out",
        "…678",
        "ambiguous",
        "gateway_ref ",
        "9",
        "message ",
        "m&lt;1",
        "doc ",
        "doc",
    ]
    assert texts(events([event("of tomorrow", "sideways")], ""))[6:9] == ["sideways", "–", "of tomorrow"]
    assert texts(events([], "Nothing.")) == ["Nothing."]


def test_the_charts_say_their_last_values_as_text() -> None:
    history = told({("outgoing", "sent"): 1200, ("incoming", "stored"): 5})
    history.sample("v2", 2500, now=0.0)
    shown = " ".join(texts(charts(view(history=history, **INCOMING))))
    assert " out  1,200  in  5 " in shown
    assert "p50  0.2 s  p99  0.2 s" in shown
    assert "general  3,000  messages  3,600  runs  no limit" in shown
    assert "Nothing yet." in charts(view())


def test_a_line_has_a_gap_where_nothing_is_known() -> None:
    history = History()
    for minute, value in ((0, 10), (1, 10), (2, 5), (4, 8)):
        history.sample("v2", value, now=60.0 * minute)
    sight = view()
    line = charts(type(sight)(sight.now, sight.status, history.minutes(60.0 * 59), []))
    assert 'd="M0 18.0H5H11V60.0H16M21 34.8H27"' in line


def test_stuck_messages_are_drawn_by_reason_without_a_link() -> None:
    assert texts(stuck(view())) == ["No message is held back, undecidable or failed."]
    groups = [
        {"what": "failed", "reason": "RapidPro refuses it: <b>", "documents": 1200, "example": "doc-1"},
        {"what": "undecidable", "reason": "RapidPro hides its numbers", "documents": 2, "example": "doc-2"},
    ]
    drawn = stuck(view(stuck=groups))
    assert texts(drawn)[4:] == [
        *("failed", "1,200", "RapidPro refuses it: &lt;b&gt;", "doc-1"),
        *("undecidable", "2", "RapidPro hides its numbers", "doc-2"),
    ]
    assert "<a" not in drawn
    assert stuck(view(stuck=groups)) in document(view(stuck=groups), parts(view(stuck=groups)))


def test_the_page_with_its_files_is_small_even_when_it_is_full() -> None:
    history = History()
    for number in range(REMEMBERED):
        ids = dict.fromkeys(("doc", "message", "gateway_ref"), f"{number:08}-" + "x" * 100)
        history.note(event(number="…678", **ids), now=number * 4.0)
        history.sample("v2", number, now=number * 4.0)
    sight = view(dependency("couchdb", "lost", "e" * 300), dependency("rapidpro", "refused", "e" * 300), **INCOMING)
    full = type(sight)(sight.now, sight.status, history.minutes(4000.0), history.recent(50))
    assert len(document(full, parts(full), "x" * 200, history.recent(10)).encode()) < 40_000
