"""What is sent to RapidPro, and what its answers mean (docs/outgoing.md#what-an-answer-means).

Each answer tells whether the broadcast may exist. `NotSent`, `Throttled`, `Trouble` and `Refused`: no. `Created`: yes.
`Ambiguous`: perhaps, and an ambiguous message is never sent again without a look-up. A message fails only if RapidPro
refuses that message, never because of trouble in the set-up.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NewType

from cht_rapidpro.domain import phone
from cht_rapidpro.domain.statuses import State, broadcast_outcome
from cht_rapidpro.domain.task import Change, Message

Urn = NewType("Urn", str)
BroadcastId = NewType("BroadcastId", str)

TEXT_LIMIT: Final = 4096  # code points, after escaping (docs/rapidpro.md#post-broadcastsjson)
MAX_URNS: Final = 100  # of one broadcast (docs/rapidpro.md#post-broadcastsjson)
_INVALID: Final = "HTTP 403: Invalid token"  # RapidPro's own words, after `_describe`
_TEXT_MISSING: Final = "Must provide either text or attachments."
_LENGTH: Final = re.compile(r"Ensure this field has no more than (\d{1,9}) characters\.")  # RapidPro's own words
_AT_SIGNS: Final = re.compile("@+")
_REFUSING: Final = ("urns", "text")


@dataclass(frozen=True, slots=True)
class SmsIdentity:
    """The identity of a message at RapidPro, by which its broadcast is recognised: the URN as posted, and the text.

    RapidPro trims the text that it stores (docs/rapidpro.md#post-broadcastsjson), so the text is trimmed before the
    POST.
    """

    urn: Urn
    text: str

    @property
    def listed_text(self) -> str:
        """The text as `Listed.text` has it."""
        return comparable(self.text)


@dataclass(frozen=True, slots=True)
class Broadcast:
    """The body of a POST to broadcasts.json: a text, and up to `MAX_URNS` URNs, each once."""

    urns: tuple[Urn, ...]
    text: str

    def body(self) -> dict[str, Any]:
        return {"urns": self.urns, "text": self.text}


@dataclass(frozen=True, slots=True)
class Created:
    """The broadcast exists."""

    id: BroadcastId
    status: str


@dataclass(frozen=True, slots=True)
class Refused:
    """RapidPro will never take this broadcast; `reason` in its own words.

    `at`: the reasons by position in `urns`, if only some are bad; `is_about_text`: every URN would be refused;
    `text_limit`: the characters that RapidPro takes, where the text has more.
    """

    reason: str
    at: Mapping[int, str] = field(default_factory=dict)
    is_about_text: bool = False
    text_limit: int | None = None


@dataclass(frozen=True, slots=True)
class NotSent:
    """The request never reached RapidPro."""

    why: str

    def __str__(self) -> str:
        return self.why


@dataclass(frozen=True, slots=True)
class Throttled:
    """Nothing was created; the scope is closed for `retry_after` seconds (None: RapidPro did not say)."""

    retry_after: float | None

    def __str__(self) -> str:
        return "RapidPro's request limit is reached"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Nothing was created, because of trouble in the set-up: `why` says what an operator has to check."""

    why: str

    def __str__(self) -> str:
        return self.why


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """The broadcast may exist."""

    why: str

    def __str__(self) -> str:
        return self.why


Answer = Created | Refused | NotSent | Throttled | Trouble | Ambiguous


def comparable(text: str) -> str:
    """A text by which broadcasts are compared: other gateways, CHT's own among them, do not double an `@`."""
    return _AT_SIGNS.sub("@", text) if "@" in text else text


def escape(text: str) -> str:
    """Doubles every `@`, because RapidPro evaluates the text (docs/rapidpro.md#expressions-in-broadcast-texts)."""
    return text.replace("@", "@@")


@dataclass(frozen=True, slots=True)
class RetrySmaller:
    """Nothing was created, perhaps because of another message of the broadcast: to be posted again, with fewer than
    `size` others.
    """

    size: int


def share(answer: Answer, count: int) -> list[Answer | RetrySmaller]:
    """What the answer to a broadcast of `count` URNs means for each of them, in their order.

    Positions that RapidPro names fail alone. A refusal of the whole broadcast that is not about the common text is
    narrowed down by halving.
    """
    if not isinstance(answer, Refused) or count == 1 or answer.is_about_text:
        return [answer] * count
    if answer.at.keys() & set(range(count)):
        return [Refused(answer.at[place]) if place in answer.at else RetrySmaller(count) for place in range(count)]
    return [RetrySmaller(count // 2)] * count


def prepare(message: Message, settings: Mapping[str, object]) -> SmsIdentity | Refused:
    """Prepares a message for RapidPro; its number is normalised if possible, else it stays as CHT wrote it.

    A text over the limit of every version is refused here: above 3 MB RapidPro may answer 500, which would leave the
    ambiguous message for ever.
    """
    pair = pair_of(message, settings)
    if len(pair.text) > TEXT_LIMIT:
        return Refused(_too_long(pair.text, TEXT_LIMIT), is_about_text=True)
    return pair


def with_lengths(answer: Answer, text: str) -> Answer:
    """The answer to a broadcast of `text`; a refusal for its length says both figures, and knows the limit."""
    if not (isinstance(answer, Refused) and answer.is_about_text and (told := _LENGTH.search(answer.reason))):
        return answer
    limit = int(told[1])
    reason = answer.reason.replace(told[0], _too_long(text, limit))
    return replace(answer, reason=reason, text_limit=limit)


def _too_long(text: str, limit: int) -> str:
    doubled = " (each @ counts as two)" if "@@" in text else ""
    return f"Text too long: {len(text)} characters{doubled}, RapidPro takes {limit}"


def pair_of(message: Message, settings: Mapping[str, object]) -> SmsIdentity:
    """Returns the message as RapidPro takes it, without a check of its length."""
    number = phone.normalize(message.to, settings) or message.to
    return SmsIdentity(Urn(f"tel:{number}"), escape(message.text).strip())


def join(pairs: Sequence[SmsIdentity]) -> Broadcast:
    """One broadcast for messages of one text."""
    return Broadcast(tuple(pair.urn for pair in pairs), pairs[0].text)


def read_answer(status: int, body: object, retry_after: float | None = None) -> Answer:
    """What an HTTP answer to the POST means. `body`: decoded JSON, or None where it was something else."""
    if 200 <= status < 300:
        return _read_created(body)
    if status == 429:
        return Throttled(retry_after)
    if status == 408 or status >= 500:
        return Ambiguous(f"HTTP {status}")
    refused = _refusal(body) if status == 400 else None
    return refused or Trouble(_describe(status, body))


def is_invalid_token(answer: object) -> bool:
    """Whether RapidPro refused the token itself (unknown, released, inactive user), and so did nothing."""
    return isinstance(answer, Trouble) and answer.why == _INVALID


def _read_created(body: object) -> Answer:
    match body:
        case {"id": int() as number, **rest} if not isinstance(number, bool):
            return Created(BroadcastId(str(number)), str(rest.get("status", "")))
        case _:
            return Ambiguous("a success without a broadcast id")


def _refusal(body: object) -> Refused | None:
    """RapidPro's reason, where the 400 is about the message itself and not, say, about a suspended workspace."""
    if not isinstance(body, dict):
        return None
    about = [body[key] for key in _REFUSING if key in body]
    is_textless = _TEXT_MISSING in _texts(body.get("non_field_errors"))
    if is_textless:
        about.append(_TEXT_MISSING)
    reason = _reason(about)
    return Refused(reason, _at(body.get("urns")), is_textless or "text" in body) if reason else None


def _at(urns: object) -> dict[int, str]:
    """The reasons by position, where RapidPro tells positions."""
    places = urns.items() if isinstance(urns, dict) else ()
    return {int(place): _reason([said]) for place, said in places if str(place).isdecimal()}


def _reason(about: Sequence[object]) -> str:
    return " ".join(dict.fromkeys(text for value in about for text in _texts(value)))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for inner in value.values() for text in _texts(inner))
    elif isinstance(value, list):
        yield from (text for inner in value for text in _texts(inner))


def _describe(status: int, body: object) -> str:
    """Describes the answer in one line; only JSON is quoted, because a proxy's page may contain anything."""
    if isinstance(body, dict):
        said = " ".join(_texts(body.get("detail") or body.get("non_field_errors")))[:200]
        return f"HTTP {status}: {said}" if said else f"HTTP {status}"
    return f"HTTP {status} that is not RapidPro's JSON"


def settled(results: list[Created | Refused]) -> Change:
    """Returns the state of a task whose messages all have a result: failed if any failed; the ref of the first
    broadcast.
    """
    changes = [_change(result) for result in results]
    worst = next((change for change in changes if change.state == State.FAILED), changes[0])
    ref = next((result.id for result in results if isinstance(result, Created)), None)
    return Change(worst.state, worst.details, gateway_ref=ref)


def _change(result: Created | Refused) -> Change:
    if isinstance(result, Refused):
        return Change(State.FAILED, result.reason)
    return Change(*broadcast_outcome(result.status))
