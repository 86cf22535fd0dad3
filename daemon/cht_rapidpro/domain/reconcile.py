"""Finding the broadcasts of messages whose outcome is unknown, in a listing of what RapidPro holds.

RapidPro has no idempotency key, so a message is recognised by what it says and to whom. Numbers and texts repeat
(reminders do), hence everything here counts in multisets: a broadcast answers for one message and no other. Invariant:
a broadcast that is some task's already, or may be another's in a moment, is never adopted; without that one message
would go out for two.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.domain.outgoing import Broadcast, BroadcastId, Urn
from cht_rapidpro.domain.task import DocId, MessageId, parse_timestamp

Key = tuple[DocId, MessageId]
Taken = frozenset[tuple[BroadcastId, Urn]]

_NATIONAL_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class Pair:
    """What a broadcast is recognised by: the URN as we post it, the text as RapidPro stores it."""

    urn: Urn
    text: str


def pair_of(broadcast: Broadcast) -> Pair:
    """What RapidPro keeps of a broadcast: it trims the text."""
    return Pair(broadcast.urn, broadcast.text.strip())


@dataclass(frozen=True, slots=True)
class Question:
    """A message in doubt. `earliest`: ms of RapidPro's clock; an older broadcast cannot be its."""

    key: Key
    pair: Pair
    earliest: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A broadcast as listed; `urns` None in an anonymous workspace; `created_on`: ms of RapidPro's clock."""

    id: BroadcastId
    urns: tuple[str, ...] | None
    text: str
    created_on: int
    status: str


def read_listed(row: object) -> Listed | None:
    """A row of broadcasts.json; None where it is none, or has no id or time. One without a text is never ours."""
    match row:
        case {"id": int() as number, "created_on": str() as moment, **rest} if not isinstance(number, bool):
            created_on, urns = _moment(moment), rest.get("urns")
            if created_on is not None:
                known = tuple(urn for urn in urns if isinstance(urn, str)) if isinstance(urns, list) else None
                text, status = _text(rest.get("text")), str(rest.get("status", ""))
                return Listed(BroadcastId(str(number)), known, text, created_on, status)
    return None


def _moment(text: str) -> int | None:
    try:
        return parse_timestamp(text)
    except (OverflowError, ValueError):
        return None


def _text(value: object) -> str:
    """A text by language, as RapidPro shows it, or plain, as old versions do; we send in one language only."""
    if isinstance(value, dict):
        value = next(iter(value.values()), None)
    return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Found:
    """This broadcast is the message's."""

    broadcast: Listed


@dataclass(frozen=True, slots=True)
class Young:
    """A broadcast fits, but so recent a one may be another daemon's that is not settled yet: look again."""


