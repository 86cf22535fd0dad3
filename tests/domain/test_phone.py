"""Phone numbers become what CHT makes of them: its own vectors, quirk by quirk, and anything at all."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.phone import normalize

GOLDEN = Path(__file__).parent.parent / "golden" / "phones.jsonl"

KENYA = {"default_country_code": "254"}
UNCHECKED = {**KENYA, "phone_validation": "none"}
NUMBER = "0712345678"
NORMALIZED = "+254712345678"


def read_vectors() -> list[dict[str, Any]]:
    return [json.loads(line) for line in GOLDEN.read_text(encoding="ascii").splitlines()]


def test_every_vector_of_cht() -> None:
    vectors = read_vectors()
    missed = {
        vector["id"]: (got, expected)
        for vector in vectors
        if (got := normalize(vector["phone"], vector.get("settings") or {}))
        != (expected := vector["expected"]["normalized"] or None)
    }
    assert len(vectors) == 862
    assert missed == {}


# Beyond the vectors; the expected values are what google-libphonenumber 3.2.44 itself answered.
@pytest.mark.parametrize(
    ("phone", "expected"),
    [
        # digits: four sets are known, any other is cut off around the number and spoils it inside
        ("\u0660\u0667\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668", NORMALIZED),
        ("\u06f0\u06f7\u06f1\u06f2\u06f3\u06f4\u06f5\u06f6\u06f7\u06f8", NORMALIZED),
        ("\uff10\uff17\uff11\uff12\uff13\uff14\uff15\uff16\uff17\uff18", NORMALIZED),
        ("\u0966712345678", NORMALIZED),
        ("0712345678\u096e", NORMALIZED),
        ("07123\u096a5678", None),
        ("\U0001d7d8712345678", NORMALIZED),
        # letters: ASCII ones refuse the text, others are cut off or spoil it, whatever they fold to
        ("0712345678x", None),
        ("\u0442\u0435\u043b. 0712345678", NORMALIZED),
        ("0712345678\u00e9", NORMALIZED),
        ("0712345678 \u017f", NORMALIZED),
        ("071234\u017f5678", None),
        # white space
        ("\t0712345678\n", NORMALIZED),
        # 250 UTF-16 units and no more, before anything is cut off
        ("\U0001f642" * 120 + NUMBER, NORMALIZED),
        ("\U0001f642" * 121 + NUMBER, None),
        ("\ud83d" * 240 + NUMBER, NORMALIZED),
        # an extension is dropped
        ("0712345678#12", NORMALIZED),
    ],
)
def test_text(phone: str, expected: str | None) -> None:
    assert normalize(phone, KENYA) == expected


@pytest.mark.parametrize(
    ("phone", "expected"),
    [
        ("9007199254740993", "+2549007199254740992"),
        ("99999999999999984", "+25499999999999999980"),
        ("99999999999999999", "+254100000000000000000"),
        ("00", "00"),
        (" (00) ", " (00) "),
        ("000", None),
        ("+254000", "+254000"),
        ("00254712345678", "+2540254712345678"),
        ("12345", "+25412345"),
        ("40404", "40404"),
        ("999#12", "999 ext. 12"),
    ],
)
def test_number_that_is_not_checked(phone: str, expected: str | None) -> None:
    assert normalize(phone, UNCHECKED) == expected


@pytest.mark.parametrize("code", ["254", 254, 254.0, [254], ["254"], [["254"]]])
def test_country_code_that_javascript_finds(code: object) -> None:
    assert normalize(NUMBER, {"default_country_code": code}) == NORMALIZED


@pytest.mark.parametrize(
    "code",
    [
        *(None, "", True, {}, [], [True], [254, None], [254, 254]),
        *("0254", "+254", "254 ", "254.0", "KE", "\u0662\u0665\u0664", "9" * 5000),
        *(254.5, -254, 0, float("inf"), 10**400),
        *("001", "800", "999"),
    ],
)
def test_country_code_that_javascript_does_not_find(code: object) -> None:
    app_settings = {"default_country_code": code, "phone_validation": "none"}
    assert normalize(NUMBER, app_settings) is None
    assert normalize("+254712345678", app_settings) == NORMALIZED
    assert normalize("\t+254712345678", app_settings) is None
    assert normalize("\uff0b254712345678", app_settings) is None


@pytest.mark.parametrize(
    ("validation", "long_enough", "valid"),
    [
        *((full, None, NORMALIZED) for full in (None, False, 0, 0.0, "", "full", "Full", "strict", " none")),
        *((partial, "+254812345678", NORMALIZED) for partial in ("partial", "PARTIAL", "none", "nOnE")),
        *((broken, None, None) for broken in (True, 1, [], {}, ["none"], {"a": 1})),
    ],
)
def test_validation(validation: object, long_enough: str | None, valid: str | None) -> None:
    app_settings = {**KENYA, "phone_validation": validation}
    assert normalize("0812345678", app_settings) == long_enough
    assert normalize(NUMBER, app_settings) == valid


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
json_values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
numberlike = st.text(alphabet="+\uff0b0123456789\u0663\u0966 ()-./#*~,;\t\u200b\u017f\u0434x", max_size=24)
surrogates = st.text(st.characters(categories=("Cs", "Nd", "Lu")), max_size=8)


@given(
    phone=numberlike | surrogates | json_values,
    code=st.integers(min_value=0, max_value=999).map(str) | json_values,
    validation=st.sampled_from(["none", "partial", "full"]) | json_values,
)
def test_never_raises(phone: object, code: object, validation: object) -> None:
    normalized = normalize(phone, {"default_country_code": code, "phone_validation": validation})
    assert normalized is None or (isinstance(phone, str) and normalized)
