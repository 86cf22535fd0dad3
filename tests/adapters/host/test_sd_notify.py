"""What systemd hears, on a socket like its own."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from cht_rapidpro.adapters.host.sd_notify import SILENT, Notifier


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[socket.socket]:
    name = str(tmp_path / "notify") if request.param == "path" else f"\0{uuid4().hex}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(name)
        heard.setblocking(False)
        yield heard


def address(systemd: socket.socket) -> str:
    name = systemd.getsockname()
    return f"@{name[1:].decode()}" if isinstance(name, bytes) else str(name)


def test_each_word_is_a_datagram(systemd: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address(systemd)})
    notifier.ready()
    notifier.status("sending")
    notifier.status("sending")
    notifier.status("not sending")
    notifier.feed_watchdog()
    notifier.reloading()
    notifier.stopping()
    heard = [systemd.recv(1000).decode() for _ in range(6)]
    assert heard[:4] == ["READY=1", "STATUS=sending", "STATUS=not sending", "WATCHDOG=1"]
    assert heard[4].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert heard[5] == "STOPPING=1"
    with pytest.raises(BlockingIOError):
        systemd.recv(1)


def test_outside_of_systemd_nothing_is_said() -> None:
    SILENT.ready()
    assert SILENT.watchdog_timeout is None


def test_a_socket_that_is_gone_is_a_warning_and_no_crash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    notifier.ready()
    notifier.feed_watchdog()
    assert capsys.readouterr().out.count("systemd.unheard") == 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "gone"))
        notifier.ready()
    notifier.ready()
    assert capsys.readouterr().out.count("systemd.unheard") == 1


def test_a_full_socket_does_not_hold_the_daemon_up(systemd: socket.socket, capsys: pytest.CaptureFixture[str]) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address(systemd)})
    while "systemd.unheard" not in capsys.readouterr().out:
        notifier.feed_watchdog()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WATCHDOG_USEC": "120000000"}, 120.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": str(os.getpid())}, 120.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_the_process_that_systemd_names(environ: dict[str, str], expected: float | None) -> None:
    assert Notifier(environ).watchdog_timeout == expected
