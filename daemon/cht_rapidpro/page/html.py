"""Builds HTML: every text and every attribute is escaped here, and only here.

Ids of documents and messages, and errors of dependencies, come from outside and may be hostile. A value that is not
`Html` is text: HTML that was not marked appears as text in the page, and does no harm.
"""

import html
import re
from typing import Final

# No control character, none that turns the direction of writing, so that an id reads as it is, and no lone surrogate,
# which UTF-8 cannot carry.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
_VOID: Final = frozenset({"meta", "link", "input"})


class Html(str):
    """A text that is HTML already."""

    __slots__ = ()


def escape(content: object) -> Html:
    """Returns the content as HTML; Html stays unchanged."""
    if isinstance(content, Html):
        return content
    return Html(html.escape(_UNPRINTABLE.sub("\ufffd", str(content))))


def join(*contents: object) -> Html:
    return Html("".join(map(escape, contents)))


def tag(name: str, /, *contents: object, **attributes: object) -> Html:
    """Returns an element. `class_` is `class`, `data_x` is `data-x`; an attribute that is None or False is left out."""
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value not in (None, False))
    end = "" if name in _VOID else f"</{name}>"
    return Html(f"<{name}{written}>{join(*contents)}{end}")


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(value)}"'
