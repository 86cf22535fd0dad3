"""The `data_record` document that CHT makes of an incoming SMS.

CHT's Sentinel works on what is stored here exactly as if CHT had stored it, so this is CHT's record key by key.
Invariant: `build_record` never raises, for any text or form definition, and always keeps the original text; an answered
webhook whose message could not be made a document would be lost. Where CHT crashes, only what could not be understood
is left out.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cht_rapidpro.domain.records.assembly import SURPLUS, assemble, without_marks
from cht_rapidpro.domain.records.characters import trim
from cht_rapidpro.domain.records.dates import read_date
from cht_rapidpro.domain.records.form_code import Reading, read_code
from cht_rapidpro.domain.records.javascript import ABSENT, Absent, is_number, json_number, jsonable, number, truthy
from cht_rapidpro.domain.records.parsing import parse
from cht_rapidpro.domain.records.rules import Rules
from cht_rapidpro.domain.records.sms import Sms
from cht_rapidpro.domain.records.translation import Translator
from cht_rapidpro.domain.records.validation import RecordError, form_not_found, validate

_MANY_DIGITS: Final = re.compile("[0-9]{13}")


@dataclass(frozen=True, slots=True)
class _Content:
    """What the record says of the form: its fields, its errors, and where it was sent from (`refid`)."""

    fields: dict[str, Any]
    errors: list[RecordError]
    refid: object = ABSENT


def build_record(rules: Rules, sms: Sms, now: int) -> dict[str, Any]:
    """The document, without an `_id`. `now`: milliseconds since the epoch."""
    translator = rules.translator
    reading = read_code(rules.find_form, sms.message)
    content = _read(rules, reading, sms)
    errors = [*content.errors, *_message_errors(rules, reading, sms)]
    locales = (content.fields.get("locale"), sms.locale)
    locale = next(filter(truthy, locales), translator.system_locale)
    return _present(
        type="data_record",
        **{"from": rules.senders.normalized(sms.sender)},
        form=reading.code if reading.form or rules.forms_only else ABSENT,
        errors=[_shown(error, translator, locale) for error in errors],
        tasks=[],
        fields=jsonable(content.fields),
        reported_date=_sent_time(sms.sent_timestamp) or now,
        sms_message=_sms_message(sms, reading.code),
        refid=content.refid,
    )


def _present(**values: object) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not ABSENT}


def _read(rules: Rules, reading: Reading, sms: Sms) -> _Content:
    form = reading.form
    if form is None:
        return _Content({}, [])
    answers = parse(form, reading.text, rules.translator, sms.locale)
    fields = assemble(form, answers, rules.conversion)
    errors = list(validate(form, fields))
    if truthy(fields.get(SURPLUS)):
        errors.append(RecordError("extra_fields"))
    return _Content(without_marks(form, fields), errors, _refid(form.facility_reference, fields))


def _refid(reference: str | None, fields: Mapping[str, Any]) -> object:
    """The value of the field that names the place, as CHT's look-up by reference wants it."""
    value = ABSENT if reference is None else fields.get(reference, ABSENT)
    if value is ABSENT:
        return value
    return value.upper() if isinstance(value, str) else jsonable(value)


def _message_errors(rules: Rules, reading: Reading, sms: Sms) -> Iterator[RecordError]:
    if isinstance(sms.message, str) and not trim(sms.message):
        yield RecordError("sys.empty")
    if reading.form is None and rules.forms_only:
        yield form_not_found(reading.code)


def _shown(error: RecordError, translator: Translator, locale: object) -> dict[str, object]:
    return {"code": error.code, "message": translator.translate(error.code, locale, error.context)}


def _sms_message(sms: Sms, code: str | Absent) -> dict[str, Any]:
    return _present(
        type="sms_message",
        message=sms.message,
        form=code,
        reported_date=sms.sent_timestamp,
        locale=sms.locale if truthy(sms.locale) else ABSENT,
        **{"from": sms.sender},
        gateway_ref=sms.gateway_ref,
    )


def _sent_time(sent: object) -> float | None:
    """When the message was sent, None where it does not say, or says that it was at the epoch.

    Quirk: a text with thirteen digits in a row is a number of milliseconds or nothing.
    """
    if is_number(sent):
        return sent
    if not isinstance(sent, str):
        return None
    moment = number(sent) if _MANY_DIGITS.search(sent) else read_date(sent)
    return json_number(moment) if moment is not None and math.isfinite(moment) else None
