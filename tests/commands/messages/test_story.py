"""What `messages show` costs RapidPro, and what it says where it looks into the wrong place."""

import asyncio
import socket
from pathlib import Path

import pytest
from msgspec.structs import replace

from cht_rapidpro.commands import status
from cht_rapidpro.commands.messages.site import Requests, site
from cht_rapidpro.commands.messages.story import stories
from cht_rapidpro.config.schema import Admin, Cht
from cht_rapidpro.errors import TransientError, UnusableError
from demo.database import Database
from demo.medic import data_record, message, task
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.support.daemon import configure, running
from tests.support.fault_proxy import Gate, until


async def test_a_document_of_many_messages_costs_sixty_requests_at_most(
    gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    """They are taken from the hour of the sends; what they do not reach is told as not asked."""
    made = [task(message(f"t{number}"), state="sent", gateway_ref=str(4000 + number)) for number in range(40)]
    record = data_record(*made)
    await medic.put(record)
    config = replace(configure(gate, medic, rapidpro, TOKEN), cht=Cht(state_dir=str(tmp_path)))
    async with site(config) as here:
        found = [told for doc, uuid in await here.find(record["_id"]) for told in await stories(here, doc, uuid)]
    assert len(found) == 40
    assert len(rapidpro.calls) <= 60
    assert "60 requests were made already" in found[-1].why


def test_the_request_limit_of_an_order_is_renewed_for_the_next() -> None:
    requests = Requests()
    for _ in range(60):
        requests.spend()
    with pytest.raises(TransientError, match="look for one uuid"):
        requests.spend()
    requests.renew()
    requests.spend()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


async def test_a_state_directory_that_cannot_be_the_daemons_is_refused(
    gate: Gate, medic: Database, rapidpro: RapidPro, tmp_path: Path
) -> None:
    """Without its own it would say that no daemon is running, and settle what that one has in hand."""
    listen = f"127.0.0.1:{free_port()}"
    config = replace(configure(gate, medic, rapidpro, TOKEN), admin=Admin(listen=listen))

    async def listens() -> bool:
        try:
            return bool(await asyncio.to_thread(status.ask, listen))
        except TransientError:
            return False

    async with running(config):
        await until(listens)
        with pytest.raises(UnusableError, match="is running that does not read"):
            async with site(replace(config, cht=Cht(state_dir=str(tmp_path)))):
                pass
