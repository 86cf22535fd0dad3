"""A server with few files: what it takes, what waits, and what is ended for it."""

import asyncio
import gc
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from cht_rapidpro.adapters.web.listener import Listener
from tests.support.fault_proxy import until
from tests.support.virtual_time import jump

MOST: Final = 4  # connections, a quarter of the files
GET: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
SLOW: Final = b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"


@contextmanager
def files(number: int) -> Iterator[None]:
    """So many may be open: the limit that the server is made under, or that it meets."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_files() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir()}


@dataclass
class Served:
    listener: Listener
    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    slow: int = 0

    async def connect(self, request: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        [address] = self.listener.addresses
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request)
        return reader, writer


@asynccontextmanager
async def serving(listener: Listener | None = None) -> AsyncIterator[Served]:
    application = web.Application()
    with files(4 * MOST):
        served = Served(listener or Listener("incoming", application, shutdown_timeout=5.0))

    async def answer(_: web.Request) -> web.Response:
        return web.Response(text="well")

    async def answer_later(_: web.Request) -> web.Response:
        served.slow += 1
        await served.go_on.wait()
        return web.Response(text="well")

    application.router.add_get("/", answer)
    application.router.add_get("/slow", answer_later)
    async with served.listener:
        await served.listener.listen("127.0.0.1", 0)
        yield served


async def is_answered(reader: asyncio.StreamReader) -> bool:
    """False: it was ended without an answer."""
    try:
        return (await reader.readuntil(b"well")).startswith(b"HTTP/1.1 200")
    except (asyncio.IncompleteReadError, ConnectionError):
        return False


async def some_time() -> None:
    """Long enough for everything that is possible at this moment to happen."""
    for _ in range(20):
        await asyncio.sleep(0.005)


async def test_idle_connections_make_way_the_longest_idle_first() -> None:
    """After a second, and no more of them than it takes: room for the next one is made before it comes."""
    loop = asyncio.get_running_loop()
    with capture_logs() as logs:
        async with serving() as served:
            began, idle = loop.time(), []
            for number in range(MOST):
                idle.append(await served.connect())
                await until(lambda number=number: len(served.listener) == number + 1)  # type: ignore[misc]
            newest = await served.connect(GET)
            answered = asyncio.create_task(is_answered(newest[0]))

            async def is_through() -> bool:
                jump(0.1)
                await some_time()
                return answered.done() and len(served.listener) < MOST

            await until(is_through)
            assert answered.result()
            assert loop.time() - began > 1.0
            for _ in range(5):
                jump(1)
                await some_time()
            assert [reader.at_eof() for reader, _ in idle] == [True, True, False, False]
            for _, writer in [*idle, newest]:
                writer.close()
    [told] = [one for one in logs if one["event"] == "listener.crowded"]
    assert (told["listener"], told["connections"], told["log_level"]) == ("incoming", MOST, "warning")


async def test_a_request_that_is_being_answered_is_not_ended() -> None:
    async with serving() as served:
        slow = await served.connect(SLOW)
        await until(lambda: served.slow == 1)
        others = [await served.connect() for _ in range(3 * MOST)]

        async def is_through() -> bool:
            jump(2)
            return sum(reader.at_eof() for reader, _ in others) >= 2 * MOST

        await until(is_through)
        served.go_on.set()
        assert await is_answered(slow[0])
        for _, writer in [slow, *others]:
            writer.close()


async def test_while_all_are_answered_the_next_waits_and_takes_no_file() -> None:
    async with serving() as served:
        busy = [await served.connect(SLOW) for _ in range(MOST)]
        await until(lambda: served.slow == MOST)
        waiting = [await served.connect(GET) for _ in range(5)]
        for _ in range(5):
            jump(10)
            await some_time()
            assert len(served.listener) == MOST
        served.go_on.set()
        for reader, _ in busy:
            assert await is_answered(reader)
        answered = asyncio.gather(*(is_answered(reader) for reader, _ in waiting))

        async def all_are() -> bool:
            jump(0.5)
            return answered.done()

        await until(all_are)
        assert await answered == [True] * 5
        for _, writer in [*busy, *waiting]:
            writer.close()


async def test_a_connection_that_was_just_answered_is_not_idle_yet() -> None:
    """A proxy keeps it, and may be sending the next request."""
    async with serving() as served:
        kept = await served.connect()
        await until(lambda: len(served.listener) == 1)
        others = [await served.connect() for _ in range(MOST - 1)]
        await until(lambda: len(served.listener) == MOST)
        jump(0.9)
        kept[1].write(GET)
        assert await is_answered(kept[0])
        jump(0.2)
        await some_time()
        assert [reader.at_eof() for reader, _ in [kept, *others]] == [False, True, False, False]
        for _, writer in [kept, *others]:
            writer.close()


async def test_no_file_left_is_a_line_and_it_goes_on() -> None:
    with capture_logs() as logs:
        async with serving() as served:
            with socket.socket() as client:
                client.setblocking(False)
                with files(len(open_files()) + 50), ExitStack() as fillers:
                    with suppress(OSError):
                        while True:
                            fillers.enter_context(socket.socket())
                    await asyncio.get_running_loop().sock_connect(client, served.listener.addresses[0])
                    for _ in range(5):
                        await some_time()
                        jump(1.5)
                    assert len(served.listener) == 0
                client.send(GET)

                async def is_taken() -> bool:
                    jump(0.5)
                    return len(served.listener) == 1

                await until(is_taken)
                assert (await asyncio.get_running_loop().sock_recv(client, 100)).startswith(b"HTTP/1.1 200")
    [told] = [one for one in logs if one["event"] == "listener.failed"]
    assert (told["error"], told["log_level"]) == ("Too many open files", "error")


async def test_a_stop_answers_what_waits_in_the_kernel() -> None:
    """A webhook that was sent before the stop is tried only once."""
    async with serving() as served:
        clients = [socket.socket() for _ in range(MOST)]
        for client in clients:  # without the loop, which so cannot take them before
            client.connect(served.listener.addresses[0])
            client.send(GET)
        await served.listener.stop_accepting()
        assert len(served.listener) == MOST
        for client in clients:
            client.setblocking(False)
            assert (await asyncio.get_running_loop().sock_recv(client, 100)).startswith(b"HTTP/1.1 200")
            client.close()


async def test_a_socket_of_systemds_keeps_its_queue_for_the_next_process() -> None:
    application = web.Application()
    with socket.create_server(("127.0.0.1", 0)) as of_systemd:
        async with Listener("incoming", application) as listener:
            listener.listen_at([of_systemd.dup()], leaves_queue=True)
            client = socket.create_connection(of_systemd.getsockname())
            await listener.stop_accepting()
            assert len(listener) == 0
        of_systemd.settimeout(5)
        of_systemd.accept()[0].close()
        client.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_taken_address_raises_and_leaves_nothing_open(host: str) -> None:
    gc.collect()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with Listener("incoming", web.Application()) as listener:
            before = open_files()
            with pytest.raises(OSError, match="address already in use"):
                await listener.listen(host, taken.getsockname()[1])
            assert open_files() == before
