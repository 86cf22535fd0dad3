"""What the daemon remembers of its own broadcasts: one place a message, the newest ones, within a number of bytes."""

import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.outgoing import BroadcastId, Urn
from cht_rapidpro.domain.reconcile import RecipientSlot
from cht_rapidpro.domain.task import DocId, MessageId, MessageKey
from cht_rapidpro.jobs.outgoing.known_broadcasts import Known


def key(doc: str, uuid: str = "") -> MessageKey:
    return DocId(doc), MessageId(uuid)


def place(ref: str, urn: str = "tel:+254712345678") -> RecipientSlot:
    return BroadcastId(ref), Urn(urn)


@given(st.dictionaries(st.tuples(st.text(), st.text()), st.tuples(st.text(), st.text())))
def test_every_entry_comes_back_whole(entries: dict[tuple[str, str], tuple[str, str]]) -> None:
    """Two messages whose ids run together to one text are two: else one would have the other's broadcast."""
    known = Known()
    for each, found in entries.items():
        known.put(key(*each), place(*found))
    assert dict(known) == entries


def test_a_message_has_one_place_and_can_be_forgotten() -> None:
    known = Known()
    known.put(key("a"), place("1"))
    known.put(key("a"), place("2"))
    known.put(key("b"), place("3"))
    assert dict(known) == {key("a"): place("2"), key("b"): place("3")}
    known.forget(key("a"))
    known.forget(key("c"))
    assert dict(known) == {key("b"): place("3")}


def test_the_known_broadcasts_take_the_bytes_that_they_count() -> None:
    """Invariant 6, and how far it reaches back: some ten thousand messages, the oldest of which go first."""
    tracemalloc.start()
    try:
        known = Known()
        for number in range(20_000):
            known.put(key(f"{number:032}", f"{number:036}"), place(str(number)))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert key(f"{19_999:032}", f"{19_999:036}") in known
    assert key(f"{11_000:032}", f"{11_000:036}") in known
    assert key(f"{1:032}", f"{1:036}") not in known
    assert taken < 4_000_000


def test_long_ids_leave_room_for_fewer() -> None:
    known = Known(limit=10_000)
    for number in range(100):
        known.put(key(f"{number:01000}"), place(str(number)))
    assert len(known) == 8
