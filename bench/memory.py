"""What the daemon holds in memory: idle, at its peak with a short and a long backlog, and with very long documents.

`python -m bench.memory [--short N] [--long N] [--large N]`; with COUCHDB_URL against that server. A long backlog on the
stand-in takes minutes, since it indexes a document in about a millisecond. `--large` measures nothing but a backlog of
documents of 500 KiB, and how long webhooks wait meanwhile; CouchDB's indexing takes most of that time.
"""

import argparse
import asyncio
import re
import time
from collections.abc import Coroutine, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from bench.incoming import Client
from bench.outgoing import settled
from bench.rig import Rig, percentile, phone_number, rig, table
from demo.database import DatabaseError, Doc
from demo.medic import data_record, message, task
from demo.process import Daemon
from tests.support.webhook import PATH, listening_socket

_LARGE: Final = 500 * 1024  # bytes of JSON
_FIELD: Final = 64  # bytes of one of its fields: many small values take the most memory
_BULK: Final = 10  # such documents a request
_PACE: Final = 0.1  # seconds between two webhooks
_DEADLINE: Final = 3600.0
_VIEWS: Final = (
    ("medic", "messages_by_state"),
    ("medic-sms", "messages_by_gateway_ref"),
)


async def main() -> None:
    options = _options()
    if options.large:
        async with rig(latency=0.0) as bench:
            rows = await _measure_large(bench, options.large)
        table(f"{options.large} documents of {_LARGE // 1024} KiB with a pending message each", rows)
        return
    rows = []
    for count in (0, options.short, options.long):
        async with rig(latency=0.0) as bench:
            resident, peak = await _measure(bench, count)
        what = f"{count} documents with a pending message" if count else "idle"
        rows.append((what, f"{resident:.1f} MB at the end, {peak:.1f} MB at the peak"))
    table("memory of the daemon", rows)


async def _measure(bench: Rig, count: int) -> tuple[float, float]:
    """Resident and peak memory in MB, when the backlog is sent."""
    await bench.write(data_record(task(message(f"Reminder {number}", phone_number(number)))) for number in range(count))
    daemon = bench.new_daemon()
    await daemon.start()
    try:
        await settled(daemon, count)
        return await _memory(daemon)
    finally:
        await daemon.stop()


async def _measure_large(bench: Rig, count: int) -> list[tuple[str, str]]:
    docs = _large(count)
    while some := list(islice(docs, _BULK)):
        await bench.database.bulk(some)
    for ddoc, view in _VIEWS:
        await _indexed(bench, ddoc, view)
    with listening_socket() as webhook:
        daemon = bench.new_daemon(webhook)
        start = time.perf_counter()
        await daemon.start()
        try:
            await _store(webhook.getsockname())  # it has started
            work = _all_settled(daemon, count)
            stored, refused = await _while_calling(webhook.getsockname(), work)
            took = time.perf_counter()
            resident, peak = await _memory(daemon)
        finally:
            await daemon.stop()
    return [
        ("memory", f"{resident:.1f} MB at the end, {peak:.1f} MB at the peak"),
        ("RapidPro's broadcasts, different ones, settled tasks in CouchDB", ", ".join(map(str, await _counts(bench)))),
        ("all settled after, in one run of the daemon", f"{took - start:.0f} s"),
        (f"{len(stored)} webhooks meanwhile, one each {_PACE * 1000:.0f} ms", _waits(stored)),
        ("as many with a wrong key, which need no CouchDB", _waits(refused)),
    ]


def _waits(seconds: list[float]) -> str:
    p50, p99 = percentile(seconds, 0.5), percentile(seconds, 0.99)
    return f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms, the longest {max(seconds) * 1000:.0f} ms"


def _large(count: int) -> Iterator[Doc]:
    fields = {f"question {number}": "x" * _FIELD for number in range(_LARGE // (_FIELD + 24))}
    for number in range(count):
        yield data_record(task(message(f"Reminder {number}", phone_number(number))), fields=fields)


async def _indexed(bench: Rig, ddoc: str, view: str) -> None:
    """Brings a view up to date, as it is on a server that has been running for a while; that may take minutes."""
    async with asyncio.timeout(_DEADLINE):
        while True:
            try:
                await bench.database.view(ddoc, view, limit=1)
            except (TimeoutError, DatabaseError):
                continue  # it goes on with its work
            return


async def _all_settled(daemon: Daemon, count: int) -> None:
    async with asyncio.timeout(_DEADLINE):
        while sum(event["event"] == "task.settled" for event in daemon.events()) < count:
            if not daemon.is_running:
                raise RuntimeError(f"the daemon has ended, see {daemon.log}")
            await asyncio.sleep(1)


async def _while_calling(
    address: tuple[str, int], work: Coroutine[None, None, None]
) -> tuple[list[float], list[float]]:
    """Calls the webhook at its own pace, answered or not, until the work is done.

    The seconds of each answer: of those that it stores, and of those that it refuses at once, which tell how long the
    daemon itself was busy.
    """
    stored, refused = [], []
    working = asyncio.create_task(work)
    while not working.done():
        stored.append(asyncio.create_task(_store(address)))
        refused.append(asyncio.create_task(_refuse(address)))
        await asyncio.wait([working], timeout=_PACE)
    await working
    return await asyncio.gather(*stored), await asyncio.gather(*refused)


async def _store(address: tuple[str, int]) -> float:
    start = time.perf_counter()
    client = Client(*await asyncio.open_connection(*address), ids=7)
    await client.post()
    client.writer.close()
    return time.perf_counter() - start


async def _refuse(address: tuple[str, int]) -> float:
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection(*address)
    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Token wrong\r\nContent-Length: 0\r\n\r\n".encode())
    await reader.readline()
    writer.close()
    return time.perf_counter() - start


async def _counts(bench: Rig) -> tuple[int, int, int]:
    texts = [broadcast["text"] for broadcast in await bench.simulator("broadcasts")]
    state = "received-by-gateway"
    rows = await bench.database.view("medic", "messages_by_state", startkey=[state], endkey=[state, {}])
    return len(texts), len(set(texts)), len({row["id"] for row in rows})


async def _memory(daemon: Daemon) -> tuple[float, float]:
    """Resident and peak memory, MB."""
    status = await asyncio.to_thread(Path(f"/proc/{daemon.pid}/status").read_text)
    found = {name: int(kilobytes) / 1000 for name, kilobytes in re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status)}
    return found["VmRSS"], found["VmHWM"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", type=int, default=200, help="documents of the short backlog")
    parser.add_argument("--long", type=int, default=2000, help="documents of the long backlog")
    parser.add_argument("--large", type=int, default=0, help="documents of 500 KiB; nothing else is measured then")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
