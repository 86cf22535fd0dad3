"""Which broadcast is whose: counted in multisets, never one for two messages, never another task's."""

import re
from collections import Counter
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.outgoing import BroadcastId, SmsIdentity, Urn
from cht_rapidpro.domain.reconcile import (
    BroadcastQuery,
    Listed,
    Matched,
    NotFound,
    RefOwner,
    TooRecent,
    Undecidable,
    alike,
    first_of,
    is_same_number,
    match,
    read_listed,
    taken_by,
    windows,
)
from cht_rapidpro.domain.task import DocId, MessageId, MessageKey

NUMBER = "tel:+254712345678"
NOW = 1_000_000
_NUMBERS: Final = st.sampled_from(["12345678", "712345678", "712345679", "1234567", "00000012", "123456٧٨"])
_STARTS: Final = st.sampled_from(["", "0", "00", "+254", "254", "0712 ", "+254-"])
_URNS: Final = st.builds("tel:{}{}{}".format, _STARTS, _NUMBERS, st.sampled_from(["", " ", "x", " 9"]))


def pair(urn: str = NUMBER, text: str = "hello") -> SmsIdentity:
    return SmsIdentity(Urn(urn), text)


def query(name: str = "m", asked: SmsIdentity | None = None, earliest: int = 0) -> BroadcastQuery:
    return BroadcastQuery(key(name), asked or pair(), earliest)


def key(name: str) -> MessageKey:
    return DocId("doc"), MessageId(name)


def listed(number: int, *urns: str, text: str = "hello", at: int = 500, anonymous: bool = False) -> Listed:
    return Listed(BroadcastId(str(number)), None if anonymous else urns or (NUMBER,), text, at, "queued")


def holder(ref: str, *pairs: SmsIdentity) -> RefOwner:
    return RefOwner(BroadcastId(ref), tuple((key(f"{ref}-{number}"), one) for number, one in enumerate(pairs)))


NOBODY = frozenset[tuple[BroadcastId, Urn]]()


@pytest.mark.parametrize(
    ("posted", "stored", "fits"),
    [
        (NUMBER, NUMBER, True),
        ("tel:0712345678", NUMBER, True),
        ("tel:712345678", NUMBER, True),
        ("tel:+255712345678", NUMBER, False),
        ("tel:0712345679", NUMBER, False),
        ("tel:2345678", NUMBER, False),
        ("tel:phone1", "tel:phone2", False),
    ],
)
def test_a_number_is_recognised_as_rapidpro_may_have_normalised_it(posted: str, stored: str, fits: bool) -> None:
    verdicts = match([query(asked=pair(posted))], [listed(1, stored)], NOBODY, NOW)
    assert isinstance(verdicts[key("m")], Matched if fits else NotFound)


def test_an_equal_number_goes_before_one_with_the_same_end() -> None:
    national, whole = query("national", pair("tel:0712345678")), query("whole")
    verdicts = match([national, whole], [listed(1), listed(2, "tel:+255712345678")], NOBODY, NOW)
    assert verdicts == {national.key: Matched(listed(2, "tel:+255712345678")), whole.key: Matched(listed(1))}


def test_the_oldest_broadcast_is_the_oldest_questions() -> None:
    rows = [listed(9, at=300), listed(10, at=300), listed(8, at=400)]
    first, second = query("first", earliest=10), query("second", earliest=20)
    verdicts = match([second, first], rows, NOBODY, NOW)
    assert verdicts == {first.key: Matched(rows[0]), second.key: Matched(rows[1])}


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (listed(1, at=500), Matched(listed(1, at=500))),
        (listed(1, text="hello "), NotFound()),
        (listed(1, at=99), NotFound()),
        (listed(1, at=NOW + 1), TooRecent()),
        (listed(7), NotFound()),
        (listed(1, anonymous=True), Matched(listed(1, anonymous=True))),
        (listed(7, anonymous=True), NotFound()),
        (listed(1, anonymous=True, at=NOW + 1), TooRecent()),
    ],
    ids=["fits", "other text", "too early", "too young", "taken", "anonymous", "anonymous and taken", "both young"],
)
def test_one_question_and_one_broadcast(row: Listed, verdict: object) -> None:
    taken = frozenset({(BroadcastId("7"), Urn(NUMBER))})
    assert match([query(earliest=100)], [row], taken, NOW) == {key("m"): verdict}


def test_an_anonymous_workspace_leaves_open_what_the_text_does_not_tell() -> None:
    rows = [listed(1, anonymous=True), listed(2, anonymous=True)]
    assert match([query()], rows, NOBODY, NOW) == {key("m"): Undecidable()}
    two = [query("a"), query("b", pair("tel:+254712345679"))]
    assert match(two, rows[:1], NOBODY, NOW) == {key("a"): Undecidable(), key("b"): Undecidable()}


