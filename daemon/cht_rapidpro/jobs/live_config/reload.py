"""SIGHUP: reads the configuration again and applies the keys that can change while the daemon runs.

The whole file is checked, as at the start: a bad file changes nothing and is one ERROR. One line names the keys that
are in force now, the changed keys that wait for a restart, and the secrets that a reload can never change. Without that
line an operator who has rotated a token would not know whether the old one may be revoked.
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import NoReturn

import msgspec
import structlog

from cht_rapidpro.adapters.host.sd_notify import SILENT, Notifier
from cht_rapidpro.concurrency.signal import Signal
from cht_rapidpro.config.schema import LIVE, Config
from cht_rapidpro.errors import ConfigError
from cht_rapidpro.telemetry import logs

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Reload:
    """`requested` is set by the signal; `load` reads the file again, in a thread, and raises ConfigError."""

    def __init__(
        self, config: Config, load: Callable[[], Config], requested: asyncio.Event, notifier: Notifier = SILENT
    ) -> None:
        self._config = config
        self._load = load
        self._requested = requested
        self._notifier = notifier
        self._applied = Signal[Config]()
        self.subscribe = self._applied.subscribe  # called after every reload with the configuration in force

    async def run(self) -> NoReturn:
        while True:
            await self._requested.wait()
            self._requested.clear()
            self._notifier.reloading()
            try:
                found = await asyncio.to_thread(self._load)
            except ConfigError as error:
                log.error("config.rejected", error=str(error), means="the running configuration stays in force")
            else:
                self._apply(found)
            self._notifier.ready()

    def _apply(self, found: Config) -> None:
        changed = list(_differences(self._config, found))
        reloaded = frozenset(key for key, live in LIVE.items() if live.bound_to.isdisjoint(changed))
        self._config = _with(self._config, found, reloaded)
        self._applied.emit(self._config)
        # Logged even if the level would hide it, because an operator asked for the reload.
        logs.set_level("info")
        for warning in found.warnings:
            log.warning("config.warned", warning=warning)
        log.info(
            "config.reloaded",
            changed=[place for place in changed if place in reloaded],
            needs_restart=[place for place in changed if place not in reloaded],
            only_by_restart=list(found.fixed),
        )
        logs.set_level(self._config.log.level)


def _differences(old: Config, new: Config) -> Iterator[str]:
    """The keys with another value, as `log.level`."""
    for section in old.__struct_fields__:
        before, now = getattr(old, section), getattr(new, section)
        for key in getattr(before, "__struct_fields__", ()):
            if getattr(before, key) != getattr(now, key):
                yield f"{section}.{key}"


def _with(old: Config, new: Config, places: frozenset[str]) -> Config:
    """`old`, with the values of `new` at these places."""
    sections = {}
    for name in {place.partition(".")[0] for place in places}:
        section = getattr(new, name)
        keys = [key for key in section.__struct_fields__ if f"{name}.{key}" in places]
        sections[name] = msgspec.structs.replace(getattr(old, name), **{key: getattr(section, key) for key in keys})
    return msgspec.structs.replace(old, **sections)
