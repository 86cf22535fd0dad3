"""What waits to be posted: the oldest first, equal texts together, no number twice in a broadcast."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from cht_rapidpro.domain.outgoing import Refused, SmsIdentity, Urn
from cht_rapidpro.domain.reconcile import alike
from cht_rapidpro.domain.task import DocId, Message, MessageId
from cht_rapidpro.jobs.outgoing.batches import BatchAccumulator
from cht_rapidpro.jobs.outgoing.claimed_task import ClaimedTask, Moment, OutboundMessage


def turn(
    number: int, text: str = "hello", *, urn: str = "", max_batch_size: int = 100, refused: bool = False
) -> OutboundMessage:
    message = Message(MessageId(str(number)), "", text)
    held = ClaimedTask(
        DocId(f"doc-{number}"), (message,), number, Moment(0, 0), None, None, max_batch_size=max_batch_size
    )
    pair = Refused("too long") if refused else SmsIdentity(Urn(urn or f"tel:+2547123456{number:02}"), text)
    return OutboundMessage(number, number, held, message, pair)


def ready(*turns: OutboundMessage) -> BatchAccumulator:
    made = BatchAccumulator()
    for one in turns:
        made.put(one)
    return made


def dues(turns: list[OutboundMessage]) -> list[int]:
    return [one.due for one in turns]


def drained(waiting: BatchAccumulator) -> list[list[int]]:
    popped = []
    while len(waiting):
        popped.append(dues(waiting.pop()))
    return popped


def test_equal_texts_go_together_and_the_oldest_decides() -> None:
    waiting = ready(turn(3, "a"), turn(2, "b"), turn(1, "a"), turn(4, "b"))
    assert (len(waiting), waiting.messages) == (2, 4)
    assert drained(waiting) == [[1, 3], [2, 4]]


def test_without_a_batch_size_each_goes_alone() -> None:
    waiting = ready(*(turn(number, max_batch_size=1) for number in (3, 1, 2)))
    assert len(waiting) == 3
    assert drained(waiting) == [[1], [2], [3]]


def test_a_broadcast_has_so_many_and_no_more() -> None:
    waiting = ready(*(turn(number, max_batch_size=2) for number in range(5)))
    assert len(waiting) == 3
    assert drained(waiting) == [[0, 1], [2, 3], [4]]


def test_halves_of_a_refused_broadcast_do_not_meet_the_rest() -> None:
    waiting = ready(turn(1, max_batch_size=2), turn(2), turn(3, max_batch_size=2), turn(4, max_batch_size=2))
    assert drained(waiting) == [[1, 3], [2], [4]]


def test_a_refused_message_shares_no_broadcast() -> None:
    assert drained(ready(turn(1), turn(2, refused=True), turn(3, refused=True))) == [[1], [2], [3]]


def test_a_number_is_in_a_broadcast_once_however_it_is_written() -> None:
    waiting = ready(turn(1, urn="tel:+254712345678"), turn(2, urn="tel:0712345678"), turn(3))
    assert drained(waiting) == [[1, 3], [2]]


def test_a_task_that_is_given_back_leaves_the_others() -> None:
    turns = [turn(number) for number in range(3)]
    waiting = ready(*turns)
    waiting.remove({turns[0].task, turns[2].task})
    assert waiting.tasks == {turns[1].task}
    assert drained(waiting) == [[1]]


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.sampled_from([1, 2, 100])),
        max_size=30,
    )
)
def test_every_message_goes_out_once(waiting: list[tuple[str, int, int]]) -> None:
    turns = [
        turn(number, text, urn=f"tel:+25471234567{person}", max_batch_size=max_batch_size)
        for number, (text, person, max_batch_size) in enumerate(waiting)
    ]
    made = ready(*turns)
    popped: Counter[int] = Counter()
    while len(made):
        group = made.pop()
        popped.update(dues(group))
        assert len({one.pair.text for one in group if isinstance(one.pair, SmsIdentity)}) == 1
        people = [alike(one.pair.urn) for one in group if isinstance(one.pair, SmsIdentity)]
        assert len(set(people)) == len(people) <= min(one.max_batch_size for one in group)
    assert popped == Counter(range(len(turns)))
