"""What goes back to a client: answers as values.

The API's own answers and the scripted ones (a proxy's page, a throttle, a redirect) are the same kind of
value, so that a fault can say anything that a server could say. A `RefusedError` carries an answer out of a
validation.
"""

from collections.abc import Mapping

import msgspec


class Answer(msgspec.Struct, frozen=True, tag_field="kind", tag="status"):
    """A whole HTTP answer; as a fault it replaces the API's own."""

    status: int
    body: str = ""
    content_type: str = "text/html; charset=utf-8"
    headers: Mapping[str, str] = {}


class RefusedError(Exception):
    """The request is answered with `answer` and takes no effect."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer)
        self.answer = answer


def as_json(status: int, value: object, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(status, msgspec.json.encode(value).decode(), "application/json", headers or {})


def detail(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Answer:
    """The one-line error of Django REST framework."""
    return as_json(status, {"detail": reason}, headers)


def page(status: int, title: str) -> Answer:
    """An HTML page, as RapidPro shows when it crashes and proxies whenever they please."""
    return Answer(status, f"<!doctype html><html><head><title>{title}</title></head><body>{title}</body></html>")


SERVER_ERROR = page(500, "Server Error (500)")
NOT_FOUND = page(404, "Page not found (404)")
