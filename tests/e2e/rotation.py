"""An installation whose secrets are rotated while messages come in, and the verdict over what became of them.

Everything happens as an operator does it: secrets are written to where the daemon has them from, RapidPro and CouchDB
take the new ones beside the old, the daemon is reloaded or restarted, and then the old ones are no longer valid.
"""

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, Literal

import aiohttp

from demo.couchdb import CouchDBStandin, ExternalCouchDB
from demo.database import Database
from demo.medic import create_medic, data_record, message, task
from demo.process import COMMAND, Daemon
from demo.rapidpro import RapidPro
from tests.support.fault_proxy import until
from tests.support.webhook import Flow, listening_socket, texts, url_of

Source = Literal["file", "vault", "credential", "environment"]
KEY: Final = "the-first-key"
BY_RESTART: Final = ("credential", "environment")
_IN_VAULT: Final = {"rapidpro-token": "rapidpro:outgoing", "incoming-key": "rapidpro:incoming"}
_PAUSE: Final = 0.01  # between two documents, and between two webhooks of one poster
_WEBHOOKS: Final = 4  # at a time
_SOME: Final = 20


class Installation:
    """A CouchDB of its own, since its users change; `clerk` is the user of whoever writes the documents.

    `flow_key`: what the flow's webhooks bring. They call a socket that stays while the daemon restarts, as systemd's.
    """

    def __init__(
        self, folder: Path, couchdb: CouchDBStandin, rapidpro: RapidPro, source: Source, webhook: socket.socket
    ) -> None:
        self.flow_key = KEY
        self.rapidpro = rapidpro
        self.couchdb = couchdb
        self.source = source
        self.clerk = ExternalCouchDB(couchdb.url, "clerk", "of-the-clerk")
        self.texts: list[str] = []
        self.posted = 0
        self.load: list[asyncio.Task[None]] = []
        self._enough = False
        self._url = url_of(webhook)
        self._ids: list[str] = []
        self._secrets = folder / "credentials"
        self._secrets.mkdir()
        vault: dict[str, dict[str, object]] = {
            "cht": {"credentials": "vault"},
            "rapidpro": {"token_file": ""},
            "incoming": {"key_file": ""},
        }
        [token] = rapidpro.tokens
        sections = vault if source == "vault" else {}
        self.daemon = Daemon(folder / "gateway", couchdb, "medic", {"url": rapidpro.url}, token, sections, webhook)
        if source == "credential":
            self.daemon.environ["CREDENTIALS_DIRECTORY"] = str(self._secrets)

    # -- the operator's hands -----------------------------------------------------------------------------------------

    async def add_user(self, name: str, password: str) -> None:
        """A server administrator more, or a new password of one that exists."""
        await self._configure("PUT", f"admins/{name}", password)

    async def remove_user(self, name: str) -> None:
        await self._configure("DELETE", f"admins/{name}")

    async def _configure(self, method: str, key: str, value: str | None = None) -> None:
        who = self.clerk if key != "admins/clerk" else self.couchdb
        headers = {"Authorization": aiohttp.encode_basic_auth(who.user, who.password)}
        url = f"{self.couchdb.url}/_node/_local/_config/{key}"
        async with aiohttp.request(method, url, headers=headers, json=value) as answer:
            answer.raise_for_status()

    async def give(self, secret: str, value: str) -> None:
        """Writes a new value for a secret (as systemd's credential is called) to where the daemon has it from."""
        match self.source:
            case "vault" if secret in _IN_VAULT:
                await self.command("credentials", "set", _IN_VAULT[secret], value=value)
            case "environment":
                self.daemon.environ[f"CHT_RAPIDPRO_{secret.replace('-', '_').upper()}"] = value
            case "credential":
                (self._secrets / secret).write_text(value)
            case _:
                (self.daemon.config.parent / secret).write_text(value + "\n")

    async def command(self, *arguments: str, value: str) -> None:
        process = await asyncio.create_subprocess_exec(
            COMMAND,
            *arguments,
            "--config",
            str(self.daemon.config),
            env=self.daemon.environ,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        await process.communicate(value.encode())
        assert process.returncode == 0

    def sign_in_as(self, user: str) -> None:
        lines = self.daemon.config.read_text().splitlines()
        changed = [f"user = {json.dumps(user)}" if line.startswith("user =") else line for line in lines]
        self.daemon.config.write_text("\n".join(changed))

    async def take_over(self) -> None:
        """Reload or restart, whichever it takes for secrets of this source; returns when it is done."""
        if self.source in BY_RESTART:
            assert await self.daemon.stop() == 0
            await self.daemon.start()
        else:
            before = len(self.logged("config.reloaded"))
            self.daemon.signal(signal.SIGHUP)
            await until(lambda: len(self.logged("config.reloaded")) > before)

    # -- the messages -------------------------------------------------------------------------------------------------

    async def goes_on(self) -> None:
        """Returns when some more messages have gone either way."""
        sent, posted = len(self.rapidpro.broadcasts) + _SOME, self.posted + _SOME

        def is_done() -> bool:
            for work in self.load:
                if work.done():
                    work.result()
            return len(self.rapidpro.broadcasts) >= sent and self.posted >= posted

        await until(is_done)

    async def write_documents(self) -> None:
        """One after the other, until the load is stopped."""
        async with Database(self.clerk, "medic") as medic:
            while not self._enough:
                text = f"message {len(self.texts)}"
                record = data_record(task(message(text)))
                self.texts.append(text)
                self._ids.append(record["_id"])
                await medic.put(record)
                await asyncio.sleep(_PAUSE)

    async def post_webhooks(self) -> None:
        """Several at a time, until the load is stopped; each has to be answered with success.

        Each on a connection of its own: one that is kept open may be closed by a stop just when it is used again.
        """
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as session:
            flow = Flow(session, self._url)

            async def post_all() -> None:
                while not self._enough:
                    number, headers = self.posted, {"Authorization": f"Token {self.flow_key}"}
                    self.posted += 1
                    body = {"id": str(number), "from": "+254712345678", "content": f"incoming {number}"}
                    answer = await flow.request(json=body, headers=headers)
                    assert answer.saved == 1, answer
                    await asyncio.sleep(_PAUSE)

            async with asyncio.TaskGroup() as group:
                for _ in range(_WEBHOOKS):
                    group.create_task(post_all())

    async def stop_load(self) -> None:
        """What was begun is finished, so that all of it can be asked for."""
        self._enough = True
        await asyncio.wait(self.load)

    async def judge(self) -> None:
        """Each message was sent once, none has ever failed; what came in is stored, each once."""
        async with Database(self.clerk, "medic") as medic:

            async def all_settled() -> bool:
                rows = await medic.view("medic", "messages_by_state", startkey=["pending"], endkey=["pending", {}])
                left = await medic.view("medic", "messages_by_state", startkey=["forwarded-to-gateway"], endkey=["g"])
                return not rows and not left

            await until(all_settled, deadline=60)
            rows = (await medic.request("POST", "_all_docs", body={"keys": self._ids}, include_docs="true"))["rows"]
            received = [text.removeprefix("incoming ") for text in await texts(medic)]
        assert sorted(received, key=int) == [str(number) for number in range(self.posted)]
        docs = [row["doc"] for row in rows if "doc" in row]
        assert {doc["tasks"][0]["state"] for doc in docs} == {"received-by-gateway"}
        assert "failed" not in {entry["state"] for doc in docs for entry in doc["tasks"][0]["state_history"]}
        stored = sorted(doc["tasks"][0]["messages"][0]["message"] for doc in docs)
        assert sorted(broadcast.text for broadcast in self.rapidpro.broadcasts) == stored == sorted(self.texts)

    async def refused(self) -> None:
        """Returns when the daemon has told that CouchDB does not take its password."""
        await until(lambda: bool(self.logged("dependency.refused")))

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [entry for entry in self.daemon.events() if entry["event"] == event]

    def errors(self) -> list[str]:
        return [f"{entry['event']} {entry}" for entry in self.daemon.events() if entry["level"] == "error"]


@asynccontextmanager
async def installation(folder: Path, rapidpro: RapidPro, source: Source) -> AsyncIterator[Installation]:
    """Running, with documents coming in; at the end of the block no more come, and all that came are judged."""
    async with CouchDBStandin() as couchdb:
        webhook = listening_socket()
        await create_medic(couchdb, "medic")
        async with Database(couchdb, "medic-vault") as vault:
            await vault.create()
        found = Installation(folder, couchdb, rapidpro, source, webhook)
        await found.add_user("clerk", found.clerk.password)
        await found.give("couchdb-password", couchdb.password)
        [token] = rapidpro.tokens
        await found.give("rapidpro-token", token)
        await found.give("incoming-key", KEY)
        await found.daemon.start()
        found.load = [asyncio.create_task(found.write_documents()), asyncio.create_task(found.post_webhooks())]
        try:
            await found.goes_on()
            yield found
            await found.goes_on()
            await found.stop_load()
            await found.judge()
        finally:
            await found.stop_load()
            await found.daemon.kill()
            webhook.close()
