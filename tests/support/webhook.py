"""The daemon's webhook, called as a flow calls it."""

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from cht_rapidpro.config.schema import Config, Incoming
from cht_rapidpro.config.secrets import Secret
from demo.database import Database, Doc
from tests.support.daemon import running

KEY: Final = "key of the flow"
PATH: Final = "/api/v2/sms/rapidpro/incoming-messages"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=15)  # as RapidPro's
SENDER: Final = "+254712345678"


def section(**keys: Any) -> Incoming:
    """[incoming] with a key; the daemon is to be given a socket."""
    return Incoming(listen="127.0.0.1:0", **{"key": Secret(KEY), **keys})


@dataclass(frozen=True)
class Answer:
    status: int
    body: Any
    headers: Mapping[str, str]

    @property
    def saved(self) -> int | None:
        """What a success says; None for anything else."""
        return int(self.body["saved"]) if self.status == 200 else None


class Flow:
    """Posts to a daemon at this address."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url
        self.key = KEY

    async def post(self, given: object, content: object = "hello", sender: object = SENDER) -> Answer:
        return await self.request(json={"id": given, "from": sender, "content": content})

    async def request(
        self, method: str = "POST", path: str = PATH, headers: Mapping[str, str] | None = None, **body: Any
    ) -> Answer:
        """With the key, unless `headers` say otherwise."""
        all_headers = {"Authorization": f"Token {self.key}", **(headers or {})}
        async with self._session.request(method, f"{self.url}{path}", headers=all_headers, **body) as answer:
            return Answer(answer.status, await answer.json(content_type=None), answer.headers)


def listening_socket() -> socket.socket:
    """As systemd opens one."""
    made = socket.create_server(("127.0.0.1", 0), backlog=1024)
    made.setblocking(False)
    return made


def url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"http://{host}:{port}"


@asynccontextmanager
async def open_flow(url: str) -> AsyncIterator[Flow]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT) as session:
        yield Flow(session, url)


@asynccontextmanager
async def receiving(config: Config) -> AsyncIterator[Flow]:
    """A running daemon, and a flow that calls it."""
    listener = listening_socket()
    async with open_flow(url_of(listener)) as flow, running(config, sockets=[listener]):
        yield flow


async def records(medic: Database) -> list[Doc]:
    """The documents of incoming messages, in the order of their ids."""
    answer = await medic.request("GET", "_all_docs", include_docs="true")
    return [row["doc"] for row in answer["rows"] if "sms_message" in row["doc"]]


async def texts(medic: Database) -> list[str]:
    return [doc["sms_message"]["message"] for doc in await records(medic)]
