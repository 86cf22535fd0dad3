"""The send queue is small, knows no message twice, and what it has no room for comes again with a sweep."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cht_rapidpro.domain.task import DocId, MessageId, MessageKey
from cht_rapidpro.jobs.outgoing.send_queue import Candidate, SendQueue

CAPACITY = 4


def candidate(due: int, uuid: str | None = None, doc: str = "doc") -> Candidate:
    return Candidate(due, DocId(doc), MessageId(uuid or f"m-{due}"), text=due)


def filled(*dues: int) -> SendQueue:
    send_queue = SendQueue(CAPACITY)
    for due in dues:
        send_queue.add(candidate(due))
    return send_queue


def taken(send_queue: SendQueue, count: int = 99) -> list[int]:
    return [candidate.due for candidate in send_queue.take(count)]


@pytest.mark.parametrize(
    ("dues", "waiting", "more"),
    [
        ([], [], False),
        ([3, 1, 2], [1, 2, 3], False),
        ([2, 2, 1, 2], [1, 2], False),
        ([4, 3, 2, 1], [1, 2, 3, 4], False),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4], True),
        ([5, 4, 3, 2, 1], [1, 2, 3, 4], True),
        ([1, 2, 3, 4, 4], [1, 2, 3, 4], False),
        ([2, 4, 6, 8, 7, 1, 3], [1, 2, 3, 4], True),
    ],
)
def test_the_oldest_wait_each_once(dues: list[int], waiting: list[int], more: bool) -> None:
    send_queue = filled(*dues)
    assert (len(send_queue), send_queue.more) == (len(waiting), more)
    assert taken(send_queue) == waiting


def test_add_tells_when_a_sweep_may_end() -> None:
    send_queue = filled(2, 4, 6, 8)
    assert [send_queue.add(candidate(due)) for due in (9, 8, 7, 8)] == [False, True, True, False]


def test_a_displaced_candidate_may_be_added_again() -> None:
    send_queue = filled(2, 4, 6, 8, 7)
    assert taken(send_queue, 1) == [2]
    assert send_queue.add(candidate(8))
    assert taken(send_queue) == [4, 6, 7, 8]


@pytest.mark.parametrize(
    ("texts", "broadcasts", "max_batch_size", "taken_dues"),
    [
        ("abab", 1, 100, [0, 2]),
        ("abab", 2, 100, [0, 1, 2, 3]),
        ("aaab", 1, 2, [0, 1]),
        ("aaab", 2, 2, [0, 1, 2]),
        ("aaab", 3, 2, [0, 1, 2, 3]),
        ("abab", 2, 1, [0, 1]),
        ("abab", 0, 100, []),
    ],
)
def test_messages_of_one_text_are_taken_together(
    texts: str, broadcasts: int, max_batch_size: int, taken_dues: list[int]
) -> None:
    """The oldest due decides which text is next; what does not go along keeps its place."""
    send_queue = SendQueue()
    for due, text in enumerate(texts):
        send_queue.add(Candidate(due, DocId("doc"), MessageId(str(due)), text=ord(text)))
    assert [candidate.due for candidate in send_queue.take(broadcasts, max_batch_size)] == taken_dues
    left = [candidate.due for candidate in send_queue.take(99)]
    assert left == [due for due in range(len(texts)) if due not in taken_dues]


def test_a_taken_message_comes_again_only_when_it_is_done() -> None:
    send_queue = filled(1)
    assert taken(send_queue) == [1]
    send_queue.add(candidate(1))
    send_queue.offer(candidate(1))
    assert taken(send_queue) == []
    send_queue.forget([candidate(1).key])
    send_queue.add(candidate(1))
    assert taken(send_queue) == [1]


def test_a_message_that_the_relay_has_already_is_not_taken_in() -> None:
    send_queue = filled()
    send_queue.mark_claimed([candidate(1).key])
    send_queue.add(candidate(1))
    assert taken(send_queue) == []
    send_queue.forget([candidate(1).key])
    send_queue.add(candidate(1))
    assert taken(send_queue) == [1]


def test_a_message_that_waits_while_the_relay_gets_it_is_not_handed_out() -> None:
    send_queue = filled()
    first, second = candidate(1, "a"), candidate(1, "b")
    send_queue.add(first)
    send_queue.add(second)
    assert send_queue.take(1) == [first]
    send_queue.mark_claimed([first.key, second.key])
    assert send_queue.take(1) == []


def test_a_held_message_comes_again_after_its_time_or_a_change() -> None:
    send_queue = filled(1, 2)
    for one in send_queue.take(2):
        send_queue.defer(one.key, until=10.0)
    send_queue.start_sweep(now=9.9)
    send_queue.add(candidate(1))
    assert taken(send_queue) == []
    send_queue.offer(candidate(1))
    assert taken(send_queue) == [1]
    send_queue.start_sweep(now=10.0)
    send_queue.add(candidate(2))
    assert taken(send_queue) == [2]


@pytest.mark.parametrize("documents", [1, 12_000])
def test_messages_that_cannot_be_claimed_keep_no_other_from_being_reached(documents: int) -> None:
    """More of them than are remembered stand at the head of the view."""
    poison = [
        Candidate(1, DocId(f"poison-{number % documents}"), MessageId(f"{number}"), 0) for number in range(12_000)
    ]
    good = Candidate(2, DocId("good"), MessageId("good"), 0)
    send_queue, now, reached = SendQueue(), 0.0, False
    for _ in range(20):
        send_queue.start_sweep(now)
        for one in [*poison, good]:
            if not send_queue.add(one):
                break
        while found := send_queue.take(64):
            reached = reached or good in found
            for one in found:
                send_queue.defer(one.key, now + 3600)
        now += 10
    assert reached
    send_queue.offer(Candidate(1, DocId("urgent"), MessageId("urgent"), 0))
    assert [one.doc_id for one in send_queue.take(64)] == ["urgent"], "the feed's messages come in at once"
    send_queue.start_sweep(now + 3600)
    assert send_queue.add(poison[0])
    assert send_queue.take(1) == [poison[0]], "it is tried again later"


def test_a_sweep_is_wanted_only_when_the_view_has_more_and_little_is_left() -> None:
    send_queue = filled(1, 2, 3, 4)
    send_queue.take(4)
    assert not send_queue.low.is_set(), "the view has no more"
    send_queue = filled(1, 2, 3, 4, 5)
    send_queue.take(2)
    assert not send_queue.low.is_set(), "two wait still"
    send_queue.take(1)
    assert send_queue.low.is_set()


def test_clear_forgets_what_waits_and_nothing_else() -> None:
    send_queue = filled(1, 2, 3)
    assert taken(send_queue, 1) == [1]
    send_queue.clear()
    for due in (1, 2):
        send_queue.add(candidate(due))
    assert taken(send_queue) == [2]


def test_a_listener_hears_of_every_message_that_came_in() -> None:
    send_queue = filled(1, 2, 3)
    heard: list[int] = []
    send_queue.subscribe(lambda: heard.append(len(send_queue)))
    for due in (3, 4, 5):
        send_queue.add(candidate(due))
    send_queue.offer(candidate(0))
    assert heard == [4, 4]


numbers = st.integers(0, 15)
candidates = st.builds(lambda due, number: candidate(due, f"m-{number}"), st.integers(0, 3), numbers)


class FollowedView(RuleBasedStateMachine):
    """A view as the truth, a backlog that is filled from it as the feed does, and a relay that takes from it."""

    @initialize()
    def begin(self) -> None:
        self.send_queue = SendQueue(CAPACITY)
        self.view: dict[MessageKey, Candidate] = {}
        self.with_relay: list[Candidate] = []
        self.now = 0.0

    @rule(one=candidates, hinted=st.booleans())
    def appears(self, one: Candidate, hinted: bool) -> None:
        one = self.view.setdefault(one.key, one)
        if hinted:
            self.send_queue.offer(one)

    @rule()
    def sweep(self) -> None:
        self.send_queue.start_sweep(self.now)
        if all(self.send_queue.add(one) for one in sorted(self.view.values())):
            self.send_queue.more = False

    @rule(count=st.integers(1, CAPACITY))
    def take(self, count: int) -> None:
        new = self.send_queue.take(count)
        assert new == sorted(new)
        assert {one.key for one in new}.isdisjoint(one.key for one in self.with_relay)
        self.with_relay += new

    @rule(is_sent=st.booleans())
    def is_done(self, is_sent: bool) -> None:
        if self.with_relay:
            one = self.with_relay.pop(0)
            if is_sent:
                self.view.pop(one.key, None)
            self.send_queue.forget([one.key])

    @rule(seconds=st.integers(0, 60))
    def is_passed_over(self, seconds: int) -> None:
        if self.with_relay:
            self.send_queue.defer(self.with_relay.pop().key, self.now + seconds)

    @rule()
    def sending_is_not_ours(self) -> None:
        self.send_queue.clear()

    @rule(seconds=st.sampled_from([1, 30, 61]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @invariant()
    def it_stays_small(self) -> None:
        assert len(self.send_queue) <= CAPACITY

    def teardown(self) -> None:
        """However it came: with the time limits over, sweeps alone bring every message to the relay."""
        self.now += 61
        for _ in range(2 * len(self.view) + 1):
            while self.with_relay:
                self.is_done(is_sent=True)
            self.sweep()
            self.take(CAPACITY)
        assert self.view == {}


TestFollowedView = FollowedView.TestCase
TestFollowedView.settings = settings(stateful_step_count=40)
