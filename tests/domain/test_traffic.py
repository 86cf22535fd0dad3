"""Traffic is what the pages have shown, and for the rest a guess that keeps its order."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.traffic import Traffic

MINUTE: Final = 60_000
DAY: Final = 86_400_000
QUARTER: Final = 15 * MINUTE


def test_traffic_counts_what_it_has_seen_and_takes_the_rest_for_the_same() -> None:
    traffic = Traffic()
    assert traffic.ruler(0, 7 * DAY)(DAY) == 0, "nothing known"
    traffic.learn(0, QUARTER - 1, [1, 2, 3, 4], sent=4)
    traffic.learn(QUARTER, 2 * QUARTER - 1, [QUARTER + 1] * 8, sent=0)
    position = traffic.ruler(0, DAY)
    assert position(QUARTER) == pytest.approx(4)
    assert position(2 * QUARTER) == pytest.approx(12)
    assert position(4 * QUARTER) == pytest.approx(12 + 2 * 6)
    assert position(QUARTER + QUARTER // 2) - position(QUARTER) == pytest.approx(4)


def test_a_burst_makes_nobody_believe_that_it_goes_on() -> None:
    """A page full of one second: all that is known is that the quarter has at least so many rows."""
    traffic = Traffic()
    traffic.learn(1000, 1999, [1500] * 250, sent=0)
    assert traffic.ruler(0, DAY)(QUARTER) == pytest.approx(250)
    traffic.learn(2000, 2999, [2500] * 250, sent=0)
    assert traffic.ruler(0, DAY)(QUARTER) == pytest.approx(500), "looks at other parts add up"


def test_a_longer_look_takes_the_place_of_those_inside_it_and_what_is_over_is_forgotten() -> None:
    traffic = Traffic()
    traffic.learn(10, 20, [15] * 9, sent=0)
    traffic.learn(0, QUARTER - 1, [1] * 90, sent=0)
    traffic.learn(0, MINUTE - 1, [], sent=0)
    assert traffic.ruler(0, QUARTER)(QUARTER) == pytest.approx(90)
    traffic.learn(0, QUARTER - 1, [1] * 100, sent=0)
    assert traffic.ruler(0, QUARTER)(QUARTER) == pytest.approx(100), "the same look, later"
    traffic.forget(QUARTER)
    assert traffic.ruler(0, QUARTER)(QUARTER) == 0


@given(st.lists(st.tuples(st.integers(0, DAY), st.integers(0, DAY), st.integers(0, 250)), max_size=20))
def test_positions_never_decrease(pages_seen: list[tuple[int, int, int]]) -> None:
    traffic = Traffic()
    for a, b, count in pages_seen:
        after, before = sorted((a, b))
        traffic.learn(after, before, [after] * count, sent=0)
    position = traffic.ruler(0, DAY)
    moments = range(-DAY, 2 * DAY, DAY // 50)
    found = [position(moment) for moment in moments]
    assert found == sorted(found)


def test_the_share_of_sent_messages_follows_what_is_seen() -> None:
    traffic = Traffic()
    assert traffic.sent_share == 1
    for _ in range(10):
        traffic.learn(0, DAY, [1] * 250, sent=25)
    assert 0.09 < traffic.sent_share < 0.12