URNS = (NUMBER, "tel:+254712345679", "tel:+254712345670")
PAIRS = st.sampled_from([pair(urn, text) for urn in URNS for text in ("a", "b")])
BROADCASTS = st.builds(
    lambda urns, text, at: (tuple(sorted(urns)), text, at),
    st.sets(st.sampled_from(URNS), min_size=1),
    st.sampled_from(["a", "b"]),
    st.integers(0, 900),
)


@given(
    asked=st.lists(PAIRS, max_size=8),
    there=st.lists(BROADCASTS, max_size=8),
    owned=st.sets(st.tuples(st.integers(0, 7), st.sampled_from(URNS))),
)
def test_as_many_are_found_as_are_free_and_no_recipient_twice(
    asked: list[SmsIdentity], there: list[tuple[tuple[str, ...], str, int]], owned: set[tuple[int, str]]
) -> None:
    """Also where a broadcast has many recipients, each of which is another message's."""
    rows = [listed(number, *urns, text=text, at=at) for number, (urns, text, at) in enumerate(there)]
    taken = frozenset((BroadcastId(str(number)), Urn(urn)) for number, urn in owned)
    queries = [query(str(number), one) for number, one in enumerate(asked)]
    verdicts = match(queries, rows, taken, NOW)
    found = [
        (verdict.broadcast.id, one.pair.urn) for one in queries if isinstance(verdict := verdicts[one.key], Matched)
    ]
    assert len(set(found)) == len(found)
    assert not set(found) & taken
    free = Counter(pair(urn, row.text) for row in rows for urn in row.urns or () if (row.id, Urn(urn)) not in taken)
    for wanted, count in Counter(asked).items():
        got = sum(1 for one in queries if one.pair == wanted and isinstance(verdicts[one.key], Matched))
        assert got == min(count, free[wanted])


def test_one_recipient_of_a_group_may_be_taken_and_another_free() -> None:
    row = listed(1, NUMBER, "tel:+254712345679")
    taken = taken_by([holder("1", pair())], [row], {})
    assert taken == {("1", NUMBER)}
    asked = [query("same"), query("other", pair("tel:0712345679"))]
    assert match(asked, [row], taken, NOW) == {key("same"): NotFound(), key("other"): Matched(row)}


def test_a_posted_broadcast_takes_its_urn_as_the_listing_writes_it() -> None:
    known = {key("a"): (BroadcastId("1"), Urn("tel:0712345678")), key("b"): (BroadcastId("9"), Urn(NUMBER))}
    assert taken_by([], [listed(1, NUMBER, "tel:+254712345679")], known) == {("1", NUMBER)}
    assert taken_by([], [listed(1, anonymous=True)], known) == {("1", "tel:0712345678")}


@pytest.mark.parametrize(
    ("urn", "other", "same"),
    [
        (NUMBER, "tel:0712345678", True),
        (NUMBER, "tel:712 345-678", True),
        (NUMBER, "tel:+254712345679", False),
        ("tel:40404", "tel:40404", True),
        ("tel:40404", "tel:40405", False),
        ("tel:phone1", "tel:phone2", False),
    ],
)
def test_numbers_that_rapidpro_may_take_for_one(urn: str, other: str, same: bool) -> None:
    assert (alike(Urn(urn)) == alike(Urn(other))) == same


@given(_URNS, _URNS)
def test_numbers_are_the_same_by_their_ends_and_then_they_are_alike(urn: str, posted: str) -> None:
    """What the look-up relies on: it compares only what is alike."""
    digits = [re.sub("[^0-9]", "", each).lstrip("0") for each in (urn, posted)]
    shorter, longer = sorted(digits, key=len)
    assert is_same_number(urn, posted) == (urn == posted or (len(shorter) >= 8 and longer.endswith(shorter)))
    assert not is_same_number(urn, posted) or alike(Urn(urn)) == alike(Urn(posted))


def test_a_settled_task_takes_its_broadcast_and_those_of_its_other_messages() -> None:
    rows = [
        listed(1, text="one", at=100),
        listed(2, text="two", at=105),
        listed(3, text="two", at=900),
        listed(4, text="three", at=100),
    ]
    settled = holder("1", pair(text="one"), pair(text="two"))
    taken = {ref for ref, _ in taken_by([settled], rows, {})}
    assert taken == {"1", "2"}


def test_a_known_broadcast_goes_before_a_guessed_one() -> None:
    """A task's second message went out early, and another task's, to the same number, is in a group near the first."""
    rows = [listed(1, at=100), listed(2, NUMBER, "tel:+254712345679", at=200), listed(3, text="other", at=300)]
    settled = holder("3", pair(text="other"), pair())
    known = {settled.messages[1][0]: (BroadcastId("1"), Urn(NUMBER))}
    taken = taken_by([settled], rows, known)
    assert taken == {("3", NUMBER), ("1", NUMBER)}
    assert match([query("other task's")], rows, taken, NOW) == {key("other task's"): Matched(rows[1])}


