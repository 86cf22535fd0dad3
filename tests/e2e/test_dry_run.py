"""`cht-rapidpro run --dry-run`: says what it would do, and does none of it."""

import asyncio
from pathlib import Path

from cht_rapidpro.domain.task import timestamp
from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.medic import data_record, message, task
from demo.process import Daemon
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.e2e.test_command import logged
from tests.support.fault_proxy import until
from tests.support.virtual_time import wall_clock

SETTING_UP = {"config.toml", "daemon.log", "couchdb-password", "rapidpro-token", "incoming-key"}
MINE = "0123456789abcdef" * 2


def names_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


async def test_a_dry_run_reads_and_decides_but_posts_and_writes_nothing(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    sent = rapidpro.create_broadcast(["tel:+254712345678"], "sent")
    rapidpro.move(sent.id, "delivered")
    pending = data_record(task(message("pending"), due=timestamp(wall_clock())))
    old = data_record(task(message("old"), due=timestamp(wall_clock() - 7_200_000)))
    details = f"Claimed by cht-rapidpro {MINE} on here"
    claimed_task = task(message("claimed"), state="forwarded-to-gateway", state_details=details)
    entry = {"state": "forwarded-to-gateway", "state_details": details, "timestamp": timestamp(wall_clock() - 60_000)}
    claimed = data_record({**claimed_task, "state_history": [entry]})
    settled = task(message("sent", "+254712345678"), state="received-by-gateway", gateway_ref=str(sent.id))
    entry = {"state": "received-by-gateway", "state_details": "Queued", "timestamp": timestamp(wall_clock())}
    waits = data_record({**settled, "state_details": "Queued", "state_history": [entry]})
    records = [pending, old, claimed, waits]
    await medic.bulk(records)
    before = {each["_id"]: await medic.get(each["_id"]) for each in records}
    (tmp_path / "instance-id").write_text(MINE + "\n")
    sections: dict[str, dict[str, object]] = {
        "outgoing": {"sweep_interval": "1s", "expire_after": "1h"},
        "delivery": {"interval": "1s"},
    }
    daemon = Daemon(tmp_path, couchdb, medic.name, {"url": rapidpro.url}, TOKEN, sections)
    try:
        await daemon.start("--dry-run")
        await until(
            lambda: (
                bool(logged(daemon, "message.would_send"))
                and bool(logged(daemon, "message.would_look_up"))
                and len(logged(daemon, "task.would_change")) == 2
            )
        )
        later = data_record(task(message("later")))
        await medic.put(later)
        await until(lambda: len(logged(daemon, "message.would_send")) == 2)
        assert await daemon.stop() == 0
    finally:
        await daemon.kill()
    assert {each["_id"]: await medic.get(each["_id"]) for each in records} == before
    assert [call for call in rapidpro.calls if call.method != "GET"] == []
    assert [each["doc"] for each in logged(daemon, "message.would_send")] == [pending["_id"], later["_id"]]
    assert [each["doc"] for each in logged(daemon, "message.would_look_up")] == [claimed["_id"]]
    changes = {each["doc"]: each["state"] for each in logged(daemon, "task.would_change")}
    assert changes == {old["_id"]: "failed", waits["_id"]: "delivered"}
    assert len(logged(daemon, "daemon.writes_nothing")) == 1
    assert logged(daemon, "incoming.listening") == []
    assert await asyncio.to_thread(names_in, tmp_path) - SETTING_UP == {"instance-id", "sender.json"}
    assert (tmp_path / "instance-id").read_text() == MINE + "\n"
    assert "+254" not in daemon.log.read_text()
