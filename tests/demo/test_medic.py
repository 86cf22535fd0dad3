"""The views, settings and translations of a CHT database, as the gateway reads them."""

from datetime import UTC, datetime
from typing import Any

import pytest

from demo.couchdb import CouchDBServer
from demo.database import Database, delete_database
from demo.medic import create_medic, data_record, message, task

Doc = dict[str, Any]

AT = datetime(2026, 11, 22, 7, 37, 45, 550000, tzinfo=UTC)
MS = 1795333065550
DUE = "2026-11-23T00:00:00.000Z"
DUE_MS = 1795392000000


def rows_of(rows: list[Doc]) -> list[tuple[Any, Any]]:
    return [(row["key"], row["value"]) for row in rows]


def value(uuid: str) -> Doc:
    return {"content": "Hello", "to": "+254712345678", "id": uuid}


def hello(uuid: str = "m") -> Doc:
    return message("Hello", uuid=uuid)


BY_STATE: dict[str, tuple[Doc, list[tuple[Any, Any]]]] = {
    "pending: under both states": (
        data_record(task(hello(), due=DUE), at=AT),
        [(["pending", DUE_MS], value("m")), (["pending-or-forwarded", DUE_MS], value("m"))],
    ),
    "forwarded: due in ms": (
        data_record(task(hello(), due=5, state="forwarded-to-gateway"), at=AT),
        [(["forwarded-to-gateway", 5], value("m")), (["pending-or-forwarded", 5], value("m"))],
    ),
    "sent: by its timestamp": (
        data_record(task(hello(), state="sent", at=AT)),
        [(["sent", MS], value("m"))],
    ),
    "scheduled, of a report only": (
        data_record(scheduled_tasks=[{"messages": [hello()], "state": "scheduled"}], at=AT),
        [(["scheduled", MS], value("m"))],
    ),
    "several messages, one without a number": (
        data_record(task(hello("a"), message("Hello", to=""), hello("b"), state="sent", at=AT)),
        [(["sent", MS], value("a")), (["sent", MS], value("b"))],
    ),
    "no messages": (data_record({"state": "sent"}, at=AT), [(["sent", MS], {})]),
}


@pytest.mark.parametrize(("doc", "expected"), BY_STATE.values(), ids=BY_STATE.keys())
async def test_messages_by_state(medic: Database, doc: Doc, expected: list[tuple[Any, Any]]) -> None:
    await medic.put(doc)
    assert rows_of(await medic.view("medic", "messages_by_state")) == expected


async def test_views_of_medic_sms(medic: Database) -> None:
    """One document of each kind, and what each view makes of them."""
    sent = task(hello("m1"), hello("m2"), state="sent", at=AT, gateway_ref="17")
    waiting = {"messages": [hello("m3")], "state": "pending"}
    muted = task(hello("m4"), state="muted", at=AT)
    incoming = {"uuid": "in", "gateway_ref": "42"}
    await medic.put(data_record(sent, waiting, at=AT, scheduled_tasks=[muted], sms_message=incoming))

    views = {
        "messages_by_uuid": [(uuid, None) for uuid in ("m1", "m2", "m3", "m4")],
        "messages_by_gateway_ref": [("17", "m1"), ("17", "m2"), ("42", "in")],
        "messages_by_last_updated_state": [
            (["final", MS, "sent"], None),
            (["muted", MS, "muted"], None),
            (["pending", MS, "pending"], None),
        ],
        "gateway_messages_by_state": [
            ("sent", {"id": "m1", "gateway_ref": "17"}),
            ("sent", {"id": "m2", "gateway_ref": "17"}),
        ],
    }
    assert {view: rows_of(await medic.view("medic-sms", view)) for view in views} == views


async def test_settings_version_and_translations(couchdb: CouchDBServer, database_name: str) -> None:
    settings = {"sms": {"outgoing_service": "rapidpro"}}
    await create_medic(couchdb, database_name, settings=settings, cht_version="3.10.0")
    async with Database(couchdb, database_name) as medic:
        assert (await medic.get("settings"))["settings"] == settings
        assert (await medic.get("_design/medic"))["build_info"]["version"] == "3.10.0"
        english, swahili = await medic.get("messages-en"), await medic.get("messages-sw")
        assert english["type"] == swahili["type"] == "translations"
        assert english["generic"].keys() == swahili["generic"].keys()
    for _ in range(2):
        await delete_database(couchdb, database_name)
