"""The pause of sending as a value: what is written is read again, and what cannot be read holds sending."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.findings import Level, find
from cht_rapidpro.domain.pause import Pause, read, written

NOW = 1_795_860_000_000  # 2026-11-28T10:00:00Z
moments = st.integers(0, 4_000_000_000_000)


@given(since=moments, until=st.none() | moments, drains=st.booleans())
def test_a_written_pause_is_read_again(since: int, until: int | None, drains: bool) -> None:
    pause = Pause(since, until, drains=drains)
    assert read(written(pause)) == pause


@given(st.text())
def test_any_content_of_the_file_is_a_pause(text: str) -> None:
    """Somebody wanted sending to stop, and a file that was cut short must not start it."""
    found = read(text)
    assert not found.is_over(NOW) or found == read(written(found))


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "null", "7", '{"since": "x", "until": null}', '{"since": 0, "until": "soon"}', '{"since": 0'],
)
def test_a_damaged_file_holds_sending_and_says_what_to_do(text: str) -> None:
    found = read(text)
    assert found.problem
    assert not found.is_over(NOW)
    assert found.finding().level is Level.BROKEN
    assert "`cht-rapidpro resume` removes it" in found.finding().advice


@pytest.mark.parametrize(
    ("until", "is_over", "what"),
    [
        (None, False, "Sending is paused until `cht-rapidpro resume`."),
        (NOW + 7_200_000, False, "Sending is paused until 2026-11-28 12:00:00 UTC."),
        (NOW + 1, False, "Sending is paused until 2026-11-28 10:00:00 UTC."),
        (NOW, True, "Sending is paused until 2026-11-28 10:00:00 UTC."),
    ],
)
def test_a_pause_says_its_end(until: int | None, is_over: bool, what: str) -> None:
    pause = Pause(NOW - 60_000, until)
    assert pause.is_over(NOW) is is_over
    assert (pause.finding().what, pause.finding().level) == (what, Level.DEGRADED)
    assert "at 2026-11-28 09:59:00 UTC" in pause.finding().advice


@pytest.mark.parametrize(("is_paused", "told"), [(0, ["Messages wait for a long time."]), (1, [])])
def test_that_messages_wait_long_is_no_news_in_a_pause(is_paused: int, told: list[str]) -> None:
    figures = {"queue_oldest_seconds": 3600.0, "sending_paused": is_paused}
    assert [each.what for each in find([], figures, [], can_store=True)] == told
