"""Finds the broadcasts of ambiguous messages in a listing of RapidPro's broadcasts.

RapidPro has no idempotency key, so a message is recognised by its number and text. Numbers and texts repeat (reminders
do), so this module counts (broadcast, URN) pairs as a multiset: each pair, one recipient of one broadcast, stands for
one message. Invariant: a pair that belongs to a task, or may soon belong to another daemon's task, is never adopted;
otherwise one SMS would count for two messages.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.domain.outgoing import BroadcastId, SmsIdentity, Urn, comparable
from cht_rapidpro.domain.task import MessageKey, parse_timestamp

RecipientSlot = tuple[BroadcastId, Urn]
AssignedSlots = frozenset[RecipientSlot]

_NATIONAL_DIGITS: Final = 8


@dataclass(frozen=True, slots=True)
class BroadcastQuery:
    """An ambiguous message. `earliest`, `latest`: ms of RapidPro's clock; a broadcast that was made outside of them is
    another message's.

    `latest` None: its last attempt may still take effect.
    """

    key: MessageKey
    pair: SmsIdentity
    earliest: int
    latest: int | None = None

    def spans(self, broadcast: "Listed") -> bool:
        return self.earliest <= broadcast.created_on and (self.latest is None or broadcast.created_on <= self.latest)


def windows(queries: Iterable[BroadcastQuery]) -> list[tuple[int, int | None]]:
    """Returns the windows to be listed for these questions; they do not overlap. `None`: up to now."""
    found: list[tuple[int, int | None]] = []
    for query in sorted(queries, key=lambda query: query.earliest):
        last = found[-1] if found else None
        if last is None or (last[1] is not None and query.earliest > last[1]):
            found.append((query.earliest, query.latest))
        elif last[1] is not None and (query.latest is None or query.latest > last[1]):
            found[-1] = last[0], query.latest
    return found


@dataclass(frozen=True, slots=True)
class Listed:
    """A broadcast as listed; `urns` None in an anonymous workspace; `created_on`: ms of RapidPro's clock.

    `text`: as `comparable` makes it.
    """

    id: BroadcastId
    urns: tuple[str, ...] | None
    text: str
    created_on: int
    status: str


def read_listed(row: object) -> Listed | None:
    """Reads a row of broadcasts.json; None if it is invalid, or has no id or time. A row without a text is never
    ours.
    """
    match row:
        case {"id": int() as number, "created_on": str() as moment, **rest} if not isinstance(number, bool):
            created_on, urns = read_moment(moment), rest.get("urns")
            if created_on is not None:
                known = tuple(urn for urn in urns if isinstance(urn, str)) if isinstance(urns, list) else None
                text, status = comparable(_text(rest.get("text"))), str(rest.get("status", ""))
                return Listed(BroadcastId(str(number)), known, text, created_on, status)
    return None


def read_moment(text: str) -> int | None:
    """Milliseconds since the epoch; None where the text is no time."""
    try:
        return parse_timestamp(text)
    except (OverflowError, ValueError):
        return None


def _text(value: object) -> str:
    """Reads a text: by language, or plain, as old versions show it; the gateway sends in one language only."""
    if isinstance(value, dict):
        value = next(iter(value.values()), None)
    return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True)
class Matched:
    """This broadcast is the message's."""

    broadcast: Listed


@dataclass(frozen=True, slots=True)
class TooRecent:
    """A broadcast fits, but is so recent that it may be another daemon's unsettled one: look again."""


@dataclass(frozen=True, slots=True)
class NotFound:
    """No broadcast of the listing is the message's."""


@dataclass(frozen=True, slots=True)
class Undecidable:
    """An anonymous workspace hides the URNs, and the text alone is ambiguous: an operator must look."""


Verdict = Matched | TooRecent | NotFound | Undecidable


