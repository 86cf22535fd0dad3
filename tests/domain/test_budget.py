"""A window of our own lets a burst through and stops before RapidPro has to; after the delay there is room again."""

from collections import deque
from heapq import heappop, heappush

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.budget import HOUR, Budget, Scope, Sharing

eighths = st.integers(0, 8 * 4000).map(lambda number: number / 8)  # exact as floats, so are their sums


def spend(budget: Budget, now: float, *, counted: bool = True) -> None:
    budget.begin()
    budget.end(now, counted=counted)


class Traffic:
    """Requests that are served some time after their start and answered some time after that."""

    def __init__(self, per_hour: int) -> None:
        self.budget = Budget(per_hour)
        self.now = 0.0
        self.served: list[float] = []
        self._answers: list[float] = []

    def wait(self, seconds: float) -> None:
        self.now += seconds
        while self._answers and self._answers[0] <= self.now:
            self.budget.end(heappop(self._answers), counted=True)

    def wait_for_room(self) -> None:
        while self.budget.left(self.now) == 0:
            self.wait(self.budget.delay(self.now))

    def start(self, way_there: float, way_back: float) -> None:
        self.budget.begin()
        self.served.append(self.now + way_there)
        heappush(self._answers, self.now + way_there + way_back)


def count_as_rapidpro_does(served: list[float]) -> int:
    """The most that stood in RapidPro's window: those served in the hour before a request, with itself."""
    window: deque[float] = deque()
    most = 0
    for moment in sorted(served):
        window.append(moment)
        while window[0] <= moment - HOUR:
            window.popleft()
        most = max(most, len(window))
    return most


latencies = st.sampled_from([0.0, 0.125, 2.0, 30.0])


@given(
    per_hour=st.integers(1, 4),
    requests=st.lists(st.tuples(st.just(0.0) | eighths, latencies, latencies), max_size=20),
)
def test_rapidpro_never_serves_more_than_its_limit(per_hour: int, requests: list[tuple[float, float, float]]) -> None:
    traffic = Traffic(per_hour)
    for gap, way_there, way_back in requests:
        traffic.wait(gap)
        traffic.wait_for_room()
        traffic.start(way_there, way_back)
    assert count_as_rapidpro_does(traffic.served) <= per_hour


@given(per_hour=st.integers(1, 4), gaps=st.lists(eighths, min_size=1, max_size=12), in_flight=st.integers(0, 3))
def test_the_delay_is_exact(per_hour: int, gaps: list[float], in_flight: int) -> None:
    budget, now = Budget(per_hour), 0.0
    for gap in gaps:
        now += gap
        spend(budget, now)
    for _ in range(min(in_flight, per_hour - 1)):
        budget.begin()
    delay = budget.delay(now)
    assert (delay == 0) == (budget.left(now) != 0)
    if delay and budget.open < per_hour:
        assert budget.left(now + delay - 0.125) == 0
        assert budget.left(now + delay) != 0
        assert budget.delay(now + delay) == 0


@pytest.mark.parametrize("spent", [0.125, 0.1, 1000.3])
def test_no_moment_without_both_room_and_delay(spent: float) -> None:
    budget = Budget(1)
    spend(budget, spent)
    assert (budget.delay(spent + HOUR), budget.left(spent + HOUR)) == (0.0, 1)


def test_a_full_burst_passes_at_once_and_no_more() -> None:
    budget = Budget(3)
    lefts = []
    for _ in range(3):
        lefts.append(budget.left(0.0))
        budget.begin()
    assert lefts == [3, 2, 1]
    assert (budget.left(0.0), budget.delay(0.0)) == (0, 1.0)
    for now in (10.0, 20.0, 30.0):
        budget.end(now, counted=True)
    assert (budget.left(30.0), budget.delay(30.0)) == (0, HOUR - 20.0)
    assert [budget.left(moment + HOUR) for moment in (9.0, 10.0, 20.0, 30.0)] == [0, 1, 2, 3]


def test_a_request_that_rapidpro_does_not_count_gives_its_place_back() -> None:
    budget = Budget(1)
    budget.begin()
    assert budget.left(0.0) == 0
    budget.end(0.0, counted=False)
    assert budget.left(0.0) == 1


def test_without_a_limit_only_a_429_stops_us() -> None:
    budget = Budget(None)
    for _ in range(5000):
        spend(budget, 0.0)
    assert (budget.left(0.0), budget.delay(0.0)) == (None, 0.0)
    budget.throttled(0.0, 10.0)
    assert (budget.left(9.5), budget.delay(9.5)) == (0, 0.5)
    assert (budget.left(10.0), budget.delay(10.0)) == (None, 0.0)


@pytest.mark.parametrize("per_hour", [None, 3600])
def test_retry_after_closes_the_scope_for_as_long_as_it_says(per_hour: int | None) -> None:
    budget = Budget(per_hour)
    budget.throttled(100.0, 3598.0)
    budget.throttled(101.0, 5.0)
    assert (budget.left(101.0), budget.delay(101.0)) == (0, 3597.0)
    assert budget.left(3698.0) != 0


@pytest.mark.parametrize("per_hour", [None, 3600])
def test_a_429_without_retry_after_pauses_ever_longer_until_a_success(per_hour: int | None) -> None:
    budget, now, pauses = Budget(per_hour), 0.0, []
    for _ in range(8):
        spend(budget, now, counted=False)
        budget.throttled(now, None)
        pauses.append(budget.delay(now))
        now += pauses[-1]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    spend(budget, now)
    budget.throttled(now, None)
    assert budget.delay(now) == 1


