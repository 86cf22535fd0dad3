"""The edit that takes the settlement of a losing branch into the winning one, where no history tells of it."""

from typing import Any

import pytest

from cht_rapidpro.domain.branches import adopt
from cht_rapidpro.domain.task import Doc

SMS = {"uuid": "m", "to": "+254712345678", "message": "hello"}


def document(**fields: Any) -> Doc:
    return {"_id": "report", "tasks": [{"messages": [SMS], **fields}]}


@pytest.mark.parametrize("state", ["received-by-gateway", "sent", "delivered", "failed"])
def test_a_settlement_without_a_history_is_adopted_with_its_ref(state: str) -> None:
    (adopted,) = adopt([document(state=state, gateway_ref="7")])(document(state="pending"))["tasks"]
    assert (adopted["state"], adopted["gateway_ref"]) == (state, "7")


def test_a_settlement_without_history_and_ref_is_not_adopted() -> None:
    winning = document(state="pending")
    assert adopt([document(state="sent")])(winning) == winning


def test_a_settlement_with_the_ref_of_the_winning_task_is_not_adopted() -> None:
    winning = document(state="pending", gateway_ref="7")
    assert adopt([document(state="sent", gateway_ref="7")])(winning) == winning
