"""The history that the page shows: what it counts, what it forgets, and that it never grows."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.history import (
    LONGEST_ID,
    MINUTES,
    REMEMBERED,
    Event,
    History,
    MessageEvent,
    MessageRef,
    Waits,
    total,
)

HOUR = 3600.0


def event(at: int = 0, outcome: str = "sent", waited: float | None = None, **about: str) -> Event:
    return Event(at, MessageEvent("outgoing", outcome, MessageRef(**{"doc": "doc", **about}), waited))


def test_a_minute_counts_what_became_of_messages_in_it_and_an_hour_forgets_it() -> None:
    history = History()
    history.note(event(), now=60.0)
    history.note(event(), now=119.9)
    history.note(event(outcome="refused"), now=120.0)
    minutes = history.minutes(now=120.0)
    assert [sum(minute.counts.values()) for minute in minutes[-3:]] == [0, 2, 1]
    assert len(minutes) == MINUTES
    assert total(minutes) == {("outgoing", "sent"): 2, ("outgoing", "refused"): 1}
    assert total(history.minutes(now=60.0 + HOUR)) == {("outgoing", "refused"): 1}
    assert total(history.minutes(now=2 * HOUR + 1e6)) == {}


def test_of_a_figure_the_least_value_of_each_minute_is_kept() -> None:
    history = History()
    for now, value in ((0.0, 30), (10.0, 20), (20.0, 25), (70.0, 40)):
        history.sample("v2", value, now)
    assert [minute.least.get("v2") for minute in history.minutes(now=130.0)[-3:]] == [20, 40, None]


@given(st.lists(st.floats(0, 86_400), min_size=1), st.sampled_from([0.5, 0.99]))
def test_a_quantile_is_true_to_a_twentieth(durations: list[float], share: float) -> None:
    waits = Waits()
    for duration in durations:
        waits.add(duration)
    exact = next(value for value in sorted(durations) if sum(d <= value for d in durations) >= share * len(durations))
    assert waits.quantile(share) == pytest.approx(max(exact, 0.01), rel=0.051)


def test_a_quantile_of_nothing_is_none_and_one_beyond_all_buckets_is_the_last() -> None:
    waits = Waits()
    assert waits.quantile(0.5) is None
    waits.add(1e12)
    assert waits.quantile(0.5) == pytest.approx(86_400, rel=0.1)


def test_a_message_is_found_by_each_of_its_ids_the_newest_first() -> None:
    history = History()
    history.note(event(1, doc="d1", message="m1"), now=0)
    history.note(event(2, doc="d1", message="m1", gateway_ref="7"), now=0)
    history.note(event(3, doc="d2", message="m2"), now=0)
    for text in ("d1", "m1"):
        assert [found.at for found in history.find(text)] == [2, 1]
    assert [found.at for found in history.find("7")] == [2]
    assert history.find("") == history.find("d") == []
    assert [found.at for found in history.recent(2)] == [3, 2]


def test_a_long_id_is_cut_and_still_found() -> None:
    history = History()
    history.note(event(doc="d" * 10_000), now=0)
    assert history.find("d" * 10_000)[0].fact.about.doc == "d" * (LONGEST_ID - 1) + "…"


def test_the_history_stays_under_a_megabyte_with_any_input() -> None:
    tracemalloc.start()
    history = History()
    for number in range(2 * REMEMBERED):
        ids = {name: f"{number:06}{name}" + "€" * 5000 for name in ("doc", "message", "number", "gateway_ref")}
        history.note(event(number, waited=number, **ids), now=number * 7.0)
        for scope in ("v2", "v2.messages", "v2.runs"):
            history.sample(scope, number, now=number * 7.0)
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(history.recent(10_000)) == REMEMBERED
    assert size < 1_000_000
