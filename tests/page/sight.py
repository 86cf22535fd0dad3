"""Views to draw the page from, in the states that a daemon may be in."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from cht_rapidpro.domain.findings import Dependency, Finding, find, worst
from cht_rapidpro.domain.history import Event, History, MessageEvent, MessageRef
from cht_rapidpro.page.view import View

NOW = 1_700_000_000_000  # 2023-11-14T22:13:20Z
FIGURES = {
    "queue_messages": 3,
    "queue_oldest_seconds": 2.0,
    "claimed_tasks": 1,
    "ambiguous_messages": 0,
    "budget_left_requests": {"v2": 3000, "v2.messages": 3600, "v2.runs": None},
    "sending_enabled": 1,
}
INCOMING: dict[str, Any] = {"incoming_messages": 0, "spooled_messages": {"waiting": 0, "rejected": 0}}


def dependency(name: str, condition: str = "works", error: str | None = None) -> dict[str, Any]:
    return {"name": name, "condition": condition, "for_seconds": 240, "last_error": error}


def view(
    *dependencies: dict[str, Any],
    history: History | None = None,
    stores: bool = True,
    others: Sequence[Finding] = (),
    stuck: Sequence[dict[str, Any]] = (),
    **figures: Any,
) -> View:
    """Healthy but for what is given; `others`: what parts of the daemon report; `stuck`: groups of /status."""
    history = history or History()
    given = list(dependencies or (dependency("couchdb"), dependency("rapidpro")))
    own = [
        Dependency(each["name"], each["condition"], each["for_seconds"], each["last_error"], is_needed=True)
        for each in given
    ]
    findings = find(own, {**FIGURES, **figures}, others, can_store=stores)
    status = {
        "version": "1.0",
        "instance": "0" * 32,
        "name": "test",
        "uptime_seconds": 20,
        "state": worst(findings),
        "stores": stores,
        "findings": [asdict(finding) for finding in findings],
        "sending": "sms.outgoing_service is 'other': another gateway is chosen",
        "figures": {**FIGURES, **figures},
        "dependencies": given,
        "stuck": list(stuck),
    }
    return View(NOW, status, history.minutes(0.0), history.recent(50))


def event(outcome: str = "sent", direction: str = "outgoing", **about: str) -> Event:
    return Event(NOW, MessageEvent(direction, outcome, MessageRef(**{"doc": "doc", **about}), 0.2))
