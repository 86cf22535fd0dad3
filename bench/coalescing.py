"""A text to a whole district, and a mixed queue into which one urgent message comes.

`python -m bench.coalescing [--recipients N] [--messages N] [--texts N] [--coalesce auto|off|always] [--latency S]
[--per-hour N]`; with COUCHDB_URL against that server.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Final

from bench.outgoing import settled
from bench.rig import Rig, phone_number, rig, table
from demo.medic import data_record, message, task
from demo.process import Daemon

_URGENT: Final = "Come at once"
_LOOK: Final = 0.02  # seconds between two looks at the simulator


async def main() -> None:
    options = _options()
    async with rig(options.latency, options.per_hour) as bench:
        district = await _district(bench, options.recipients, options.coalesce)
    async with rig(options.latency, options.per_hour) as bench:
        mixed = await _mixed(bench, options.messages, options.texts, options.coalesce)
    table(f"coalescing ({options.coalesce}): one text to {options.recipients} people, one document", district)
    table(f"coalescing ({options.coalesce}): {options.messages} messages of {options.texts} texts", mixed)


async def _district(bench: Rig, recipients: int, coalesce: str) -> list[tuple[str, str]]:
    record = data_record(
        *(task(message("Vaccination on Monday", phone_number(number))) for number in range(recipients))
    )
    async with _sending(bench, coalesce) as daemon:
        start = time.monotonic()
        await bench.database.put(record)
        await settled(daemon, recipients)
        seconds = time.monotonic() - start
    return [("written to last settle", f"{seconds:.1f} s"), *await _posts(bench)]


async def _mixed(bench: Rig, messages: int, texts: int, coalesce: str) -> list[tuple[str, str]]:
    """The messages of one text are one document's, as from CHT's Messages tab; the urgent one comes half-way."""
    share = messages // texts
    docs = [
        data_record(*(task(message(f"Text {text}", phone_number(share * text + each))) for each in range(share)))
        for text in range(texts)
    ]
    async with _sending(bench, coalesce) as daemon:
        start = time.monotonic()
        await bench.database.bulk(docs)
        await _sent(bench, messages // 2)
        urgent = time.time()
        await bench.database.put(data_record(task(message(_URGENT, phone_number(messages)))))
        await settled(daemon, share * texts + 1)
        seconds = time.monotonic() - start
    posted = next(made for made in await bench.simulator("messages") if made["text"] == _URGENT)
    delay = _seconds(posted["created_on"]) - urgent
    return [
        ("written to last settle", f"{seconds:.1f} s"),
        ("the urgent message, written to broadcast", f"{delay:.2f} s"),
        *await _posts(bench),
    ]


@asynccontextmanager
async def _sending(bench: Rig, coalesce: str) -> AsyncIterator[Daemon]:
    """A daemon that waits for messages."""
    daemon = bench.new_daemon(outgoing={"coalesce": coalesce})
    await daemon.start()
    try:
        await settled(daemon, 0)
        yield daemon
    finally:
        await daemon.stop()


async def _sent(bench: Rig, messages: int) -> None:
    while (await bench.simulator(""))["messages"] < messages:
        await asyncio.sleep(_LOOK)


async def _posts(bench: Rig) -> list[tuple[str, str]]:
    calls: list[dict[str, Any]] = await bench.simulator("calls")
    posts = sum(call["method"] == "POST" for call in calls)
    return [("POSTs to RapidPro", str(posts)), ("other requests to RapidPro", str(len(calls) - posts))]


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipients", type=int, default=1000, help="of the one text")
    parser.add_argument("--messages", type=int, default=2000, help="of the mixed queue")
    parser.add_argument("--texts", type=int, default=100, help="of the mixed queue")
    parser.add_argument("--latency", type=float, default=0.05, help="RapidPro's, in seconds")
    parser.add_argument("--per-hour", type=int, default=3600, help="RapidPro's limit of requests; 0: none")
    parser.add_argument("--coalesce", choices=("auto", "off", "always"), default="auto")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
