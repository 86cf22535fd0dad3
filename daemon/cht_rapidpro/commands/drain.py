"""`cht-rapidpro drain`: claims nothing more, decides what may have been sent, and empties the spool.

So that another gateway can be chosen without one SMS twice. It writes the pause file, as `pause` does, and watches the
running daemon until nothing is left; where none runs, it runs the daemon's own parts on the state directory meanwhile.
Sending stays held until `cht-rapidpro resume`.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

from msgspec.structs import replace

from cht_rapidpro import daemon
from cht_rapidpro.adapters.host.pause_file import PauseFile
from cht_rapidpro.adapters.host.sd_notify import SILENT
from cht_rapidpro.adapters.host.state_dir import give_to_owner, is_in_use, state_directory
from cht_rapidpro.adapters.web import control
from cht_rapidpro.commands import arguments
from cht_rapidpro.commands.status import ensure_no_other
from cht_rapidpro.config import loader
from cht_rapidpro.config.schema import Admin, Config
from cht_rapidpro.config.value_types import Duration
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.domain.pause import Pause
from cht_rapidpro.errors import ConfigError, GatewayError, TransientError
from cht_rapidpro.jobs.live_config.reload import Reload
from cht_rapidpro.telemetry import logs

_LONGEST: Final = 900.0  # seconds
_LOOK: Final = 0.5  # seconds between two looks at the daemon
_PATIENCE: Final = 10.0  # seconds until a daemon has to answer
_HELD: Final = "Sending stays held, also after a restart, until `cht-rapidpro resume`."


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "drain", help="claim nothing more and decide what may have been sent, before another gateway is chosen"
    )
    arguments.add_config(command)
    command.add_argument(
        "--for", dest="seconds", type=_seconds, default=_LONGEST, metavar="TIME", help="give up after; default: 15m"
    )


def _seconds(text: str) -> float | None:
    try:
        return Duration(least=1)(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """The exit code: 0 where nothing is left. Raises ConfigError, UnusableError."""
    folder = loader.load_state_dir(args.config, environ)
    config = None
    if not is_in_use(folder):
        ensure_no_other(loader.load_admin(args.config).listen, folder)
        config = loader.load(args.config, environ)
    PauseFile(folder).write(Pause(time.time_ns() // 1_000_000, None, drains=True))
    try:
        if config is None:
            found = asyncio.run(_watch(folder, args.seconds))
        else:
            found = _drain_alone(config, args.config, environ, args.seconds)
    except GatewayError as error:
        print(f"cht-rapidpro: sending is held, but it is not known what else is claimed: {error}", file=sys.stderr)
        return 1
    return _report(found)


def _drain_alone(config: Config, path: Path, environ: Mapping[str, str], seconds: float) -> dict[str, Any]:
    print(f"no daemon is running on {config.cht.state_dir}: its parts run here", flush=True)
    logs.configure("error", "console", sys.stderr)
    # It listens for nothing that others know of.
    alone = replace(config, admin=Admin(listen=""), incoming=replace(config.incoming, listen="127.0.0.1:0"))
    folder = Path(config.cht.state_dir)
    try:
        with state_directory(folder) as instance_id:
            return asyncio.run(_run_and_watch(alone, instance_id, seconds, lambda: loader.load(path, environ)))
    finally:
        give_to_owner(folder)


async def _run_and_watch(
    config: Config, instance_id: str, seconds: float, load: Callable[[], Config]
) -> dict[str, Any]:
    async with _running(config, instance_id, load):
        return await _watch(Path(config.cht.state_dir), seconds)


@asynccontextmanager
async def _running(config: Config, instance_id: str, load: Callable[[], Config]) -> AsyncIterator[None]:
    stop = asyncio.Event()
    me, reload = Instance(instance_id, config.cht.instance), Reload(config, load, asyncio.Event(), SILENT)
    async with asyncio.TaskGroup() as group:
        group.create_task(daemon.serve(config, me, stop, lambda: time.time_ns() // 1_000_000, reload))
        try:
            yield
        finally:
            stop.set()


async def _watch(folder: Path, seconds: float) -> dict[str, Any]:
    """The leftovers: none, those that only an operator can decide, or those that there are after `seconds`."""
    until, said = time.monotonic() + seconds, ""
    while True:
        found = await _ask(folder)
        line = ", ".join(f"{name} {found[name]}" for name in ("claimed", "ambiguous", "spooled"))
        if found["is_draining"] and found["is_known"]:
            if line != said:
                print(line, flush=True)
                said = line
            if not _waits(found):
                return found
        if time.monotonic() > until:
            return found
        await asyncio.sleep(_LOOK)


async def _ask(folder: Path) -> dict[str, Any]:
    """Raises GatewayError where the daemon does not answer for a while: it may be starting."""
    until = time.monotonic() + _PATIENCE
    while True:
        found = None
        with suppress(TransientError):
            found = await control.ask(folder, "GET", "/leftovers")
        if found is not None:
            return found
        if time.monotonic() > until:
            raise TransientError(f"the daemon on {folder} does not answer; look at its log")
        await asyncio.sleep(_LOOK)


def _waits(found: Mapping[str, Any]) -> bool:
    """Whether something is left that is decided without an operator."""
    undecidable = found["undecidable"]
    is_deciding = found["claimed"] > undecidable or found["ambiguous"] > undecidable
    return bool(found["is_taking_over"] or found["spooled"] or is_deciding)


def _report(found: Mapping[str, Any]) -> int:
    if found["is_known"] and not (
        found["is_taking_over"] or found["claimed"] or found["ambiguous"] or found["spooled"]
    ):
        print(f"drained: another gateway can be chosen. {_HELD}")
        return 0
    print("not drained: another gateway would send these again.", *_reasons(found), _HELD, sep="\n", file=sys.stderr)
    return 1


def _reasons(found: Mapping[str, Any]) -> list[str]:
    reasons = [f"{count} undecidable: {why}" for why, count in found["reasons"].items()]
    if found["undecidable"]:
        reasons.append("look in RapidPro for each, then type `cht-rapidpro messages settle`")
    if not found["is_known"]:
        reasons.append("it is not known which claims are left: CouchDB, or RapidPro's address, cannot be read")
    if found["is_taking_over"]:
        reasons.append("the takeover from the gateway before is not finished: it would send again what it has sent")
    elif found["is_known"] and _waits(found):
        reasons.append(
            f"claimed {found['claimed']}, ambiguous {found['ambiguous']}, spooled {found['spooled']}: it takes longer;"
            " `cht-rapidpro status` says what does not answer; type `cht-rapidpro drain` again"
        )
    return reasons
