"""`check` against a healthy installation, and against one broken thing at a time: the finding that names it."""

import asyncio
import json
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cht_rapidpro.adapters.host.state_dir import state_directory
from cht_rapidpro.commands.check.host import check_disk
from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.medic import data_record, message, task
from demo.process import COMMAND, Daemon
from demo.rapidpro import Answer, Fault, RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import reaches
from tests.support.fault_proxy import until
from tests.support.stub_server import HTML, RESET, Raw, Reply, Request, scripted

SECRET = "correct horse"


@dataclass
class Site:
    """An installation as its `config.toml` describes it; a case breaks one thing of it before the check."""

    folder: Path
    couchdb: CouchDBServer
    medic: Database
    rapidpro: RapidPro
    sections: dict[str, dict[str, object]]

    async def change_settings(self, **values: object) -> None:
        await self.medic.edit("settings", lambda doc: {**doc, "settings": {**doc["settings"], **values}})

    def write(self) -> Path:
        return self.daemon().config

    def daemon(self) -> Daemon:
        rapidpro = {"url": self.rapidpro.url}
        return Daemon(self.folder, self.couchdb, self.medic.name, rapidpro, TOKEN, self.sections)


@pytest.fixture
async def site(tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro) -> Site:
    return Site(tmp_path / "site", couchdb, medic, rapidpro, {"incoming": {"flow": rapidpro.flow_uuid("Relay")}})


async def run(path: Path, *options: str) -> tuple[int, str]:
    command = [COMMAND, "check", "--config", str(path), *options]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


async def findings(path: Path) -> list[dict[str, Any]]:
    _, printed = await run(path, "--json")
    found: list[dict[str, Any]] = json.loads(printed)
    return found


async def test_a_healthy_site_has_no_finding(site: Site) -> None:
    code, printed = await run(site.write())
    lines = printed.splitlines()
    assert (code, lines[-1][:12]) == (0, "0 to fix, 0 "), printed
    assert {line[0] for line in lines[:-1]} == {"✓"}
    for about in (
        "couchdb.rights",
        "cht.outgoing_service",
        "rapidpro.token",
        "rapidpro.clock",
        "host.state_dir",
        "cht.forms",
        "incoming.key",
        "incoming.listen",
        "incoming.spool",
        "incoming.flow",
        "incoming.numbers",
        "rapidpro.requests_left",
    ):
        assert f"✓ {about}: " in printed


async def test_offline_connects_to_nothing(site: Site) -> None:
    path = site.write()
    before = len(site.rapidpro.calls)
    code, printed = await run(path, "--offline")
    assert code == 0
    assert "couchdb." not in printed
    assert len(site.rapidpro.calls) == before


async def test_a_file_that_cannot_be_used_is_exit_78(site: Site) -> None:
    path = site.write()
    path.write_text(path.read_text() + "\n[rapidprro]\n")
    code, printed = await run(path)
    assert code == 78
    assert 'did you mean "rapidpro"' in printed


Break = Callable[[Site], Awaitable[None] | None]


def keys(section: str, **values: object) -> Break:
    def change(site: Site) -> None:
        site.sections.setdefault(section, {}).update(values)

    return change


def app_settings(**values: object) -> Break:
    return lambda site: site.change_settings(**values)


def answers(answer: Answer) -> Break:
    return lambda site: site.rapidpro.fail(Fault("any", answer, times=None))


async def _no_settings(site: Site) -> None:
    await site.medic.delete("settings")


async def _no_object(site: Site) -> None:
    await site.medic.edit("settings", lambda doc: {**doc, "settings": [1]})


async def _no_view(site: Site) -> None:
    await site.medic.delete("_design/medic-sms")


async def _wrong_password(site: Site) -> None:
    site.write()
    (site.folder / "wrong").write_text(SECRET)
    site.sections["couchdb"] = {"password_file": "wrong"}


async def _readable(site: Site) -> None:
    site.write()
    (site.folder / "open").write_text(TOKEN)
    (site.folder / "open").chmod(0o644)
    site.sections["rapidpro"] = {"token_file": "open"}


def _suspicious_token(site: Site) -> None:
    site.rapidpro.tokens = {"another"}


def _powerless(site: Site) -> None:
    site.rapidpro.tokens = set()
    site.rapidpro.powerless_tokens = {TOKEN}


def _country(site: Site) -> None:
    site.rapidpro.country = "UG"


def _anonymous(site: Site) -> None:
    site.rapidpro.anonymous = True


def _late(site: Site) -> None:
    site.rapidpro.clock = lambda: 1_700_000_000.0


