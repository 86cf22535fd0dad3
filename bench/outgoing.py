"""How fast a backlog goes out, how soon a single message does, and what it costs in requests.

`python -m bench.outgoing [--messages N] [--single N] [--latency S] [--per-hour N]`; with COUCHDB_URL against that
server.
"""

import argparse
import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from bench.rig import Rig, percentile, phone_number, rig, table
from demo.medic import data_record, message, task
from demo.process import Daemon

_DEADLINE = 600.0


async def main() -> None:
    options = _options()
    async with rig(options.latency, options.per_hour) as bench:
        backlog = await _backlog(bench, options.messages)
        single = await _single(bench, options.single)
    table(
        f"outgoing: {options.messages} messages in as many documents, RapidPro {options.latency * 1000:g} ms",
        backlog,
    )
    table(f"outgoing: {options.single} messages, one document at a time", single)


async def _backlog(bench: Rig, count: int) -> list[tuple[str, str]]:
    await bench.write(data_record(task(message(f"Reminder {number}", phone_number(number)))) for number in range(count))
    daemon = bench.new_daemon()
    before = await bench.couchdb_requests()
    await daemon.start()
    try:
        events = await settled(daemon, count)
        requests = await bench.couchdb_requests() - before - 1
        calls = await bench.simulator("calls")
    finally:
        await daemon.stop()
    seconds = _moment(events, "task.settled", -1) - _moment(events, "task.claimed", 0)
    return [
        ("first claim to last settle", f"{seconds:.1f} s"),
        ("messages per second", f"{count / seconds:.0f}"),
        ("requests to CouchDB per message", f"{requests / count:.2f}"),
        ("requests to RapidPro per message", f"{len(calls) / count:.2f}"),
    ]


async def _single(bench: Rig, count: int) -> list[tuple[str, str]]:
    """From the answer of the PUT to the POST reaching RapidPro; a negative one means that it overtook the answer."""
    daemon = bench.new_daemon()
    await daemon.start()
    answered: list[float] = []
    first = len(await bench.simulator("calls"))
    try:
        await settled(daemon, 0)
        for number in range(count):
            await bench.database.put(data_record(task(message(f"Reply {number}", phone_number(number)))))
            answered.append(time.time())
            await settled(daemon, number + 1)
        calls = [call for call in (await bench.simulator("calls"))[first:] if call["method"] == "POST"]
    finally:
        await daemon.stop()
    delays = [1000 * (call["time"] - put) for call, put in zip(calls, answered, strict=True)]
    return [
        ("PUT answered to POST received, p50", f"{percentile(delays, 0.5):.1f} ms"),
        ("p99", f"{percentile(delays, 0.99):.1f} ms"),
        ("longest", f"{max(delays):.1f} ms"),
    ]


async def settled(daemon: Daemon, count: int) -> list[dict[str, Any]]:
    """The daemon's events, when it is sending and has settled so many tasks."""
    await _logged(daemon, "sending.enabled")
    async with asyncio.timeout(_DEADLINE):
        while True:
            events = list(daemon.events())
            if sum(event["event"] == "task.settled" for event in events) >= count:
                return events
            await asyncio.sleep(0.05 if count < 1000 else 1)


async def _logged(daemon: Daemon, name: str) -> None:
    async with asyncio.timeout(_DEADLINE):
        while not any(event["event"] == name for event in daemon.events()):
            await asyncio.sleep(0.05)


def _moment(events: Sequence[dict[str, Any]], name: str, index: int) -> float:
    found = [event["timestamp"] for event in events if event["event"] == name]
    return datetime.fromisoformat(found[index]).timestamp()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=1000, help="of the backlog")
    parser.add_argument("--single", type=int, default=100, help="messages sent one at a time")
    parser.add_argument("--latency", type=float, default=0.05, help="RapidPro's, in seconds")
    parser.add_argument("--per-hour", type=int, default=0, help="RapidPro's limit of requests; 0: none")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
