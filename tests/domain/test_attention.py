"""What does not arrive, by reason: bounded, counted by document, the worst first."""

from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.attention import Group, grouped


def test_documents_are_counted_once_and_the_largest_group_comes_first() -> None:
    found = [("a", "no numbers"), ("b", "too long"), ("c", "too long"), ("b", "too long"), ("d", "x" * 300)]
    assert list(grouped("failed", found)) == [
        Group("failed", "too long", 2, "b"),
        Group("failed", "no numbers", 1, "a"),
        Group("failed", "x" * 200, 1, "d"),
    ]


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=2))))
def test_the_groups_are_bounded_and_sorted(found: list[tuple[str, str]]) -> None:
    groups = list(grouped("held back", found))
    assert len(groups) <= 10
    assert [each.documents for each in groups] == sorted((each.documents for each in groups), reverse=True)
    assert all(each.documents == len({doc for doc, reason in found if reason == each.reason}) for each in groups)
