"""Delivery states on their way from RapidPro into tasks, with everything in between being real."""

from cht_rapidpro.config import Delivery
from cht_rapidpro.demo.database import Database
from cht_rapidpro.demo.medic import data_record, message, task
from cht_rapidpro.demo.rapidpro import RapidPro
from tests.clock import jump
from tests.conftest import TOKEN
from tests.gate import Gate
from tests.gateway import configure, reaches, running

ON = Delivery()


async def test_a_sent_message_is_followed_until_it_is_delivered(
    gate: Gate, medic: Database, rapidpro: RapidPro
) -> None:
    record = data_record(task(message("hello")))
    await medic.put(record)
    async with running(configure(gate, medic, rapidpro, TOKEN, delivery=ON)):
        await reaches(medic, record["_id"], "received-by-gateway")
        for status, state in (("wired", "forwarded-by-gateway"), ("sent", "sent"), ("delivered", "delivered")):
            rapidpro.move(1, status)
            jump(60)
            await reaches(medic, record["_id"], state)
    doc = await medic.get(record["_id"])
    assert doc["_rev"][:2] == "6-"
