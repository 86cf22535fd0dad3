"""One sentence that says how things are, or what is wrong, since when, and what to do.

The worst comes first. A finding says whether a human must act: an alarm that heals itself teaches people to look away.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from cht_rapidpro.domain.span import span
from cht_rapidpro.page.html import Html, join, tag
from cht_rapidpro.page.view import Tone, View, counted, named

LONG_WAIT: Final = 600.0  # seconds that a message may be overdue before the page wonders
_SEVERITY: Final = (Tone.BAD, Tone.WARN, Tone.OK)
_WORDS: Final = {Tone.OK: "Healthy", Tone.WARN: "Degraded", Tone.BAD: "Broken"}


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` holds still while it lasts, so that it can be read aloud; `more` may change every second."""

    tone: Tone
    what: str
    more: str = ""
    advice: str = ""


def findings(view: View) -> list[Finding]:
    """The worst first, and at least one."""
    found = [*_storing(view), *_dependencies(view), *_sending(view), *_waiting(view), *_spooled(view), *_miswired(view)]
    return sorted(found, key=lambda each: _SEVERITY.index(each.tone)) or [
        Finding(Tone.OK, "All flows.", _load(view)),
    ]


def headline(view: View) -> Html:
    first, *others = findings(view)
    return join(
        tag("p", tag("span", _WORDS[first.tone], class_=f"badge {first.tone}"), class_="state"),
        tag("h1", _sentence(first)),
        tag("p", first.advice, class_="advice") if first.advice else "",
        tag("ul", *(tag("li", _sentence(each), " ", each.advice) for each in others)) if others else "",
        tag("p", _load(view), class_="advice") if first.tone is not Tone.OK else "",
    )


def spoken(view: View) -> Html:
    """What a screen reader says when it changes."""
    first = findings(view)[0]
    return join(f"{_WORDS[first.tone]}: {first.what}")


def _sentence(finding: Finding) -> str:
    return f"{finding.what} {finding.more}".rstrip()


def _storing(view: View) -> Iterator[Finding]:
    if view.status["state"] == "unready":
        yield Finding(
            Tone.BAD,
            "Incoming messages are turned away.",
            advice="Neither CouchDB nor the disk takes them. Make room on the disk of the state directory, or bring"
            " CouchDB back: RapidPro does not repeat what was turned away.",
        )


def _dependencies(view: View) -> Iterator[Finding]:
    for found in view.status["dependencies"]:
        if found["condition"] != "works":
            yield _dependency(view, found)


def _dependency(view: View, found: dict[str, Any]) -> Finding:
    name, error = named(found["name"]), found["last_error"] or "no reason is known"
    since = f"since {view.since(found['for_seconds'])} UTC, for {span(found['for_seconds'])}."
    if found["condition"] == "refused":
        return Finding(Tone.BAD, f"{name} refuses us", since, f"A human must act: {error}")
    advice = f"Messages wait, none is lost, and we try again by ourselves. If it lasts, look there: {error}"
    return Finding(Tone.WARN, f"{name} does not answer", since, advice)


def _sending(view: View) -> Iterator[Finding]:
    if view.figure("sending_enabled") == 0:
        yield Finding(Tone.WARN, "We do not send.", advice=f"{_capitalised(view.status['sending'])}.")


def _waiting(view: View) -> Iterator[Finding]:
    waiting, oldest = view.figure("queue_messages") or 0, view.figure("queue_oldest_seconds") or 0
    exhausted = [scope for scope, left in view.labelled("budget_left_requests").items() if left == 0]
    if exhausted:
        yield Finding(
            Tone.WARN,
            "RapidPro's request limit is reached.",
            advice=f"What is left waits its turn ({', '.join(exhausted)}). A higher limit at RapidPro and"
            " in [rapidpro] requests_per_hour lets more go out.",
        )
    elif waiting and oldest > LONG_WAIT:
        yield Finding(
            Tone.WARN,
            "Messages wait long.",
            f"The oldest was due {span(oldest)} ago.",
            "The table below tells whether others go out; the log (journalctl -u cht-rapidpro) tells why.",
        )


def _spooled(view: View) -> Iterator[Finding]:
    spooled = view.labelled("spooled_messages")
    if rejected := spooled.get("rejected"):
        what = f"CouchDB does not take {counted(rejected, 'incoming message')}."
        yield Finding(Tone.WARN, what, advice="`cht-rapidpro spool list` shows them: mend, retry or drop each.")


def _miswired(view: View) -> Iterator[Finding]:
    for found in view.status.get("miswired", ()):
        yield Finding(
            Tone.WARN,
            f"RapidPro's flow sends {found['sends']} as `{found['field']}`.",
            f"{counted(found['times'], 'time')} since the start.",
            "Correct the body of the flow's webhook: the README has it.",
        )


def _load(view: View) -> str:
    waiting, oldest = view.figure("queue_messages") or 0, view.figure("queue_oldest_seconds")
    doubted = view.figure("ambiguous_messages") or 0
    age = f", oldest {span(oldest)}" if waiting and oldest is not None else ""
    doubts = f" {counted(doubted, 'message')} in doubt, to be looked up." if doubted else ""
    spooled = view.labelled("spooled_messages").get("waiting") or 0
    arrived = f" {counted(spooled, 'incoming message')} in the spool." if spooled else ""
    return f"{counted(waiting, 'message')} waiting{age}.{doubts}{arrived}"


def _capitalised(text: str) -> str:
    return text[:1].upper() + text[1:]
