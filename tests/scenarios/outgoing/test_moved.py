"""RapidPro's address changes while it is not known what became of a message: the new one cannot tell."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from cht_rapidpro.config.schema import Config
from demo.database import Database
from demo.medic import data_record, message, task
from demo.rapidpro import Delay, Fault, HalfBody, RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import configure, running
from tests.support.fault_proxy import Gate, until
from tests.support.virtual_time import jump, wall_clock

RECORD = data_record(task(message("once")))


@pytest.fixture
async def other() -> AsyncIterator[RapidPro]:
    async with RapidPro(TOKEN, clock=lambda: wall_clock() / 1000) as other:
        yield other


@pytest.fixture
def config(gate: Gate, medic: Database) -> Config:
    """The address is that of the app settings."""
    return configure(gate, medic, "", TOKEN, timeout=3, settle_time=20.0, claim_timeout=60.0)


async def choose(medic: Database, rapidpro: RapidPro, service: str = "cht-rapidpro") -> None:
    sms = {"outgoing_service": service, "rapidpro": {"url": rapidpro.url}}
    await medic.edit("settings", lambda doc: {**doc, "settings": {**doc["settings"], "sms": sms}})


async def happens(logs: Sequence[Any], *events: str, hurry: float = 0.0) -> None:
    """One of these is in the log; `hurry`: seconds that time is set forward at each look."""

    def is_there() -> bool:
        jump(hurry)
        return any(entry["event"] in events for entry in logs)

    await until(is_there)


async def test_rapidpro_moves_while_the_message_is_on_its_way(
    config: Config, medic: Database, rapidpro: RapidPro, other: RapidPro
) -> None:
    rapidpro.fail(Fault("POST broadcasts", Delay(5), after=True))
    await choose(medic, rapidpro)
    await medic.put(RECORD)
    with capture_logs() as logs:
        async with running(config):
            await until(lambda: bool(rapidpro.broadcasts))
            await choose(medic, other)
            await happens(logs, "rapidpro.host_changed")
            await happens(logs, "broadcast.undecidable", "broadcast.created", hurry=0.5)
    assert [len(rapidpro.broadcasts), len(other.broadcasts)] == [1, 0]


async def test_rapidpro_moves_while_claims_are_renewed(
    config: Config, gate: Gate, medic: Database, rapidpro: RapidPro, other: RapidPro
) -> None:
    rapidpro.fail(Fault("POST broadcasts", HalfBody(), after=True))
    await choose(medic, rapidpro)
    await medic.put(RECORD)
    with capture_logs() as logs:

        async def move() -> None:
            await choose(medic, other)
            await happens(logs, "rapidpro.host_changed")

        async with running(config):
            await happens(logs, "broadcast.ambiguous")
            gate.before("POST _bulk_docs", move)
            jump(25)
            await happens(logs, "broadcast.undecidable", "broadcast.created", hurry=0.5)
    assert [len(rapidpro.broadcasts), len(other.broadcasts)] == [1, 0]


async def test_sending_is_switched_off_and_on_again(config: Config, medic: Database, rapidpro: RapidPro) -> None:
    rapidpro.fail(Fault("POST broadcasts", Delay(5), after=True))
    await choose(medic, rapidpro)
    await medic.put(RECORD)
    with capture_logs() as logs:
        async with running(config):
            await until(lambda: bool(rapidpro.broadcasts))
            await choose(medic, rapidpro, "none")
            await happens(logs, "sending.disabled")
            await happens(logs, "broadcast.ambiguous", hurry=0.5)
            await choose(medic, rapidpro)
            await happens(logs, "task.settled", "broadcast.undecidable", hurry=0.5)
    assert [entry["event"] for entry in logs if entry["event"] in {"broadcast.adopted", "broadcast.undecidable"}] == [
        "broadcast.adopted"
    ]
    assert len(rapidpro.broadcasts) == 1
