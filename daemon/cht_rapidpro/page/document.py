"""The whole page: its parts in their places, and the behaviour without a script.

Without one the browser loads the page again every ten seconds; with one, `page.js` replaces the parts as they change.
There is no script and no style in the page itself, so that the policy can forbid them.
"""

from collections.abc import Sequence
from typing import Final

from cht_rapidpro.domain.history import REMEMBERED, Event
from cht_rapidpro.page import LONGEST_QUERY
from cht_rapidpro.page.html import Html, join, tag
from cht_rapidpro.page.parts import SHOWN, Parts, events
from cht_rapidpro.page.view import View

_RELOAD: Final = 10  # seconds


def document(view: View, parts: Parts, query: str = "", found: Sequence[Event] = ()) -> Html:
    """`query`: the id that was searched for; `found`: the events with this id."""
    body = tag("body", _header(view, parts), _main(parts, query, found), _footer(view))
    return join(Html("<!doctype html>\n"), tag("html", _head(), body, lang="en"), "\n")


def _head() -> Html:
    reload = tag("meta", http_equiv="refresh", content=_RELOAD)
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", "cht-rapidpro"),
        tag("link", rel="icon", href="data:,"),
        tag("link", rel="stylesheet", href="/page.css"),
        tag("noscript", reload),
        tag("script", src="/page.js", defer=True),
    )


def _header(view: View, parts: Parts) -> Html:
    return tag(
        "header",
        tag("p", tag("strong", "cht-rapidpro"), " ", tag("bdi", view.status["name"])),
        tag(
            "p",
            "As of ",
            _place("span", "clock", parts),
            " ",
            tag("span", id="connection", role="status"),
            tag("noscript", f"This page reloads itself every {_RELOAD} seconds."),
        ),
    )


def _main(parts: Parts, query: str, found: Sequence[Event]) -> Html:
    return tag(
        "main",
        _place("section", "headline", parts, aria_label="How things are"),
        _place("p", "spoken", parts, role="status", class_="aside"),
        _section("The path of the messages", _place("div", "flow", parts)),
        _section("Dependencies", _place("div", "dependencies", parts)),
        _section("Held back, undecidable, failed", _place("div", "stuck", parts)),
        _section("The last hour", _place("div", "charts", parts)),
        _section("Find a message", _search(query, found)),
        _section(f"The last {SHOWN} events", _place("div", "events", parts)),
    )


def _place(name: str, part: str, parts: Parts, **attributes: object) -> Html:
    return tag(name, parts[part], id=part, **attributes)


def _section(title: str, *contents: Html) -> Html:
    return tag("section", tag("h2", title), *contents)


def _search(query: str, found: Sequence[Event]) -> Html:
    form = tag(
        "form",
        tag("label", "Uuid of the message, id of the document, or gateway_ref", for_="q"),
        tag(
            "span",
            tag("input", type="search", id="q", name="q", value=query, maxlength=LONGEST_QUERY, autocomplete="off"),
            tag("button", "Find"),
            class_="entry",
        ),
        action="/",
        method="get",
        role="search",
    )
    otherwise = f"Nothing about it among the last {REMEMBERED:,} events; the log goes back further."
    return join(form, tag("div", events(found, otherwise), id="found") if query else "")


def _footer(view: View) -> Html:
    status = view.status
    return tag(
        "footer",
        f"Version {status['version']}, started at {view.since(status['uptime_seconds'])} UTC, instance ",
        tag("code", status["instance"]),
    )
