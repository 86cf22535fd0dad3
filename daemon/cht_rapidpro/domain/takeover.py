"""Taking over from another gateway: when that happens, which messages it may have sent, and whose a gateway_ref is.

CHT's own gateway reads 25 messages and posts them one by one, even where the app settings change meanwhile; it may be
killed between a POST and the write of its answer. So what was sendable at the moment of a takeover may have been sent
(docs/exactly-once.md#taking-over-from-another-gateway).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from cht_rapidpro.domain.claim import first_claimed
from cht_rapidpro.domain.outgoing import SmsIdentity, Urn, comparable
from cht_rapidpro.domain.reconcile import AssignedSlots, Listed, alike
from cht_rapidpro.domain.task import (
    SENDABLE,
    Doc,
    MessageId,
    Task,
    history,
    messages,
    milliseconds,
    tasks,
)

_QUEUED: Final = "Queued"  # the `state_details` that CHT's own gateway writes


@dataclass(frozen=True, slots=True)
class Sender:
    """Who sends, as this daemon has last seen it.

    `revision`: the generation of the document `settings` then, None where it is not known; `since`: when this gateway
    became the one that sends, ms since the epoch; `is_open`: messages from before that moment are not all decided yet.
    """

    is_ours: bool
    revision: int | None
    since: int = 0
    is_open: bool = False


def is_takeover(last: Sender | None, revision: int) -> bool:
    """Whether another gateway may have sent since `last`, now that the settings of `revision` choose this one.

    One edit of the settings has a state before it and one after it, and both are known. Between two edits that were
    seen as one, another gateway may have been chosen; so it may where a backup was restored.
    """
    if last is None or not last.is_ours or last.is_open:
        return True
    return last.revision is not None and not last.revision <= revision <= last.revision + 1


def written(sender: Sender) -> str:
    """The text of the file."""
    plain = {
        "sender": "cht-rapidpro" if sender.is_ours else "another gateway",
        "settings_revision": sender.revision,
        "since": sender.since,
        "is_taking_over": sender.is_open,
    }
    return json.dumps(plain) + "\n"


def read_sender(text: str) -> Sender | None:
    """None where the text is not what `written` makes."""
    try:
        found = json.loads(text)
        revision, since = found["settings_revision"], found["since"]
        is_ours, is_open = found["sender"] == "cht-rapidpro", found["is_taking_over"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (revision is None or isinstance(revision, int)) or not isinstance(since, int):
        return None
    return Sender(is_ours, revision, since, is_open is not False)


class FreeBroadcasts:
    """The listed recipients that belong to no task, by text and number; in an anonymous workspace by text alone."""

    def __init__(self, listed: Iterable[Listed], taken: AssignedSlots) -> None:
        refs = {ref for ref, _ in taken}
        self._newest: dict[tuple[str, str], int] = {}
        for broadcast in listed:
            if broadcast.urns is None:
                numbers = [] if broadcast.id in refs else [""]
            else:
                numbers = [alike(Urn(urn)) for urn in broadcast.urns if (broadcast.id, Urn(urn)) not in taken]
            for number in numbers:
                key = broadcast.text, number
                self._newest[key] = max(broadcast.created_on, self._newest.get(key, 0))
        self._texts = frozenset(text for text, _ in self._newest)

    def may_have(self, text: str) -> bool:
        """Whether there is one of a text, as CHT has it: much cheaper than `newest`."""
        return comparable(text).strip() in self._texts

    def newest(self, pair: SmsIdentity) -> int | None:
        """When the latest one that may be this message's was made, ms of RapidPro's clock; None: there is none."""
        found = [self._newest.get((pair.listed_text, number)) for number in (alike(pair.urn), "")]
        return max((moment for moment in found if moment is not None), default=None)


def foreign(doc: Doc) -> Iterator[tuple[MessageId, int]]:
    """The messages that another gateway has sent, by their gateway_ref; beside each, when it wrote that, in ms."""
    for task in tasks(doc):
        if task.get("state") not in SENDABLE and is_foreign(task):
            yield from ((message.uuid, _taken_at(task)) for message in messages(task))


def is_foreign(task: Task) -> bool:
    """Whether no cht-rapidpro has written its gateway_ref: CHT's own gateway stores a number, ours a text."""
    ref = task.get("gateway_ref")
    if isinstance(ref, str):
        return bool(ref) and not (ref.isdecimal() and first_claimed(task) is not None)
    return isinstance(ref, int | float) and not isinstance(ref, bool)


def _taken_at(task: Task) -> int:
    """The latest stamp of an entry that a gateway writes when it has sent; later ones may be delivery states."""
    entries = [entry if isinstance(entry, dict) else {} for entry in history(task)]
    sent = [
        milliseconds(entry.get("timestamp")) or 0
        for before, entry in zip([{}, *entries], entries, strict=False)
        if (before.get("state") in SENDABLE and entry.get("state") not in SENDABLE)
        or entry.get("state_details") == _QUEUED
    ]
    return max(sent, default=0)
