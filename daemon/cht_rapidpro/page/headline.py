"""The headline: one sentence about the condition, or what is wrong, since when, and what to do.

Drawn from the daemon's findings (`domain/findings.py`), the worst first; this module decides nothing.
"""

from typing import Final

from cht_rapidpro.domain.findings import Finding, Level, counted
from cht_rapidpro.domain.span import span
from cht_rapidpro.page.html import Html, join, tag
from cht_rapidpro.page.view import Tone, View

TONES: Final = {Level.OK: Tone.OK, Level.DEGRADED: Tone.WARN, Level.BROKEN: Tone.BAD}
_WORDS: Final = {Level.OK: "OK", Level.DEGRADED: "Degraded", Level.BROKEN: "Broken"}


def findings(view: View) -> list[Finding]:
    """The worst first, and at least one."""
    found = [Finding(**{**each, "level": Level(each["level"])}) for each in view.status["findings"]]
    if any(each.level is not Level.OK for each in found):
        return found
    return [Finding(Level.OK, "All flows.", _load(view)), *found]


def headline(view: View) -> Html:
    first, *others = findings(view)
    return join(
        tag("p", tag("span", _WORDS[first.level], class_=f"badge {TONES[first.level]}"), class_="state"),
        tag("h1", _marked(_sentence(view, first))),
        tag("p", _marked(first.advice), class_="advice") if first.advice else "",
        tag("ul", *(tag("li", _marked(f"{_sentence(view, each)} {each.advice}")) for each in others)) if others else "",
        tag("p", _load(view), class_="advice") if first.level is not Level.OK else "",
    )


def spoken(view: View) -> Html:
    """The text that a screen reader says when the headline changes."""
    first = findings(view)[0]
    return join(f"{_WORDS[first.level]}: {first.what}".replace("`", ""))


def _marked(text: str) -> Html:
    """What stands between backticks is to be typed or searched for as it is."""
    pieces = text.split("`")
    return join(*(tag("code", piece) if index % 2 else piece for index, piece in enumerate(pieces)))


def _sentence(view: View, finding: Finding) -> str:
    return " ".join(filter(None, (finding.what, _since(view, finding.for_seconds), finding.more)))


def _since(view: View, seconds: float | None) -> str:
    return "" if seconds is None else f"since {view.since(seconds)} UTC, for {span(seconds)}."


def _load(view: View) -> str:
    waiting, oldest = view.figure("queue_messages") or 0, view.figure("queue_oldest_seconds")
    unclear = view.figure("ambiguous_messages") or 0
    age = f", oldest {span(oldest)}" if waiting and oldest is not None else ""
    ambiguous = f" {counted(unclear, 'ambiguous message')} to be looked up." if unclear else ""
    spooled = view.labelled("spooled_messages").get("waiting") or 0
    arrived = f" {counted(spooled, 'incoming message')} in the spool." if spooled else ""
    return f"{counted(waiting, 'message')} waiting{age}.{ambiguous}{arrived}"
