"""What the daemon says about itself, for each thing that can be amiss."""

import pytest

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.config.schema import Cht, Couchdb, Rapidpro
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.domain.pause import Pause
from cht_rapidpro.errors import OperatorActionRequiredError, TransientError
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.jobs.status.status import Status
from cht_rapidpro.telemetry.dependency_health import Health
from cht_rapidpro.telemetry.metrics import GAUGES


@pytest.fixture
def healths() -> dict[str, Health]:
    return {name: Health(name) for name in ("couchdb", "rapidpro")}


@pytest.fixture
def status(healths: dict[str, Health]) -> Status:
    settings = SettingsWatch(Couch(Couchdb()), Cht(), Rapidpro())
    return Status(Instance("0" * 32, "test"), settings, healths.values())


def test_the_status_is_degraded_while_couchdb_is_away_and_broken_while_rapidpro_refuses(
    status: Status, healths: dict[str, Health]
) -> None:
    assert status.snapshot()["state"] == "degraded", "nothing is known yet"
    healths["couchdb"].works()
    assert status.snapshot()["state"] == "ok"
    healths["couchdb"].fails(TransientError("away"))
    assert status.snapshot()["state"] == "degraded"
    healths["couchdb"].works()
    assert status.snapshot()["state"] == "ok"
    healths["rapidpro"].fails(OperatorActionRequiredError("token", about="403"))
    assert status.snapshot()["state"] == "broken"


def test_the_status_is_broken_only_where_an_incoming_message_can_be_stored_nowhere(
    status: Status, healths: dict[str, Health]
) -> None:
    healths["couchdb"].fails(TransientError("away"))
    status.can_store = lambda: False
    snapshot = status.snapshot()
    assert (snapshot["state"], snapshot["stores"]) == ("broken", False)


def test_the_last_error_stays_when_it_is_over_and_shows_no_number(status: Status, healths: dict[str, Health]) -> None:
    healths["couchdb"].fails(TransientError("about +254 712 345 678"))
    healths["couchdb"].works()
    healths["rapidpro"].fails(OperatorActionRequiredError("HTTP 403", about="403"))
    couchdb, rapidpro = status.snapshot()["dependencies"]
    assert (couchdb["condition"], couchdb["last_error"]) == ("works", "about …678")
    assert (rapidpro["condition"], rapidpro["last_error"]) == ("refused", "HTTP 403")
    assert status.read()["dependency_up"] == {"couchdb": 1, "rapidpro": 0}


def test_the_line_for_systemd_says_what_waits_and_what_is_amiss(status: Status, healths: dict[str, Health]) -> None:
    status.figures |= {"queue_messages": lambda: 3, "ambiguous_messages": lambda: 1}
    healths["couchdb"].works()
    assert status.line() == "ok; not sending, 3 waiting, 1 ambiguous"
    healths["rapidpro"].fails(TransientError("away"))
    assert status.line() == "degraded; RapidPro does not answer; not sending, 3 waiting, 1 ambiguous"


def test_every_figure_of_its_own_is_a_gauge(status: Status) -> None:
    assert status.figures.keys() <= GAUGES.keys()


def test_the_line_for_systemd_says_that_sending_is_paused_and_until_when(healths: dict[str, Health]) -> None:
    settings = SettingsWatch(Couch(Couchdb()), Cht(), Rapidpro())
    settings.target = "https://rapidpro.example.org"
    status = Status(Instance("0" * 32, "test"), settings, healths.values())
    for health in healths.values():
        health.works()
    assert status.line() == "ok; sending"
    pause = Pause(0, 1_795_860_000_000)
    status.paused, status.problems = pause.plain, [*status.problems, lambda: [pause.finding()]]
    assert status.line() == "degraded; Sending is paused until 2026-11-28 10:00:00 UTC; paused"


def test_stuck_messages_are_grouped_by_reason_without_numbers(status: Status) -> None:
    status.stuck["failed"] = lambda: [("a", "no +254712345678"), ("b", "no +254712345678"), ("c", "too long")]
    assert [tuple(each.values()) for each in status.snapshot()["stuck"]] == [
        ("failed", "no …678", 2, "b"),
        ("failed", "too long", 1, "c"),
    ]
