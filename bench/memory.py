"""What the daemon holds in memory: idle, and at its peak with a short and a long backlog.

`python -m bench.memory [--short N] [--long N]`; with COUCHDB_URL against that server. A long backlog on the stand-in
takes minutes, since it indexes a document in about a millisecond.
"""

import argparse
import asyncio
import re
from pathlib import Path

from bench.outgoing import settled
from bench.rig import Rig, phone_number, rig, table
from cht_rapidpro.demo.medic import data_record, message, task


async def main() -> None:
    options = _options()
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
        status = await asyncio.to_thread(Path(f"/proc/{daemon.pid}/status").read_text)
    finally:
        await daemon.stop()
    found = {name: int(kilobytes) / 1000 for name, kilobytes in re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status)}
    return found["VmRSS"], found["VmHWM"]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", type=int, default=200, help="documents of the short backlog")
    parser.add_argument("--long", type=int, default=2000, help="documents of the long backlog")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
