"""Where a site stands on the way to this gateway and back: each step, and which is the next one."""

from dataclasses import replace
from typing import Any

import pytest

from cht_rapidpro.commands.check.finding import Mark, bad
from cht_rapidpro.commands.check.migration import Site, migration
from cht_rapidpro.domain.pause import Pause
from cht_rapidpro.domain.settings import AppSettings, choose
from cht_rapidpro.domain.takeover import Sender

QUIET: dict[str, Any] = {
    "takeover_messages": 0,
    "contested_messages": 0,
    "claimed_tasks": 0,
    "ambiguous_messages": 0,
    "spooled_messages": {"waiting": 0},
}


def site(service: str, *, is_running: bool = True, pause: Pause | None = None, **figures: Any) -> Site:
    settings = AppSettings({"sms": {"outgoing_service": service}}, cht_version="5.2.0")
    told = {"figures": QUIET | figures} if is_running else None
    return Site((), settings, choose(settings, "auto"), told, is_running, pause, Sender(True, 5), True)


def next_step(site: Site, way: str) -> str:
    """The number of the first step that is not done, "" where all are."""
    steps = [finding for finding in migration(site) if finding.about == f"migration.{way}"]
    [*named] = [finding.says for finding in steps if finding.says.endswith("(next)")]
    assert all(finding.remedy for finding in steps if finding.mark is Mark.NOTE)
    return named[0].partition(":")[0] if named else ""


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (replace(site("rapidpro"), findings=[bad("couchdb", "away", "start it")]), "1. check"),
        (site("rapidpro", is_running=False), "2. daemon"),
        (replace(site("rapidpro"), incoming=False), "3. webhook"),
        (site("rapidpro", pause=Pause(0, None)), "4. no pause"),
        (site("rapidpro"), "5. choice"),
        (site("cht-rapidpro", takeover_messages=7), "6. takeover"),
        (replace(site("cht-rapidpro"), sender=None), "6. takeover"),
        (replace(site("cht-rapidpro"), sender=Sender(True, 5, is_open=True)), "6. takeover"),
        (site("cht-rapidpro", contested_messages=2), "7. alone"),
        (site("cht-rapidpro"), ""),
    ],
)
def test_forward(found: Site, expected: str) -> None:
    assert next_step(found, "forward") == expected


DRAINED = Pause(0, None, drains=True)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (site("cht-rapidpro"), "1. drain"),
        (site("cht-rapidpro", pause=Pause(0, None)), "1. drain"),
        (site("cht-rapidpro", pause=DRAINED, ambiguous_messages=1), "1. drain"),
        (site("cht-rapidpro", pause=DRAINED, spooled_messages={"waiting": 3}), "1. drain"),
        (site("cht-rapidpro", pause=DRAINED), "2. choice of none"),
        (site("none", pause=DRAINED), "3. daemon"),
        (site("none", is_running=False, pause=DRAINED), "4. choice of the other"),
        (site("rapidpro", is_running=False, pause=DRAINED), ""),
    ],
)
def test_back(found: Site, expected: str) -> None:
    assert next_step(found, "back") == expected
