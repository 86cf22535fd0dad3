"""`cht-rapidpro status` and the pages that it asks, of a daemon to which things happen."""

import asyncio
import json
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.medic import data_record, message, task
from demo.process import COMMAND, Daemon
from demo.rapidpro import Answer, Fault, RapidPro, Reset
from tests.conftest import TOKEN
from tests.support.daemon import reaches
from tests.support.fault_proxy import until
from tests.support.stub_server import HTML, Raw, Reply, always, scripted


class Site:
    """A running daemon, and a configuration file that knows where its admin listener is."""

    def __init__(self, folder: Path, daemon: Daemon) -> None:
        self.config = folder / "status.toml"
        self._daemon = daemon

    async def start(self) -> None:
        await self._daemon.start()
        await until(lambda: any(entry["event"] == "admin.listening" for entry in self._daemon.events()))
        [self.address] = [entry["address"] for entry in self._daemon.events() if entry["event"] == "admin.listening"]
        self.config.write_text(f'[admin]\nlisten = "{self.address}"\n')

    async def status(self, *options: str) -> tuple[int, str, str]:
        return await asyncio.to_thread(_status, self.config, *options)

    async def snapshot(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((await self.status("--json"))[1])
        return found

    async def metrics(self) -> dict[tuple[str, ...], float]:
        """The values of all series, by name and label values."""
        async with aiohttp.ClientSession() as session, session.get(f"http://{self.address}/metrics") as answer:
            families = text_string_to_metric_families(await answer.text())
        return {(sample.name, *sample.labels.values()): sample.value for one in families for sample in one.samples}


def _status(config: Path, *options: str) -> tuple[int, str, str]:
    command = [COMMAND, "status", "--config", str(config), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)  # noqa: S603
    return done.returncode, done.stdout, done.stderr


@asynccontextmanager
async def site(
    folder: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro, /, **sections: dict[str, object]
) -> AsyncIterator[Site]:
    daemon = Daemon(folder / "gateway", couchdb, medic.name, {"url": rapidpro.url}, TOKEN, sections)
    started = Site(folder, daemon)
    try:
        await started.start()
        yield started
    finally:
        await daemon.kill()


async def test_the_outcomes_of_messages_are_counted(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    sent, refused = data_record(task(message("hello"))), data_record(task(message("hello", "phone1")))
    ambiguous = data_record(task(message("doubted", "+254712345679")))
    rapidpro.fail(Fault("POST broadcasts", Reset(), contains="doubted", after=True))
    own: dict[str, dict[str, object]] = {
        "outgoing": {"settle_time": "1s"},
        "rapidpro": {"timeout": "500ms"},
        "delivery": {"interval": "200ms"},
    }
    async with site(tmp_path, couchdb, medic, rapidpro, **own) as here:
        for record, state in ((sent, "received-by-gateway"), (refused, "failed"), (ambiguous, "received-by-gateway")):
            await medic.put(record)
            await reaches(medic, record["_id"], state)
        for record, status in ((sent, "delivered"), (ambiguous, "failed")):
            rapidpro.move(int((await medic.get(record["_id"]))["tasks"][0]["gateway_ref"]), status)
            await reaches(medic, record["_id"], status)

        async def is_told() -> bool:  # a moment after CouchDB knows it
            series = await here.metrics()
            failed = series["cht_rapidpro_messages_total", "outgoing", "failed"]
            return (failed, series["cht_rapidpro_claimed_tasks",]) == (1, 0)

        await until(is_told)
        series = await here.metrics()
        outcomes = {
            labels[1]: value
            for (name, *labels), value in series.items()
            if (name, *labels[:1]) == ("cht_rapidpro_messages_total", "outgoing")
        }
        assert outcomes == {
            "sent": 1,
            "refused": 1,
            "ambiguous": 1,
            "adopted": 1,
            "resent": 0,
            "expired": 0,
            "delivered": 1,
            "failed": 1,
        }
        assert series["cht_rapidpro_pending_to_sent_seconds_count",] == 1
        assert series["cht_rapidpro_rapidpro_request_seconds_count", "v2"] >= 4
        assert series["cht_rapidpro_couchdb_request_seconds_count",] > 5
        assert series["cht_rapidpro_budget_left_requests", "v2"] <= 3600 - 4
        assert series["cht_rapidpro_sending_enabled",] == 1
        for name in ("queue_messages", "claimed_tasks", "ambiguous_messages"):
            assert series[f"cht_rapidpro_{name}",] == 0
        assert not any(re.search(r"\d{9}|[0-9a-f]{8}-", label) for _, *labels in series for label in labels)


async def test_trouble_is_told_with_its_error_until_it_is_over(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(task(message("hello")))
    body = f'{{"detail":"{TOKEN} is no token of +254712345678"}}'
    rapidpro.fail(Fault("any", Answer(403, body, "application/json"), times=None))
    async with site(tmp_path, couchdb, medic, rapidpro) as here:
        await medic.put(record)

        async def refused() -> bool:
            return bool((await here.snapshot())["state"] == "broken")

        await until(refused)
        code, shown, _ = await here.status()
        assert code == 1
        assert re.search(r"^rapidpro +refused, for \d+ s$", shown, re.MULTILINE)
        assert "check the token" in shown
        snapshot = await here.snapshot()
        [rapidpros] = [one for one in snapshot["dependencies"] if one["name"] == "rapidpro"]
        assert rapidpros["condition"] == "refused"
        assert snapshot["figures"]["dependency_up"]["rapidpro"] == 0
        assert TOKEN not in str(snapshot) + shown
        assert "254712345678" not in str(snapshot) + shown
        async with aiohttp.ClientSession() as session, session.get(f"http://{here.address}/ready") as answer:
            assert (answer.status, await answer.json()) == (200, {"state": "broken", "paused": None})


async def test_the_table_says_what_a_person_asks(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    async with site(tmp_path, couchdb, medic, rapidpro, cht={"instance": "north"}) as here:

        async def flows() -> bool:
            found = await here.snapshot()
            return bool(found["figures"]["sending_enabled"]) and found["state"] == "ok"

        await until(flows)
        shown = (await here.status())[1]
    rows = dict(re.findall(r"^(\w[\w. ]*?)  +(.*)$", shown, re.MULTILINE))
    assert rows["state"].startswith("ok, up ")
    assert rows["daemon"].startswith("north (")
    assert rows["sending"] == "sms.outgoing_service is 'cht-rapidpro'"
    assert rows["queue"] == "0 messages"
    assert rows["queue oldest"] == "-"
    assert rows["budget left v2"] == "3599 requests"


async def test_watching_shows_it_again_until_it_is_interrupted(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    async with site(tmp_path, couchdb, medic, rapidpro) as here:
        watching = await asyncio.create_subprocess_exec(
            COMMAND, "status", "--config", str(here.config), "--json", "--watch", stdout=asyncio.subprocess.PIPE
        )
        assert watching.stdout is not None
        seen = [json.loads(await watching.stdout.readline()) for _ in range(2)]
        watching.send_signal(signal.SIGINT)
        assert await watching.wait() == 130
    assert seen[0]["uptime_seconds"] < seen[1]["uptime_seconds"]


@pytest.mark.parametrize(
    ("listen", "code", "says"),
    [
        ("127.0.0.1:1", 1, "no cht-rapidpro answers at 127.0.0.1:1"),
        ("", 78, "switches status off"),
        ("127.0.0.1:0", 78, "found port 0"),
    ],
)
def test_without_a_daemon_it_says_so(listen: str, code: int, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'[admin]\nlisten = "{listen}"\n')
    found = _status(tmp_path / "config.toml")
    assert (found[0], found[1]) == (code, "")
    assert says in found[2]


@pytest.mark.parametrize("answer", [HTML, Reply([1]), Reply({}), Raw(b"nonsense\r\n\r\n"), Raw()])
async def test_status_takes_no_other_server_for_a_daemon(answer: Reply | Raw, tmp_path: Path) -> None:
    async with scripted(always(answer)) as other:
        (tmp_path / "config.toml").write_text(f'[admin]\nlisten = "{other.url.removeprefix("http://")}"\n')
        code, shown, error = await asyncio.to_thread(_status, tmp_path / "config.toml")
    assert (code, shown) == (1, "")
    assert "cht-rapidpro" in error
    assert "Traceback" not in error
