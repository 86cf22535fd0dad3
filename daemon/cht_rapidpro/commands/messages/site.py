"""What the commands about messages work with: the same CouchDB, RapidPro and state directory as the daemon.

They read and write CouchDB themselves, so that they work while no daemon runs; what only the daemon knows they ask over
its control socket.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cht_rapidpro.adapters.couchdb.client import Couch, View
from cht_rapidpro.adapters.couchdb.vault import CredentialName, Vault, needed
from cht_rapidpro.adapters.host.pause_file import PauseFile
from cht_rapidpro.adapters.host.state_dir import is_in_use, known_instance_id
from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.adapters.web import control
from cht_rapidpro.commands.status import ensure_no_other
from cht_rapidpro.concurrency.cancellation import end
from cht_rapidpro.config.addresses import check_url
from cht_rapidpro.config.schema import Config
from cht_rapidpro.config.secret_store import Keyring, Secrets
from cht_rapidpro.config.secrets import NO_SECRET, Secret
from cht_rapidpro.domain.explanation import Daemon
from cht_rapidpro.domain.orders import Phase
from cht_rapidpro.domain.pause import Pause
from cht_rapidpro.domain.settings import MEDIC, SETTINGS, AppSettings, Choice, choose, read_settings
from cht_rapidpro.domain.task import Doc, DocId, MessageId, MessageKey, messages, tasks
from cht_rapidpro.errors import ConfigError, GatewayError, TransientError, UnusableError
from cht_rapidpro.jobs.documents.writer import Writer

_BY_UUID: View = ("medic-sms", "messages_by_uuid")
_MOST: Final = 100  # messages that one id may stand for
_REQUESTS: Final = 60  # to RapidPro


class Requests:
    """How many requests to RapidPro one command, or one order, may still make: they are taken from the sends' hour."""

    def __init__(self) -> None:
        self.renew()

    def renew(self) -> None:
        """For the next order."""
        self._left = _REQUESTS

    def spend(self) -> None:
        """Raises TransientError where all are spent."""
        if not self._left:
            raise TransientError(f"{_REQUESTS} requests were made already: look for one uuid, or in RapidPro by hand")
        self._left -= 1


@dataclass(frozen=True, slots=True)
class Site:
    """`settings` None: the app settings cannot be used, `why` says so; `base`: RapidPro's address, "" without one."""

    config: Config
    couch: Couch
    rapidpro: RapidPro
    writer: Writer
    settings: AppSettings | None
    choice: Choice
    base: str
    why_no_base: str
    me: str
    pause: Pause | None
    is_running: bool
    requests: Requests = field(default_factory=Requests)

    @property
    def folder(self) -> Path:
        return Path(self.config.cht.state_dir)

    @property
    def values(self) -> Mapping[str, Any]:
        return self.settings.values if self.settings else {}

    async def find(self, wanted: str) -> list[tuple[Doc, MessageId]]:
        """The messages that a uuid or a document's id stands for, with their documents; 100 at most."""
        ids = {DocId(row["id"]) async for page in self.couch.pages(_BY_UUID, wanted, wanted, _MOST) for row in page}
        docs = await self.writer.latest(sorted(ids)[:_MOST] or [DocId(wanted)])
        found = [(doc, each.uuid) for doc in docs.values() for task in tasks(doc) for each in messages(task)]
        if ids:
            return [(doc, MessageId(wanted)) for doc in docs.values()]
        return found[:_MOST]

    async def daemon(self, key: MessageKey) -> Daemon | None:
        """What the running daemon has of a message; None where none runs. Raises TransientError where it is silent."""
        if not self.is_running:
            return None
        body = {"messages": [list(key)]}
        told = await control.ask(self.folder, "POST", "/messages/known", body)
        status = await control.ask(self.folder, "GET", "/status")
        if told is None or status is None:
            raise TransientError(f"the daemon that runs on {self.folder} does not answer")
        [mine] = told["messages"]
        about = [
            each["what"] for each in status["findings"] if each["level"] != "ok" and _is_about_sending(each["what"])
        ]
        return Daemon(
            Phase(mine["phase"]),
            mine.get("before_it"),
            mine.get("looked_at_again_in"),
            mine.get("next_look_in"),
            mine["held_back"] or "",
            is_blocked=bool(mine.get("is_blocked")),
            troubles=[f"{what.rstrip('.')}." for what in about],
        )

    async def tell_changed(self, keys: Sequence[MessageKey]) -> None:
        """The running daemon looks at these again; one that does not answer does so at its own pace."""
        if self.is_running:
            await control.ask(self.folder, "POST", "/messages/changed", {"messages": [list(key) for key in keys]})


def _is_about_sending(what: str) -> bool:
    return what.startswith(("RapidPro", "CouchDB", "A part of the daemon", "It is not known whether"))


@asynccontextmanager
async def site(config: Config) -> AsyncIterator[Site]:
    """Raises GatewayError where CouchDB cannot be asked."""
    folder = Path(config.cht.state_dir)
    await asyncio.to_thread(_check_place, config, folder)
    me, is_running, pause = await asyncio.to_thread(_of_folder, folder)
    async with Couch(config.couchdb) as couch:
        keyring = Keyring(Secrets(await _token(config, couch)))
        async with RapidPro(config.rapidpro, keyring) as rapidpro:
            docs = await couch.read([SETTINGS, MEDIC])
            found = read_settings(docs.get(SETTINGS), docs.get(MEDIC))
            settings = None if isinstance(found, str) else found
            no_settings = Choice(False, f"CHT's app settings cannot be used: {found}")
            is_off = config.cht.builtin_gateway_is_off
            choice = (
                choose(settings, config.cht.outgoing_service, builtin_gateway_is_off=is_off)
                if settings
                else no_settings
            )
            base, why = _base(config, settings, keyring)
            writer = Writer(couch)
            writing = asyncio.create_task(writer.run())
            try:
                yield Site(config, couch, rapidpro, writer, settings, choice, base, why, me, pause, is_running)
            finally:
                await end(writing)


def _check_place(config: Config, folder: Path) -> None:
    """Raises UnusableError where it cannot be told whether a daemon is running."""
    if folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        raise UnusableError(f"{folder} cannot be read: run the command as the user of the service")
    if not is_in_use(folder):
        ensure_no_other(config.admin.listen, folder)


def _of_folder(folder: Path) -> tuple[str, bool, Pause | None]:
    pause = PauseFile(folder).read()
    in_force = pause if pause is not None and not pause.is_over(now()) else None
    return known_instance_id(folder), is_in_use(folder), in_force


async def _token(config: Config, couch: Couch) -> Secret:
    """RapidPro's token, empty where there is none: then RapidPro is not asked."""
    if config.cht.credentials != "vault":
        return config.rapidpro.token
    try:
        found = (await Vault(couch).read(needed(config)))[CredentialName.OUTGOING]
    except GatewayError:
        return NO_SECRET
    return found if isinstance(found, Secret) else NO_SECRET


def _base(config: Config, settings: AppSettings | None, keyring: Keyring) -> tuple[str, str]:
    """RapidPro's address and "", or "" and why it cannot be asked."""
    if not keyring.secrets.rapidpro_token:
        return "", "there is no token"
    if config.rapidpro.url:
        return config.rapidpro.url, ""
    url = settings.rapidpro_url if settings else ""
    try:
        return check_url(url, allow_plain_http=config.rapidpro.allow_plain_http), ""
    except ConfigError as error:
        return "", f"its address cannot be used: {error}"


def now() -> int:
    """Ms since the epoch."""
    return time.time_ns() // 1_000_000
