"""One sentence or two on one message: why it has not been sent, or what became of it, and what happens when.

Told from what is known at one moment: the task, the app settings, a pause, what the running daemon has in memory, and
RapidPro's word. Nothing here is decided anew; the sentences follow what `jobs/outgoing/relay.py` and `domain/claim.py`
do.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.domain.claim import Claim, claim_of
from cht_rapidpro.domain.orders import Phase
from cht_rapidpro.domain.span import span
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import Doc, Task, due, gateway_ref, messages, timestamp
from cht_rapidpro.domain.trace import Fate, Trace

_UNWANTED: Final = (State.MUTED, State.CLEARED, State.DENIED, State.DUPLICATE)


@dataclass(frozen=True, slots=True)
class Daemon:
    """What the running daemon has of a message. Seconds from now; None where that is not known.

    `troubles`: what is amiss with it as a whole.
    """

    phase: Phase = Phase.NOWHERE
    before_it: int | None = None
    again_in: float | None = None
    next_look_in: float | None = None
    held_back: str = ""
    is_blocked: bool = False
    troubles: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """`now`: ms since the epoch. `me`: our instance id, "" where there is none; `daemon`: None where none runs.

    `not_ours`: why we do not send, "" where we do; `paused`: the pause, "" where there is none. `sweep_interval`,
    `claim_timeout`, `expire_after` in seconds.
    """

    now: int
    me: str
    daemon: Daemon | None
    trace: Trace
    not_ours: str
    paused: str
    sweep_interval: float
    claim_timeout: float
    expire_after: float | None


def explain(task: Task, doc: Doc, known: Known) -> str:
    """Why it has not been sent, or that it was, and what happens next."""
    state = task.get("state")
    if state in (State.PENDING, State.FORWARDED_TO_GATEWAY):
        claim = claim_of(task)
        return _unclaimed(task, doc, known) if claim is None else _claimed(claim, known)
    if state == State.DELIVERED:
        return "The phone has it."
    if state == State.SCHEDULED:
        moment = due(task, doc)
        when = "" if moment is None else f", at {timestamp(moment)}"
        return f"It is scheduled: CHT makes it pending when it is due{when}, and then it is sent."
    if state in _UNWANTED:
        return f"CHT does not want it sent: it is `{state}`. Nothing happens."
    if state == State.FAILED:
        details = task.get("state_details") or "no reason is known"
        return (
            f"It has failed: {str(details).rstrip('.')}. Nothing happens by itself; `messages resend` sends it again."
        )
    return _accepted(task, state, known)


def _accepted(task: Task, state: object, known: Known) -> str:
    ref, trace = gateway_ref(task), known.trace
    if not ref:
        return f"It is `{str(state)[:40]}` without a gateway_ref: another gateway has it, and this one does nothing."
    match trace.fate:
        case Fate.UNKNOWN:
            return f"RapidPro took it as broadcast {ref}; what became of it cannot be asked now: {trace.problem}."
        case Fate.MISSING:
            return (
                f"It was sent as broadcast {ref}, which RapidPro at {trace.base} does not show: archived, or of another"
                " workspace. Its state stays as it is."
            )
        case Fate.DEAD:
            return (
                f"RapidPro has given it up (broadcast {ref}: {trace.status}). The running daemon makes it `failed` when"
                " it asks for it next; `messages resend` sends it again."
            )
        case Fate.ALIVE:
            asks = "The running daemon asks for its next state" if known.daemon else "No daemon runs to ask for more"
            return f"It was sent: RapidPro has it as broadcast {ref}, {trace.status or 'without a status'}. {asks}."


def _unclaimed(task: Task, doc: Doc, known: Known) -> str:
    if not messages(task):
        return "It has no number, no text or no uuid that can be sent: it is never sent. `messages cancel` ends it."
    moment = due(task, doc)
    if known.expire_after is not None and moment is not None and known.now - moment > known.expire_after * 1000:
        return "It is due longer than `expire_after` allows: it fails as Expired, unsent, when the daemon comes to it."
    if known.not_ours:
        return f"Nothing is sent: {known.not_ours}."
    if known.daemon is None:
        paused = f", and sending is paused {known.paused}" if known.paused else ""
        return f"No daemon is running{paused}: it is sent in its turn once it does."
    if known.daemon.held_back:
        return f"Its document takes no claim: {known.daemon.held_back}. It is tried again later: repair the document."
    if known.paused:
        return f"Sending is paused {known.paused}: it is sent after that, in its turn."
    return _in_turn(known.daemon, known.sweep_interval)


def _in_turn(daemon: Daemon, sweep_interval: float) -> str:
    amiss = f" {' '.join(daemon.troubles)} It goes out when that is over." if daemon.troubles else ""
    if daemon.phase is Phase.WAITING:
        ahead = "It is the next" if not daemon.before_it else f"{daemon.before_it} others go before it"
        return f"It waits to be claimed. {ahead}, and it is sent in its turn.{amiss}"
    if daemon.phase is Phase.TAKEN_OVER:
        return (
            "The gateway before this one may have sent it: RapidPro is asked about two minutes after that one's last"
            f" sign. If it has no such broadcast, the message is sent in its turn.{amiss}"
        )
    if daemon.phase is Phase.PASSED_OVER:
        return f"The daemon could not claim it, and tries again in {span(daemon.again_in or 0)}.{amiss}"
    return f"The daemon has not seen it yet: the next look at CouchDB, within {span(sweep_interval)}, brings it.{amiss}"


def _claimed(claim: Claim, known: Known) -> str:
    at = timestamp(claim.at)
    if claim.instance != known.me:
        return (
            f"Another daemon ({claim.instance}) has claimed it at {at} and sends it. If its claim stays unchanged for"
            f" {span(known.claim_timeout)}, this gateway takes it over while it runs, and looks it up first."
        )
    daemon = known.daemon
    if daemon is None:
        return (
            f"This gateway has claimed it at {at} and is not running: the next start looks up in RapidPro whether it"
            " was sent, before anything is sent."
        )
    match daemon.phase:
        case Phase.READY:
            waits = f"Sending is paused {known.paused}: it" if known.paused else "It"
            return f"{waits} is claimed and surely not sent yet; it is posted in its turn, or given back."
        case Phase.IN_FLIGHT:
            return "It is being sent this moment: RapidPro's answer settles it."
        case Phase.AMBIGUOUS:
            return _ambiguous(daemon, known)
        case Phase.UNDECIDABLE:
            return (
                "It may have been sent, and RapidPro does not show enough to tell: only a human can. Look in RapidPro,"
                " then `messages settle UUID --ref ID` or `messages settle UUID --not-sent`."
            )
        case _:
            return (
                f"This gateway has claimed it at {at}: the next look at CouchDB, within {span(known.sweep_interval)},"
                " takes it up, and looks it up in RapidPro first."
            )


def _ambiguous(daemon: Daemon, known: Known) -> str:
    if daemon.next_look_in is None:
        return f"It was not sent, and sending is paused {known.paused}: it is looked up once more and sent after that."
    blocked = (
        " Another daemon has one of the same number and text, which is settled first." if daemon.is_blocked else ""
    )
    then = "given back" if known.not_ours else "sent again"
    return (
        "It may have been sent: its last attempt had no clear answer. RapidPro is asked in"
        f" {span(daemon.next_look_in)}; it is adopted where it is found, and {then} only where a complete listing"
        f" has none.{blocked}"
    )
