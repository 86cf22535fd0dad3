"""A fault narrows and closes the valve for a while, a definite answer opens it: it never stays closed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.circuit_breaker import AMBIGUOUS_IN_A_ROW, CircuitBreaker
from cht_rapidpro.domain.outgoing import (
    Ambiguous,
    Answer,
    BroadcastId,
    Created,
    NotSent,
    Refused,
    Throttled,
    Trouble,
)

MAX_WIDTH = 6
CREATED = Created(BroadcastId("1"), "queued")
REFUSED, AWAY, LIMIT, TROUBLE, DOUBT = Refused("no"), NotSent("away"), Throttled(9.0), Trouble("403"), Ambiguous("500")
TOO_MANY_DOUBTS = [DOUBT] * AMBIGUOUS_IN_A_ROW


def after(answers: list[Answer]) -> tuple[int, float, bool]:
    """Width, delay and need of a probe when these answers came together."""
    circuit_breaker = CircuitBreaker(MAX_WIDTH)
    for answer in answers:
        circuit_breaker.learn(answer, 100.0)
    return circuit_breaker.max_in_flight, circuit_breaker.delay(100.0), circuit_breaker.needs_probe


def test_the_width_can_be_changed_also_while_it_is_narrowed_by_a_fault() -> None:
    circuit_breaker = CircuitBreaker(MAX_WIDTH)
    circuit_breaker.widen(8)
    assert circuit_breaker.max_in_flight == 8, "nothing has narrowed it"
    circuit_breaker.learn(TROUBLE, 100.0)
    circuit_breaker.widen(4)
    assert circuit_breaker.max_in_flight == 1
    for max_in_flight in (2, 4, 4):
        circuit_breaker.learn(CREATED, 200.0)
        assert circuit_breaker.max_in_flight == max_in_flight
    circuit_breaker.widen(3)
    assert circuit_breaker.max_in_flight == 3
    circuit_breaker.reset()
    assert circuit_breaker.max_in_flight == 3


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([], (6, 0, False)),
        ([CREATED], (6, 0, False)),
        ([REFUSED] * 20, (6, 0, False)),
        ([LIMIT], (1, 0, False)),
        ([LIMIT, CREATED], (2, 0, False)),
        ([LIMIT, CREATED, REFUSED], (4, 0, False)),
        ([LIMIT, CREATED, CREATED, CREATED], (6, 0, False)),
        ([AWAY], (1, 1, False)),
        ([AWAY] * 6, (1, 1, False)),
        ([TROUBLE], (1, 60, True)),
        ([TROUBLE, AWAY, *TOO_MANY_DOUBTS], (1, 60, True)),
        ([AWAY, TROUBLE], (1, 60, True)),
        ([TROUBLE, CREATED], (2, 0, False)),
        (TOO_MANY_DOUBTS[1:], (6, 0, False)),
        (TOO_MANY_DOUBTS, (1, 1, False)),
        ([*TOO_MANY_DOUBTS[1:], CREATED, *TOO_MANY_DOUBTS[1:]], (6, 0, False)),
    ],
)
def test_answers_that_come_together(answers: list[Answer], outcome: tuple[int, float, bool]) -> None:
    assert after(answers) == outcome


@pytest.mark.parametrize("fault", [[AWAY], TOO_MANY_DOUBTS])
def test_pauses_double_up_to_a_minute_and_long_ones_want_a_probe(fault: list[Answer]) -> None:
    circuit_breaker, now, seen = CircuitBreaker(MAX_WIDTH), 0.0, []
    for _ in range(8):
        for answer in fault:
            circuit_breaker.learn(answer, now)
        seen.append((circuit_breaker.delay(now), circuit_breaker.needs_probe))
        now += circuit_breaker.delay(now)
    assert [pause for pause, _ in seen] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [needed for _, needed in seen] == [False] * 3 + [True] * 5
    circuit_breaker.learn(CREATED, now)
    circuit_breaker.learn(AWAY, now)
    assert (circuit_breaker.delay(now), circuit_breaker.needs_probe) == (1, False)


@pytest.mark.parametrize(
    ("answer", "delay", "needs_probe"),
    [(None, 0, False), (LIMIT, 0, True), (AWAY, 1, True), (DOUBT, 1, True), (TROUBLE, 60, True)],
)
def test_the_answer_to_a_probe(answer: Answer | None, delay: float, needs_probe: bool) -> None:
    circuit_breaker = CircuitBreaker(MAX_WIDTH)
    circuit_breaker.learn(TROUBLE, 0.0)
    assert circuit_breaker.delay(60.0) == 0
    circuit_breaker.probed(answer, 60.0)
    assert (circuit_breaker.max_in_flight, circuit_breaker.delay(60.0), circuit_breaker.needs_probe) == (
        1,
        delay,
        needs_probe,
    )


def test_a_new_address_or_token_begins_afresh() -> None:
    circuit_breaker = CircuitBreaker(MAX_WIDTH)
    circuit_breaker.learn(TROUBLE, 0.0)
    circuit_breaker.reset()
    assert (circuit_breaker.max_in_flight, circuit_breaker.delay(0.0), circuit_breaker.needs_probe) == (
        MAX_WIDTH,
        0,
        False,
    )


answers = st.sampled_from([CREATED, REFUSED, AWAY, LIMIT, TROUBLE, DOUBT])
gaps = st.sampled_from([0.0, 0.5, 1.0, 5.0, 61.0])
steps = st.lists(st.tuples(gaps, answers, st.none() | answers), max_size=40)


@given(limit=st.integers(1, 20), taken=steps)
def test_the_circuit_breaker_always_opens_again_within_a_minute(
    limit: int, taken: list[tuple[float, Answer, Answer | None]]
) -> None:
    circuit_breaker, now = CircuitBreaker(limit), 0.0
    for gap, answer, to_probe in taken:
        now += gap
        if circuit_breaker.needs_probe:
            circuit_breaker.probed(to_probe, now)
        else:
            circuit_breaker.learn(answer, now)
        assert 1 <= circuit_breaker.max_in_flight <= limit
        assert circuit_breaker.delay(now + 60.0) == 0
    for _ in range(5):
        circuit_breaker.learn(CREATED, now)
    assert (circuit_breaker.max_in_flight, circuit_breaker.delay(now), circuit_breaker.needs_probe) == (limit, 0, False)
