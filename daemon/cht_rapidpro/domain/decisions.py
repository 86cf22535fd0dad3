"""What an operator may order about one message, and why not: resend, cancel, settle.

Pure decisions, made anew on each revision that the order is written against. The invariant is that no order makes the
gateway send what a phone may get another way: a message that RapidPro may still send is not resent, one that is being
sent is not touched, and what only a human can know is taken from the human alone after RapidPro was asked.
"""

from collections.abc import Sequence
from typing import Final, assert_never

from cht_rapidpro.domain.claim import ORDERED, Claim, claim_of
from cht_rapidpro.domain.orders import Cancel, NotSent, Order, Phase, Refusal, Resend, SentAs, Situation, seen_in
from cht_rapidpro.domain.statuses import State, broadcast_outcome
from cht_rapidpro.domain.task import Change, Task, gateway_ref, messages
from cht_rapidpro.domain.trace import Fate

_RESEND: Final = f"{ORDERED[0]}: cht-rapidpro messages resend"
_CANCEL: Final = "Cancelled by an operator: cht-rapidpro messages cancel"
_NOT_SENT: Final = f"{ORDERED[1]}: cht-rapidpro messages settle --not-sent"
_SETTLED: Final = "as an operator says: cht-rapidpro messages settle --ref"
_UNWANTED: Final = (State.MUTED, State.CLEARED, State.DENIED, State.DUPLICATE)
_ACCEPTED: Final = (State.RECEIVED_BY_GATEWAY, State.FORWARDED_BY_GATEWAY, State.SENT)


def decide(order: Order, found: Sequence[Task], situation: Situation) -> Change | Refusal:
    """What to write into the task that holds the message. `found`: all tasks of its document that hold it."""
    if not found:
        return Refusal("the message is gone: its task was deleted or has other messages now")
    if len(found) > 1:
        return Refusal(f"{len(found)} tasks of its document hold this uuid: which one is meant cannot be told")
    [task] = found
    state = task.get("state")
    if refusal := _never(order, task, state):
        return refusal
    if seen_in(task) != situation.seen:
        return Refusal("the task has changed this moment: order it again")
    match order:
        case Resend():
            return _resend(task, state, situation)
        case Cancel():
            return _cancel(task, state)
        case NotSent():
            return _not_sent(task, state, situation)
        case SentAs():
            return _sent_as(order, task, state, situation)
        case never:
            assert_never(never)


def _never(order: Order, task: Task, state: object) -> Refusal | None:
    """What no order can change."""
    if state == State.DELIVERED:
        return Refusal("it is delivered: the phone has it")
    if state in _UNWANTED:
        return Refusal(f"it is `{state}`: CHT does not want it sent, and nothing is")
    if not messages(task) and not isinstance(order, Cancel):
        return Refusal("it has no number or no text that can be sent: `messages cancel` ends it")
    return None


def _resend(task: Task, state: object, situation: Situation) -> Change | Refusal:
    if state == State.PENDING:
        return Refusal("it is pending already: `messages show` says why it has not been sent")
    if state == State.SCHEDULED:
        return Refusal("it is scheduled: CHT makes it pending when it is due")
    if state == State.FORWARDED_TO_GATEWAY:
        return Refusal(
            "it is in a gateway's hands and may be sent this moment: if it stays unknown whether it was sent,"
            " `messages settle` decides it"
        )
    if state != State.FAILED and state not in _ACCEPTED:
        return Refusal(f"its state {str(state)[:40]!r} is none that CHT knows")
    ref = gateway_ref(task)
    if not ref:
        if state == State.FAILED:
            return Change(State.PENDING, _RESEND, gateway_ref="")
        return Refusal(f"it is `{state}` without a gateway_ref: another gateway has sent it, or may yet")
    if len(messages(task)) > 1:
        return Refusal(
            f"its task has {len(messages(task))} messages, which are sent together: broadcast {ref} was made for one of"
            " them, so its phone would get it twice"
        )
    trace = situation.trace
    match trace.fate:
        case Fate.DEAD:
            return Change(State.PENDING, f"{_RESEND} (broadcast {ref}: {trace.status})", gateway_ref="")
        case Fate.ALIVE:
            return Refusal(
                f"RapidPro has it as broadcast {ref}, {trace.status or 'without a status'}: the phone may get it, or"
                " has it"
            )
        case Fate.MISSING:
            return Refusal(
                f"RapidPro at {trace.base} shows no broadcast {ref}, which may be archived or of another workspace:"
                " look there; if the phone did not get it, `messages settle --not-sent` lets it be sent again"
            )
        case Fate.UNKNOWN:
            return Refusal(f"RapidPro cannot be asked what became of broadcast {ref}: {trace.problem}")
        case never:
            assert_never(never)