def _taken(site: Site) -> None:
    site.sections["admin"] = {"listen": site.rapidpro.url.removeprefix("http://")}


def _webhook_taken(site: Site) -> None:
    site.sections["incoming"]["listen"] = site.rapidpro.url.removeprefix("http://")


def _no_folder(site: Site) -> None:
    site.sections["cht"] = {"state_dir": "there"}


def _deep(site: Site) -> None:
    site.sections["cht"] = {"state_dir": "not/there"}


def _old_rapidpro(site: Site) -> None:
    site.rapidpro.community = True
    site.rapidpro.receive("tel:+254712345678", "hello", flow="Relay")
    keys("incoming", id_is="message")(site)


def _no_id(site: Site) -> None:
    site.write()
    (site.folder / "instance-id").touch()


def _no_spool(site: Site) -> None:
    site.write()
    (site.folder / "spool.sqlite3").write_text("this is no database" * 100)


def _guessed(site: Site) -> None:
    site.write()
    (site.folder / "short").write_text("secret")
    (site.folder / "short").chmod(0o600)
    site.sections["incoming"]["key_file"] = "short"


BROKEN: dict[str, tuple[Break, str, str, str]] = {
    "couchdb away": (keys("couchdb", url="http://127.0.0.1:1"), "bad", "couchdb.reachable", "does not answer"),
    "wrong password": (_wrong_password, "bad", "couchdb.credentials", "refuses the user"),
    "no such database": (keys("couchdb", database="medik"), "bad", "couchdb.database", "there is no database"),
    "views missing": (_no_view, "bad", "couchdb.views", "medic-sms/messages_by_gateway_ref is missing"),
    "no settings": (_no_settings, "bad", "cht.settings", "does not exist"),
    "settings without object": (_no_object, "bad", "cht.settings", "has no object"),
    "a phone is chosen": (app_settings(sms={}), "note", "cht.outgoing_service", "nothing is sent"),
    "two gateways": (
        app_settings(sms={"outgoing_service": "rapidpro"}),
        "bad",
        "cht.outgoing_service",
        "two gateways would send every message twice",
    ),
    "another name": (
        keys("cht", outgoing_service="ours"),
        "note",
        "cht.outgoing_service",
        "configured is 'ours'",
    ),
    "another address in CHT": (
        app_settings(sms={"outgoing_service": "cht-rapidpro", "rapidpro": {"url": "https://rapidpro.example.org"}}),
        "note",
        "cht.rapidpro_url",
        "is another one",
    ),
    "no address": (keys("rapidpro", url=""), "bad", "cht.rapidpro_url", "[rapidpro] url is empty"),
    "no country": (app_settings(default_country_code=None), "note", "cht.default_country_code", "numbers without +"),
    "every message resolved": (
        app_settings(transitions={"resolve_pending": True}),
        "bad",
        "cht.resolve_pending",
        "marks every pending message as sent",
    ),
    "RapidPro away": (keys("rapidpro", url="http://127.0.0.1:1"), "bad", "rapidpro.reachable", "does not answer"),
    "RapidPro without TLS": (
        keys("rapidpro", url="https://127.0.0.1:1"),
        "bad",
        "rapidpro.reachable",
        "does not answer",
    ),
    "a token of nobody": (_suspicious_token, "bad", "rapidpro.token", "Invalid token"),
    "a token that may nothing": (_powerless, "bad", "rapidpro.token", "permission"),
    "moved": (
        answers(Answer(301, "", headers={"Location": "https://example.org/"})),
        "bad",
        "rapidpro.reachable",
        "redirects",
    ),
    "a proxy's page": (answers(Answer(200, "<html></html>", "text/html")), "bad", "rapidpro.reachable", "HTTP 200"),
    "throttled": (answers(Answer(429, "{}")), "note", "rapidpro.token", "throttling"),
    "another country": (_country, "bad", "rapidpro.country", "of UG"),
    "anonymous": (_anonymous, "note", "rapidpro.anonymous", "hides phone numbers"),
    "a clock of last year": (_late, "bad", "rapidpro.clock", "differ by"),
    "a secret for everyone": (_readable, "bad", "config.permissions", "every user of this machine"),
    "a secret in the file": (keys("rapidpro", token=TOKEN), "note", "config.file", "is in the file itself"),
    "an address that somebody has": (_taken, "bad", "admin.listen", "cannot listen at"),
    "an admin listener for everyone": (keys("admin", listen="[::]:0"), "note", "config.file", "asks for no password"),
    "webhooks switched off": (
        keys("incoming", enabled=False),
        "note",
        "incoming.enabled",
        "the webhook is switched off",
    ),
    "no key for webhooks": (keys("incoming", key_file=""), "bad", "incoming.key", "answered 403"),
    "an address that is taken": (_webhook_taken, "bad", "incoming.listen", "cannot listen at"),
    "no folder for the spool": (
        keys("incoming", spool="far/away.sqlite3"),
        "note",
        "incoming.spool",
        "does not exist yet",
    ),
    "no flow": (keys("incoming", flow=""), "note", "incoming.flow", "RapidPro tries once"),
    "a flow of another workspace": (
        keys("incoming", flow="0192aaaa-0000-7000-8000-000000000009"),
        "bad",
        "incoming.flow",
        "RapidPro has no flow",
    ),
    "a RapidPro that shows no message ids": (
        _old_rapidpro,
        "bad",
        "incoming.flow",
        "does not show what input.uuid is",
    ),
    "a form without labels": (
        app_settings(forms={"F": {"meta": {"code": "F"}, "fields": {"a": {}}}}),
        "note",
        "cht.forms",
        "field 'a' has no labels",
    ),
    "no state directory": (_no_folder, "note", "host.state_dir", "does not exist yet"),
    "a state directory two levels deep": (_deep, "bad", "host.state_dir", "one folder at most"),
    "an empty instance id": (_no_id, "bad", "host.state_dir", "does not hold an instance id"),
    "a spool that is no database": (_no_spool, "bad", "incoming.spool", "spool.sqlite3"),
    "a key that can be guessed": (_guessed, "note", "incoming.key", "fewer than 20 characters"),
}


