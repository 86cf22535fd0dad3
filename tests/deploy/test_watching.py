"""The alerts and the dashboard ask for what a running daemon offers, and the alerts fire when they should."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from cht_rapidpro.telemetry.metrics import GAUGES
from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.medic import data_record, message, task
from demo.process import INCOMING_KEY, Daemon
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import reaches
from tests.support.fault_proxy import until
from tests.support.webhook import listening_socket, open_flow, url_of

ROOT: Final = Path(__file__).parents[2]
ALERTS: Final = ROOT / "systemd/alerts.example.yml"
DASHBOARD: Final = ROOT / "deploy/grafana.json"
PROMTOOL: Final = os.environ.get("PROMTOOL") or shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: apt-get install prometheus")
# A metric and its selector, such as cht_rapidpro_state{state="broken"}.
SERIES: Final = re.compile(r"\b((?:cht_rapidpro|process)_\w+)(?:\{(.*?)\})?")


def queries(node: Any) -> Iterator[str]:
    """Every query of the dashboard: of panels, annotations and variables."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key in ("expr", "query") and isinstance(value, str))
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from queries(child)


def unknown(query: str, offered: str) -> list[str]:
    """What a query asks for that the text of /metrics lacks: names, label names, and values compared with `=`."""
    missing = []
    for name, selector in SERIES.findall(query):
        samples = re.findall(rf"^{name}(\{{.*\}})? ", offered, re.MULTILINE)
        if not samples and name.removeprefix("cht_rapidpro_") not in GAUGES:
            missing.append(name)
        for label, how, value in re.findall(r'(\w+)(=~|!~|=)"([^"]*)"', selector):
            asked = f'{label}="{value}"' if how == "=" else f'{label}="'
            if label != "job" and samples and not any(asked in sample for sample in samples):
                missing.append(f"{name}{{{asked}}}")
    return missing


async def test_every_query_is_answered_by_a_running_daemon(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    webhook = listening_socket()
    daemon = Daemon(tmp_path, couchdb, medic.name, {"url": rapidpro.url}, TOKEN, webhook=webhook)
    await daemon.start()
    try:
        async with open_flow(url_of(webhook)) as flow:
            flow.key = INCOMING_KEY
            assert (await flow.post("1")).status == 200
        record = data_record(task(message("hello")))
        await medic.put(record)
        await reaches(medic, record["_id"], "received-by-gateway")
        await until(lambda: any(entry["event"] == "admin.listening" for entry in daemon.events()))
        address = next(entry for entry in daemon.events() if entry["event"] == "admin.listening")["address"]
        async with aiohttp.ClientSession() as session, session.get(f"http://{address}/metrics") as answer:
            offered = await answer.text()
    finally:
        await daemon.kill()
        webhook.close()
    asked = [*queries(json.loads(DASHBOARD.read_text())), *re.findall(r"expr: ([^>\n].*)", ALERTS.read_text())]
    asked += re.findall(r"expr: >-\n((?: {10}.*\n)+)", ALERTS.read_text())
    assert len([query for query in asked if SERIES.search(query)]) > 25
    assert [missing for query in asked for missing in unknown(query, offered)] == []
    assert re.search(
        r'^cht_rapidpro_build_info\{python="3\.\d+\.\d+",version="\d+\.\d+\.\d+"\} 1\.0$', offered, re.MULTILINE
    )


def test_an_unknown_name_label_or_value_is_found() -> None:
    offered = 'cht_rapidpro_state{state="ok"} 1.0\n'
    assert unknown('cht_rapidpro_state{job=~"$job",state="ok"}', offered) == []
    assert unknown("cht_rapidpro_stat", offered) == ["cht_rapidpro_stat"]
    assert unknown('cht_rapidpro_state{state="fine"}', offered) == ['cht_rapidpro_state{state="fine"}']
    assert unknown('cht_rapidpro_state{kind=~"x"}', offered) == ['cht_rapidpro_state{kind="}']


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603
        [str(PROMTOOL), *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@needs_promtool
def test_each_alert_is_silent_without_a_fault_and_fires_for_its_own(tmp_path: Path) -> None:
    case = (Path(__file__).with_name("alerts.test.yml")).read_text()
    assert all(f'alertname="{name}"' in case for name in re.findall(r"- alert: (\w+)", ALERTS.read_text()))
    (tmp_path / "test.yml").write_text(case.replace("[ALERTS]", f"[{ALERTS}]"))
    done = promtool("test", "rules", str(tmp_path / "test.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    found = [query for query in queries(json.loads(DASHBOARD.read_text())) if SERIES.search(query)]
    plain = [query.replace("$__rate_interval", "5m") for query in found if "label_values" not in query]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(plain)]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool("check", "rules", str(tmp_path / "rules.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
