"""Invariant 2 in memory: what is in flight or may have been sent is never released, whatever happens in which order."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cht_rapidpro.domain.outgoing import BroadcastId, Created, Refused
from cht_rapidpro.domain.send_state import Result, SendPhase, SendState
from cht_rapidpro.domain.task import MessageId

UUIDS = [MessageId("a"), MessageId("b"), MessageId("c")]
CREATED = Created(BroadcastId("7"), "queued")
REFUSED = Refused("too long")


def in_phase(phase: SendPhase) -> SendState:
    state = SendState(UUIDS[:1])
    match phase:
        case SendPhase.READY:
            pass
        case SendPhase.IN_FLIGHT:
            state.post(UUIDS[0])
        case SendPhase.AMBIGUOUS:
            state.suspect(UUIDS[0])
        case SendPhase.DONE:
            state.post(UUIDS[0])
            state.answered(UUIDS[0], CREATED)
    return state


TRANSITIONS: dict[str, tuple[SendPhase, tuple[Result, ...], SendPhase]] = {
    "post": (SendPhase.READY, (), SendPhase.IN_FLIGHT),
    "not_sent": (SendPhase.IN_FLIGHT, (), SendPhase.READY),
    "ambiguous": (SendPhase.IN_FLIGHT, (), SendPhase.AMBIGUOUS),
    "answered": (SendPhase.IN_FLIGHT, (CREATED,), SendPhase.DONE),
    "suspect": (SendPhase.READY, (), SendPhase.AMBIGUOUS),
    "found": (SendPhase.AMBIGUOUS, (CREATED,), SendPhase.DONE),
    "missing": (SendPhase.AMBIGUOUS, (), SendPhase.READY),
    "reopen": (SendPhase.DONE, (), SendPhase.AMBIGUOUS),
}


@pytest.mark.parametrize("name", TRANSITIONS)
@pytest.mark.parametrize("phase", SendPhase)
def test_each_transition_has_one_phase_that_it_begins_in(name: str, phase: SendPhase) -> None:
    before, arguments, after = TRANSITIONS[name]
    state = in_phase(phase)
    if phase is before:
        getattr(state, name)(UUIDS[0], *arguments)
        assert state.phase(UUIDS[0]) is after
    else:
        with pytest.raises(ValueError, match=phase.name):
            getattr(state, name)(UUIDS[0], *arguments)
        assert state.phase(UUIDS[0]) is phase


def test_results_are_in_the_order_of_the_messages() -> None:
    state = SendState(UUIDS)
    results: list[Result] = [CREATED, REFUSED, CREATED]
    for uuid, result in zip(reversed(UUIDS), results, strict=True):
        assert not state.is_complete
        state.post(uuid)
        state.answered(uuid, result)
    assert state.is_complete
    assert state.results == [CREATED, REFUSED, CREATED]


class Sends(RuleBasedStateMachine):
    """A task of three messages. The model: what RapidPro may have got under this claim or the one before."""

    @initialize(is_suspect=st.booleans())
    def begin(self, is_suspect: bool) -> None:
        self.state = SendState(UUIDS, is_suspect=is_suspect)
        self.perhaps_sent = is_suspect
        self.results: dict[MessageId, Result] = {}

    def those(self, phase: SendPhase) -> list[MessageId]:
        return [uuid for uuid in UUIDS if self.state.phase(uuid) is phase]

    @precondition(lambda self: self.those(SendPhase.READY))
    @rule(data=st.data())
    def posted(self, data: st.DataObject) -> None:
        self.state.post(data.draw(st.sampled_from(self.those(SendPhase.READY))))

    @precondition(lambda self: self.those(SendPhase.IN_FLIGHT))
    @rule(data=st.data(), answer=st.sampled_from([CREATED, REFUSED, "not sent", "ambiguous"]))
    def answered(self, data: st.DataObject, answer: Result | str) -> None:
        uuid = data.draw(st.sampled_from(self.those(SendPhase.IN_FLIGHT)))
        if answer == "not sent":
            self.state.not_sent(uuid)
        elif isinstance(answer, str):
            self.state.ambiguous(uuid)
            self.perhaps_sent = True
        else:
            self.state.answered(uuid, answer)
            self.results[uuid] = answer

    @precondition(lambda self: self.those(SendPhase.AMBIGUOUS))
    @rule(data=st.data(), is_found=st.booleans())
    def decided(self, data: st.DataObject, is_found: bool) -> None:
        uuid = data.draw(st.sampled_from(self.those(SendPhase.AMBIGUOUS)))
        if is_found:
            self.state.found(uuid, CREATED)
            self.results[uuid] = CREATED
        else:
            self.state.missing(uuid)

    @precondition(lambda self: self.those(SendPhase.DONE))
    @rule(data=st.data())
    def reopened(self, data: st.DataObject) -> None:
        uuid = data.draw(st.sampled_from(self.those(SendPhase.DONE)))
        self.state.reopen(uuid)
        self.perhaps_sent = True
        del self.results[uuid]

    @invariant()
    def releases_only_what_was_surely_not_sent(self) -> None:
        if hasattr(self, "state") and self.state.is_releasable:
            assert self.those(SendPhase.READY) == UUIDS
            assert not self.perhaps_sent

    @invariant()
    def is_complete_when_each_has_a_result(self) -> None:
        if hasattr(self, "state"):
            assert self.state.is_complete == (len(self.results) == len(UUIDS))
            assert self.state.results == [self.results[uuid] for uuid in UUIDS if uuid in self.results]


TestSends = Sends.TestCase
TestSends.settings = settings(stateful_step_count=20)
