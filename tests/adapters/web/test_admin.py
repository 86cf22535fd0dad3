"""The admin listener: what it answers, and whom it refuses."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import aiohttp.web
import pytest
from prometheus_client.parser import text_string_to_metric_families

from cht_rapidpro.adapters.web.admin import Admin
from cht_rapidpro.domain.history import MessageRef
from cht_rapidpro.telemetry.metrics import GAUGES, Metrics, Outcome, request_times


@asynccontextmanager
async def listening(
    snapshot: Mapping[str, Any], listen: str = "127.0.0.1:0", metrics: Metrics | None = None
) -> AsyncIterator[str]:
    """The base URL of one that listens."""
    async with Admin(listen, lambda: snapshot, metrics or Metrics()) as admin:
        yield f"http://{admin.address}"


async def get(url: str, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
        return answer.status, await answer.text()


OK: Mapping[str, Any] = {"state": "ok", "stores": True, "paused": None, "figures": {}}


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:8086", "localhost", "LocalHost:1", "[::1]", "[::1]:8086", "127.9.9.9"],
)
async def test_this_machine_is_answered_under_all_its_names(host: str) -> None:
    async with listening(OK) as url:
        assert (await get(f"{url}/status", Host=host))[0] == 200


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/status", "/", "/none"])
@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8086", "127.0.0.1.evil.example", "localhost.evil.example", "10.0.0.1", "[", ""],
)
async def test_a_page_that_let_its_own_name_point_here_reads_nothing(host: str, path: str) -> None:
    async with listening(OK) as url:
        status, text = await get(f"{url}{path}", Host=host)
        assert status == 421
        assert "state" not in text


async def test_the_name_that_the_configuration_gives_is_this_machines() -> None:
    async with listening(OK, "LOCALHOST:0") as url:
        assert (await get(f"{url}/status", Host="localhost:80"))[0] == 200
    async with Admin("0.0.0.0:0", lambda: OK, Metrics()) as admin:
        assert admin.address is not None
        port = admin.address.rpartition(":")[2]
        assert (await get(f"http://127.0.0.1:{port}/status", Host=f"0.0.0.0:{port}"))[0] == 200
        assert (await get(f"http://127.0.0.1:{port}/status", Host="gateway.example"))[0] == 421


@pytest.mark.parametrize(
    ("state", "stores", "expected"),
    [("ok", True, 200), ("degraded", True, 200), ("broken", True, 200), ("broken", False, 503)],
)
async def test_ready_fails_only_while_incoming_messages_could_be_lost(state: str, stores: bool, expected: int) -> None:
    paused = {"since": "2026-11-28T10:00:00.000Z", "until": None} if state == "degraded" else None
    async with listening({"state": state, "stores": stores, "paused": paused, "figures": {}}) as url:
        assert await get(f"{url}/ready") == (expected, json.dumps({"state": state, "paused": paused}))
        assert await get(f"{url}/health") == (200, '{"alive": true}')


async def test_metrics_are_what_prometheus_reads() -> None:
    metrics, times = Metrics(), request_times("couchdb")
    metrics.include(times)
    metrics.count(Outcome.REFUSED, MessageRef("doc"))
    metrics.sent(MessageRef("doc"), due=1_000, now=3_500)
    metrics.sent(MessageRef("doc"), due=0, now=3_500)
    times.observe(0.2)
    figures = {"queue_messages": 3, "queue_oldest_seconds": None, "budget_left_requests": {"v2": 17, "v2.runs": None}}
    async with listening({**OK, "figures": figures}, metrics=metrics) as url:
        status, text = await get(f"{url}/metrics")
    assert status == 200
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    messages, outgoing = "cht_rapidpro_messages_total", ("direction", "outgoing")
    assert samples[messages, outgoing, ("outcome", "refused")] == 1
    assert samples[messages, outgoing, ("outcome", "sent")] == 2
    assert samples[messages, outgoing, ("outcome", "resent")] == 0
    assert samples["cht_rapidpro_pending_to_sent_seconds_sum",] == 2.5
    assert samples["cht_rapidpro_pending_to_sent_seconds_count",] == 1
    assert samples["cht_rapidpro_couchdb_request_seconds_bucket", ("le", "0.25")] == 1
    assert samples["cht_rapidpro_queue_messages",] == 3
    assert samples["cht_rapidpro_budget_left_requests", ("scope", "v2")] == 17
    assert ("cht_rapidpro_budget_left_requests", ("scope", "v2.runs")) not in samples
    assert ("cht_rapidpro_queue_oldest_seconds",) not in samples
    assert samples["process_resident_memory_bytes",] > 1_000_000


def test_every_gauge_is_named_by_what_it_counts_and_says_so() -> None:
    units = {"messages", "documents", "characters", "seconds", "tasks", "requests", "enabled", "up", "state", "paused"}
    assert {name.rpartition("_")[2] for name in GAUGES} <= units
    assert all(help_text.endswith(".") for help_text, _ in GAUGES.values())


async def test_an_address_that_is_taken_or_not_wanted_leaves_the_daemon_running() -> None:
    async with Admin("127.0.0.1:0", lambda: OK, Metrics()) as first:
        assert first.address is not None
        async with Admin(first.address, lambda: OK, Metrics()) as second:
            assert second.address is None
        assert (await get(f"http://{first.address}/health"))[0] == 200
    async with Admin("", lambda: OK, Metrics()) as silent:
        assert silent.address is None


async def test_further_routes_stand_behind_the_same_door() -> None:
    admin = Admin("127.0.0.1:0", lambda: OK, Metrics())
    admin.application.router.add_get("/", _page)
    async with admin:
        assert await get(f"http://{admin.address}/") == (200, "page")
        assert (await get(f"http://{admin.address}/", Host="evil.example"))[0] == 421


async def _page(_request: aiohttp.web.Request) -> aiohttp.web.Response:
    return aiohttp.web.Response(text="page")
