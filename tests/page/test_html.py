"""Nothing that others write is ever read as HTML."""

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.page.html import Html, escape, join, tag


class Reader(HTMLParser):
    """What a browser makes of it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[object] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, attrs))

    def handle_endtag(self, tag: str) -> None:
        self.seen.append(tag)

    def handle_data(self, data: str) -> None:
        if isinstance(self.seen[-1], str):
            self.seen.append("")
        self.seen.append({"data": data})


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1))
def test_a_text_comes_out_as_it_went_in(text: str) -> None:
    seen = Reader(tag("p", text, title=text)).seen
    assert seen == [("p", [("title", text)]), {"data": text}, "p"]


@given(st.text())
def test_any_text_becomes_one_element_that_utf_8_can_carry(text: str) -> None:
    written = tag("b", text)
    written.encode()
    assert [each for each in Reader(written).seen if not isinstance(each, dict)] == [("b", []), "b"]


def test_html_is_not_escaped_again_and_text_beside_it_is() -> None:
    assert tag("p", tag("b", "<"), "<", 3) == "<p><b>&lt;</b>&lt;3</p>"
    assert join("<", Html("<br>")) == "&lt;<br>"


def test_attributes_are_named_as_html_names_them() -> None:
    assert (
        tag("input", class_="a", data_x=1, hidden=True, lang=None, disabled=False)
        == '<input class="a" data-x="1" hidden>'
    )


def test_marks_that_turn_the_direction_of_writing_are_shown_as_something_odd() -> None:
    assert escape("a\u202eb\u2066c\x00d\ud800") == "a\ufffdb\ufffdc\ufffdd\ufffd"
