"""Finds mistakes in the flow's webhook body: a frequent mistake of new sites, which would otherwise go unnoticed.

Such messages are stored or refused as CHT does it, and the mistake is named. The description never contains text that a
person wrote, and of an expression only its name.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_NAME: Final = re.compile(r"@[A-Za-z][A-Za-z_.]{0,40}")
_EMPTY: Final = frozenset({"null", "none", "undefined", "nan"})


@dataclass(frozen=True, slots=True)
class Miswiring:
    """`field`: `id` or `from`; `sends`: what arrives in it, in words."""

    field: str
    sends: str


ONE_ID: Final = Miswiring("id", "one id for several senders")


def find_miswirings(body: object) -> list[Miswiring]:
    """Those of a webhook's body."""
    fields = body if isinstance(body, Mapping) else {}
    found = ((name, _sends(fields[name]) if name in fields else "nothing") for name in ("id", "from"))
    return [Miswiring(name, sends) for name, sends in found if sends]


def _sends(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool() | list() | dict():
            return "neither text nor number"
        case str() if not value.strip():
            return "a blank text" if value else "an empty text"
        case str() if value.strip().lower() in _EMPTY:
            return f'the text "{value.strip().lower()}"'
        case str() if value.lstrip().startswith("@"):
            name = _NAME.match(value.lstrip())
            return f"{name[0] if name else '@(…)'}, which RapidPro has not evaluated"
        case 0:
            return "0"
        case _:
            return ""