@pytest.mark.parametrize(("breaks", "mark", "about", "says"), BROKEN.values(), ids=BROKEN)
async def test_a_broken_thing_has_its_finding(breaks: Break, mark: str, about: str, says: str, site: Site) -> None:
    done = breaks(site)
    if done is not None:
        await done
    path = site.write()
    found = [one for one in await findings(path) if one["mark"] != "good"]
    named = [one for one in found if one["about"] == about and says in one["says"]]
    assert named, found
    assert named[0]["mark"] == mark
    assert named[0]["remedy"] or mark == "note"
    assert SECRET not in str(found)
    assert TOKEN not in str(found)


async def test_a_configuration_that_others_can_write_is_named(site: Site) -> None:
    """They could lead the password and the token elsewhere."""
    path = site.write()
    path.chmod(0o620)
    found = [one for one in await findings(path) if one["mark"] == "bad"]
    assert [(one["about"], one["remedy"]) for one in found] == [("config.permissions", f"chmod go-w {path}")]


async def test_a_running_daemon_is_no_finding_and_is_asked(site: Site) -> None:
    daemon = site.daemon()
    await daemon.start()
    try:
        await until(lambda: any(entry["event"] == "sending.enabled" for entry in daemon.events()))
        (address,) = [entry["address"] for entry in daemon.events() if entry["event"] == "admin.listening"]
        site.sections["admin"] = {"listen": address}
        found = await findings(site.write())
    finally:
        await daemon.stop()
    assert {one["mark"] for one in found} == {"good"}
    says = {one["about"]: one["says"] for one in found}
    assert says["host.state_dir"] == f"a daemon is running on {site.folder}"
    assert "by the running daemon's count" in says["rapidpro.requests_left"]
    assert "v2.messages: 3600" in says["rapidpro.requests_left"]
    assert not {"admin.listen", "incoming.listen"} & says.keys(), "it has them itself"


