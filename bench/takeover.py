"""Taking over from another gateway with a backlog: how long it waits, what it asks, what it keeps in memory.

`python -m bench.takeover [--messages 10000] [--sent 25] [--per-hour 3600]`; with COUCHDB_URL against that server. The
gateway before has sent some of the messages without a trace in CouchDB, as a killed batch leaves them. Real time: it
takes `settle_time` (two minutes) and a little more.
"""

import argparse
import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

from bench.rig import TOKEN, Rig, cpu_seconds, phone_number, rig, table
from demo.medic import data_record, message, task
from demo.process import Daemon


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--sent", type=int, default=25, help="by the gateway before")
    parser.add_argument("--per-hour", type=int, default=3600, help="requests that RapidPro allows")
    options = parser.parse_args()
    async with rig(0.05, options.per_hour) as site:
        docs = [
            data_record(task(message(f"Reminder {number}", phone_number(number)))) for number in range(options.messages)
        ]
        await site.write(docs)
        for doc in docs[: options.sent]:
            await _post(site, doc)
        daemon = Daemon(
            site.folder / "daemon",
            site.couchdb,
            site.database.name,
            {"url": site.rapidpro_url, "requests_per_hour": options.per_hour},
            TOKEN,
            is_first=True,
        )
        began = time.monotonic()
        await daemon.start()
        try:
            await _until(daemon, "takeover.started", 600)
            held, new = time.monotonic() - began, await _send_new(site)
            listed = await _until(daemon, "takeover.listed", 900)
            at_list = time.monotonic() - began
            await _until(daemon, "takeover.finished", 900)
            finished = time.monotonic() - began
            cpu, memory = cpu_seconds(daemon.pid), _peak(daemon.pid)
            calls = Counter(
                f"{call['method']} {call['path'].rpartition('/')[2]}" for call in await site.simulator("calls")
            )
            texts = Counter(made["text"] for made in await site.simulator("broadcasts"))
        finally:
            await daemon.kill()
    table(
        f"a takeover with {options.messages} messages, {options.sent} of them sent",
        [
            ("what is held back is known after", f"{held:.1f} s"),
            ("a new message meanwhile is sent within", f"{new:.2f} s"),
            ("the listing has told after", f"{at_list:.1f} s"),
            ("suspects, others", f"{listed['suspects']}, {listed['others']}"),
            ("the takeover is finished after", f"{finished:.1f} s"),
            ("requests to RapidPro until then", ", ".join(f"{count} {what}" for what, count in calls.items())),
            ("sent twice", str(sum(count > 1 for count in texts.values()))),
            ("CPU", f"{cpu:.1f} s"),
            ("peak memory", f"{memory:.0f} MiB"),
        ],
    )


async def _post(site: Rig, doc: dict[str, Any]) -> None:
    [sent] = doc["tasks"][0]["messages"]
    body = {"urns": [f"tel:{sent['to']}"], "text": sent["message"]}
    headers = {"Authorization": f"Token {TOKEN}"}
    async with site.http.post(f"{site.rapidpro_url}/api/v2/broadcasts.json", json=body, headers=headers) as answer:
        answer.raise_for_status()


async def _send_new(site: Rig) -> float:
    """Seconds until a message that came after the takeover is at RapidPro."""
    doc, began = data_record(task(message("new", phone_number(0)))), time.monotonic()
    await site.database.put(doc)
    while (await site.database.get(doc["_id"]))["tasks"][0]["state"] != "received-by-gateway":
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def _until(daemon: Daemon, event: str, seconds: float) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for entry in await asyncio.to_thread(lambda: list(daemon.events())):
            if entry["event"] == event:
                return entry
        await asyncio.sleep(0.2)
    raise TimeoutError(event)


def _peak(pid: int) -> float:
    """MiB."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    asyncio.run(main())