def _cancel(task: Task, state: object) -> Change | Refusal:
    if state in (State.PENDING, State.SCHEDULED):
        return Change(State.CLEARED, _CANCEL)
    if state == State.FAILED:
        return Refusal("it has failed: nothing is sent")
    if state in _ACCEPTED or gateway_ref(task):
        return Refusal(f"it is `{state}`: RapidPro has it already, and it cannot be called back")
    if state == State.FORWARDED_TO_GATEWAY:
        if claim_of(task) is None:
            return Refusal("another gateway has it, or cht-rapidpro claims it this moment: pause first, and try again")
        return Refusal(
            "it is claimed and may be sent this moment: `cht-rapidpro pause` gives unused claims back, then cancel it;"
            " what may have been sent already stays claimed, which `messages show` tells"
        )
    return Refusal(f"its state {str(state)[:40]!r} is none that CHT knows")


def _not_sent(task: Task, state: object, situation: Situation) -> Change | Refusal:
    trace, ref = situation.trace, gateway_ref(task)
    if refusal := _unsettleable(task, state, situation):
        return refusal
    if len(messages(task)) > 1:
        return _several(task)
    match trace.fate:
        case Fate.UNKNOWN:
            return Refusal(f"RapidPro cannot be asked whether it has it: {trace.problem}")
        case Fate.ALIVE:
            return Refusal(f"RapidPro has it as broadcast {ref}, {trace.status or 'without a status'}")
        case Fate.DEAD:
            return Refusal(f"RapidPro has given broadcast {ref} up ({trace.status}): `messages resend` sends it again")
        case Fate.MISSING:
            shown = [each for each in trace.candidates if each.urns is not None]
            if shown:
                return Refusal(
                    f"RapidPro has broadcast {shown[0].id} of this text and number that no other message has: look"
                    f" there, then `messages settle --ref {shown[0].id}`"
                )
            was = f" (broadcast {ref})" if ref else ""
            return Change(State.PENDING, f"{_NOT_SENT}{was}", gateway_ref="")
        case never:
            assert_never(never)


def _sent_as(order: SentAs, task: Task, state: object, situation: Situation) -> Change | Refusal:
    if refusal := _unsettleable(task, state, situation):
        return refusal
    if len(messages(task)) > 1:
        return _several(task)
    if situation.trace.problem:
        return Refusal(f"RapidPro cannot be asked about broadcast {order.ref}: {situation.trace.problem}")
    if situation.trace.fate is Fate.ALIVE:
        return Refusal(f"RapidPro has it as broadcast {gateway_ref(task)} already, {situation.trace.status}")
    if order.broadcast is None:
        return Refusal(f"RapidPro at {situation.trace.base} shows no broadcast {order.ref}")
    if not order.is_like:
        return Refusal(f"broadcast {order.ref} has another text or another number: it is not this message's")
    if order.is_taken:
        return Refusal(f"broadcast {order.ref} is another message's already: one of the two would never be sent")
    outcome = broadcast_outcome(order.broadcast.status)
    return Change(outcome.state, f"{outcome.details}, {_SETTLED}", gateway_ref=order.ref)


def _several(task: Task) -> Refusal:
    return Refusal(
        f"its task has {len(messages(task))} messages, which share one state: one of them cannot be settled alone"
    )


def _unsettleable(task: Task, state: object, situation: Situation) -> Refusal | None:
    """Why a human's word is not wanted: something is known, or the gateway finds out by itself."""
    if state in (State.PENDING, State.SCHEDULED):
        return Refusal(f"it is `{state}`: it was not sent, and there is nothing to settle")
    if state in _ACCEPTED and gateway_ref(task):
        return None
    if state == State.FAILED:
        return None if gateway_ref(task) else Refusal("it has failed unsent: `messages resend` sends it again")
    if state != State.FORWARDED_TO_GATEWAY:
        return Refusal(f"it is `{str(state)[:40]}` without a gateway_ref: another gateway's, which has to be asked")
    claim = claim_of(task)
    if claim is None:
        return Refusal("it is in another gateway's hands, or cht-rapidpro claims it this moment")
    return _held(claim, situation)


def _held(claim: Claim, situation: Situation) -> Refusal | None:
    age = situation.now - claim.at
    if claim.instance == situation.me and situation.phase is not None:
        if situation.phase is Phase.UNDECIDABLE:
            return None
        return Refusal(
            f"the running daemon has it ({situation.phase}) and decides by itself: `messages show` says when"
        )
    wait = situation.settle_time if claim.instance == situation.me else situation.claim_timeout
    if age < wait:
        is_ours = claim.instance == situation.me
        who = "this gateway, stopped now," if is_ours else f"another daemon ({claim.instance[:8]}…)"
        return Refusal(
            f"{who} claimed it {max(0, age) // 1000} s ago and may have it under way: wait until {wait // 1000} s have"
            " passed"
        )
    return None
