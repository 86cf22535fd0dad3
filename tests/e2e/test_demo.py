"""`python -m demo`, which `make demo` runs: it proves itself, can be kept, leaves nothing."""

import asyncio
import os
import pty
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from demo.couchdb import couchdb_server, server_from_environment
from tests.faults.wait import eventually

ROOT = Path(__file__).parents[2]
MESSAGES = 17  # and two that phones have sent
PIPE = asyncio.subprocess.PIPE


@asynccontextmanager
async def demo(
    folder: Path, *options: str, stdout: int = PIPE, environ: Mapping[str, str] = os.environ
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The demo; afterwards its temporary files, all in `folder`, and its processes must be gone."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "demo",
        *options,
        cwd=ROOT,
        env={**environ, "TMPDIR": str(folder)},
        stdout=stdout,
        stderr=PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.communicate()
    assert not files_of(folder)
    assert not processes_of(folder, "cmdline", "environ")


def files_of(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def processes_of(folder: Path, *attributes: str) -> list[psutil.Process]:
    """Those that name the folder in their `cmdline` (the daemon) or `environ` (the demo, CouchDB)."""
    return [process for process in psutil.process_iter(attributes) if str(folder) in str(process.info)]


async def read_until(process: asyncio.subprocess.Process, words: str) -> list[str]:
    assert process.stdout
    lines = []
    while line := await process.stdout.readline():
        lines.append(line.decode().rstrip("\n"))
        if words in lines[-1]:
            return lines
    raise AssertionError(f"no line has {words!r}: {lines}")


async def curl(command: str) -> Any:
    """Does what the shell would do with the command; a password that it does not name is $COUCHDB_URL's."""
    words = iter(shlex.split(command))
    assert next(words) == "curl"
    body, headers, url = None, {}, ""
    for word in words:
        match word:
            case "-u":
                user, _, password = next(words).partition(":")
                external = server_from_environment()
                secret = password or (external.password if external else "")
                headers["Authorization"] = aiohttp.encode_basic_auth(user, secret)
            case "-H":
                name, _, value = next(words).partition(": ")
                headers[name] = value
            case "-d":
                body = next(words)
            case _:
                url = word
    method = "GET" if body is None else "POST"
    async with aiohttp.request(method, url, data=body, headers=headers) as response:
        assert response.ok, await response.text()
        return await response.json(content_type=None)


async def databases(url: str) -> set[str]:
    """Those of the demo."""
    async with aiohttp.request("GET", f"{url}/_all_dbs") as response:
        return {name for name in await response.json() if name.startswith("cht-rapidpro-demo-")}


async def test_every_message_ends_where_it_must_on_a_server_that_is_left_as_it_was(tmp_path: Path) -> None:
    async with couchdb_server() as server:
        url = server.url.replace("://", f"://{server.user}:{server.password}@")
        before = await databases(url)
        async with demo(tmp_path, environ={**os.environ, "COUCHDB_URL": url}) as process:
            out, err = await process.communicate()
            assert (process.returncode, err) == (0, b""), out.decode() + err.decode()
        assert await databases(url) == before
    verdicts = [line for line in out.decode().splitlines() if line.startswith(("✓", "✗"))]
    assert len(verdicts) == MESSAGES + 4
    assert all(line.startswith("✓") for line in verdicts)
    assert "12 messages to send: 12 broadcasts in 13 requests" in verdicts[-2]
    assert verdicts[0].endswith("'PREG Amina 12' is one record: form PREG, patient_name Amina, weeks_since_lmp 12")
    assert sum("one broadcast, delivered (Delivered)" in line for line in verdicts) == 12
    assert verdicts[-1] == "✓ the daemon ended by SIGTERM: exit code 0"


async def test_kept_it_sends_what_the_pasted_command_writes(tmp_path: Path) -> None:
    async with demo(tmp_path, "--keep") as process:
        write, read, phones, receive = [(await read_until(process, "curl"))[-1] for _ in range(4)]
        for _ in range(2):  # it can be repeated
            await settled(read, (await curl(write))["id"])
        received = await curl(receive)
        await recorded(read, received["uuid"])
        shown = [message["text"] for message in await curl(phones)]
        assert shown.count("Hello from the shell") == 2
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert (process.returncode, err) == (0, b""), out.decode() + err.decode()


async def settled(read: str, doc_id: str) -> None:
    """Returns when the document's only task is delivered."""

    async def is_delivered() -> bool:
        return await states(read, doc_id) == ["delivered"]

    await eventually(is_delivered, deadline=60, every=0.05)


async def recorded(read: str, doc_id: str) -> None:
    """Returns when the document of this SMS is the one that changed last."""

    async def is_last() -> bool:
        return bool((await curl(read))["results"][0]["id"] == doc_id)

    await eventually(is_last, deadline=60, every=0.05)


async def states(read: str, doc_id: str) -> list[str]:
    """The states of the document's tasks, if it is the one that changed last."""
    [row] = (await curl(read))["results"]
    return [task["state"] for task in row["doc"]["tasks"]] if row["id"] == doc_id else []


async def test_on_a_terminal_it_draws_and_ctrl_c_clears_up(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        async with demo(tmp_path, stdout=theirs) as process:
            os.close(theirs)
            screen = b""
            while b"queued" not in screen:  # a message has reached RapidPro
                screen += await asyncio.to_thread(terminal.read, 4096)
            process.send_signal(signal.SIGINT)
            _, err = await process.communicate()
            assert (process.returncode, err) == (1, b"")
    assert b"gateway_ref" in screen


async def test_the_demo_fails_with_the_reason_when_the_daemon_dies(tmp_path: Path) -> None:
    async with demo(tmp_path) as process:
        await read_until(process, "failed")
        [daemon] = processes_of(tmp_path, "cmdline")
        daemon.kill()
        out, _ = await process.communicate()
        assert process.returncode == 1
    verdict, _, log = out.decode().partition("✗ the daemon ended by SIGTERM: exit code -9\n")
    assert "✗ without a number" in verdict
    assert '"event": "task.claimed"' in log
