"""The one sentence: how things are, or what is wrong, since when, and what to do."""

from typing import Any

import pytest

from cht_rapidpro.domain.findings import Finding, Level
from cht_rapidpro.page.headline import findings, headline, spoken
from tests.page.sight import INCOMING, dependency, view

LOST = dependency("rapidpro", "lost", "Cannot connect")
REFUSED = dependency("couchdb", "refused", "HTTP 401, check [couchdb] user and password")


def test_a_view_without_a_fault_is_ok() -> None:
    (finding,) = findings(view())
    assert (finding.level, finding.what, finding.more) == (Level.OK, "All flows.", "3 messages waiting, oldest 2 s.")
    assert spoken(view()) == "OK: All flows."
    (finding,) = findings(view(queue_messages=0, queue_oldest_seconds=None, ambiguous_messages=1))
    assert finding.more == "0 messages waiting. 1 ambiguous message to be looked up."


@pytest.mark.parametrize(
    ("amiss", "level", "what", "advice"),
    [
        ({}, Level.DEGRADED, "RapidPro does not answer", "Cannot connect"),
        ({"others": [Finding(Level.BROKEN, "Deaf.", advice="Listen.")]}, Level.BROKEN, "Deaf.", "Listen."),
        ({"budget_left_requests": {"v2": 0}}, Level.DEGRADED, "RapidPro's request limit is reached.", "(v2)"),
        ({"queue_oldest_seconds": 3 * 3600}, Level.DEGRADED, "Messages wait for a long time.", "the log"),
        ({"stores": False}, Level.BROKEN, "Incoming messages are refused.", "Make room"),
        (
            {"spooled_messages": {"rejected": 2}},
            Level.BROKEN,
            "CouchDB does not take 2 incoming messages.",
            "spool list",
        ),
    ],
)
def test_a_finding_says_the_fault_and_its_remedy(amiss: dict[str, Any], level: Level, what: str, advice: str) -> None:
    (finding,) = findings(view(**amiss) if amiss else view(LOST))
    assert (finding.level, finding.what) == (level, what)
    assert advice in finding.advice


def test_since_when_is_said_on_the_clock_and_as_a_span() -> None:
    assert "RapidPro does not answer since 22:09:20 UTC, for 4 min 0 s." in headline(view(LOST))


def test_the_worst_is_the_headline_and_the_others_are_below_it() -> None:
    shown = headline(view(LOST, REFUSED, **INCOMING))
    assert "Broken" in shown
    assert (
        shown.index("CouchDB refuses access since")
        < shown.index("</h1>")
        < shown.index("RapidPro does not answer since")
    )
    assert "check [couchdb] user and password" in shown
    assert "3 messages waiting" in shown


def test_a_command_in_a_finding_is_code_and_read_aloud_plainly() -> None:
    amiss = view(others=[Finding(Level.BROKEN, "Wrong `from`.", advice="Type `cht-rapidpro <x>`.")])
    shown = headline(amiss)
    assert "Wrong <code>from</code>." in shown
    assert "Type <code>cht-rapidpro &lt;x&gt;</code>." in shown
    assert "`" not in shown + spoken(amiss)


def test_a_dependency_that_has_not_answered_yet_is_a_finding() -> None:
    [finding] = findings(view(dependency("couchdb", "unknown", None)))
    assert (finding.level, finding.what) == (Level.DEGRADED, "CouchDB has not answered yet")
