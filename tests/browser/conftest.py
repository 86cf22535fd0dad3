"""A real browser before a real daemon, between a CouchDB and a RapidPro that a test can take away.

`make test-browser` installs Playwright and runs these; where there is no browser they are skipped.
"""

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from uuid import uuid4

import aiohttp
import pytest
from playwright.async_api import async_playwright

from demo.couchdb import CouchDBStandin
from demo.database import Database
from demo.medic import create_medic, data_record, message, task
from demo.process import INCOMING_KEY, Daemon
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.support.fault_proxy import until
from tests.support.webhook import listening_socket

_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS: Final = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
MEDIC: Final = "medic"
PROGRESS: Final = ((0.5, "wired"), (1.0, "delivered"))


@dataclass
class Scene:
    """`daemon` runs between the two others; `url` is its page's, on a port that it keeps."""

    couchdb: CouchDBStandin
    medic: Database
    daemon: Daemon
    rapidpro: RapidPro
    url: str = ""

    async def __aenter__(self) -> Self:
        """The kernel chooses a port, which the configuration then names, so that a restart can be seen."""
        await self.daemon.start()
        await until(lambda: bool(self._listening()))
        address = self._listening()[0]["address"]
        self.url = f"http://{address}"
        self.daemon.config.write_text(self._with_admin_at(address))
        await until(lambda: any(event["event"] == "sending.enabled" for event in self.daemon.events()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.daemon.kill()
        await self.rapidpro.__aexit__(kind, error, trace)

    def _with_admin_at(self, address: str) -> str:
        """The configuration, whose other listener is handed over and keeps its line."""
        settings, section, admin = self.daemon.config.read_text().partition("[admin]")
        assert section
        return settings + section + admin.replace("127.0.0.1:0", address, 1)

    def _listening(self) -> list[dict[str, Any]]:
        return [event for event in self.daemon.events() if event["event"] == "admin.listening"]

    async def write(self, to: str, *, uuid: str = "", doc_id: str = "") -> str:
        """The id of a new document with one message; "": ids of the usual kind."""
        sms = message("A text that nobody shall see", to, uuid=uuid or str(uuid4()))
        doc_id = doc_id or str(uuid4())
        await self.medic.put(data_record(task(sms), doc_id=doc_id))
        return doc_id

    async def receive(self, given: str, sender: str) -> None:
        """RapidPro's flow has a message for us."""
        body = {"id": given, "from": sender, "content": "A text that nobody shall see"}
        headers = {"Authorization": f"Token {INCOMING_KEY}"}
        async with aiohttp.ClientSession(headers=headers) as session:
            answer = await session.post(self.daemon.webhook_url, json=body)
            assert answer.status == 200

    async def lose_rapidpro(self) -> None:
        await self.rapidpro.__aexit__(None, None, None)

    async def restore_rapidpro(self) -> None:
        port = int(self.rapidpro.url.rpartition(":")[2])
        self.rapidpro = await RapidPro(TOKEN, progress=PROGRESS, port=port).__aenter__()


@pytest.fixture
async def scene(tmp_path: Path, chromium: str) -> AsyncIterator[Scene]:
    async with CouchDBStandin(data_dir=tmp_path / "couchdb") as couchdb, Database(couchdb, MEDIC) as medic:
        await create_medic(couchdb, MEDIC)
        rapidpro = await RapidPro(TOKEN, progress=PROGRESS).__aenter__()
        with listening_socket() as listener:
            daemon = Daemon(
                tmp_path / "gateway",
                couchdb,
                MEDIC,
                {"url": rapidpro.url},
                TOKEN,
                {"delivery": {"interval": "1s"}},
                webhook=listener,
            )
            async with Scene(couchdb, medic, daemon, rapidpro) as scene:
                yield scene


@dataclass
class Browser:
    """`complaints`: what the console of a page said, a breach of its policy for one."""

    browser: Any
    complaints: list[str] = field(default_factory=list)

    async def open(self, url: str, **options: Any) -> Any:
        page = await (await self.browser.new_context(**options)).new_page()
        page.on("console", lambda line: self.complaints.append(line.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        await page.goto(url)
        return page


@pytest.fixture(scope="session")
def chromium() -> str:
    """Where it is; without one there is nothing to try."""
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        pytest.skip("no browser on this machine: apt-get install chromium")
    return path


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as driver:
        started = await driver.chromium.launch(executable_path=chromium, args=_ARGUMENTS)
        yield Browser(started)
        await started.close()
