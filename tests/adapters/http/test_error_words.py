"""What came back instead of an answer, in words: no name of a class, and nothing of aiohttp's own making."""

import asyncio
import socket
from typing import Any

import pytest

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.rapidpro.transport import Transport
from cht_rapidpro.config.schema import Couchdb, Rapidpro
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.errors import TransientError
from tests.support.stub_server import RESET, Raw, Reply, Request, scripted

SSH = Raw(b"SSH-2.0-OpenSSH_9.2\r\n")
FORMS: dict[str, tuple[Reply | Raw | str, str]] = {
    "an SSH server": (SSH, "the server does not speak HTTP, or sends malformed HTTP"),
    "a reset": (RESET, "the connection "),
    "silence": ("silence", "no answer in time"),
}


async def said_by_rapidpro(url: str) -> str:
    async with Transport(Rapidpro(timeout=0.5)) as transport:
        answer: Any = await transport.request("GET", f"{url}/api/v2/workspace.json", Secret("t"))
    return str(answer)


async def said_by_couchdb(url: str) -> str:
    async with Couch(Couchdb(url=url)) as couch:
        with pytest.raises(TransientError) as raised:
            await couch.update_seq()
    return str(raised.value)


@pytest.mark.parametrize(("form", "words"), FORMS.values(), ids=FORMS)
async def test_a_network_error_is_described_without_class_names(form: Reply | Raw | str, words: str) -> None:
    async def answers(_: Request) -> Reply | Raw:
        if isinstance(form, str):
            await asyncio.Event().wait()
        assert not isinstance(form, str)
        return form

    async with scripted(answers) as server:
        told = await said_by_rapidpro(server.url)
    assert told.startswith(words)
    assert "Error" not in told


@pytest.mark.parametrize("ask", [said_by_rapidpro, said_by_couchdb])
async def test_a_closed_port_is_described_with_host_port_and_reason(ask: Any) -> None:
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        told = await ask(f"http://127.0.0.1:{port}")
    assert f"no connection to 127.0.0.1:{port}: Connection refused" in told
    assert "ssl:" not in told
    assert "Error" not in told
