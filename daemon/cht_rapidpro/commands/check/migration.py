"""`check --migration`: where a site stands on the way from another gateway to this one, and back.

The steps are those of docs/operations/migrate.md. Each says what was found; the first step of a way that is not done is
the next one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cht_rapidpro.commands.check.finding import Finding, Mark, good, note
from cht_rapidpro.domain.pause import Pause
from cht_rapidpro.domain.settings import OUR_SERVICE, AppSettings, Choice
from cht_rapidpro.domain.takeover import Sender

_ABOUT: Final = "migration"
_NONE: Final = "none"


@dataclass(frozen=True, slots=True)
class Site:
    """What is known of the site. `told`: the running daemon's `/status`, None where none runs or answers.

    `findings`: of `check`; `sender`: the note of the state directory, None where there is none.
    """

    findings: Sequence[Finding]
    settings: AppSettings | None
    choice: Choice | None
    told: Mapping[str, Any] | None
    is_running: bool
    pause: Pause | None
    sender: Sender | None
    incoming: bool

    @property
    def service(self) -> str:
        return self.settings.outgoing_service if self.settings else ""

    def figure(self, name: str) -> Any:
        return (self.told or {}).get("figures", {}).get(name)


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    is_done: bool
    says: str
    remedy: str


def migration(site: Site) -> list[Finding]:
    """The steps of both ways, each with the next one named."""
    return [*_way("forward", forward(site)), *_way("back", back(site))]


def _way(name: str, steps: Iterable[Step]) -> Iterator[Finding]:
    is_next = True
    for number, step in enumerate(steps, 1):
        about = f"{_ABOUT}.{name}"
        says = f"{number}. {step.name}: {step.says}"
        if step.is_done:
            yield good(about, says)
        else:
            yield note(about, f"{says} (next)" if is_next else says, step.remedy)
            is_next = False


def forward(site: Site) -> Iterator[Step]:
    wrong = sum(finding.mark is Mark.BAD and finding.about != "cht.outgoing_service" for finding in site.findings)
    yield Step("check", not wrong, f"{wrong} to fix", "`cht-rapidpro check` names each with what to do")
    yield Step(
        "daemon",
        site.is_running and site.told is not None,
        "it runs and answers" if site.told is not None else "none runs, or it does not answer",
        "systemctl start cht-rapidpro.socket cht-rapidpro.service",
    )
    yield Step(
        "webhook",
        site.incoming,
        "it listens" if site.incoming else "it is switched off",
        "[incoming] enabled = true, then direct the proxy here: one upstream at any moment",
    )
    held = site.pause is not None
    yield Step("no pause", not held, "sending is held" if held else "sending is not held", "`cht-rapidpro resume`")
    sends = site.choice is not None and site.choice.sends
    why = site.choice.why if site.choice else "the app settings cannot be read"
    yield Step("choice", sends, why, f"set sms.outgoing_service to {OUR_SERVICE!r} in the app settings")
    waiting = site.figure("takeover_messages")
    finished = sends and site.sender is not None and site.sender.is_ours and not site.sender.is_open
    yield Step(
        "takeover",
        finished and not waiting,
        f"{waiting} messages wait" if waiting else "finished" if finished else "not finished",
        "wait: it takes about two minutes after the other gateway's last message; then `takeover.finished` is logged",
    )
    contested = site.figure("contested_messages")
    says = f"{contested} messages that another gateway has sent" if contested else "no other gateway was noticed"
    yield Step("alone", contested == 0, says, "find the gateway that goes on: an API of CHT with old settings, a phone")


def back(site: Site) -> Iterator[Step]:
    is_draining = site.pause is not None and site.pause.drains
    left = _left(site)
    says = "nothing is claimed" if is_draining and not left else left or "not ordered, or not known"
    yield Step("drain", is_draining and not left, says, "`cht-rapidpro drain`, until it ends with 0")
    is_none = bool(site.service) and (site.choice is None or not site.choice.sends)
    yield Step("choice of none", is_none, f"sms.outgoing_service is {site.service!r}", f'set it to "{_NONE}"')
    yield Step(
        "daemon",
        not site.is_running,
        "it runs" if site.is_running else "it does not run",
        "direct the proxy to CHT, then systemctl disable --now cht-rapidpro.socket cht-rapidpro.service",
    )
    is_other = is_none and site.service != _NONE
    yield Step("choice of the other", is_other, f"sms.outgoing_service is {site.service!r}", 'set it to "rapidpro"')


def _left(site: Site) -> str:
    if site.told is None:
        return "" if not site.is_running else "the daemon does not answer"
    spooled = (site.figure("spooled_messages") or {}).get("waiting") or 0
    counts = {"claimed": site.figure("claimed_tasks"), "ambiguous": site.figure("ambiguous_messages")}
    return ", ".join(f"{name} {count:g}" for name, count in {**counts, "spooled": spooled}.items() if count)
