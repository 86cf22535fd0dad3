"""How many webhooks a second are durable in CouchDB before their 200, how long one waits, and what the spool takes.

`python -m bench.incoming [--messages N] [--connections N] [--rate N] [--ids 4]
[--senders N]`; with COUCHDB_URL against that server.
"""

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from uuid import uuid4

from bench.rig import Rig, cpu_seconds, percentile, phone_number, rig, table
from demo.process import INCOMING_KEY, Daemon
from demo.rapidpro.records import uuid7
from tests.support.webhook import PATH, listening_socket

_CHT = 169  # messages a second over 50 connections, two cores (measured with CHT 5.2.0 on CouchDB 3.5.0)
_numbers = count()
_AWAY: dict[str, dict[str, object]] = {"couchdb": {"url": "http://127.0.0.1:1"}}


@dataclass
class Client:
    """One connection, as light as it can be: it shares two cores with what it measures."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    ids: int
    senders: int = 500

    async def post(self) -> float:
        """Seconds until the answer; anything but a 200 ends the benchmark."""
        start = time.perf_counter()
        self.writer.write(_request(self.ids, self.senders))
        answer = await self.reader.readuntil(b"}")
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer.decode())
        return time.perf_counter() - start


def _request(ids: int, senders: int) -> bytes:
    sender = phone_number(next(_numbers) % senders)
    given = uuid7(time.time()) if ids == 7 else str(uuid4())
    body = json.dumps({"id": given, "from": sender, "content": "PREG Amina 12"}).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Token {INCOMING_KEY}\r\n"
        f"Content-Type: application/json\r\nX-Mailroom-Mode: normal\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def main() -> None:
    options = _options()
    async with rig(latency=0.0) as bench:
        stored, stored_cpu = await _closed(bench, options, {})
        p50, p99 = await _open(bench, options)
        spooled, spooled_cpu = await _closed(bench, options, _AWAY)
    table(
        f"incoming: {options.messages} messages over {options.connections} connections, ids of version {options.ids},"
        f" {options.senders} senders",
        [
            (
                "durable in CouchDB before the answer",
                f"{stored:.0f} a second, {stored / _CHT:.1f} times CHT's own path",
            ),
            ("the daemon's CPU time a message", f"{stored_cpu * 1e6:.0f} us"),
            (f"at {options.rate} a second, p50", f"{p50 * 1000:.1f} ms"),
            ("p99", f"{p99 * 1000:.1f} ms"),
            ("durable in the spool, CouchDB away", f"{spooled:.0f} a second"),
            ("the daemon's CPU time a message", f"{spooled_cpu * 1e6:.0f} us"),
        ],
    )


async def _closed(
    bench: Rig, options: argparse.Namespace, sections: dict[str, dict[str, object]]
) -> tuple[float, float]:
    """Messages a second where each connection sends its next one when the last is answered, and CPU seconds of each.

    The second tells what the daemon costs also on a machine that others are busy on.
    """
    async with _clients(bench, options, sections) as (daemon, clients):
        left = iter(range(options.messages))

        async def send(client: Client) -> None:
            for _ in left:
                await client.post()

        start, cpu = time.perf_counter(), await asyncio.to_thread(cpu_seconds, daemon.pid)
        await asyncio.gather(*map(send, clients))
        seconds = time.perf_counter() - start
        cpu = await asyncio.to_thread(cpu_seconds, daemon.pid) - cpu
        return options.messages / seconds, cpu / options.messages


async def _open(bench: Rig, options: argparse.Namespace) -> tuple[float, float]:
    """p50 and p99 in seconds where messages come at their own rate, whether or not the last is answered."""
    async with _clients(bench, options, {}) as (_, clients):
        free = asyncio.Queue[Client]()
        for each in clients:
            free.put_nowait(each)

        async def send(due: float) -> float:
            client = await free.get()
            await client.post()
            free.put_nowait(client)
            return time.perf_counter() - due

        start = time.perf_counter()
        sending = []
        for number in range(options.messages):
            due = start + number / options.rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sending.append(asyncio.create_task(send(due)))
        times = await asyncio.gather(*sending)
    return percentile(times, 0.5), percentile(times, 0.99)


@asynccontextmanager
async def _clients(
    bench: Rig, options: argparse.Namespace, sections: dict[str, dict[str, object]]
) -> AsyncIterator[tuple[Daemon, list[Client]]]:
    """Connections to a new daemon that takes messages."""
    with listening_socket() as listener:
        daemon = bench.new_daemon(webhook=listener, **sections)
        await daemon.start()
        try:
            await _settings_read(daemon, "dependency.lost" if sections else "sending.enabled")
            host, port = listener.getsockname()
            clients = [
                Client(*await asyncio.open_connection(host, port), options.ids, options.senders)
                for _ in range(options.connections)
            ]
            await clients[0].post()
            yield daemon, clients
            for client in clients:
                client.writer.close()
        finally:
            await daemon.stop()


async def _settings_read(daemon: Daemon, event: str) -> None:
    while not any(entry["event"] == event for entry in daemon.events()):
        await asyncio.sleep(0.05)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=3000, help="of each of the three runs")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rate", type=int, default=500, help="messages a second of the open loop")
    parser.add_argument("--senders", type=int, default=500, help="different phone numbers")
    parser.add_argument("--ids", type=int, choices=(4, 7), default=7, help="version of the messages' UUIDs")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main())
