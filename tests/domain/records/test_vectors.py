"""Records are what CHT's own modules made of the same settings, texts and moments: its vectors, class by class."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cht_rapidpro.domain.records import ABSENT, Rules, Sms, Translations, build_record, read_translations, refusal

GOLDEN = Path(__file__).parents[2] / "golden"

# Required vectors that we miss on purpose: id, and why.
EXCEPTIONS: dict[str, str] = {}
# Texts that reached the lenient parser of JavaScript's engine, which is not copied but for dates with the year first.
LENIENT = "js_date_fallback"

Vector = dict[str, Any]


@cache
def read_vectors() -> dict[str, list[Vector]]:
    classes: dict[str, list[Vector]] = {}
    for line in (GOLDEN / "sms_records.jsonl").read_text(encoding="ascii").splitlines():
        vector = json.loads(line)
        classes.setdefault(vector["class"], []).append(vector)
    return classes


@cache
def read_tables() -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = json.loads((GOLDEN / "sms_records_tables.json").read_text(encoding="ascii"))
    return tables


def read_sms(message: Mapping[str, Any]) -> Sms:
    wire = ("from", "message", "gateway_ref", "sent_timestamp", "locale")
    return Sms(*(message.get(name, ABSENT) for name in wire))


def translations(vector: Vector) -> Translations:
    if "translation_docs" in vector:
        return read_translations(read_tables()["translation_docs"][vector["translation_docs"]])
    tables: Translations = read_tables()["translations"][vector["translations"]]
    return tables


RULES: dict[tuple[str, ...], Rules] = {}


def rules(vector: Vector) -> Rules:
    """The same for all vectors of the same settings: what one text leaves in them must change no other."""
    key = tuple(str(vector.get(name)) for name in ("settings", "translations", "translation_docs"))
    if key not in RULES:
        RULES[key] = Rules(read_tables()["settings"][vector["settings"]], translations(vector))
    return RULES[key]


def make(vector: Vector) -> dict[str, Any]:
    return build_record(rules(vector), read_sms(vector["message"]), vector["clock_ms"])


def same(one: object, other: object) -> bool:
    """Equal as JSON: numbers as doubles, `true` no number."""
    match one, other:
        case (bool(), _) | (_, bool()):
            return one is other
        case (int() | float(), int() | float()):
            return float(one) == float(other)
        case (list(), list()):
            return len(one) == len(other) and all(map(same, one, other))
        case (dict(), dict()):
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        case _:
            return one == other


def differences(got: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that differ, with what was made and what CHT made."""
    keys = [*expected, *(key for key in got if key not in expected)]
    absent = "(absent)"
    pairs = {key: (got.get(key, absent), expected.get(key, absent)) for key in keys}
    return {key: pair for key, pair in pairs.items() if not same(*pair)}


def is_required(vector: Vector) -> bool:
    return "record" in vector["expected"] and LENIENT not in vector.get("tags", ())


@pytest.mark.parametrize("name", read_vectors())
def test_required_vectors(name: str) -> None:
    missed = {
        vector["id"]: (vector["message"], wrong)
        for vector in read_vectors()[name]
        if is_required(vector) and (wrong := differences(make(vector), vector["expected"]["record"]))
    }
    assert {key: missed[key] for key in missed if key not in EXCEPTIONS} == {}


def test_no_vector_is_left_out() -> None:
    vectors = [vector for each in read_vectors().values() for vector in each]
    assert len(vectors) == 2955
    assert sum(map(is_required, vectors)) == 2798
    assert EXCEPTIONS.keys() <= {vector["id"] for vector in vectors}


def test_refusals() -> None:
    for vectors in read_vectors().values():
        for vector in vectors:
            error = vector["expected"].get("error", {})
            public = error.get("message") if error.get("kind") == "public" else None
            assert refusal(read_sms(vector["message"])) == public, vector["id"]


def test_where_cht_crashes_the_text_is_kept() -> None:
    crashing = [
        vector
        for vectors in read_vectors().values()
        for vector in vectors
        if vector["expected"].get("error", {}).get("kind") == "crash"
    ]
    assert len(crashing) == 12
    for vector in crashing:
        record = make(vector)
        assert record["sms_message"]["message"] == vector["message"]["message"]
        assert record["form"] == record["sms_message"]["form"]


def test_lenient_dates_are_read_where_they_are_clear() -> None:
    """Not required: what we do of it. Every other one is null here, or a date that CHT has guessed."""
    lenient = [vector for vectors in read_vectors().values() for vector in vectors if LENIENT in vector.get("tags", ())]
    same_as_cht = [vector for vector in lenient if not differences(make(vector), vector["expected"]["record"])]
    assert (len(same_as_cht), len(lenient)) == (104, 144)