def test_another_limit_is_in_force_at_once_and_what_was_spent_stays_spent() -> None:
    budget = Budget(10)
    for _ in range(8):
        spend(budget, 1.0)
    budget.per_hour = 5
    assert (budget.left(2.0), budget.delay(2.0)) == (0, HOUR - 1.0)
    budget.per_hour = 9
    assert (budget.left(2.0), budget.delay(2.0)) == (1, 0.0)
    budget.per_hour = None
    assert budget.left(2.0) is None


def sharing(per_hour: int | None) -> tuple[Sharing, dict[Scope, Budget]]:
    budgets = {scope: Budget(per_hour) for scope in Scope}
    return Sharing(budgets), budgets


def test_polling_has_a_scope_of_its_own_until_a_429_says_otherwise() -> None:
    shared, budgets = sharing(100)
    for _ in range(90):
        spend(budgets[Scope.GENERAL], 0)
    assert shared.spare(Scope.MESSAGES, 0, waiting=50) == 100
    shared.throttled(Scope.GENERAL, 1)  # ten before our own limit: somebody else's requests count, too
    assert shared.spare(Scope.MESSAGES, 1, waiting=0) == 0
    assert shared.spare(Scope.MESSAGES, HOUR, waiting=0) == 75
    assert shared.spare(Scope.MESSAGES, HOUR, waiting=70) == 5
    assert shared.spare(Scope.MESSAGES, HOUR, waiting=80) == 0
    assert shared.spare(Scope.MESSAGES, 1 + 24 * HOUR, waiting=80) == 100, "a day without another one"


def test_a_429_that_our_own_count_explains_teaches_nothing() -> None:
    shared, budgets = sharing(100)
    for _ in range(99):
        spend(budgets[Scope.MESSAGES], 0)
    shared.throttled(Scope.MESSAGES, 1)
    assert shared.spare(Scope.MESSAGES, HOUR, waiting=1000) == 100


def test_questions_in_the_scope_of_the_sends_leave_what_sending_needs() -> None:
    shared, budgets = sharing(100)
    assert shared.spare(Scope.GENERAL, 0, waiting=0) == 75
    for _ in range(60):
        spend(budgets[Scope.GENERAL], 0)
    assert shared.spare(Scope.GENERAL, 0, waiting=10) == 5
    assert shared.spare(Scope.GENERAL, 0, waiting=20) == 0


def test_while_sending_is_throttled_nothing_is_asked_where_it_counts() -> None:
    shared, budgets = sharing(100)
    budgets[Scope.GENERAL].throttled(0, 60)
    assert shared.spare(Scope.MESSAGES, 0, waiting=0) == 100
    shared.throttled(Scope.GENERAL, 0)
    assert shared.spare(Scope.MESSAGES, 0, waiting=0) == 0
    assert shared.spare(Scope.MESSAGES, 61, waiting=0) == 75


def test_without_a_limit_of_our_own_polling_waits_for_what_is_to_be_sent() -> None:
    shared, budgets = sharing(None)
    assert shared.spare(Scope.MESSAGES, 0, waiting=5) is None
    shared.throttled(Scope.MESSAGES, 0)
    assert shared.spare(Scope.MESSAGES, 0, waiting=5) == 0
    assert shared.spare(Scope.MESSAGES, 0, waiting=0) is None
    budgets[Scope.MESSAGES].throttled(0, 60)
    assert shared.spare(Scope.MESSAGES, 0, waiting=0) == 0


def test_a_429_that_comes_before_our_limit_shows_rapidpros_and_is_kept_to_for_a_day() -> None:
    budget = Budget(10)
    for _ in range(6):
        spend(budget, 0.0)
    budget.begin()
    budget.end(0.0, counted=False)
    budget.throttled(0.0, 3600.0)
    assert (budget.learned, budget.per_hour, budget.left(HOUR)) == (6, 6, 6)
    assert (budget.left(24 * HOUR), budget.learned) == (10, None)


@pytest.mark.parametrize(("spent", "per_hour"), [(4, 10), (10, 10), (0, 1), (5, None)])
def test_a_429_that_others_have_caused_or_that_was_expected_teaches_no_limit(spent: int, per_hour: int | None) -> None:
    budget = Budget(per_hour)
    for _ in range(spent):
        spend(budget, 0.0)
    budget.throttled(0.0, 60.0)
    assert budget.learned is None


def test_after_a_429_without_a_time_one_request_at_a_time_finds_out() -> None:
    budget = Budget(100)
    for _ in range(4):
        budget.begin()
    for _ in range(4):
        budget.end(0.0, counted=False)
        budget.throttled(0.0, None)
    assert (budget.left(0.5), budget.delay(0.5)) == (0, 0.5)
    assert budget.left(1.0) == 1
    budget.begin()
    assert (budget.left(1.0), budget.delay(1.0)) == (0, 1.0)
    budget.end(1.0, counted=False)
    budget.throttled(1.0, None)
    assert (budget.left(2.9), budget.left(3.0)) == (0, 1)
    spend(budget, 3.0)
    assert budget.left(3.0) == 99
