"""Labels match as the regular expressions that CHT takes them for, whatever they look like, in bounded work."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.records.labels import comparable, read_label
from cht_rapidpro.domain.records.matching import MAX_STEPS, Effort, compile_expression, search

KELVIN, LONG_S, DOTLESS_I, DOTTED_I = "\u212a", "\u017f", "\u0131", "\u0130"


def begins(label: str, body: str) -> bool:
    return read_label(label).leads(comparable(body), Effort())


def is_named(label: str, sent: str) -> bool:
    return list(read_label(label).names({comparable(sent): [sent]}, Effort())) == [sent]


# Beyond the vectors; the answers are those of `new RegExp("^" + label + "(?:\\s|\\d)", "i")` in Node.js 20.
@pytest.mark.parametrize(
    ("label", "body", "expected"),
    [
        # plain ones
        ("SIT", "sit 5", True),
        ("SIT", "SIT5", True),
        ("SIT", "SIT", True),
        ("SIT", "SITE 5", False),
        ("SIT", "SIT\u00a0x", True),
        ("SIT", "SIT\u0968", False),
        ("SIT", "SIT-5", False),
        ("A B", "a b 5", True),
        ("É", "é 5", True),
        ("σ", "ς 5", True),
        ("Σ", "ς 5", True),
        ("k", f"{KELVIN} 5", False),
        (KELVIN, "k 5", False),
        ("s", f"{LONG_S} 5", False),
        ("ß", "SS 5", False),
        (DOTLESS_I, "I 5", False),
        (DOTTED_I, "i 5", False),
        ("😀", "😀 5", True),
        ("\U00010428", "\U00010400 5", False),
        # expressions
        ("a.b", "aXb 5", True),
        ("a.b", "a\nb 5", False),
        ("a.b", "a😀b 5", False),
        ("a..b", "a😀b 5", True),
        ("A|B", "Axe", True),
        ("A|B", "x B 5", True),
        ("A|B", "x B", False),
        ("A?", "5", True),
        ("A*", "aaa 5", True),
        ("^Q", "Q 5", True),
        ("Q$", "Q 5", False),
        ("[a-c]{2}", "BC 5", True),
        ("[^a]", "A 5", False),
        ("[\\d-]", "- 5", True),
        ("[\\d-x]", "- 5", True),
        ("(ab|c)+", "abcab 5", True),
        ("(?:ab)?c", "c 5", True),
        ("\\w+", f"{KELVIN} 5", False),
        ("\\x41\\u0042", "ab 5", True),
        ("\\.", ". 5", True),
        ("\\q\\-", "q- 5", True),
        ("a{,2}", "a{,2} 5", True),
        ("{{v}}", "{{v}} 5", True),
        ("]", "] 5", True),
        ("[]", "a 5", False),
        ("[^]", "a 5", True),
        ("\\bA\\b", "a 5", True),
        ("\\BA", "a 5", False),
        ("A\\B", "ab 5", False),
        ("[object Object]", "b 5", True),
        ("[object Object]", "a 5", False),
        ("[\\b]", "\b 5", True),
        ("a{2,}", "aaa 5", True),
        ("a{1,2}", "aaa 5", False),
        ("(a|)", "5", True),
        ("(a*)*b", "aab 5", True),
    ],
)
def test_beginning(label: str, body: str, expected: bool) -> None:
    assert begins(label, body) is expected


@pytest.mark.parametrize(
    ("label", "sent", "expected"),
    [
        ("SIT", "sit", True),
        ("SIT", "sit5", False),
        ("A|B", "Axe", True),
        ("A|B", "xB", True),
        ("A|B", "xBx", False),
        ("^Q", "q", True),
        ("", "", True),
        ("A?", "", True),
        ("a.b", "axb", True),
        ("\\d", "5", True),
        ("K", KELVIN, False),
    ],
)
def test_whole(label: str, sent: str, expected: bool) -> None:
    assert is_named(label, sent) is expected


@pytest.mark.parametrize(
    "label",
    [
        "(",
        ")",
        "*",
        "a**",
        "[",
        "a{2,1}",
        "{2}",
        "[z-a]",
        "(?",
        "^*",
        "(?<n>a)",
        "(?=a)",
        "(a)\\1",
        "a" * 600 + ".",
    ],
)
def test_a_label_that_is_no_supported_expression_is_plain_text(label: str) -> None:
    assert begins(label, f"{label} 5")
    assert not begins(label, "a 5")
    assert is_named(label, label.lower())


@pytest.mark.parametrize(
    "label",
    [
        *("(?:" * 50 + "a" + ")" * 50, "(?:(?:(?:a{99}){99}){99}){99}", "(?:(?:(?:){99999}){99999}){99999}a"),
        *("a{99999999999999999999}", "(" * 400, "[" * 400, "a?" * 245 + "a" * 9, "(a+)+b", "(a|a)*b", "(.*)*x"),
    ],
)
def test_no_label_takes_long(label: str) -> None:
    """Each of these takes an engine that backtracks, or one that unrolls, longer than the universe is old."""
    effort = Effort()
    read_label(label).leads("A" * 64_000, effort)
    assert effort.left >= -2


def test_the_labels_of_a_message_share_one_effort() -> None:
    effort, program = Effort(), compile_expression("(a+)+b")
    assert program is not None
    assert not search(program, "A" * MAX_STEPS, effort)
    assert effort.is_used_up
    assert not read_label("a.b").leads("AXB 5", effort)
    assert list(read_label("a.b").names({"AXB": ["axb"]}, effort)) == []


def test_effort_is_ample_for_what_people_write() -> None:
    effort = Effort()
    assert not any(
        read_label(f"lbl.question{number}").leads(comparable("Kilima north 5 " * 10), effort) for number in range(200)
    )
    assert effort.left > MAX_STEPS * 0.9


def characters() -> Iterator[str]:
    yield from "aAbBkKsS19 _-.{}[]()|*+?^$\\,xud\n"
    yield from (KELVIN, LONG_S, "é", "É", "ß", "σ", "ς", "\u2028", "😀", "\ud83d")


texts = st.text(st.sampled_from(list(characters())), max_size=12)


@given(label=texts, text=texts)
def test_any_label_and_text(label: str, text: str) -> None:
    assert begins(label, text) in (True, False)
    assert is_named(label, text) in (True, False)
    assert begins(label, label)
