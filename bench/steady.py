"""Whether the daemon's memory stays the same under a steady load: so many messages and webhooks a second, for so long.

`python -m bench.steady [--minutes N] [--rate N] [--sample S] [--progress SECONDS:STATUS ...]`; with COUCHDB_URL
against that server. Each sample is printed as it is taken. Without `--progress ""` each message is delivered after a
while; with it all stay queued, and the daemon asks for the states of ever more of them.
"""

import argparse
import asyncio
import re
import time
from pathlib import Path

from bench.incoming import Client
from bench.outgoing import settled
from bench.rig import Rig, phone_number, rig, table
from demo.medic import data_record, message, task
from demo.process import Daemon
from tests.support.webhook import listening_socket

_DELIVERED = ("0.5:wired", "2:sent", "20:delivered")


async def main() -> None:
    options = _options()
    async with rig(latency=0.05, progress=[step for step in options.progress if step]) as bench:
        with listening_socket() as listener:
            daemon = bench.new_daemon(webhook=listener)
            await daemon.start()
            try:
                await settled(daemon, 0)
                client = Client(*await asyncio.open_connection(*listener.getsockname()), 7)
                samples = await _samples(bench, daemon, client, options)
            finally:
                await daemon.stop()
    last = samples[len(samples) * 2 // 3 :]
    slope = 60 * (last[-1][1] - last[0][1]) / (last[-1][0] - last[0][0])
    table(
        f"memory under {options.rate} messages and {options.rate} webhooks a second for {options.minutes:g} minutes",
        [
            ("at the start", f"{samples[0][1]:.1f} MB"),
            ("at the end", f"{samples[-1][1]:.1f} MB"),
            ("in the last third, a minute", f"{slope:+.3f} MB"),
        ],
    )


async def _samples(
    bench: Rig, daemon: Daemon, client: Client, options: argparse.Namespace
) -> list[tuple[float, float]]:
    """Seconds since the start and MB, one each `--sample` seconds."""
    start = time.monotonic()
    samples: list[tuple[float, float]] = []
    for number in range(round(options.minutes * 60 * options.rate)):
        await asyncio.sleep(max(0.0, start + number / options.rate - time.monotonic()))
        await bench.database.put(data_record(task(message(f"Reply {number}", phone_number(number)))))
        await client.post()
        seconds = time.monotonic() - start
        if seconds >= options.sample * len(samples):
            samples.append((seconds, await asyncio.to_thread(_resident, daemon.pid)))
            print(f"{samples[-1][0]:8.0f} s {samples[-1][1]:8.2f} MB", flush=True)
    return samples


def _resident(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1000 if found else 0.0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--rate", type=float, default=4, help="messages, and webhooks, a second")
    parser.add_argument("--sample", type=float, default=30, help="seconds between two looks at the memory")
    parser.add_argument("--progress", nargs="*", default=_DELIVERED, metavar="SECONDS:STATUS")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