async def test_the_daemon_and_the_view_tell_what_is_never_sent(site: Site) -> None:
    """The limit of texts is known once a refusal told it; a document that takes no claim only to the daemon."""
    limit = '{"text": ["Ensure this field has no more than 640 characters."]}'
    site.rapidpro.fail(Fault("POST broadcasts", Answer(400, limit, "application/json"), contains="too long"))
    failing = data_record(task(message("too long" * 100)))
    bad = data_record(task({**message("never"), "to": True}))
    await site.medic.bulk([failing, bad])
    daemon = site.daemon()
    await daemon.start()
    try:
        failed = await reaches(site.medic, failing["_id"], "failed")
        (address,) = [entry["address"] for entry in daemon.events() if entry["event"] == "admin.listening"]
        site.sections["admin"] = {"listen": address}
        found = await findings(site.write())
    finally:
        await daemon.stop()
    assert failed["tasks"][0]["state_details"] == "Text too long: 800 characters, RapidPro takes 640"
    says = {one["about"]: one["says"] for one in found if one["mark"] != "good"}
    assert set(says) == {"couchdb.messages", "rapidpro.text_limit"}
    assert "1 of the 1 oldest messages to send have no usable number" in says["couchdb.messages"]
    assert bad["_id"] in says["couchdb.messages"]
    assert "at most 640 characters" in says["rapidpro.text_limit"]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [("to", "", "number"), ("uuid", "", "uuid"), ("message", None, "text"), ("to", {"a": 1}, "number")],
)
async def test_a_message_that_is_never_sent_is_found_without_a_daemon(
    field: str, value: object, says: str, site: Site
) -> None:
    """Also one that CHT's view of messages to send has no row for."""
    bad = data_record(task({**message("never"), field: value}))
    await site.medic.bulk([bad, data_record(task({**message("x"), "to": ""}, state="sent"))])
    [told] = [one for one in await findings(site.write()) if one["mark"] != "good"]
    assert (told["about"], told["mark"]) == ("couchdb.messages", "bad")
    assert says in told["says"]
    assert bad["_id"] in told["says"]


@pytest.mark.parametrize(
    ("figures", "about"),
    [
        ({"unsendable_messages": {"held": 2}}, "outgoing.unsendable"),
        ({"unsendable_messages": {"no_number": 2}}, "outgoing.unsendable"),
        ({"unsendable_messages": {"undecidable": 1}}, "outgoing.unsendable"),
        ({"text_limit_characters": 640}, "rapidpro.text_limit"),
    ],
)
async def test_check_reports_the_findings_of_a_running_daemon(figures: dict[str, Any], about: str, site: Site) -> None:
    path = site.write()
    lock = state_directory(site.folder)
    await asyncio.to_thread(lock.__enter__)  # as a daemon that runs holds it
    try:
        async with scripted(lambda _: _status(figures)) as daemon:
            site.sections["admin"] = {"listen": daemon.url.removeprefix("http://")}
            site.write()
            found = await findings(path)
    finally:
        await asyncio.to_thread(lock.__exit__, None, None, None)
    assert [one["about"] for one in found if one["about"] == about] == [about]


async def _status(figures: dict[str, Any]) -> Reply:
    return Reply({"figures": figures})


COUCHDBS: dict[str, tuple[Reply | Raw, str, str]] = {
    "a proxy's page": (HTML, "couchdb.reachable", "is not CouchDB"),
    "a reset": (RESET, "couchdb.reachable", "does not answer"),
    "another service": (Reply({"name": "search"}), "couchdb.reachable", "is not CouchDB"),
    "an old version": (Reply({"couchdb": "Welcome", "version": "1.7.2"}), "couchdb.version", "too old"),
    "no Date": (Reply({"couchdb": "Welcome", "version": "3.5.0"}), "couchdb.database", "HTTP 500"),
}


@pytest.mark.parametrize(("root", "about", "says"), COUCHDBS.values(), ids=COUCHDBS)
async def test_check_reports_a_server_that_is_no_couchdb(root: Reply | Raw, about: str, says: str, site: Site) -> None:
    async def script(request: Request) -> Reply | Raw:
        return root if request.name == "GET " else Reply({}, 500)

    async with scripted(script) as server:
        site.sections["couchdb"] = {"url": server.url}
        found = [one for one in await findings(site.write()) if one["mark"] == "bad"]
    assert any(one["about"] == about and says in one["says"] for one in found), found


async def test_a_user_without_rights_is_told(site: Site) -> None:
    """Somebody who may read and not write."""

    async def script(request: Request) -> Reply | Raw:
        if request.name == "POST _bulk_docs":
            return Reply({"error": "forbidden"}, 403)
        roles = {"userCtx": {"name": "reader", "roles": ["readers"]}}
        return Reply({"couchdb": "Welcome", "version": "3.5.0", "rows": [], **roles})

    async with scripted(script) as server:
        site.sections["couchdb"] = {"url": server.url}
        found = await findings(site.write())
    (rights,) = [one for one in found if one["about"] == "couchdb.rights"]
    assert (rights["mark"], "may not write" in rights["says"]) == ("bad", True)
    assert any("as reader (readers)" in one["says"] for one in found)


@pytest.mark.parametrize(
    ("folder", "about"), [(Path("/sys"), ["host.disk"]), (Path("/none"), []), (Path(__file__).parent, [])]
)
def test_a_disk_without_room_is_a_finding(folder: Path, about: list[str]) -> None:
    """The file system at /sys has no room at all."""
    assert [finding.about for finding in check_disk(folder)] == about