def test_the_ref_of_a_settled_task_goes_before_the_known_broadcast() -> None:
    """We had found another broadcast for it, and somebody else has settled the task since: that one is free again."""
    rows = [listed(1, at=100), listed(2, at=200)]
    settled = holder("1", pair())
    known = {settled.messages[0][0]: (BroadcastId("2"), Urn(NUMBER))}
    assert taken_by([settled], rows, known) == {("1", NUMBER)}


def test_each_message_of_a_task_has_one_place_also_where_its_broadcast_is_a_groups() -> None:
    """Adopted from a group that holds both numbers, while the second message went out alone."""
    other = "tel:+254712345679"
    rows = [listed(1, NUMBER, other, at=100), listed(2, other, at=101)]
    taken = taken_by([holder("1", pair(), pair(other))], rows, {})
    assert taken == {("1", NUMBER), ("1", other)}
    assert match([query("other task's", pair(other))], rows, taken, NOW) == {key("other task's"): Matched(rows[1])}


def test_a_group_is_a_tasks_for_one_of_its_messages_only() -> None:
    """Its second message has a number that is in the group, too, and went out alone: that place is somebody else's."""
    other = "tel:+254712345679"
    group = listed(1, NUMBER, other)
    assert first_of(holder("1", pair(), pair(other)), group)[1] == pair()
    assert first_of(holder("1", pair("tel:phone1"), pair(other)), group)[1] == pair(other)


def test_where_the_first_message_was_refused_the_ref_is_the_second_ones() -> None:
    rows = [listed(1, text="two", at=100), listed(2, text="two", at=105)]
    settled = holder("1", pair("tel:phone1", "one"), pair(text="two"))
    assert {ref for ref, _ in taken_by([settled], rows, {})} == {"1"}


def test_the_ref_of_a_task_takes_its_broadcast_although_the_number_was_rewritten() -> None:
    rows = [listed(1)]
    assert taken_by([holder("1", pair("tel:changed"))], rows, {}) == {("1", NUMBER)}


def test_an_id_of_an_older_rapidpro_takes_nothing() -> None:
    """After a reinstallation ids start low again, and old tasks hold the same numbers."""
    assert taken_by([holder("1", pair("tel:+254799999999", "long ago"))], [listed(1)], {}) == frozenset()


@pytest.mark.parametrize(
    ("row", "read"),
    [
        (
            {
                "id": 3,
                "urns": [NUMBER],
                "text": {"eng": "hi"},
                "created_on": "1970-01-01T00:00:01.5Z",
                "status": "sent",
            },
            Listed(BroadcastId("3"), (NUMBER,), "hi", 1500, "sent"),
        ),
        (
            {"id": 3, "urns": None, "text": "hi", "created_on": "1970-01-01T00:00:01Z"},
            Listed(BroadcastId("3"), None, "hi", 1000, ""),
        ),
        ({"id": "3", "urns": [], "text": "hi", "created_on": "1970-01-01T00:00:01Z"}, None),
        (
            {"id": 3, "urns": [], "text": {"eng": None}, "created_on": "1970-01-01T00:00:01Z"},
            Listed(BroadcastId("3"), (), "", 1000, ""),
        ),
        ({"id": True, "urns": [], "text": "hi", "created_on": "1970-01-01T00:00:01Z"}, None),
        ({"id": 3, "urns": [], "text": "hi", "created_on": "yesterday"}, None),
        ([], None),
    ],
)
def test_rows_are_read_as_all_versions_write_them(row: object, read: Listed | None) -> None:
    assert read_listed(row) == read


def test_a_settled_task_whose_broadcast_is_not_listed_takes_no_slot() -> None:
    assert taken_by([holder("9", pair(), pair(text="other"))], [listed(1), listed(2, text="other")], {}) == NOBODY


def test_the_former_broadcast_of_a_message_that_was_ordered_again_stays_taken() -> None:
    former = [(BroadcastId("1"), Urn("tel:0712345678")), (BroadcastId("9"), Urn(NUMBER))]
    assert taken_by([], [listed(1), listed(2)], {}, former) == {("1", NUMBER)}


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], []),
        ([(5, 9), (1, 3)], [(1, 3), (5, 9)]),
        ([(1, 5), (5, 9)], [(1, 9)]),
        ([(1, 9), (2, 3)], [(1, 9)]),
        ([(1, 5), (3, None)], [(1, None)]),
        ([(1, None), (3, 5)], [(1, None)]),
    ],
    ids=["none", "apart", "touching", "inside", "open at the end", "inside an open one"],
)
def test_windows_cover_each_question_and_do_not_overlap(
    spans: list[tuple[int, int | None]], expected: list[tuple[int, int | None]]
) -> None:
    assert windows([BroadcastQuery(key("m"), pair(), earliest, latest) for earliest, latest in spans]) == expected
