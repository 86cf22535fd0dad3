"""Makes harmless requests to CouchDB and RapidPro while there are no others, so that it is known whether they work
before the first message needs them, and an outage and its end are noticed while there is nothing to send.

At the start, after a change of address, password or token, after a failure with growing pauses until there is an
answer, and when there was no answer for long. Without it a wrong token would go unnoticed until the first message.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NoReturn

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.concurrency.timing import loop_time, wait_for_event
from cht_rapidpro.config.secret_store import Keyring
from cht_rapidpro.errors import OperatorActionRequiredError, TransientError
from cht_rapidpro.jobs.live_config.app_settings import SettingsWatch
from cht_rapidpro.telemetry.dependency_health import Condition, Health

# A frozen CouchDB accepts connections and sends nothing, and a job's request may wait for a minute.
COUCHDB_QUIET: Final = 15.0  # seconds without an answer until there is a request
COUCHDB_PATIENCE: Final = 5.0  # seconds for the answer
RAPIDPRO_QUIET: Final = 300.0
_GRACE: Final = 2.0  # a message that is about to be sent, or sent again, makes the request needless
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_TROUBLE_PAUSE: Final = 60.0  # after a failure that needs an operator


class Heartbeat:
    """Keeps the health of both up to date. RapidPro gets a request only while this gateway sends."""

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
        """Requests both again, after the configuration was reloaded."""
        self._of_couchdb.ask()
        self._of_rapidpro.ask()

    async def run(self) -> NoReturn:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._of_couchdb.run())
            group.create_task(self._of_rapidpro.run())
        raise AssertionError("unreachable: neither has an end")

    def _take_target(self) -> None:
        """Forgets the health if the address is another RapidPro's."""
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
        except (TransientError, OperatorActionRequiredError):
            pass  # its health knows

    async def _ask_rapidpro(self) -> None:
        """Never exceeds the limit of requests: waiting messages go first."""
        target, has_token = self._settings.target, bool(self._keyring.secrets.rapidpro_token)
        if target is not None and has_token and not self._rapidpro.budget.delay(loop_time()):
            await self._rapidpro.probe(target)


class _Beat:
    """The requests for `health`; `quiet`: seconds without an answer to any of `all_of_it` until there is a request."""

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
            self._wake.clear()  # this failure is known already
            is_refused = self._health.condition is Condition.REFUSED
            await self._woken(_TROUBLE_PAUSE if is_refused else pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _until_quiet(self) -> None:
        """Waits until there was no answer for long, a failure, or a call of `renew`."""
        heard: list[float | None] = []
        while (latest := [each.heard for each in self._all_of_it]) != heard:
            heard = latest
            if await self._woken(self._quiet):
                return

    async def _woken(self, seconds: float) -> bool:
        """Returns whether a failure or a call of `renew` came within this time."""
        return await wait_for_event(self._wake, seconds)
