"""How soon a start sends, and what the daemon costs while nothing happens: memory, requests.

`python -m bench.start [--starts N] [--minutes N]`; with COUCHDB_URL against that server, which nobody else may use
meanwhile: its own counter of requests is read.
"""

import argparse
import asyncio
import re
import time
from pathlib import Path

from bench.outgoing import settled
from bench.rig import Rig, cpu_seconds, percentile, rig, table
from demo.medic import data_record, message, task


async def main() -> None:
    options = _options()
    async with rig(latency=0.05) as bench:
        idle = await _idle(bench, options.minutes)  # before there is any message whose delivery is asked for
        starts = [await _start(bench, number) for number in range(options.starts)]
    table(
        f"start to the first send, {options.starts} times",
        [
            ("median", f"{percentile([seconds for seconds, _ in starts], 0.5):.2f} s"),
            ("longest", f"{max(seconds for seconds, _ in starts):.2f} s"),
            ("the daemon's own CPU time, until it has settled", f"{percentile([cpu for _, cpu in starts], 0.5):.2f} s"),
        ],
    )
    table(f"idle for {options.minutes:g} minutes", idle)


async def _start(bench: Rig, number: int) -> tuple[float, float]:
    """Seconds from the start of the process until RapidPro receives the message that was waiting, and CPU seconds.

    The second tells what a machine would need that has nothing else to do.
    """
    await bench.write([data_record(task(message(f"Reminder {number}", f"+2547{number:08}")))])
    before = len(await bench.simulator("calls"))
    daemon = bench.new_daemon()
    began = time.time()
    await daemon.start()
    try:
        await settled(daemon, 1)
        cpu = await asyncio.to_thread(cpu_seconds, daemon.pid)
        calls = (await bench.simulator("calls"))[before:]
    finally:
        await daemon.stop()
    return float(calls[0]["time"]) - began, cpu


async def _idle(bench: Rig, minutes: float) -> list[tuple[str, str]]:
    daemon = bench.new_daemon()
    await daemon.start()
    try:
        await settled(daemon, 0)
        await asyncio.sleep(5)  # the first sweep is over
        asked, called = await bench.couchdb_requests(), len(await bench.simulator("calls"))
        await asyncio.sleep(60 * minutes)
        requests = await bench.couchdb_requests() - asked - 1
        calls = len(await bench.simulator("calls")) - called
        status = await asyncio.to_thread(Path(f"/proc/{daemon.pid}/status").read_text)
    finally:
        await daemon.stop()
    found = {name: int(kilobytes) / 1000 for name, kilobytes in re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status)}
    return [
        ("requests to CouchDB a minute", f"{requests / minutes:.1f}"),
        ("requests to RapidPro", f"{calls}"),
        ("memory", f"{found['VmRSS']:.1f} MB, {found['VmHWM']:.1f} MB at the peak"),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=5, help="starts to be timed")
    parser.add_argument("--minutes", type=float, default=3, help="how long to watch the idle daemon")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
