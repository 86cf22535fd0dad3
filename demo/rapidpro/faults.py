"""Scripted trouble: what happens to which request, how often, and on which side of its effect.

`after=True` is the cruel half: the broadcast exists although the client sees an error, a reset or nothing at
all, which is what a gateway without an idempotency key must survive without a second SMS. Faults are plain
values, so that a test reads as a story and another process can post them as JSON.
"""

import json
from typing import Literal

import msgspec
from aiohttp import web

from .answers import Answer
from .calls import Call

Target = Literal["any", "POST broadcasts", "GET broadcasts", "GET messages", "GET runs", "GET workspace"]


class Reset(msgspec.Struct, frozen=True, tag_field="kind", tag="reset"):
    """The TCP connection is reset instead of an answer."""


class Hang(msgspec.Struct, frozen=True, tag_field="kind", tag="hang"):
    """Nothing is answered for `seconds`; then, or when the simulator stops, the connection is reset."""

    seconds: float = 300.0


class HalfBody(msgspec.Struct, frozen=True, tag_field="kind", tag="half_body"):
    """The headers promise a body of which half arrives before the connection closes."""


class Delay(msgspec.Struct, frozen=True, tag_field="kind", tag="delay"):
    """The right answer, `seconds` late."""

    seconds: float


Trouble = Answer | Reset | Hang | HalfBody | Delay


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`do` happens to the next `times` requests (None: until cleared) that match.

    `contains` narrows it to requests with that piece in the text, in a URN or in the query. With `after` the
    request has taken its effect when the trouble begins.
    """

    on: Target
    do: Trouble
    times: int | None = 1
    contains: str = ""
    after: bool = False


class Faults:
    """The faults in force. The first one that matches is used up first."""

    def __init__(self) -> None:
        self._left: list[tuple[Fault, int | None]] = []

    def __len__(self) -> int:
        return len(self._left)

    def add(self, fault: Fault) -> None:
        self._left.append((fault, fault.times))

    def clear(self) -> None:
        self._left.clear()

    def take(self, call: Call, request: web.Request, body: bytes) -> Fault | None:
        for index, (fault, left) in enumerate(self._left):
            if fault.on in ("any", call.target) and fault.contains in _words(fault, request, body):
                if left == 1:
                    del self._left[index]
                elif left is not None:
                    self._left[index] = (fault, left - 1)
                return fault
        return None


def _words(fault: Fault, request: web.Request, body: bytes) -> str:
    """Where `contains` is looked for; decoded, because JSON may write letters as escapes."""
    if not fault.contains:
        return ""
    try:
        posted = json.loads(body) if body else None
    except ValueError:
        posted = None
    fields = posted if isinstance(posted, dict) else {}
    return f"{request.query_string}\n{fields.get('text')}\n{fields.get('urns')}"
