"""The rehearsal in short: forward, back, and forward again, from fixed seeds, two at once."""

import asyncio
from pathlib import Path

import pytest

from demo.couchdb import CouchDBServer
from demo.database import delete_database
from tests.faults.rehearsal import rehearsal

SEEDS = (11, 12)


async def test_a_site_moves_over_and_back_without_one_message_twice(tmp_path: Path, couchdb: CouchDBServer) -> None:
    async def move(seed: int) -> str:
        async with rehearsal(tmp_path / str(seed), couchdb, 3, seed) as made:
            await made.run()
            await delete_database(couchdb, made.medic.name)
            return "" if not made.twice() and not made.lost() else f"seed {seed}: {made}"

    found = await asyncio.gather(*map(move, SEEDS))
    if any(found):
        pytest.fail("\n".join(found))
