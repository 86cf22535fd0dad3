"""Asks CouchDB and RapidPro a harmless question where nothing else does: whether they work is known before the first
message needs them, and an outage and its end are noticed while nothing is to be sent.

At the start, after a change of address, password or token, after a failure with growing pauses until there is an
answer, and when nothing was heard for long. Without it a wrong token would look well until the first message.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from cht_rapidpro.adapters.couchdb import Couch
from cht_rapidpro.adapters.rapidpro import RapidPro
from cht_rapidpro.errors import TransientError, TroubleError
from cht_rapidpro.health import Condition, Health
from cht_rapidpro.jobs.settings import SettingsWatch
from cht_rapidpro.keyring import Keyring

# A frozen CouchDB takes connections and says nothing, and a request of its own may wait for a minute.
COUCHDB_QUIET: Final = 10.0  # seconds without an answer until it is asked
COUCHDB_PATIENCE: Final = 5.0  # seconds that it has for this answer
RAPIDPRO_QUIET: Final = 300.0
_GRACE: Final = 2.0  # a message that is about to be sent, or sent again, makes the question needless
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_TROUBLE_PAUSE: Final = 60.0  # after what only a human can change


class Heartbeat:
    """Makes both known and keeps them so. RapidPro is asked only while messages are sent to it."""

    def __init__(self, couch: Couch, rapidpro: RapidPro, settings: SettingsWatch, keyring: Keyring) -> None:
        self._couch = couch
        self._rapidpro = rapidpro
        self._settings = settings
        self._keyring = keyring
        self._target: str | None = None
        self._of_couchdb = _Beat(couch.health, [couch.health], COUCHDB_QUIET, self._ask_couchdb)
        self._of_rapidpro = _Beat(rapidpro.health, list(rapidpro.healths.values()), RAPIDPRO_QUIET, self._ask_rapidpro)
        settings.subscribe(self._take_target)
        keyring.subscribe(self._of_rapidpro.ask)

    def renew(self) -> None:
        """Asks both again: the configuration was read anew."""
        self._of_couchdb.ask()
        self._of_rapidpro.ask()

    async def run(self) -> NoReturn:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._of_couchdb.run())
            group.create_task(self._of_rapidpro.run())
        raise AssertionError("unreachable: neither has an end")

    def _take_target(self) -> None:
        """Of another RapidPro nothing is known yet."""
        if self._settings.target != self._target:
            if self._target is not None:
                for health in self._rapidpro.healths.values():
                    health.tell_again()
            self._target = self._settings.target
            self._of_rapidpro.ask()

    async def _ask_couchdb(self) -> None:
        try:
            async with asyncio.timeout(COUCHDB_PATIENCE):
                await self._couch.update_seq()
        except TimeoutError:
            why = f"CouchDB at {self._couch.config.url} gives no answer within {COUCHDB_PATIENCE:g} s"
            self._couch.health.fails(TransientError(why), is_certain=False)
        except (TransientError, TroubleError):
            pass  # its health knows

    async def _ask_rapidpro(self) -> None:
        """Never beyond the limit of requests: what waits to be sent has the first right to them."""
        target, has_token = self._settings.target, bool(self._keyring.secrets.rapidpro_token)
        if target is not None and has_token and not self._rapidpro.budget.delay(asyncio.get_running_loop().time()):
            await self._rapidpro.probe(target)


class _Beat:
    """The questions about `health`; `quiet`: seconds without an answer to any of `all_of_it` until there is one."""

    def __init__(
        self, health: Health, all_of_it: Sequence[Health], quiet: float, question: Callable[[], Awaitable[None]]
    ) -> None:
        self._health = health
        self._all_of_it = all_of_it
        self._quiet = quiet
        self._question = question
        self._wake = asyncio.Event()
        health.subscribe(self._wake.set)

    def ask(self) -> None:
        self._wake.set()

    async def run(self) -> NoReturn:
        """A failed kind of call is judged only by its own next answer, and perhaps no other job makes such a call."""
        pause = _FIRST_PAUSE
        while True:
            heard = self._health.heard
            await asyncio.sleep(_GRACE)
            self._wake.clear()
            if self._health.heard == heard or self._health.condition is not Condition.WORKS:
                await self._question()
            if self._health.heard != heard and self._health.condition is Condition.WORKS:
                pause = _FIRST_PAUSE
                await self._until_quiet()
                continue
            self._wake.clear()  # this failure is known
            is_refused = self._health.condition is Condition.REFUSED
            await self._woken(_TROUBLE_PAUSE if is_refused else pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _until_quiet(self) -> None:
        """Until nothing was heard of the dependency for long, a failure, or a request to ask."""
        heard: list[float | None] = []
        while (latest := [each.heard for each in self._all_of_it]) != heard:
            heard = latest
            if await self._woken(self._quiet):
                return

    async def _woken(self, seconds: float) -> bool:
        """Whether a failure or a request to ask came within this time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
            return True
        return False
