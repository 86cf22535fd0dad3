"""Every command ends quietly where its reader has gone, and at Ctrl-C."""

import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from cht_rapidpro.adapters.spool.file import SpoolFile
from cht_rapidpro.domain.incoming import InboundMessage
from demo.process import COMMAND

TOKEN: Final = "0123456789abcdef0123456789abcdef"
ROWS: Final = 1500  # more than fits into a pipe
PATIENCE: Final = 60.0  # real seconds
STATUS: Final = {
    "version": "0",
    "uptime_seconds": 1,
    "state": "ok",
    "findings": [],
    "paused": None,
    "name": "",
    "instance": "0",
}


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """Takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        yield server


@pytest.fixture
def config(tmp_path: Path, silent: socket.socket) -> Path:
    address = f"127.0.0.1:{silent.getsockname()[1]}"
    spool = SpoolFile(tmp_path / "spool.sqlite3")
    spool.put([InboundMessage(str(number), "+254712345678", "x", 0) for number in range(ROWS)])
    spool.close()
    file = tmp_path / "config.toml"
    file.write_text(
        f'[rapidpro]\ntoken = "{TOKEN}"\nurl = "https://rapidpro.example.org"\n'
        f'[couchdb]\nurl = "http://{address}"\n[admin]\nlisten = "{address}"\n'
        f'[incoming]\nspool = "{tmp_path}/spool.sqlite3"\n'
    )
    return file


ROOT: Final = Path(__file__).parents[2]
CLOSED: Final = {
    "--version": ["--version"],
    "--help": ["--help"],
    "check --offline": ["check", "--offline", "--config"],
    "check --offline --json": ["check", "--offline", "--json", "--config"],
    "spool list": ["spool", "list", "--config"],
    "spool show": ["spool", "show", "1", "--config"],
    "spool retry": ["spool", "retry", "1", "--config"],
    "spool drop": ["spool", "drop", "--yes", "1", "--config"],
    "demo": ["demo"],
}


def whole(command: list[str], config: Path) -> list[str | Path]:
    """The command line. The demo is not installed: it runs from the checkout."""
    if command == ["demo"]:
        return [sys.executable, "-m", "demo"]
    return [COMMAND, *command, str(config)] if command[-1] == "--config" else [COMMAND, *command]


@pytest.mark.parametrize("command", CLOSED.values(), ids=CLOSED)
def test_a_reader_that_has_gone_is_no_error(command: list[str], config: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    # As in a shell: output to a pipe is buffered, so that the error may come with the last flush only.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    ended = subprocess.run(  # noqa: S603 - our own command
        whole(command, config),
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=240,
        check=False,
        env=environ,
    )
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_of_status_that_has_gone_is_no_error(options: list[str], config: Path, silent: socket.socket) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(  # noqa: S603 - our own command
        [COMMAND, "status", *options, "--config", str(config)], stdout=writing, stderr=subprocess.PIPE, text=True
    ) as command:
        taken, _ = silent.accept()
        taken.recv(65_536)
        found = json.dumps({**STATUS, "sending": "", "dependencies": [], "figures": {}})
        taken.sendall(f"HTTP/1.0 200 OK\r\n\r\n{found}".encode())
        taken.close()
        errors = command.communicate(timeout=PATIENCE)[1]
    os.close(writing)
    assert (command.returncode, errors) == (141, "")


def _asks(command: subprocess.Popen[str], silent: socket.socket) -> None:
    """It has sent a request and waits for its answer."""
    taken, _ = silent.accept()
    assert taken.recv(65_536)
    silent.settimeout(None)
    _HELD.append(taken)


def _fills_the_pipe(command: subprocess.Popen[str], _: socket.socket) -> None:
    """It waits for a reader."""
    assert command.stdout is not None
    half = fcntl.fcntl(command.stdout, fcntl.F_GETPIPE_SZ) // 2  # all that it has to say is more than the whole
    end = time.monotonic() + PATIENCE
    while struct.unpack("i", fcntl.ioctl(command.stdout, termios.FIONREAD, b"0000"))[0] < half:
        assert time.monotonic() < end
        time.sleep(0.01)


def _is_at_work(command: subprocess.Popen[str], _: socket.socket) -> None:
    """It has written its first line."""
    assert command.stdout is not None
    assert command.stdout.readline()


_HELD: Final[list[socket.socket]] = []
AT_WORK: Final[dict[str, tuple[list[str], Callable[[subprocess.Popen[str], socket.socket], None]]]] = {
    "check": (["check", "--config"], _asks),
    "check --json": (["check", "--json", "--config"], _asks),
    "status": (["status", "--config"], _asks),
    "status --watch": (["status", "--watch", "--config"], _asks),
    "spool list": (["spool", "list", "--config"], _fills_the_pipe),
    "spool show": (["spool", "show", *map(str, range(1, ROWS)), "--config"], _fills_the_pipe),
    "demo": (["demo"], _is_at_work),
}


@pytest.mark.parametrize(("command", "until_it_is"), AT_WORK.values(), ids=AT_WORK)
def test_ctrl_c_ends_a_command_quietly(
    command: list[str],
    until_it_is: Callable[[subprocess.Popen[str], socket.socket], None],
    config: Path,
    silent: socket.socket,
) -> None:
    ended = subprocess.Popen(  # noqa: S603 - our own command
        whole(command, config), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until_it_is(ended, silent)
    ended.send_signal(signal.SIGINT)
    errors = ended.communicate(timeout=PATIENCE)[1]
    while _HELD:
        _HELD.pop().close()
    code = 1 if command == ["demo"] else 130  # the demo says what it has not proven
    assert (ended.returncode, errors) == (code, "")


PROMPTS: Final = {
    "spool drop": (["spool", "drop", "1", "--config"], "[y/N]"),
    "credentials set": (["credentials", "set", "rapidpro:incoming", "--config"], "rapidpro:incoming: "),
}


@pytest.mark.parametrize(("command", "prompt"), PROMPTS.values(), ids=PROMPTS)
def test_ctrl_c_at_a_question_ends_it_quietly(command: list[str], prompt: str, config: Path) -> None:
    """Typed by a person: the terminal makes a signal of it."""
    child, terminal = pty.fork()
    if not child:
        os.execv(COMMAND, [COMMAND, *command, str(config)])  # noqa: S606 - our own command
    shown = b""
    is_pressed = False
    until = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < until:
            if select.select([terminal], [], [], 1.0)[0]:
                shown += os.read(terminal, 1000)
            else:  # Python misses a signal between its last look and the system's read: a person presses again
                is_pressed = False
            if prompt.encode() in shown and not is_pressed:
                os.write(terminal, b"\x03")
                is_pressed = True
        os.kill(child, signal.SIGKILL)
    except OSError:
        pass  # it has ended
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    os.close(terminal)
    assert b"Traceback" not in shown
