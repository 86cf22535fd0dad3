"""What the two other sides can do alone, on this machine: no daemon can be faster than the slower of them.

`python -m bench.limits [--docs N] [--posts N] [--latency S]`; with COUCHDB_URL against that server.
"""

import argparse
import asyncio
import time
from collections.abc import Iterator
from typing import Final

import aiohttp

from bench.rig import TOKEN, Rig, rig, table
from demo.medic import data_record, message, task

_BATCH: Final = 200  # documents a `_bulk_docs`, as the daemon's writer gathers them
_CONNECTIONS: Final = 16  # the default of [rapidpro] max_concurrency


async def main() -> None:
    options = _options()
    async with rig(options.latency) as bench:
        docs = await _documents(bench, options.docs)
        posts = await _broadcasts(bench, options.posts)
    writes = 2  # claim and settle
    table(
        f"limits: CouchDB and RapidPro ({options.latency * 1000:g} ms) alone",
        [
            (f"CouchDB: documents/s, new ones, `_bulk_docs` of {_BATCH}", f"{docs:.0f}"),
            (f"so at most, with {writes} writes a message", f"{docs / writes:.0f} messages/s"),
            (f"RapidPro: POSTs/s over {_CONNECTIONS} connections", f"{posts:.0f}"),
        ],
    )


async def _documents(bench: Rig, count: int) -> float:
    docs = [data_record(task(message(f"Reminder {number}"))) for number in range(count)]
    start = time.monotonic()
    for first in range(0, count, _BATCH):
        await bench.database.bulk(docs[first : first + _BATCH])
    return count / (time.monotonic() - start)


async def _broadcasts(bench: Rig, count: int) -> float:
    numbers = iter(range(count))
    start = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(_CONNECTIONS):
            group.create_task(_post_all(bench.http, bench.rapidpro_url, numbers))
    return count / (time.monotonic() - start)


async def _post_all(http: aiohttp.ClientSession, url: str, numbers: Iterator[int]) -> None:
    for number in numbers:
        body = {"urns": [f"tel:+2547{number:08}"], "text": f"Reminder {number}"}
        headers = {"Authorization": f"Token {TOKEN}"}
        async with http.post(f"{url}/api/v2/broadcasts.json", json=body, headers=headers) as response:
            await response.read()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", type=int, default=4000, help="documents to write")
    parser.add_argument("--posts", type=int, default=2000, help="broadcasts to post")
    parser.add_argument("--latency", type=float, default=0.05, help="RapidPro's, in seconds")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
