"""The log of the HTTP servers: requests that no well-behaved client sends, and nothing of them reaches the log."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Iterator, MutableMapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from cht_rapidpro.adapters.web.admin import Admin
from cht_rapidpro.adapters.web.server_log import OnceAMinute, ServerLog
from cht_rapidpro.adapters.web.webhook import Webhook
from cht_rapidpro.config.secret_store import Keyring, Secrets
from cht_rapidpro.domain.incoming import InboundMessage, Saved, Stored
from cht_rapidpro.telemetry.metrics import Metrics
from tests.support.virtual_time import jump
from tests.support.webhook import PATH, listening_socket, section

KEY: Final = "0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0"
NUMBER: Final = "+254712345678"
TEXT: Final = "Dear Amina, your test is positive"
QUERY: Final = f"text={TEXT.replace(' ', '+')}&from={NUMBER}"
HEAD: Final = f"Host: 127.0.0.1\r\nAuthorization: Token {KEY}\r\n"
BODY: Final = json.dumps({"id": "a", "from": NUMBER, "content": TEXT})
# The first bytes of a TLS handshake (RFC 8446, 4.1.2), as a browser sends them to a plain port.
TLS: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x9a" * 32 + b" " + b"\x01" * 32 + b"\r\n\r\n"


def request(headers: str = "", line: str = f"POST {PATH}?{QUERY} HTTP/1.1", body: str = BODY) -> bytes:
    return f"{line}\r\n{HEAD}Content-Length: {len(body)}\r\n{headers}\r\n{body}".encode()


HOSTILE: Final[dict[str, bytes]] = {
    "gzip that is none": request("Content-Encoding: gzip\r\n"),
    "deflate that is none": request("Content-Encoding: deflate\r\nContent-Type: application/json\r\n"),
    "br that is none": request("Content-Encoding: br\r\n"),
    "zstd that is none": request("Content-Encoding: zstd\r\n"),
    "gzip without a key": request("Content-Encoding: gzip\r\n").replace(KEY.encode(), b"wrong"),
    "TLS": TLS,
    "a long header": request(f"X-Text: {TEXT * 1000}\r\n"),
    "a long key": request().replace(KEY.encode(), KEY.encode() * 200),
    "a long request line": request(line=f"POST {PATH}?{QUERY * 1000} HTTP/1.1"),
    "NUL in a header": request(f"X-Text: {TEXT}\0{NUMBER}\r\n"),
    "NUL in the key": request().replace(b"Token ", b"Token \0"),
    "a header without a colon": request(f"{TEXT} {NUMBER}\r\n"),
    "a blank in a header's name": request(f"X Text: {TEXT}\r\n"),
    "a blank in the request line": request(line=f"POST {PATH}?text={TEXT} HTTP/1.1"),
    "no version": request(line=f"POST {PATH}?{QUERY}"),
    "an unknown version": request(line=f"POST {PATH}?{QUERY} HTTP/{NUMBER}"),
    "a number for a method": request(line=f"{NUMBER} {PATH}?{QUERY} HTTP/1.1"),
    "a text for a method": request(line=f"{TEXT} HTTP/1.1"),
    "two lengths": request(f"Content-Length: {NUMBER}\r\n"),
    "a length that is none": request().replace(b"Content-Length: ", f"Content-Length: {NUMBER}".encode()),
    "chunks that are none": request("Transfer-Encoding: chunked\r\n").replace(b"Content-Length", b"X-Length"),
    "both framings": request("Transfer-Encoding: chunked\r\n"),
    "an unknown encoding": request("Transfer-Encoding: " + TEXT.replace(" ", "") + "\r\n"),
    "a body that ends early": request(body=BODY)[:-10],
    "a bad percent": request(line=f"POST {PATH}?text=%zz%00{QUERY} HTTP/1.1"),
    "a target that is no path": request(line=f"POST http://[{NUMBER}/{TEXT.replace(' ', '')} HTTP/1.1"),
    "no UTF-8": request(f"X-Text: {TEXT}").replace(b"X-Text: ", b"X-Text: \xff\xfe"),
    "a host that is a text": request().replace(b"Host: 127.0.0.1", f"Host: {TEXT}".encode()),
    "only an end of line": f"\r\n\r\n{TEXT}\r\n\r\n".encode(),
    "the page's search": request(line=f"GET /?q={QUERY.replace('&', '%26')} HTTP/1.1", body=""),
}


async def _stored(_arrival: InboundMessage) -> Stored:
    return Saved()


@asynccontextmanager
async def both() -> AsyncIterator[Sequence[int]]:
    """The ports of the webhook and of the admin listener."""
    listener = listening_socket()
    keyring = Keyring(Secrets(incoming_keys=section().keys))
    snapshot: dict[str, Any] = {"state": "ok", "figures": {}}
    async with (
        Webhook(section(), keyring, _stored, lambda: 0, [listener]),
        Admin("127.0.0.1:0", lambda: snapshot, Metrics()) as admin,
    ):
        assert admin.address is not None
        yield [listener.getsockname()[1], int(admin.address.rpartition(":")[2])]


class Library(logging.Handler):
    """What libraries log, as it would be written: with tracebacks."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@dataclass
