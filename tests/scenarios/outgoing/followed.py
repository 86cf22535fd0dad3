"""Messages that RapidPro has already, as a relay has left them in CouchDB, and looks at how they are asked for."""

from collections.abc import Iterator, MutableSequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from structlog.testing import capture_logs

from demo.database import Database
from demo.medic import data_record, message, task
from demo.rapidpro import Call, RapidPro
from tests.support.fault_proxy import until
from tests.support.virtual_time import jump, wall_clock


@dataclass(frozen=True)
class Followed:
    """A message with its document and its broadcast."""

    doc_id: str
    broadcast: int


async def followed(
    medic: Database, rapidpro: RapidPro, number: int, state: str = "received-by-gateway", details: str = "Queued"
) -> Followed:
    """A message to the number that ends so, just settled."""
    to = f"+254712345{number:03}"
    broadcast = rapidpro.create_broadcast([f"tel:{to}"], f"hello {number}")
    now = datetime.fromtimestamp(wall_clock() / 1000, UTC)
    settled = task(message(f"hello {number}", to), state=state, at=now, gateway_ref=str(broadcast.id))
    record = data_record({**settled, "state_details": details})
    await medic.put(record)
    return Followed(record["_id"], broadcast.id)


@contextmanager
def followed_by_log() -> Iterator["Log"]:
    """What is logged inside, and the rounds that it tells of."""
    with capture_logs() as lines:
        yield Log(lines)


@dataclass(frozen=True)
class Log:
    lines: MutableSequence[Any]

    def named(self, event: str) -> list[Any]:
        return [line for line in self.lines if line["event"] == event]

    async def rounds(self, count: int) -> None:
        """Lets so many rounds pass, after those that have passed already; between them nothing is asked."""
        await self._passed(1)
        for _ in range(count):
            passed = len(self.named("round.finished"))
            jump(60)
            await self._passed(passed + 1)

    async def _passed(self, count: int) -> None:
        await until(lambda: len(self.named("round.finished")) >= count)


def questions(rapidpro: RapidPro) -> list[Call]:
    """All but the heartbeat's: whether RapidPro answers is asked whatever there is to send."""
    return [call for call in rapidpro.calls if call.target != "GET workspace"]


def asked_for(rapidpro: RapidPro, target: str) -> list[Call]:
    return [call for call in rapidpro.calls if call.target == target]


def listings(rapidpro: RapidPro) -> list[Call]:
    """Those of many messages at once."""
    return [call for call in asked_for(rapidpro, "GET messages") if "broadcast" not in call.query]
