"""The daemon's problems as a list of findings, and its state in one word.

`status`, `/ready`, the metrics, the page and systemd's status line are all made from these findings, so that they
cannot disagree. A finding says whether it heals itself: an alarm for a problem that heals itself makes people ignore
alarms.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from cht_rapidpro.domain.span import span

LONG_WAIT: Final = 600.0  # seconds that a message may be overdue before the daemon is degraded
_NAMES: Final = {"couchdb": "CouchDB", "rapidpro": "RapidPro", "spool": "The spool", "vault": "CHT's vault"}


class Level(StrEnum):
    """How serious a finding is, the worst last."""

    OK = "ok"  # everything flows; a finding of this level is information
    DEGRADED = "degraded"  # there is a problem, and it heals itself
    BROKEN = "broken"  # an operator must act


# By reason: the noun that is counted, the problem, what to do.
_UNSENDABLE: Final = {
    "held": ("document", "held back: no claim can be stored", "Repair the documents that `claim.rejected` names."),
    "undecidable": (
        "message",
        "undecided: it is not known whether RapidPro sent it",
        "Look in RapidPro for each that `broadcast.undecidable` names, then type `cht-rapidpro messages settle`.",
    ),
    "no_message": ("task", "never sent: no message in it", "Clear the tasks that `message.unsendable` names."),
    "no_uuid": ("message", "never sent: no uuid", "Repair or clear the tasks that `message.unsendable` names."),
    "no_number": (
        "message",
        "never sent: no phone number",
        "Give the person a number and the message too, or clear the tasks that `message.unsendable` names.",
    ),
    "no_text": ("message", "never sent: no text", "Repair or clear the tasks that `message.unsendable` names."),
}

SEVERITY: Final = tuple(Level)


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` holds still while it lasts, so that it can be read aloud; `more` may change every second.

    `for_seconds`: since when, where that is known.
    """

    level: Level
    what: str
    more: str = ""
    advice: str = ""
    for_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Dependency:
    """`condition`: of `dependency_health.Condition`; `error`: the latest one.

    `is_needed`: nothing flows while it is unknown.
    """

    name: str
    condition: str
    for_seconds: float
    error: str | None
    is_needed: bool


def worst(findings: Iterable[Finding]) -> Level:
    return max((finding.level for finding in findings), key=SEVERITY.index, default=Level.OK)


def named(dependency: str) -> str:
    first, _, rest = dependency.partition(" ")
    return f"{_NAMES.get(first, first)} {rest}".rstrip()


def counted(count: float, noun: str) -> str:
    """As "1 message", "3 messages"."""
    return f"{count:,.0f} {noun}{'' if count == 1 else 's'}"


def find(
    dependencies: Iterable[Dependency], figures: Mapping[str, Any], others: Iterable[Finding], *, can_store: bool
) -> list[Finding]:
    """Returns the findings, the worst first; empty if there is no problem. `others`: findings of single parts of the
    daemon.
    """
    dependencies = list(dependencies)
    fails = any(each.name == "couchdb" and each.condition in ("lost", "refused") for each in dependencies)
    found = [
        *_storing(can_store),
        *others,
        *(finding for each in dependencies for finding in _dependency(each)),
        *_waiting(figures),
        *_spooled(figures),
        *(unsendable(figures) if not fails else ()),  # a document may be held for what CouchDB does to all
    ]
    return sorted(found, key=lambda each: -SEVERITY.index(each.level))


def _storing(can_store: bool) -> Iterator[Finding]:
    if not can_store:
        yield Finding(
            Level.BROKEN,
            "Incoming messages are refused.",
            advice="Neither CouchDB nor the disk takes them. Make room on the disk of the state directory, or bring"
            " CouchDB back: RapidPro does not repeat refused messages.",
        )


def _dependency(found: Dependency) -> Iterator[Finding]:
    name, error = named(found.name), found.error or "no reason is known"
    match found.condition:
        case "refused":
            advice = f"An operator must act: {error}"
            yield Finding(Level.BROKEN, f"{name} refuses access", advice=advice, for_seconds=found.for_seconds)
        case "lost":
            advice = f"Messages wait, none is lost, and the request is repeated. If this goes on, look there: {error}"
            yield Finding(Level.DEGRADED, f"{name} does not answer", advice=advice, for_seconds=found.for_seconds)
        case "unknown" if found.is_needed:
            advice = f"It is not known whether it works. {found.error or ''}".rstrip()
            what = f"{name} has not answered yet"
            yield Finding(Level.DEGRADED, what, advice=advice, for_seconds=found.for_seconds)


def _waiting(figures: Mapping[str, Any]) -> Iterator[Finding]:
    left = figures.get("budget_left_requests") or {}
    exhausted = [scope for scope, requests in left.items() if requests == 0]
    oldest = figures.get("queue_oldest_seconds") or 0
    if exhausted:
        yield Finding(
            Level.DEGRADED,
            "RapidPro's request limit is reached.",
            advice=f"The other messages wait ({', '.join(exhausted)}). A higher limit at RapidPro and"
            " in [rapidpro] requests_per_hour lets more go out.",
        )
    elif oldest > LONG_WAIT and not figures.get("sending_paused"):
        yield Finding(
            Level.DEGRADED,
            "Messages wait for a long time.",
            f"The oldest was due {span(oldest)} ago.",
            "The figures tell whether others go out; the log (journalctl -u cht-rapidpro) tells why.",
        )


def _spooled(figures: Mapping[str, Any]) -> Iterator[Finding]:
    if rejected := (figures.get("spooled_messages") or {}).get("rejected"):
        what = f"CouchDB does not take {counted(rejected, 'incoming message')}."
        yield Finding(Level.BROKEN, what, advice="`cht-rapidpro spool list` shows them: retry or drop each.")


def unsendable(figures: Mapping[str, Any]) -> Iterator[Finding]:
    """Returns the messages that are not sent until an operator acts, by reason."""
    found = figures.get("unsendable_messages") or {}
    for reason, (noun, what, advice) in _UNSENDABLE.items():
        if count := found.get(reason):
            yield Finding(Level.BROKEN, f"{counted(count, noun)} {what}.", advice=advice)