class WholeLog:
    """`lines`: our own events; `library`: all that others say through the standard library, which is too much."""

    lines: Sequence[MutableMapping[str, Any]]
    library: list[str] = field(default_factory=list)

    @property
    def told(self) -> list[MutableMapping[str, Any]]:
        return [line for line in self.lines if not line["event"].endswith(".listening")]

    def __str__(self) -> str:
        return f"{self.lines} {self.library}"


@contextmanager
def whole_log() -> Iterator[WholeLog]:
    """Everything that is logged inside, at every level."""
    root, library = logging.getLogger(), Library()
    level = root.level
    root.addHandler(library)
    root.setLevel(logging.INFO)
    try:
        with capture_logs() as lines:
            yield WholeLog(lines, library.lines)
    finally:
        root.removeHandler(library)
        root.setLevel(level)


async def send(port: int, data: bytes, *, ends: bool = True) -> bytes:
    """What comes back. `ends`: nothing follows the data, also where the server waits for more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    if ends:
        writer.write_eof()
    try:
        return await reader.read()
    except ConnectionError:  # the server has refused to read all of it
        return b""
    finally:
        writer.close()


@pytest.mark.parametrize("form", HOSTILE)
async def test_a_hostile_request_is_one_line_without_content(form: str) -> None:
    with whole_log() as log:
        async with both() as ports:
            for _ in range(10):
                for port in ports:
                    answer = await send(port, HOSTILE[form])
                    assert not answer.startswith(b"HTTP/1.1 5")
        await asyncio.sleep(0)  # what a lost task has to say, it says now
    for secret in (KEY[:8], KEY[-8:], "Amina", "positive", "712345678", "712345", "Traceback", "\\x9a"):
        assert secret not in str(log)
    assert log.library == []
    kinds = [(line["event"], line.get("listener"), line.get("kind"), line.get("status")) for line in log.told]
    assert len(kinds) == len(set(kinds)) <= 2
    assert {line["event"] for line in log.told} <= {"request.malformed", "incoming.refused"}


async def test_malformed_requests_within_a_minute_are_counted_by_kind() -> None:
    with whole_log() as log:
        async with both() as (port, _):
            for _ in range(3):
                await send(port, TLS)
            await send(port, HOSTILE["a long header"])
            jump(61)
            await send(port, TLS)
    assert [(line["kind"], line["times"], line["listener"]) for line in log.told] == [
        ("not HTTP, perhaps HTTPS sent to the port of HTTP", 1, "incoming"),
        ("a line or header is too long", 1, "incoming"),
        ("not HTTP, perhaps HTTPS sent to the port of HTTP", 3, "incoming"),
    ]


async def test_a_fault_of_ours_is_told_by_its_place_and_not_by_its_text() -> None:
    async def fail(request: web.Request) -> web.Response:
        raise ValueError(request.headers["Authorization"])

    snapshot: dict[str, Any] = {"state": "ok", "figures": {}}
    admin = Admin("127.0.0.1:0", lambda: snapshot, Metrics())
    admin.application.router.add_get("/fail", fail)
    with whole_log() as log:
        async with admin:
            assert admin.address is not None
            port = int(admin.address.rpartition(":")[2])
            for _ in range(3):
                answer = await send(port, request(line="GET /fail HTTP/1.1", body=""), ends=False)
                assert answer.startswith(b"HTTP/1.1 500")
                assert KEY[:8].encode() not in answer
    assert KEY[:8] not in str(log)
    [line] = log.told
    assert (line["event"], line["log_level"]) == ("request.failed", "error")
    assert (line["listener"], line["times"]) == ("admin", 1)
    assert "a fault of cht-rapidpro itself" in line["error"]
    assert "ValueError" not in str(line), "an operator reads it"
    assert line["where"][-1].startswith("test_server_log.py:")


async def test_a_count_begins_anew_with_each_line() -> None:
    seen = OnceAMinute()
    assert [seen.count("a"), seen.count("a"), seen.count("b")] == [1, None, 1]
    jump(60)
    assert [seen.count("a"), seen.count("a")] == [2, None]


def test_a_message_of_the_server_without_a_fault_is_not_logged() -> None:
    with whole_log() as log:
        ServerLog("incoming").warning("Start %s", TEXT)
    assert (log.lines, log.library) == ([], [])
