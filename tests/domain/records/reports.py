"""Form definitions and texts in short, for the tables of this folder."""

from collections.abc import Mapping
from typing import Any

from cht_rapidpro.domain.records import ABSENT, Rules, Sms, Translations, build_record

NOW = 1_700_000_000_000
SENDER = "+254712345678"
TEXTS: Translations = {
    "en": {
        "sys.missing_fields": "Please add {{fields}}",
        "sys.incorrect_type": "{{key}} is no {{expectedType}}",
        "sys.empty": "Empty",
        "sys.form_not_found": "Unknown: {{form}}",
        "extra_fields": "Too many",
        "lbl.site": "SITE",
        "opt.good": "Good",
    },
    "fr": {"sys.missing_fields": "Ajoutez {{fields}}", "lbl.site": "LIEU", "opt.good": "Bon"},
}


def field(kind: str = "string", tiny: object = ABSENT, **more: object) -> dict[str, Any]:
    """A field with its tiny label, and with whatever else is named."""
    labels = {} if tiny is ABSENT else {"tiny": tiny}
    return {"type": kind, "labels": labels, **more}


def app_settings(fields: object, *, code: object = "T", form: str = "T", **more: object) -> dict[str, Any]:
    """Settings whose only form is `T`."""
    definition = {"meta": {"code": code}, "fields": fields}
    return {"locale": "en", "default_country_code": "254", "forms": {form: definition}, **more}


def report(
    settings: Mapping[str, Any], text: object, *, texts: Translations = TEXTS, locale: object = ABSENT
) -> dict[str, Any]:
    return build_record(Rules(settings, texts), Sms(SENDER, text, "17", locale=locale), NOW)


def values(fields: object, text: str, *, locale: object = ABSENT) -> dict[str, Any]:
    """What stands in `fields` of the record."""
    found: dict[str, Any] = report(app_settings(fields), text, locale=locale)["fields"]
    return found


def codes(record: Mapping[str, Any]) -> list[str]:
    return [error["code"] for error in record["errors"]]


def messages(record: Mapping[str, Any]) -> list[str]:
    return [error["message"] for error in record["errors"]]
