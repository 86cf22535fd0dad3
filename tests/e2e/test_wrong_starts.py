"""Starts with something wrong: one line that says what, the exit code that fits, and no traceback."""

import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from demo.process import COMMAND

GOOD: Final = '[rapidpro]\ntoken = "{token}"\nurl = "https://rapidpro.example.org"\n[cht]\nstate_dir = "state"\n'
TOKEN: Final = "0123456789abcdef0123456789abcdef"

Make = Callable[[Path], str]


def _in(section: str, line: str) -> Make:
    """The good configuration with a line more in a section."""

    def make(_folder: Path) -> str:
        good = GOOD.format(token=TOKEN)
        return (
            good.replace(f"[{section}]\n", f"[{section}]\n{line}\n")
            if f"[{section}]" in good
            else (f"{good}[{section}]\n{line}\n")
        )

    return make


def _state(prepare: Callable[[Path], object]) -> Make:
    """The good configuration, with a state directory that was prepared."""

    def make(folder: Path) -> str:
        state = folder / "state"
        state.mkdir()
        prepare(state)
        return GOOD.format(token=TOKEN)

    return make


STARTS: Final[dict[str, tuple[Make, int, str]]] = {
    "an unknown section": (lambda _: "[rapidpr]\n", 78, 'did you mean "rapidpro"?'),
    "an unknown key": (_in("rapidpro", 'tokn = "x"'), 78, 'unknown key "tokn"'),
    "no TOML": (lambda _: "token = ", 78, "not TOML"),
    "no UTF-8": (lambda _: "\udcff", 78, "is not UTF-8"),
    "no token": (lambda _: "[cht]\n", 78, "[rapidpro] token: found none"),
    "plain http": (_in("couchdb", 'url = "http://couch.example.org"'), 78, "https"),
    "a password in an address": (_in("couchdb", 'url = "https://a:b@couch.example.org"'), 78, "found a user"),
    "a user without a password": (_in("couchdb", 'user = "medic"'), 78, "without a password"),
    "a number for a text": (_in("couchdb", "database = 5"), 78, "[couchdb] database: found 5; allowed: a text: put it"),
    "a number for a file": (
        _in("incoming", "key_file = 5"),
        78,
        "[incoming] key_file: found 5; allowed: a text: put it",
    ),
    "a number for a password": (_in("couchdb", "password = 5"), 78, "found a whole number; allowed: a text: put it in"),
    "a text for a switch": (_in("incoming", 'enabled = "yes"'), 78, "allowed: true or false"),
    "a port that is none": (_in("incoming", 'listen = "127.0.0.1:99999"'), 78, "there is no port 99999"),
    "a port of CouchDB's that is none": (
        _in("couchdb", 'url = "http://127.0.0.1:99999"'),
        78,
        "there is no port 99999",
    ),
    "no address of CouchDB": (_in("couchdb", 'url = "127.0.0.1:5984"'), 78, 'a URL such as "http://127.0.0.1:5984"'),
    "a byte order mark, and a fault behind it": (lambda _: "\ufeff[rapidpr]\n", 78, 'did you mean "rapidpro"?'),
    "a duration without a unit": (_in("outgoing", "settle_time = 90"), 78, "a number and its unit"),
    "a claim that is too short": (_in("outgoing", 'claim_timeout = "1s"'), 78, "claim_timeout"),
    "an address without a port": (_in("incoming", 'listen = "127.0.0.1"'), 78, "an address and a port"),
    "one address twice": (_in("admin", 'listen = "127.0.0.1:8085"'), 78, "which is [incoming] listen, too"),
    "a file of a secret that is not there": (_in("incoming", 'key_file = "none"'), 78, "No such file or directory"),
    "a ca_file that is none": (_in("rapidpro", 'ca_file = "config.toml"'), 78, "PEM certificates"),
    "the vault beside a token": (_in("cht", 'credentials = "vault"'), 78, "[cht] credentials"),
    "an empty instance id": (_state(lambda state: (state / "instance-id").touch()), 78, "does not hold an instance id"),
    "a folder for the id": (_state(lambda state: (state / "instance-id").mkdir()), 78, "cannot be read"),
    "a state directory two levels deep": (
        lambda _: GOOD.format(token=TOKEN).replace('"state"', '"a/b"'),
        78,
        "cannot be written to: No such file or directory",
    ),
    "a state directory that is a file": (
        lambda _: GOOD.format(token=TOKEN).replace('"state"', '"config.toml"'),
        78,
        "cannot be written to",
    ),
    "a state directory that takes no file": (
        lambda _: GOOD.format(token=TOKEN).replace('"state"', '"/sys/kernel"'),
        1,
        "[cht] state_dir: /sys/kernel cannot be written to: ",
    ),
}


@pytest.mark.parametrize(("make", "code", "says"), STARTS.values(), ids=STARTS)
def test_a_wrong_start_is_one_line(make: Make, code: int, says: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_bytes(make(tmp_path).encode(errors="surrogateescape"))
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("CHT_RAPIDPRO", "STATE_"))}
    ended = subprocess.run(  # noqa: S603 - our own command
        [COMMAND, "run", "--config", str(config)], capture_output=True, text=True, timeout=30, check=False, env=environ
    )
    assert ended.returncode == code, ended.stdout + ended.stderr
    [line] = ended.stderr.splitlines()
    assert line.startswith("cht-rapidpro: ")
    assert says in line
    assert "Traceback" not in ended.stdout + ended.stderr
    assert TOKEN not in ended.stdout + ended.stderr


def test_a_taken_port_is_one_error_and_the_daemon_goes_on(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        config.write_text(
            GOOD.format(token=TOKEN) + f'[incoming]\nlisten = "{address}"\nkey = "k"\n[admin]\nlisten = ""\n'
        )
        daemon = subprocess.Popen(  # noqa: S603 - our own command
            [COMMAND, "run", "--config", str(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert daemon.stdout is not None
        lines = []
        for line in daemon.stdout:
            lines.append(line)
            if '"dependency.lost"' in line:  # it asks CouchDB, whatever became of the webhook
                break
        daemon.terminate()
        rest = daemon.communicate(timeout=30)[0]
    told = "".join(lines) + rest
    assert daemon.returncode == 0
    assert told.count('"incoming.unavailable"') == 1
    assert address in told
    assert "Traceback" not in told
