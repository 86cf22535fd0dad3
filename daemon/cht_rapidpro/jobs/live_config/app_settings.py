"""Keeps the snapshot of CHT's app settings and translations, and decides whether and where this gateway sends.

All the documents are read at the start, when the feed shows a change of one, and every tenth sweep; the snapshot is
replaced as a whole. While the settings are invalid the last good one stays, with an ERROR; before the first one nothing
is sent, and incoming messages wait in the spool.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NoReturn
from urllib.parse import urlsplit

import structlog

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.concurrency.signal import Signal
from cht_rapidpro.config.addresses import check_url
from cht_rapidpro.config.schema import Cht, Rapidpro
from cht_rapidpro.domain.findings import Finding, Level
from cht_rapidpro.domain.settings import (
    BUILT_IN_SERVICE,
    MEDIC,
    SETTINGS,
    TRANSLATIONS,
    AppSettings,
    Choice,
    choose,
    generation,
    read_settings,
)
from cht_rapidpro.domain.task import Doc, DocId
from cht_rapidpro.errors import ConfigError
from cht_rapidpro.jobs.documents.retry import until_it_works
from cht_rapidpro.telemetry.liveness import Liveness

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_HOST_MEANS: Final = (
    "the token goes to the new host from now on, and states of messages that the old host sent will not be found;"
    " if this was not intended, set sms.rapidpro.url back, or pin the address by [rapidpro] url"
)


class SettingsWatch:
    """`settings`: the last good snapshot (None: never read).

    `base`: RapidPro's base URL, None while it is not known; `target`: the same while this gateway sends, else None;
    `choice`: the reason.
    """

    def __init__(self, couch: Couch, cht: Cht, rapidpro: Rapidpro) -> None:
        self._couch = couch
        self._cht = cht
        self._rapidpro = rapidpro
        self._requested = asyncio.Event()
        self._changed = Signal[()]()
        self.subscribe = self._changed.subscribe  # called after every change of `settings`, `base` or `target`
        self.choice: Choice | None = None
        self._problem = ""
        self.liveness = Liveness("settings", couch.health)
        self._host = ""
        self.settings: AppSettings | None = None
        self.base: str | None = rapidpro.url or None
        self.target: str | None = None

    @property
    def polled(self) -> str | None:
        """The base URL for polling delivery states; None while CHT's own RapidPro gateway polls."""
        if self.target is None and self.settings and self.settings.outgoing_service == BUILT_IN_SERVICE:
            return None
        return self.base if self.settings else None

    def refresh(self) -> None:
        """Requests another reading of the documents."""
        self._requested.set()

    def problems(self) -> Iterator[Finding]:
        """The problems in the app settings, and the information that another gateway is chosen."""
        if self._problem:
            yield Finding(Level.BROKEN, "CHT's app settings cannot be used.", advice=f"{self._problem}.")
        if self.choice is not None and self.choice.conflict:
            yield Finding(Level.BROKEN, "Nothing is sent: two gateways would.", advice=f"{self.choice.why}.")
        elif self.choice is not None and not self.choice.sends:
            yield Finding(Level.OK, "Nothing is sent.", advice=f"{self.choice.why}.")

    async def run(self) -> NoReturn:
        self.refresh()
        while True:
            await self._requested.wait()
            self._requested.clear()
            with self.liveness.step():
                translations, docs = await until_it_works(self._read)
            known = [docs[key] for key in translations if key in docs]
            self._take(read_settings(docs.get(SETTINGS), docs.get(MEDIC), known), generation(docs.get(SETTINGS, {})))

    async def _read(self) -> tuple[list[DocId], dict[DocId, Doc]]:
        translations = await self._couch.ids(*TRANSLATIONS)
        return translations, await self._couch.read([SETTINGS, MEDIC, *translations])

    def _take(self, found: AppSettings | str, revision: int) -> None:
        if isinstance(found, str):
            self._report(f"{found}: the last good settings stay in force" if self.settings else found)
            if self.settings and revision not in (0, self.settings.revision):  # an edit that was seen, all the same
                self.settings = replace(self.settings, revision=revision)
                self._changed.emit()
            return
        if found == self.settings:
            self._report("")
            return
        self.settings = found
        choice = choose(found, self._cht.outgoing_service, builtin_gateway_is_off=self._cht.builtin_gateway_is_off)
        self._report_choice(choice)
        self.base = self._find_base(found, is_needed=choice.sends)
        self.target = self.base if choice.sends else None
        self._changed.emit()

    def _report_choice(self, choice: Choice) -> None:
        """Logs a change of the choice: on, off, or a conflict that an operator has to solve."""
        if choice == self.choice:
            return
        self.choice = choice
        if choice.conflict:
            log.error("sending.conflicted", why=choice.why)
        elif choice.sends:
            log.info("sending.enabled", why=choice.why)
        else:
            log.info("sending.disabled", why=choice.why)

    def _find_base(self, settings: AppSettings, *, is_needed: bool) -> str | None:
        url = self._rapidpro.url
        if not url:
            try:
                url = check_url(settings.rapidpro_url, allow_plain_http=self._rapidpro.allow_plain_http)
            except ConfigError as error:
                self._report(f"sms.rapidpro.url in the app settings: {error}; nothing is sent" if is_needed else "")
                return None
        self._report("")
        host = urlsplit(url).netloc
        if self._host not in ("", host):
            log.error("rapidpro.host_changed", before=self._host, now=host, means=_HOST_MEANS)
        self._host = host
        return url

    def _report(self, problem: str) -> None:
        if problem and problem != self._problem:
            log.error("settings.invalid", problem=problem)
        self._problem = problem