def match(
    queries: Iterable[BroadcastQuery], listed: Sequence[Listed], taken: AssignedSlots, adoptable_before: int
) -> dict[MessageKey, Verdict]:
    """A verdict for each question; no recipient of a broadcast answers two of them.

    `taken`: the slots that belong to other tasks already; `adoptable_before`: ms of RapidPro's clock. Of several
    broadcasts that fit, the oldest is taken, by the oldest question first; numbers that are equal go before numbers of
    which only the national part is (RapidPro normalises by its own country).
    """
    open_queries = sorted(queries, key=lambda query: (query.earliest, query.key))
    ordered = sorted(listed, key=lambda broadcast: (broadcast.created_on, int(broadcast.id)))
    recipients: dict[tuple[str, str], list[tuple[Listed, Urn]]] = defaultdict(list)
    for broadcast in ordered:
        for urn in map(Urn, broadcast.urns or ()):
            recipients[broadcast.text, alike(urn)].append((broadcast, urn))
    verdicts: dict[MessageKey, Verdict] = {}
    used: set[RecipientSlot] = set(taken)
    for fits in (_has_urn, _has_national_part):
        for query in open_queries:
            if query.key in verdicts:
                continue
            for broadcast, urn in recipients.get((query.pair.listed_text, alike(query.pair.urn)), ()):
                is_free = query.spans(broadcast) and (broadcast.id, urn) not in used
                if is_free and fits(urn, query.pair.urn):
                    used.add((broadcast.id, urn))
                    verdicts[query.key] = Matched(broadcast) if broadcast.created_on < adoptable_before else TooRecent()
                    break
    unanswered = [query for query in open_queries if query.key not in verdicts]
    return verdicts | dict(_match_anonymous(unanswered, ordered, taken, adoptable_before))


def _match_anonymous(
    queries: Sequence[BroadcastQuery], listed: Sequence[Listed], taken: AssignedSlots, adoptable_before: int
) -> Iterator[tuple[MessageKey, Verdict]]:
    """Matches by text and time only, if exactly one broadcast and one question fit each other."""
    refs = {ref for ref, _ in taken}
    by_text: dict[str, list[Listed]] = defaultdict(list)
    for broadcast in listed:
        if broadcast.urns is None and broadcast.id not in refs:
            by_text[broadcast.text].append(broadcast)
    asking: dict[str, int] = defaultdict(int)
    for query in queries:
        asking[query.pair.listed_text] += 1
    for query in queries:
        fitting = [broadcast for broadcast in by_text.get(query.pair.listed_text, ()) if query.spans(broadcast)]
        if not fitting:
            yield query.key, NotFound()
        elif len(fitting) > 1 or asking[query.pair.listed_text] > 1:
            yield query.key, Undecidable()
        else:
            yield query.key, Matched(fitting[0]) if fitting[0].created_on < adoptable_before else TooRecent()


@dataclass(frozen=True, slots=True)
class RefOwner:
    """A task that holds a broadcast's id as its gateway_ref; its messages, the first one first."""

    ref: BroadcastId
    messages: tuple[tuple[MessageKey, SmsIdentity], ...]


def taken_by(
    holders: Iterable[RefOwner],
    listed: Sequence[Listed],
    known: Mapping[MessageKey, RecipientSlot],
    former: Iterable[RecipientSlot] = (),
) -> AssignedSlots:
    """Returns the (broadcast, URN) slots that are assigned already: of settled tasks, and of messages in `known` (by
    the URN that was posted).

    Each message has one slot. A task's `gateway_ref` fixes the slot of its first accepted message, even if `known` has
    another one, because another daemon may have settled the task. The slot of its other messages is the known one, else
    the free one nearest in time. `former`: the slots that messages had before an operator ordered them to be sent
    again.
    """
    by_id = {broadcast.id: broadcast for broadcast in listed}
    taken: set[RecipientSlot] = set()
    told: set[MessageKey] = set()
    others = []
    for holder in holders:
        broadcast = by_id.get(holder.ref)
        first = first_of(holder, broadcast)
        if broadcast is not None and (urns := list(_held_urns(broadcast, first[1]))):
            taken.update((broadcast.id, urn) for urn in urns)
            told.add(first[0])
        others += [(holder.ref, one) for one in holder.messages if one != first]
    for key, posted in known.items():
        if key not in told:
            taken.update(_places(posted, by_id))
    for posted in former:
        taken.update(_places(posted, by_id))
    placed = {key for key, (ref, _) in known.items() if ref in by_id}
    for ref, (key, pair) in others:
        if key not in placed and (nearest := _nearest(ref, pair, by_id, taken)) is not None:
            taken.add(nearest)
    return frozenset(taken)