@dataclass(frozen=True, slots=True)
class Absent:
    """No broadcast of the listing is the message's."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """An anonymous workspace hides the URNs, and the text alone does not tell: a human must look."""


Verdict = Found | Young | Absent | Unclear


def match(
    questions: Iterable[Question], listed: Sequence[Listed], taken: Taken, adoptable_before: int
) -> dict[Key, Verdict]:
    """A verdict for each question; no broadcast answers two of them.

    `taken`: (broadcast, URN) pairs that are other tasks' already; `adoptable_before`: ms of RapidPro's clock. Of
    several broadcasts that fit, the oldest is taken, by the oldest question first; numbers that are equal go before
    numbers of which only the national part is (RapidPro normalises by its own country).
    """
    open_questions = sorted(questions, key=lambda question: (question.earliest, question.key))
    by_text = defaultdict(list)
    for broadcast in sorted(listed, key=lambda broadcast: (broadcast.created_on, int(broadcast.id))):
        by_text[broadcast.text].append(broadcast)
    verdicts: dict[Key, Verdict] = {}
    used: set[BroadcastId] = set()
    for fits in (_has_urn, _has_national_part):
        for question in open_questions:
            if question.key in verdicts:
                continue
            for broadcast in by_text[question.pair.text]:
                if broadcast.id not in used and _may_be(question, broadcast, taken, fits):
                    used.add(broadcast.id)
                    verdicts[question.key] = Found(broadcast) if broadcast.created_on < adoptable_before else Young()
                    break
    unanswered = [question for question in open_questions if question.key not in verdicts]
    return verdicts | dict(_match_anonymous(unanswered, by_text, taken, adoptable_before))


def _may_be(question: Question, broadcast: Listed, taken: Taken, fits: Callable[[str, str], bool]) -> bool:
    if broadcast.created_on < question.earliest or broadcast.urns is None:
        return False
    return any(fits(urn, question.pair.urn) and (broadcast.id, urn) not in taken for urn in broadcast.urns)


def _match_anonymous(
    questions: Sequence[Question], by_text: Mapping[str, Sequence[Listed]], taken: Taken, adoptable_before: int
) -> Iterator[tuple[Key, Verdict]]:
    """By text and time alone: only where one broadcast and one question are left for each other."""
    refs = {ref for ref, _ in taken}
    asking: dict[str, int] = defaultdict(int)
    for question in questions:
        asking[question.pair.text] += 1
    for question in questions:
        fitting = [
            broadcast
            for broadcast in by_text.get(question.pair.text, ())
            if broadcast.urns is None and broadcast.id not in refs and broadcast.created_on >= question.earliest
        ]
        if not fitting:
            yield question.key, Absent()
        elif len(fitting) > 1 or asking[question.pair.text] > 1:
            yield question.key, Unclear()
        else:
            yield question.key, Found(fitting[0]) if fitting[0].created_on < adoptable_before else Young()


@dataclass(frozen=True, slots=True)
class Holder:
    """A task that holds a broadcast's id as its gateway_ref; `pairs` of its messages, the first one's first."""

    ref: BroadcastId
    pairs: tuple[Pair, ...]


def taken_by(holders: Iterable[Holder], listed: Sequence[Listed]) -> Taken:
    """The (broadcast, URN) pairs that are tasks' already.

    A task of several messages stores the id of the first broadcast only; of each other message the listed broadcast
    nearest in time is its own.
    """
    by_id = {broadcast.id: broadcast for broadcast in listed}
    holders = list(holders)
    taken: set[tuple[BroadcastId, Urn]] = set()
    for holder in holders:
        if (broadcast := by_id.get(holder.ref)) is not None:
            taken.update((holder.ref, urn) for urn in _held_urns(broadcast, holder))
    owned = {ref for ref, _ in taken}
    for holder in holders:
        for pair in _other_pairs(holder, by_id.get(holder.ref)):
            if (nearest := _nearest(holder.ref, pair, by_id, owned)) is not None:
                owned.add(nearest.id)
                taken.update((nearest.id, Urn(urn)) for urn in nearest.urns or (pair.urn,))
    return frozenset(taken)


def _other_pairs(holder: Holder, broadcast: Listed | None) -> list[Pair]:
    """The messages of a holder that its ref does not stand for: all but the first, unless that was refused."""
    pairs = list(holder.pairs)
    if broadcast is not None:
        for pair in pairs:
            if _fits(broadcast, pair):
                pairs.remove(pair)
                return pairs
    return pairs[1:]


def _fits(broadcast: Listed, pair: Pair) -> bool:
    has_urn = broadcast.urns is None or any(_same(urn, pair.urn) for urn in broadcast.urns)
    return broadcast.text == pair.text and has_urn


def _held_urns(broadcast: Listed, holder: Holder) -> Iterator[Urn]:
    """The URNs that a holder's messages have in its broadcast; none where the ref is of another, older RapidPro."""
    has_text = any(pair.text == broadcast.text for pair in holder.pairs)
    if broadcast.urns is None:
        yield from (pair.urn for pair in holder.pairs if has_text)
        return
    for urn in broadcast.urns:
        if any(_same(urn, pair.urn) for pair in holder.pairs) or (has_text and len(broadcast.urns) == 1):
            yield Urn(urn)


def _nearest(
    ref: BroadcastId, pair: Pair, by_id: Mapping[BroadcastId, Listed], owned: set[BroadcastId]
) -> Listed | None:
    if ref not in by_id:
        return None
    fitting = [broadcast for broadcast in by_id.values() if broadcast.id not in owned and _fits(broadcast, pair)]
    return min(fitting, key=lambda broadcast: abs(broadcast.created_on - by_id[ref].created_on), default=None)


def _same(urn: str, posted: str) -> bool:
    return _has_urn(urn, posted) or _has_national_part(urn, posted)


def _has_urn(urn: str, posted: str) -> bool:
    return urn == posted


def _has_national_part(urn: str, posted: str) -> bool:
    """Whether the shorter number, without leading zeros, is the end of the other: `tel:0712…`, `tel:+254712…`."""
    a, b = _digits(urn), _digits(posted)
    shorter, longer = sorted((a, b), key=len)
    return len(shorter) >= _NATIONAL_DIGITS and longer.endswith(shorter)


def _digits(urn: str) -> str:
    return "".join(char for char in urn if char.isascii() and char.isdigit()).lstrip("0")
