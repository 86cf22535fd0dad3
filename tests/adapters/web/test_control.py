"""The control socket: for the owner of the state directory alone, at any path, and gone with its process."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from cht_rapidpro.adapters.web.control import SOCKET, Control, ask
from cht_rapidpro.errors import PermanentError, TransientError


async def test_the_control_socket_is_for_its_owner_alone_and_is_gone_afterwards(tmp_path: Path) -> None:
    control = Control(tmp_path)
    control.offer("GET", "/figures", lambda: {"claimed": 3})
    async with control:
        assert (tmp_path / SOCKET).stat().st_mode & 0o777 == 0o600
        assert await ask(tmp_path, "GET", "/figures") == {"claimed": 3}
    assert not (tmp_path / SOCKET).exists()
    assert await ask(tmp_path, "GET", "/figures") is None


async def test_a_path_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    control = Control(folder)
    control.offer("GET", "/", dict)
    async with control:
        assert await ask(folder, "GET", "/") == {}


async def test_a_refusal_is_the_daemons_own_sentence(tmp_path: Path) -> None:
    def refuse() -> dict[str, Any]:
        raise PermanentError("it would be sent twice")

    control = Control(tmp_path)
    control.offer("POST", "/resend", refuse)
    async with control:
        with pytest.raises(PermanentError, match=r"^it would be sent twice$"):
            await ask(tmp_path, "POST", "/resend", {"uuid": "1"})


async def test_the_socket_of_a_killed_daemon_gives_no_answer_and_is_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(tmp_path / SOCKET))
    assert await ask(tmp_path, "GET", "/") is None
    control = Control(tmp_path)
    control.offer("GET", "/", dict)
    async with control:
        assert await ask(tmp_path, "GET", "/") == {}


async def test_a_socket_that_answers_with_no_http_is_no_daemon(tmp_path: Path) -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 smtp\r\n")
        writer.close()

    async with await asyncio.start_unix_server(talk, tmp_path / SOCKET):
        with pytest.raises(TransientError, match="does not answer at"):
            await ask(tmp_path, "GET", "/")