def first_of(holder: RefOwner, broadcast: Listed | None) -> tuple[MessageKey, SmsIdentity]:
    """The message that the ref stands for: the first one, unless that was refused."""
    fitting = (one for one in holder.messages if broadcast is not None and _fits(broadcast, one[1]))
    return next(fitting, holder.messages[0])


def _places(posted: RecipientSlot, by_id: Mapping[BroadcastId, Listed]) -> Iterator[RecipientSlot]:
    """Returns the slots of one of our broadcasts, found by the URN that was posted, under the URN of the listing."""
    ref, urn = posted
    if ref in by_id:
        yield from ((ref, Urn(listed)) for listed in _recipients(by_id[ref], urn) if is_same_number(listed, urn))


def _recipients(broadcast: Listed, posted: Urn) -> tuple[str, ...]:
    """The listed URNs; in an anonymous workspace, which hides them, the posted ones are used."""
    return (posted,) if broadcast.urns is None else broadcast.urns


def _fits(broadcast: Listed, pair: SmsIdentity) -> bool:
    has_urn = broadcast.urns is None or any(is_same_number(urn, pair.urn) for urn in broadcast.urns)
    return broadcast.text == pair.listed_text and has_urn


def _held_urns(broadcast: Listed, pair: SmsIdentity) -> Iterator[Urn]:
    """Returns the slot of a message in its task's broadcast; none if the ref is of another, older RapidPro."""
    has_text = broadcast.text == pair.listed_text
    if broadcast.urns is None:
        yield from (pair.urn,) if has_text else ()
        return
    for urn in broadcast.urns:
        if is_same_number(urn, pair.urn) or (has_text and len(broadcast.urns) == 1):
            yield Urn(urn)


def _nearest(
    ref: BroadcastId, pair: SmsIdentity, by_id: Mapping[BroadcastId, Listed], taken: Collection[RecipientSlot]
) -> RecipientSlot | None:
    """Returns the free slot that a message of this pair may have, of the broadcast nearest in time."""
    if ref not in by_id:
        return None
    fitting = [
        (broadcast.id, Urn(urn))
        for broadcast in by_id.values()
        if broadcast.text == pair.listed_text
        for urn in _recipients(broadcast, pair.urn)
        if is_same_number(urn, pair.urn) and (broadcast.id, urn) not in taken
    ]
    return min(fitting, key=lambda place: abs(by_id[place[0]].created_on - by_id[ref].created_on), default=None)


def is_same_number(urn: str, posted: str) -> bool:
    """Whether a URN as RapidPro writes it is the one that was posted."""
    return _has_urn(urn, posted) or _has_national_part(urn, posted)


def _has_urn(urn: str, posted: str) -> bool:
    return urn == posted


def _has_national_part(urn: str, posted: str) -> bool:
    """Whether the shorter number, without leading zeros, is the end of the other: `tel:0712…`, `tel:+254712…`."""
    ends = urn[-_NATIONAL_DIGITS:], posted[-_NATIONAL_DIGITS:]
    if ends[0] != ends[1] and all(end.isascii() and end.isdigit() for end in ends):
        return False  # the common case; a look-up compares thousands of numbers with each other
    a, b = _digits(urn), _digits(posted)
    shorter, longer = sorted((a, b), key=len)
    return len(shorter) >= _NATIONAL_DIGITS and longer.endswith(shorter)


def alike(urn: Urn) -> str:
    """Equal for URNs that RapidPro may take for one, however it normalises them (and now and then for others)."""
    digits = _digits(urn)
    return digits[-_NATIONAL_DIGITS:] if len(digits) >= _NATIONAL_DIGITS else urn


def _digits(urn: str) -> str:
    return "".join(char for char in urn if char.isascii() and char.isdigit()).lstrip("0")
