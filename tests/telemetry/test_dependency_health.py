"""Whether a dependency works: three failures of one kind or half a minute, each edge told once, kinds apart."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.errors import OperatorActionRequiredError, TransientError
from cht_rapidpro.telemetry.dependency_health import IN_A_ROW, PATIENCE, Condition, Health

AWAY, REFUSED = TransientError("away"), OperatorActionRequiredError("token", about="403")


@dataclass
class Judged:
    now: float = 0.0
    health: Health = field(init=False)

    def __post_init__(self) -> None:
        self.health = Health("rapidpro", lambda: self.now)

    def fails(self, kind: str = "", times: int = 1, *, is_certain: bool = False) -> None:
        for _ in range(times):
            self.health.fails(AWAY, kind, is_certain=is_certain)

    def condition(self) -> Condition:
        return self.health.condition


def edges(logs: list[Any]) -> list[str]:
    return [one["event"].partition(".")[2] for one in logs]


def test_nothing_is_known_before_the_first_answer() -> None:
    judged = Judged()
    assert judged.condition() is Condition.UNKNOWN
    judged.fails()
    assert judged.condition() is Condition.UNKNOWN
    judged.health.works("other")
    assert judged.condition() is Condition.WORKS


def test_a_dependency_is_lost_at_the_third_failure_in_a_row() -> None:
    judged = Judged()
    with capture_logs() as logs:
        for _ in range(5):
            judged.health.works("a")
            judged.fails("a", IN_A_ROW - 1)
            assert judged.condition() is Condition.WORKS
        judged.fails("a", 5)
        assert judged.condition() is Condition.LOST
        judged.health.works("a")
    assert judged.condition() is Condition.WORKS
    assert edges(logs) == ["lost", "recovered"]


def test_a_dependency_is_lost_after_half_a_minute_without_a_success_even_without_a_call() -> None:
    judged = Judged()
    judged.fails("a")
    with capture_logs() as logs:
        judged.now = PATIENCE - 1
        judged.health.tell()
        assert not logs
        judged.now = PATIENCE
        judged.health.tell()
        judged.health.tell()
    assert (judged.condition(), judged.health.since) == (Condition.LOST, 0.0)
    assert edges(logs) == ["lost"]


def test_a_certain_failure_needs_no_second_one() -> None:
    judged = Judged()
    judged.fails("a", is_certain=True)
    assert judged.condition() is Condition.LOST


def test_a_kind_that_fails_is_not_recovered_by_another_one() -> None:
    judged = Judged()
    with capture_logs() as logs:
        for _ in range(20):
            judged.fails("post")
            judged.health.works("get")
        assert judged.condition() is Condition.LOST
        judged.health.works("post")
    assert edges(logs) == ["lost", "recovered"]


def test_a_failure_of_no_kind_is_over_with_a_success_of_any() -> None:
    """Such as a server that takes no connection."""
    judged = Judged()
    judged.fails("", is_certain=True)
    judged.now = 7.0
    with capture_logs() as logs:
        judged.health.works("get")
    assert judged.condition() is Condition.WORKS
    assert [(one["event"], one["seconds"]) for one in logs] == [("dependency.recovered", 7.0)]


@pytest.mark.parametrize(("after", "condition"), [(3600.0, Condition.LOST), (4000.0, Condition.WORKS)])
def test_a_kind_that_nothing_asks_for_any_more_is_forgotten(after: float, condition: Condition) -> None:
    judged = Judged()
    judged.fails("post", IN_A_ROW)
    judged.now = after
    judged.health.works("get")
    assert judged.condition() is condition


def test_a_refusal_outdoes_a_loss_and_each_is_told_once() -> None:
    judged = Judged()
    with capture_logs() as logs:
        judged.fails("get", is_certain=True)
        for _ in range(3):
            judged.health.fails(REFUSED, "post")
        assert (judged.condition(), judged.health.error) == (Condition.REFUSED, REFUSED)
        judged.health.works("post")
        assert judged.condition() is Condition.LOST
        judged.health.works("get")
    assert edges(logs) == ["lost", "refused", "recovered"]


def test_after_a_remedy_nothing_is_known_and_a_refusal_is_told_again() -> None:
    judged = Judged()
    with capture_logs() as logs:
        judged.health.fails(REFUSED)
        judged.health.tell_again()
        assert judged.condition() is Condition.UNKNOWN
        judged.health.fails(REFUSED)
    assert edges(logs) == ["refused", "refused"]


def test_a_listener_hears_of_the_first_failure_of_a_kind() -> None:
    judged, heard = Judged(), []
    judged.health.subscribe(lambda: heard.append(judged.now))
    judged.fails("a", 3)
    judged.fails("b")
    judged.health.works("a")
    judged.fails("a")
    assert len(heard) == 3
