"""Labels and messages are translated as CHT does it, from its documents."""

import pytest

from cht_rapidpro.domain.records import ABSENT, Translations, read_translations
from cht_rapidpro.domain.records.translation import Translator, fill_template

TABLES: Translations = {
    "en": {"a": "A", "empty": "", "only": "English", "number": 7, "list": ["x", 1]},
    "fr": {"a": "Â", "empty": "", "nothing": None},
}


@pytest.mark.parametrize(
    ("value", "locale", "expected"),
    [
        # texts
        ("a", "fr", "Â"),
        ("a", "en", "A"),
        ("a", "sw", "A"),
        ("only", "fr", "English"),
        ("empty", "fr", "empty"),
        ("nothing", "fr", "nothing"),
        ("SIT", "fr", "SIT"),
        ("number", "en", "7"),
        ("list", "en", "x,1"),
        ("a", ABSENT, "Â"),
        ("a", "", "Â"),
        # a locale that is an object or a list is none
        ("a", ["en"], "Â"),
        ("a", {"en": 1}, "Â"),
        ({"en": "E", "fr": "F"}, ["en"], "F"),
        (5, "en", "5"),
        *((nothing, "en", "") for nothing in ("", None, ABSENT)),
        (0, "en", "0"),
        (False, "en", "false"),
        (True, "en", "true"),
        # what a list holds is not looked up
        ([], "en", []),
        (["a", "b"], "en", "a"),
        ([["a"]], "en", ["a"]),
        (["", "b"], "en", ["", "b"]),
        (["a", "b"], "1", "b"),
        (["a"], "test", "-a-"),
        # objects
        ({"en": "E", "fr": "F"}, "fr", "F"),
        ({"en": "E", "fr": "F"}, ABSENT, "F"),
        ({"en": "E", "default": "D"}, "sw", "D"),
        ({"en": "E", "ne": "N"}, "sw", "E"),
        ({"ne": "N", "x": "X"}, "sw", "N"),
        ({"b": "B", "1": "one"}, "sw", "one"),
        ({"en": ""}, "en", {"en": ""}),
        ({}, "en", {}),
        ({"en": "E"}, "test", "-E-"),
        ({"en": "a"}, "en", "a"),
        ({"translations": [{"locale": "ne", "content": "N"}, {"locale": "en", "content": "E"}]}, "ne", "N"),
        ({"translations": [{"locale": "ne", "content": "N"}, {"locale": "en", "content": "E"}]}, "sw", "E"),
        ({"translations": [{"locale": "ne", "content": "N"}]}, "sw", "N"),
        ({"translations": [{"locale": "ne", "content": "N"}], "sw": "S", "default": "D"}, "sw", "D"),
        ({"translations": ["N", None], "sw": "S"}, "sw", ["N", None]),
        ({"translations": "x", "sw": "S"}, "sw", "S"),
        ({"en": 5}, "en", 5),
        ({"en": {"x": "y"}}, "en", {"x": "y"}),
    ],
)
def test_translate(value: object, locale: object, expected: object) -> None:
    assert Translator(TABLES, "fr").translate(value, locale) == expected


def test_the_system_speaks_english_where_nothing_else_is_set() -> None:
    assert Translator(TABLES, None).translate("a") == "A"
    assert Translator(TABLES, {}).translate("a") == "A"
    assert Translator({"en": None}, "en").translate("a") == "a"  # type: ignore[dict-item]


