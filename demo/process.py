"""The daemon as a user runs it: the installed command, a TOML file, secrets in files, JSON lines in a log.

The demo, the end-to-end tests and the benchmarks all start it through here, so that what they show is what an
installation does.
"""

import asyncio
import json
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cht_rapidpro.adapters.host import sender_file
from cht_rapidpro.domain.takeover import Sender, written
from cht_rapidpro.errors import GatewayError
from demo.couchdb import CouchDBServer

INCOMING_KEY: Final = "key-of-the-flow-of-the-demo"
COMMAND: Final = str(Path(sys.executable).with_name("cht-rapidpro"))


# As systemd does it: the descriptor under the number 3, and the process id of the daemon itself beside it.
HAND_OVER: Final = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
own = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "incoming"}
os.execve(sys.argv[2], sys.argv[2:], os.environ | own)
"""


class Daemon:
    """`cht-rapidpro run` on files in `folder`; `sections`: keys over the defaults, as `{"outgoing": {...}}`.

    `is_first`: another gateway has sent so far. `webhook`: a listening socket that is handed over to it at each
    start, so that its address is known and stays.
    """

    def __init__(
        self,
        folder: Path,
        couchdb: CouchDBServer,
        database: str,
        rapidpro: Mapping[str, object],
        token: str,
        sections: Mapping[str, Mapping[str, object]] | None = None,
        webhook: socket.socket | None = None,
        *,
        is_first: bool = False,
    ) -> None:
        self.config = folder / "config.toml"
        self.log = folder / "daemon.log"
        self.environ: dict[str, str] = {}
        self.command = [COMMAND]
        self._webhook = webhook
        self._process: asyncio.subprocess.Process | None = None
        folder.mkdir(parents=True, exist_ok=True)
        if not is_first:
            note_sender(folder)
        _write_secret(folder / "couchdb-password", couchdb.password)
        _write_secret(folder / "rapidpro-token", token)
        _write_secret(folder / "incoming-key", INCOMING_KEY)
        own: dict[str, Mapping[str, object]] = {
            "couchdb": {
                "url": couchdb.url,
                "database": database,
                "user": couchdb.user,
                "password_file": "couchdb-password",
                "allow_plain_http": True,
            },
            "rapidpro": {"token_file": "rapidpro-token", **rapidpro},
            "incoming": {"listen": "127.0.0.1:0", "key_file": "incoming-key"},
            "admin": {"listen": "127.0.0.1:0"},
            "log": {"format": "json"},
        }
        merged = {name: {**own.get(name, {}), **(sections or {}).get(name, {})} for name in {*own, *(sections or {})}}
        self.config.write_text("\n".join(_section(name, keys) for name, keys in sorted(merged.items())))

    @property
    def webhook_url(self) -> str:
        """Where flows call it, if it was given a socket."""
        if self._webhook is None:
            raise GatewayError("the daemon was given no socket for the webhook")
        host, port = self._webhook.getsockname()
        return f"http://{host}:{port}/api/v2/sms/rapidpro/incoming-messages"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise GatewayError("the daemon has not been started")
        return self._process.pid

    async def start(self, *options: str) -> None:
        """Starts it; more than once, after it has ended, on the same files. `options`: of `run`.

        Its environment is `environ` and nothing of the caller's: a token or a proxy that a shell exports for a real
        gateway would make this one talk to the wrong side.
        """
        command, descriptors = [*self.command, "run", "--config", str(self.config), *options], []
        if self._webhook is not None:
            descriptors = [self._webhook.fileno()]
            command = [sys.executable, "-c", HAND_OVER, str(descriptors[0]), *command]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command, stdout=log, stderr=log, env=self.environ, start_new_session=True, pass_fds=descriptors
            )

    async def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.signal(signal.SIGTERM)
        return await self.wait()

    async def kill(self) -> None:
        self.signal(signal.SIGKILL)
        await self.wait()

    async def wait(self) -> int:
        """The exit code, when it has ended."""
        return 0 if self._process is None else await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Nothing when it has ended already."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    def events(self) -> Iterator[dict[str, Any]]:
        """The lines of its log so far, over all starts; what is no JSON (a crash before logging) under `event`."""
        for line in self.log.read_text().splitlines() if self.log.exists() else ():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                yield {"event": line, "level": "error"}


def note_sender(folder: Path) -> None:
    """Makes a state directory that of a gateway which has sent already, unless it says itself who has."""
    if not (folder / sender_file.NAME).exists():
        (folder / sender_file.NAME).write_text(written(Sender(is_ours=True, revision=None)))


def _write_secret(file: Path, secret: str) -> None:
    file.touch(mode=0o600)
    file.write_text(secret + "\n")


def _section(name: str, keys: Mapping[str, object]) -> str:
    # A JSON text, number or truth value is a TOML one as well.
    return "\n".join([f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])
