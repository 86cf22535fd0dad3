"""The parts of the page that change, each under the id of its place; an unchanged part is not sent again."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from cht_rapidpro.domain.findings import named
from cht_rapidpro.domain.history import Event, MessageRef
from cht_rapidpro.domain.span import span
from cht_rapidpro.page.charts import charts
from cht_rapidpro.page.flow import flow
from cht_rapidpro.page.headline import headline, spoken
from cht_rapidpro.page.html import Html, join, tag
from cht_rapidpro.page.view import Tone, View, clock

SHOWN: Final = 50  # events
_CONDITIONS: Final = {"unknown": "", "works": Tone.OK, "lost": Tone.WARN, "refused": Tone.BAD}
_CONDITION_WORDS: Final = {
    "unknown": "not asked yet",
    "works": "works",
    "lost": "does not answer",
    "refused": "refuses access",
}
_DIRECTIONS: Final = {"outgoing": "→ out", "incoming": "← in"}
_OUTCOMES: Final = {
    "adopted": "sent, found at RapidPro",
    "duplicate": "stored before",
    "resent": "missing at RapidPro, sent again",
}
_TONES: Final = {
    "ambiguous": Tone.WARN,
    "resent": Tone.WARN,
    "spooled": Tone.WARN,
    "refused": Tone.BAD,
    "failed": Tone.BAD,
    "expired": Tone.BAD,
}


Parts = Mapping[str, Html]


def parts(view: View) -> Parts:
    return {
        "clock": join(clock(view.now), " UTC"),
        "spoken": spoken(view),
        "headline": headline(view),
        "flow": flow(view),
        "dependencies": dependencies(view),
        "stuck": stuck(view),
        "charts": charts(view),
        "events": events(view.recent, "Nothing has happened to a message since the daemon was started."),
    }


def dependencies(view: View) -> Html:
    return _table(
        ("Dependency", "Condition", "Since (UTC)", "Last error"),
        [_dependency(view, each) for each in view.status["dependencies"]],
    )


def _dependency(view: View, found: dict[str, Any]) -> Html:
    tone, condition = _CONDITIONS[found["condition"]], _CONDITION_WORDS[found["condition"]]
    seconds = found["for_seconds"]
    return tag(
        "tr",
        tag("th", named(found["name"]), scope="row"),
        tag("td", tag("span", condition, class_=f"badge {tone}".rstrip())),
        tag("td", f"{view.since(seconds)}, for {span(seconds)}"),
        tag("td", found["last_error"] or "no error so far", class_="long"),
    )


def stuck(view: View) -> Html:
    """What does not arrive, by its reason, the most documents first; an example to look for by hand."""
    groups = view.status["stuck"]
    if not groups:
        return tag("p", "No message is held back, undecidable or failed.", class_="empty")
    return _table(("What", "Documents", "Reason", "For example"), [_stuck(each) for each in groups])


def _stuck(group: Mapping[str, Any]) -> Html:
    return tag(
        "tr",
        tag("th", tag("span", group["what"], class_=f"badge {Tone.BAD}"), scope="row"),
        tag("td", f"{group['documents']:,}"),
        tag("td", group["reason"], class_="long"),
        tag("td", tag("code", group["example"]), class_="long ids"),
    )


def events(found: Sequence[Event], otherwise: str) -> Html:
    if not found:
        return tag("p", otherwise, class_="empty")
    return _table(("Time (UTC)", "Direction", "Number", "State", "Ids"), [_event(each) for each in found[:SHOWN]])


def _event(event: Event) -> Html:
    fact = event.fact
    tone = _TONES.get(fact.outcome, Tone.OK)
    return tag(
        "tr",
        tag("td", clock(event.at)),
        tag("td", _DIRECTIONS.get(fact.direction, fact.direction)),
        tag("td", tag("bdi", fact.about.number or "–")),
        tag("td", tag("span", _OUTCOMES.get(fact.outcome, fact.outcome), class_=f"badge {tone}")),
        tag("td", *_ids(fact.about), class_="long ids"),
    )


def _ids(about: MessageRef) -> list[Html]:
    named_ids = (("gateway_ref", about.gateway_ref), ("message", about.message), ("doc", about.doc))
    return [tag("span", f"{name} ", tag("code", value)) for name, value in named_ids if value]


def _table(heads: Sequence[str], rows: Sequence[Html]) -> Html:
    head = tag("thead", tag("tr", *(tag("th", head, scope="col") for head in heads)))
    return tag("table", head, tag("tbody", *rows))