CONTEXT = {"fields": ["a", "b"], "key": "<$&>", "none": None, "absent": ABSENT}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("plain", "plain"),
        ("{{fields}} and {{ key }}", "a,b and <$&>"),
        ("{{fields.join(', ')}}", "a, b"),
        ('{{ fields . join( " + " ) }}: {{fields.length}}', "a + b: 2"),
        ("{{fields.join()}}|{{fields[1].toUpperCase()}}|{{fields[2]}}", "a,b|B|"),
        ("{{key.toLowerCase().trim().length}}{{'x'}}{{12}}", "4x12"),
        # whatever else may be written there is left as it is, and nothing is executed
        *(
            (text, text)
            for text in (
                "{{fields.join(key)}}",
                "{{fields.pop()}}",
                "{{fields.constructor}}",
                "{{fields.map(x => x)}}",
                "{{none.length}}",
                "{{absent.join(', ')}}",
                "{{key.join(', ')}}",
                "{{fields.toUpperCase()}}",
                "{{1 + 1}}",
                "{{fields['join']}}",
                "{{__import__('os')}}",
                "{{fields.}}",
                "{{'}}",
                "{{1.5}}",
                "{{" + "fields" + ".x" * 500 + "}}",
            )
        ),
        ("{{\ufefffields}}", "a,b"),
        ("[{{none}}{{absent}}]", "[]"),
        ("{{}}", "{{}}"),
        ("{{fields", "{{fields"),
        ("fields}}", "fields}}"),
        ("{fields} ${fields}", "{fields} ${fields}"),
        # whatever cannot be evaluated leaves all as it is
        ("{{fields}} {{nope}}", "{{fields}} {{nope}}"),
        ("{{fields}} {{ }}", "{{fields}} {{ }}"),
        ("{{fields}} {{{key}}}", "{{fields}} {{{key}}}"),
        ("{{}} {{fields}}", "{{}} {{fields}}"),
        ("{{fields}} <% x %>", "{{fields}} <% x %>"),
        ("{{Fields}}", "{{Fields}}"),
        ("{{\nfields}} {{key}}", "{{\nfields}} <$&>"),
    ],
)
def test_template(template: str, expected: str) -> None:
    assert fill_template(template, CONTEXT) == expected


def document(code: object = "en", **more: object) -> dict[str, object]:
    return {"_id": f"messages-{code}", "type": "translations", "code": code, **more}


@pytest.mark.parametrize(
    ("doc", "table"),
    [
        (document(generic={"a": "A"}), {"a": "A"}),
        (document(generic={"a": "A", "b": "B"}, custom={"a": "C"}), {"a": "C", "b": "B"}),
        (document(generic={"a": "A"}, values={"b": "B"}, enabled=False), {"a": "A"}),
        (document(values={"a": "A"}, custom={"a": "C"}), {"a": "A"}),
        (document(generic=None, values={"a": "A"}), {"a": "A"}),
        (document(generic={}, values={"a": "A"}), {}),
        (document(generic="text", values={"a": "A"}, custom={"c": "C"}), {"c": "C"}),
        # references to other keys, once and in order
        (document(generic={"a": "${b}!", "b": "B"}), {"a": "B!", "b": "B"}),
        (document(generic={"a": "${b}!", "b": "${c}", "c": "C"}), {"a": "${c}!", "b": "C", "c": "C"}),
        (document(generic={"c": "C", "b": "${c}", "a": "${b}!"}), {"a": "C!", "b": "C", "c": "C"}),
        (document(generic={"b": "${2}", "2": "${1}", "1": "one"}), {"1": "one", "2": "one", "b": "one"}),
        (document(generic={"a": "${n}${z}${e}${x}", "n": 5, "z": 0, "e": ""}), {"a": "5${z}${e}${x}"}),
        (document(generic={"a": "${l}", "l": ["x"]}), {"a": "${l}"}),
        (document(generic={"a": 7, "b": None}), {"a": 7, "b": None}),
    ],
)
def test_table(doc: dict[str, object], table: dict[str, object]) -> None:
    found = read_translations([doc])["en"]
    assert {key: found[key] for key in table} == table
    assert len(found) >= len(table)


@pytest.mark.parametrize(
    "doc",
    [
        document(generic={"a": "A"}, type="translation"),
        document(code="", generic={"a": "A"}),
        document(code=None, generic={"a": "A"}),
        document(custom={"a": "A"}),
        document(generic="text"),
        {},
    ],
)
def test_document_without_a_table(doc: dict[str, object]) -> None:
    assert read_translations([doc]) == {}


def test_a_later_document_replaces_an_earlier_one_of_its_locale() -> None:
    docs = [document(generic={"a": "1", "b": "2"}), document("fr", generic={"a": "F"}), document(generic={"a": "3"})]
    assert read_translations(docs) == {"en": {"a": "3"}, "fr": {"a": "F"}}


def test_texts_that_refer_to_texts_do_not_grow_without_end() -> None:
    doubling = {f"k{number:02}": f"${{k{number - 1:02}}}" * 2 for number in range(1, 99)}
    table = read_translations([document(generic={"k00": "x" * 100, **doubling})])["en"]
    assert max(map(len, table.values())) <= 100_000


def test_documents_are_not_changed() -> None:
    doc = document(generic={"b": "B", "a": "${b}"}, custom={"c": "${a}"})
    read_translations([doc])
    assert doc == document(generic={"b": "B", "a": "${b}"}, custom={"c": "${a}"})
