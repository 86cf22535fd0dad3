"""`cht-rapidpro messages …` as an operator types it, on a running daemon and on a stopped one."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cht_rapidpro.domain.task import timestamp
from demo.couchdb import CouchDBServer
from demo.database import Database, Doc
from demo.medic import data_record, message, task
from demo.process import COMMAND, Daemon
from demo.rapidpro import Answer, Fault, RapidPro
from tests.conftest import TOKEN
from tests.e2e.test_command import logged
from tests.support.daemon import reaches
from tests.support.fault_proxy import until
from tests.support.virtual_time import wall_clock

Done = tuple[int, str, str]
FAST: dict[str, dict[str, object]] = {
    "rapidpro": {"timeout": "1s"},
    "outgoing": {"settle_time": "4s", "claim_timeout": "10s", "sweep_interval": "2s"},
    "delivery": {"interval": "1s"},
}
OTHER = "f" * 32


async def run(daemon: Daemon, *words: str) -> Done:
    return await asyncio.to_thread(_run, "messages", *words, "--config", str(daemon.config))


def _run(*words: str) -> Done:
    done = subprocess.run([COMMAND, *words], capture_output=True, text=True, timeout=90, check=False)  # noqa: S603
    return done.returncode, done.stdout, done.stderr


async def shown(daemon: Daemon, uuid: str) -> dict[str, Any]:
    code, out, err = await run(daemon, "show", uuid, "--json")
    assert (code, err) == (0, "")
    [told] = json.loads(out)
    assert isinstance(told, dict)
    return told


def uuid_of(record: Doc) -> str:
    return str(record["tasks"][0]["messages"][0]["uuid"])


def record(text: str, state: str = "pending", ago: float = 0.0, **fields: Any) -> Doc:
    """A document with one message, in a state since so many seconds."""
    made = task(message(text), state=state, **fields)
    entry = {"state": state, "timestamp": timestamp(int(wall_clock() - ago * 1000))}
    if "state_details" in fields:
        entry["state_details"] = fields["state_details"]
    made["state_history"] = [entry]
    return data_record(made)


@pytest.fixture
def daemon(tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro) -> Daemon:
    sections = {name: dict(keys) for name, keys in FAST.items()}
    return Daemon(tmp_path, couchdb, medic.name, {"url": rapidpro.url}, TOKEN, sections)


async def test_one_message_from_its_wait_to_the_phone(daemon: Daemon, medic: Database, rapidpro: RapidPro) -> None:
    """Seen with the daemon stopped, and running; each time one sentence says what happens when."""
    made = record("hello you")
    uuid = uuid_of(made)
    await medic.put(made)
    told = await shown(daemon, uuid)
    assert told["why"] == "No daemon is running: it is sent in its turn once it does."
    assert (told["to"], told["text"], told["daemon"]) == (
        made["tasks"][0]["messages"][0]["to"],
        "hello you",
        {"problem": "no daemon is running"},
    )
    try:
        await daemon.start()
        doc = await reaches(medic, made["_id"], "received-by-gateway")
        told = await shown(daemon, made["_id"])
        ref = doc["tasks"][0]["gateway_ref"]
        assert told["why"].startswith(f"It was sent: RapidPro has it as broadcast {ref}, ")
        assert (told["message"], told["rapidpro"]["broadcast"]["id"]) == (uuid, ref)
        assert [entry.get("claimed_by") for entry in told["history"]] == [None, "this gateway", None]
        rapidpro.move(int(ref), "delivered")
        await reaches(medic, made["_id"], "delivered")
        assert (await shown(daemon, uuid))["why"] == "The phone has it."
        code, out, _ = await run(daemon, "show", uuid)
        assert (code, out.splitlines()[0]) == (0, "The phone has it.")
        assert await daemon.stop() == 0
    finally:
        await daemon.kill()
    told = await shown(daemon, uuid)
    assert (told["why"], told["rapidpro"]["messages"][0]["status"]) == ("The phone has it.", "delivered")
    code, out, err = await run(daemon, "show", "no-such")
    assert (code, out, err) == (1, "", "no-such: there is no such message or document\n")


async def test_a_list_is_masked_bounded_and_narrowed_down(daemon: Daemon, medic: Database) -> None:
    records = [record(f"t{number}", due=timestamp(int(wall_clock() - number * 3_600_000))) for number in range(5)]
    failed = record("f", "failed", state_details="Refused")
    await medic.bulk([*records, failed])

    async def listed(*words: str) -> Any:
        code, out, err = await run(daemon, "list", "--json", *words)
        assert (code, err) == (0, "")
        return json.loads(out)

    every = await listed()
    assert [each["message"] for each in every["messages"]] == [uuid_of(each) for each in reversed(records)]
    number = records[0]["tasks"][0]["messages"][0]["to"]
    assert every["messages"][0]["to"] == f"…{number[-3:]}"
    assert number not in json.dumps(every)
    assert [each["message"] for each in (await listed("--older", "150m"))["messages"]] == [
        uuid_of(records[4]),
        uuid_of(records[3]),
    ]
    bounded = await listed("--limit", "2")
    assert (len(bounded["messages"]), bounded["has_more"]) == (2, True)
    assert len((await listed("--number", number))["messages"]) == 5
    assert (await listed("--number", "+254799999999"))["messages"] == []
    assert [each["state"] for each in (await listed("--state", "failed"))["messages"]] == ["failed"]
    assert [each["doc"] for each in (await listed("--doc", failed["_id"]))["messages"]] == [failed["_id"]]
    code, out, _ = await run(daemon, "list", "--state", "failed")
    assert (code, out.splitlines()[-1]) == (0, "1 messages")
    assert (await run(daemon, "list", "--state", "lost"))[0] == 2


REFUSED: dict[str, tuple[list[str], dict[str, Any], str]] = {
    "pending": (["resend"], {"state": "pending"}, "it is pending already"),
    "scheduled": (["resend"], {"state": "scheduled"}, "CHT makes it pending when it is due"),
    "delivered": (["resend"], {"state": "delivered", "gateway_ref": "1"}, "it is delivered: the phone has it"),
    "cleared": (["resend"], {"state": "cleared"}, "it is `cleared`: CHT does not want it sent"),
    "sent by another": (["resend"], {"state": "sent"}, "without a gateway_ref: another gateway has sent it"),
    "missing at RapidPro": (
        ["resend"],
        {"state": "failed", "gateway_ref": "4711"},
        "shows no broadcast 4711, which may be archived or of another workspace",
    ),
    "claimed": (
        ["resend"],
        {"state": "forwarded-to-gateway", "state_details": f"Claimed by cht-rapidpro {OTHER} on other"},
        "it is in a gateway's hands",
    ),
    "failed and cancelled": (["cancel"], {"state": "failed"}, "it has failed: nothing is sent"),
    "accepted and cancelled": (["cancel"], {"state": "sent", "gateway_ref": "1"}, "RapidPro has it already"),
    "claimed and cancelled": (
        ["cancel"],
        {"state": "forwarded-to-gateway", "state_details": f"Claimed by cht-rapidpro {OTHER} on other"},
        "`cht-rapidpro pause` gives unused claims back",
    ),
    "pending and settled": (["settle", "--not-sent"], {"state": "pending"}, "there is nothing to settle"),
    "another daemon's": (
        ["settle", "--not-sent"],
        {"state": "forwarded-to-gateway", "state_details": f"Claimed by cht-rapidpro {OTHER} on other"},
        "another daemon (ffffffff…) claimed it",
    ),
    "no such broadcast": (
        ["settle", "--ref", "4711"],
        {"state": "forwarded-to-gateway", "state_details": f"Claimed by cht-rapidpro {OTHER} on other", "ago": 60.0},
        "shows no broadcast 4711",
    ),
}


@pytest.mark.parametrize(("words", "fields", "why"), REFUSED.values(), ids=REFUSED)
async def test_an_order_that_would_send_twice_is_refused_with_its_reason(
    words: list[str], fields: dict[str, Any], why: str, daemon: Daemon, medic: Database
) -> None:
    made = record("hello", **fields)
    await medic.put(made)
    before = await medic.get(made["_id"])
    code, out, err = await run(daemon, words[0], uuid_of(made), *words[1:])
    assert (code, err) == (1, "")
    assert out.startswith(f"{uuid_of(made)}: refused: ")
    assert why in out
    assert await medic.get(made["_id"]) == before


async def test_a_failed_message_is_sent_again_and_its_old_broadcast_is_not_taken_for_it(
    daemon: Daemon, medic: Database, rapidpro: RapidPro
) -> None:
    """On a stopped daemon; the daemon then meets with an unclear answer and must not adopt the failed broadcast."""
    old = rapidpro.create_broadcast(["tel:+254712345678"], "hello")
    made = record("hello", "failed", gateway_ref=str(old.id))
    made["tasks"][0]["messages"][0]["to"] = "+254712345678"
    uuid = uuid_of(made)
    await medic.put(made)
    code, out, _ = await run(daemon, "resend", uuid)
    assert code == 1
    assert f"RapidPro has it as broadcast {old.id}" in out
    rapidpro.move(old.id, "failed")
    code, out, _ = await run(daemon, "resend", uuid, "--dry-run")
    assert (code, out.startswith(f"{uuid}: would be pending")) == (0, True)
    assert (await medic.get(made["_id"]))["tasks"][0]["state"] == "failed"
    code, out, _ = await run(daemon, "resend", uuid)
    details = f"Sent again by an operator: cht-rapidpro messages resend (broadcast {old.id}: failed)"
    assert (code, out) == (0, f"{uuid}: is pending: {details}\n")
    [resent] = (await medic.get(made["_id"]))["tasks"]
    assert ("gateway_ref" in resent, resent["state_history"][-1]["state_details"]) == (False, details)
    rapidpro.fail(Fault("POST broadcasts", Answer(500, "oops"), after=False))
    try:
        await daemon.start()
        await reaches(medic, made["_id"], "received-by-gateway")
        assert await daemon.stop() == 0
    finally:
        await daemon.kill()
    assert [each.text for each in rapidpro.broadcasts] == ["hello", "hello"]


async def test_an_undecidable_message_is_settled_by_an_operators_order(
    daemon: Daemon, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    """In an anonymous workspace the text alone does not tell; on a running daemon, which lets go of it at once."""
    rapidpro.anonymous = True
    mine = "0123456789abcdef" * 2
    (tmp_path / "instance-id").write_text(mine + "\n")
    details = f"Claimed by cht-rapidpro {mine} on here"
    first, second = (record("often", "forwarded-to-gateway", ago=60.0, state_details=details) for _ in range(2))
    made = [rapidpro.create_broadcast([f"tel:+25471234567{each}"], "often") for each in range(3)]
    await medic.bulk([first, second])
    try:
        await daemon.start()
        await until(lambda: len(logged(daemon, "broadcast.undecidable")) == 2)
        told = await shown(daemon, uuid_of(first))
        assert told["daemon"]["phase"] == "undecidable"
        assert told["why"].startswith("It may have been sent, and RapidPro does not show enough to tell")
        assert len(told["rapidpro"]["may_be_its"]) == 3
        code, out, _ = await run(daemon, "resend", uuid_of(first))
        assert (code, "`messages settle` decides it" in out) == (1, True)
        ref = str(made[1].id)
        code, out, _ = await run(daemon, "settle", uuid_of(first), "--ref", ref)
        assert (code, out.startswith(f"{uuid_of(first)}: is received-by-gateway, broadcast {ref}: ")) == (0, True)
        [settled] = (await medic.get(first["_id"]))["tasks"]
        assert (settled["gateway_ref"], settled["state"]) == (ref, "received-by-gateway")
        code, out, _ = await run(daemon, "settle", uuid_of(second), "--ref", ref)
        assert (code, "is another message's already" in out) == (1, True)
        code, out, _ = await run(daemon, "settle", uuid_of(second), "--not-sent", "--dry-run")
        assert (code, out.startswith(f"{uuid_of(second)}: would be pending")) == (0, True)
        assert (await run(daemon, "settle", uuid_of(second), "--not-sent"))[0] == 0
        await reaches(medic, second["_id"], "received-by-gateway")
        assert await daemon.stop() == 0
    finally:
        await daemon.kill()
    assert len(rapidpro.broadcasts) == 4
    assert len(logged(daemon, "claim.lost")) == 2


async def test_orders_reach_a_running_daemon(daemon: Daemon, medic: Database, rapidpro: RapidPro) -> None:
    """Cancelled in a pause, never sent; a refused one is sent again at once."""
    rapidpro.fail(Fault("POST broadcasts", Answer(400, '{"urns":["bad"]}')))
    refused, cancelled = record("refused"), record("cancelled")
    try:
        await daemon.start()
        await medic.put(refused)
        await reaches(medic, refused["_id"], "failed")
        told = await shown(daemon, uuid_of(refused))
        assert told["why"].startswith("It has failed: bad. Nothing happens by itself")
        assert (await run(daemon, "resend", uuid_of(refused)))[0] == 0
        await reaches(medic, refused["_id"], "received-by-gateway")
        assert (await asyncio.to_thread(_run, "pause", "--config", str(daemon.config)))[0] == 0
        await medic.put(cancelled)

        async def waits() -> bool:
            return bool((await shown(daemon, uuid_of(cancelled)))["daemon"].get("phase") == "waiting")

        await until(waits)
        assert (await shown(daemon, uuid_of(cancelled)))["why"].startswith("Sending is paused until `cht-rapidpro")
        assert (await run(daemon, "cancel", uuid_of(cancelled)))[0] == 0
        assert (await asyncio.to_thread(_run, "resume", "--config", str(daemon.config)))[0] == 0
        other = record("after it")
        await medic.put(other)
        await reaches(medic, other["_id"], "received-by-gateway")
        assert (await medic.get(cancelled["_id"]))["tasks"][0]["state"] == "cleared"
        assert await daemon.stop() == 0
    finally:
        await daemon.kill()
    assert sorted(each.text for each in rapidpro.broadcasts) == ["after it", "refused"]
