"""A CouchDB to try the gateway against: the one that $COUCHDB_URL names, or a stand-in that is started here.

Hardly any machine has a CouchDB at hand, and the demo and the tests must work on all of them. The stand-in
(couchdb_standin/server.js) is a node process that never outlives this one: it ends when its stdin, a pipe of
ours, is closed. Without this module each test would start, and forget to end, a server in its own way.
"""

import asyncio
import json
import os
import select
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, Self
from urllib.parse import unquote, urlsplit

from cht_rapidpro.errors import ConfigError, GatewayError

_SERVER: Final = Path(__file__).parent / "couchdb_standin" / "server.js"
_USER: Final = "admin"
_PASSWORD: Final = "secret"
_START_TIMEOUT: Final = 60.0  # seconds; it takes about one, but a laden machine is no reason to fail
_STOP_TIMEOUT: Final = 10.0
_REMEDY: Final = "run `make install` in a checkout, or set COUCHDB_URL to a CouchDB (http://user:password@host:5984)"


class CouchDBServer(Protocol):
    """Where a CouchDB is, and its administrator. `url` has no credentials and no slash at its end."""

    @property
    def url(self) -> str: ...
    @property
    def user(self) -> str: ...
    @property
    def password(self) -> str: ...


@dataclass(frozen=True, slots=True)
class ExternalCouchDB:
    """A server that the demo does not start itself."""

    url: str
    user: str
    password: str = field(repr=False)


class StandinProcess:
    """The stand-in for callers without an event loop (a session-scoped fixture); every method blocks.

    With `port` 0 the kernel chooses one at the first start, and each later start takes the same. Without
    `data_dir` everything is kept in memory and gone after a stop.
    """

    def __init__(
        self, *, data_dir: Path | None = None, user: str = _USER, password: str = _PASSWORD, port: int = 0
    ) -> None:
        self.user = user
        self.password = password
        self.url = f"http://127.0.0.1:{port}"
        self._data_dir = data_dir
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the server answers. Raises GatewayError, with the remedy, where it cannot run."""
        if self._process:
            return
        self._process = subprocess.Popen(  # noqa: S603 - our own script, no shell, nothing from outside
            self._command(),
            env=os.environ | {"COUCHDB_USER": self.user, "COUCHDB_PASSWORD": self.password},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C goes to the whole foreground group; the gateway needs its database until it has drained.
            start_new_session=True,
        )
        try:
            self.url = _read_url(self._process)
        except GatewayError:
            self.kill()
            raise

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Like a power cut to the server: nothing is flushed, no feed is closed."""
        self._end(signal.SIGKILL)

    def _command(self) -> list[str]:
        # express-pouchdb is older than node's deprecations: they would only litter the terminal.
        command = [_find_node(), "--no-deprecation", str(_SERVER), "--port", str(urlsplit(self.url).port)]
        return command if self._data_dir is None else [*command, "--data", str(self._data_dir)]

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with process:  # closes the pipes
            process.send_signal(number)
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def _find_node() -> str:
    node = shutil.which("node")
    if node is None:
        raise GatewayError(f"the CouchDB stand-in needs node (18 or later): {_REMEDY}")
    if not any((folder / "node_modules" / "express-pouchdb").is_dir() for folder in _SERVER.parents):
        raise GatewayError(f"the CouchDB stand-in needs its node_modules: {_REMEDY}")
    return node


def _read_url(process: subprocess.Popen[bytes]) -> str:
    """The server's first line tells where it listens; end of file instead means that it died."""
    assert process.stdout  # noqa: S101 - a pipe was asked for
    ready, _, _ = select.select([process.stdout], [], [], _START_TIMEOUT)
    line = process.stdout.readline() if ready else b""
    if not line:
        raise GatewayError(f"the CouchDB stand-in did not start (its reason, if any, is on stderr): {_REMEDY}")
    return str(json.loads(line)["url"])


class CouchDBStandin:
    """The stand-in for asyncio callers: to be entered, or stopped, killed and started again."""

    def __init__(
        self, *, data_dir: Path | None = None, user: str = _USER, password: str = _PASSWORD, port: int = 0
    ) -> None:
        self._process = StandinProcess(data_dir=data_dir, user=user, password=password, port=port)

    @property
    def url(self) -> str:
        return self._process.url

    @property
    def user(self) -> str:
        return self._process.user

    @property
    def password(self) -> str:
        return self._process.password

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Returns when the server answers; after `stop` or `kill` on the same port. Raises GatewayError."""
        await asyncio.to_thread(self._process.start)

    async def stop(self) -> None:
        await asyncio.to_thread(self._process.stop)

    async def kill(self) -> None:
        await asyncio.to_thread(self._process.kill)


def server_from_environment() -> ExternalCouchDB | None:
    """The server in $COUCHDB_URL, `http://user:password@host:port`, or None. Raises ConfigError."""
    value = os.environ.get("COUCHDB_URL", "")
    if not value:
        return None
    url = urlsplit(value)
    if not (url.scheme and url.hostname and url.username and url.password):
        raise ConfigError("COUCHDB_URL must be http://user:password@host:port of a server administrator")
    address = url._replace(netloc=url.netloc.rpartition("@")[2]).geturl().rstrip("/")
    return ExternalCouchDB(address, unquote(url.username), unquote(url.password))


@asynccontextmanager
async def couchdb_server() -> AsyncIterator[CouchDBServer]:
    """The server in $COUCHDB_URL, else a stand-in in memory that lives as long as the context."""
    external = server_from_environment()
    if external:
        yield external
        return
    async with CouchDBStandin() as standin:
        yield standin
