"""What a CHT database holds that concerns the gateway: views, settings, translations, messages in documents.

Everything is shaped as CHT shapes it (uuid, to, message, state, state_history, times as ISO-8601 or ms): the
demo and the tests must meet the documents of a production database and not ones that suit the gateway.
"""

from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

from cht_rapidpro.errors import GatewayError
from demo.couchdb import CouchDBServer
from demo.database import Database, Doc
from demo.views import design_documents

CHT_VERSION: Final = "5.2.0"


def _field(position: int, kind: str, code: str, label: str, **more: object) -> Doc:
    labels = {"tiny": {"en": code}, "short": {"en": label}}
    return {"type": kind, "labels": labels, "position": position, "required": True, **more}


PREGNANCY_FORM: Final[Doc] = {
    "meta": {
        "code": "PREG",
        "icon": "icon-pregnancy",
        "label": {"en": "Pregnancy report", "sw": "Ripoti ya ujauzito"},
    },
    "public_form": True,
    "fields": {
        "patient_name": _field(0, "string", "NAME", "Name", length=[1, 60]),
        "weeks_since_lmp": _field(1, "integer", "LMP", "Weeks since last period", range=[4, 42]),
        "due_date": _field(2, "date", "EDD", "Expected date of delivery", required=False),
    },
}

SETTINGS: Final[Doc] = {
    "locale": "en",
    "locale_outgoing": "en",
    "languages": [{"locale": "en", "enabled": True}, {"locale": "sw", "enabled": True}],
    "default_country_code": 254,
    "forms": {"PREG": PREGNANCY_FORM},
    "forms_only_mode": False,
    "sms": {"outgoing_service": "cht-rapidpro"},
}

TRANSLATIONS: Final[dict[str, dict[str, str]]] = {
    "en": {
        "sys.empty": "The message is empty.",
        "sys.form_not_found": "The form '{{form}}' is not known.",
        "sys.missing_fields": "Missing or invalid fields: {{fields}}.",
        "sys.incorrect_type": "'{{key}}' is not of the type {{expectedType}}.",
        "extra_fields": "There are more values than fields.",
    },
    "sw": {
        "sys.empty": "Ujumbe hauna maneno.",
        "sys.form_not_found": "Fomu '{{form}}' haijulikani.",
        "sys.missing_fields": "Sehemu hazipo au si sahihi: {{fields}}.",
        "sys.incorrect_type": "'{{key}}' si ya aina {{expectedType}}.",
        "extra_fields": "Kuna majibu mengi kuliko sehemu.",
    },
}


async def create_medic(
    server: CouchDBServer, database: str, *, settings: Doc | None = None, cht_version: str = CHT_VERSION
) -> None:
    """Creates the database (it must not exist) with design documents, settings and translations.

    `settings`: the app settings in place of SETTINGS, whole.
    """
    async with Database(server, database) as medic:
        await medic.create()
        rows = await medic.bulk(
            [
                *design_documents(cht_version),
                {"_id": "settings", "settings": SETTINGS if settings is None else settings},
                *(translations(code, texts) for code, texts in TRANSLATIONS.items()),
            ]
        )
    refused = [row["id"] for row in rows if "error" in row]
    if refused:
        raise GatewayError(f"CouchDB refused {', '.join(refused)} in the new database {database}")


def translations(code: str, texts: dict[str, str]) -> Doc:
    """The document `messages-<code>`."""
    return {
        "_id": f"messages-{code}",
        "type": "translations",
        "code": code,
        "enabled": True,
        "generic": texts,
        "custom": {},
    }


def message(text: str, to: str = "+254712345678", *, uuid: str = "") -> Doc:
    """One SMS of a task; `uuid`: a new one when empty."""
    return {"uuid": uuid or str(uuid4()), "to": to, "message": text}


def task(*messages: Doc, state: str = "pending", at: datetime | None = None, **fields: Any) -> Doc:
    """A task that entered its state `at` (None: now); `fields`: such as `due` or `gateway_ref`."""
    timestamp = iso_time(at or datetime.now(UTC))
    return {
        "messages": list(messages),
        "state": state,
        "state_history": [{"state": state, "timestamp": timestamp}],
        "timestamp": timestamp,
        **fields,
    }


def data_record(*tasks: Doc, doc_id: str = "", at: datetime | None = None, **fields: Any) -> Doc:
    """A report whose replies are `tasks`; `doc_id`: a new one when empty; `fields`: as `scheduled_tasks`."""
    return {
        "_id": doc_id or str(uuid4()),
        "type": "data_record",
        "reported_date": int((at or datetime.now(UTC)).timestamp() * 1000),
        "from": "+254798765432",
        "fields": {},
        "errors": [],
        "tasks": list(tasks),
        **fields,
    }


def iso_time(moment: datetime) -> str:
    """As CHT writes times: ISO-8601, UTC, milliseconds, `Z`."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
