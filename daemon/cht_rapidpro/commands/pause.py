"""`cht-rapidpro pause` and `resume`: stop sending within a second, and let it go on.

They write a file of the state directory, so that they work whether the daemon runs or not, and then ask the running
daemon whether it obeys: an emergency stop that another daemon never reads would be worse than none.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cht_rapidpro.adapters.host.pause_file import PauseFile
from cht_rapidpro.adapters.host.state_dir import is_in_use
from cht_rapidpro.adapters.web import control
from cht_rapidpro.commands import arguments
from cht_rapidpro.config import loader
from cht_rapidpro.config.value_types import Duration
from cht_rapidpro.domain.pause import Pause
from cht_rapidpro.errors import ConfigError, GatewayError

_PATIENCE: Final = 5.0  # seconds until the running daemon has to have obeyed; it needs half of one
_NAMES: Final = {
    "pause": "stop sending within a second; incoming messages and delivery states go on",
    "resume": "let sending go on",
}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    for name, text in _NAMES.items():
        command = commands.add_parser(name, help=text)
        arguments.add_config(command)
        if name == "pause":
            command.add_argument(
                "--for", dest="seconds", type=_seconds, metavar="TIME", help="end by itself, such as 2h; else `resume`"
            )


def _seconds(text: str) -> float | None:
    try:
        return Duration(least=1)(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """The exit code: 1 where a running daemon does not obey. Raises ConfigError, UnusableError."""
    folder, now = loader.load_state_dir(args.config, environ), time.time_ns() // 1_000_000
    file = PauseFile(folder)
    if args.command == "resume":
        found = file.read()
        file.remove()
        was = found is not None and not found.is_over(now)
        return _report("sending goes on" if was else "sending was not paused", args.config, folder, wanted=None)
    until = None if args.seconds is None else now + round(args.seconds * 1000)
    pause = Pause(now, until)
    file.write(pause)
    return _report(f"sending is paused {pause.end}", args.config, folder, wanted=pause)


def _report(done: str, config: Path, folder: Path, *, wanted: Pause | None) -> int:
    try:
        says = _confirmation(config, folder, wanted)
    except GatewayError as error:
        print(f"cht-rapidpro: the file is written, but {error}", file=sys.stderr)
        return 1
    print(f"{done}; {says}")
    return 0


def _confirmation(config: Path, folder: Path, wanted: Pause | None) -> str:
    """What the running daemon says to it. Raises GatewayError where one runs that does not obey."""
    if not is_in_use(folder):
        from cht_rapidpro.commands.status import ensure_no_other  # noqa: PLC0415 - the daemon does not load it

        ensure_no_other(loader.load_admin(config).listen, folder)
        return f"no daemon is running on {folder}: the next start heeds it"
    expected = None if wanted is None else wanted.plain()
    until = time.monotonic() + _PATIENCE
    while (status := _status(folder))["paused"] != expected:
        if time.monotonic() > until:
            raise GatewayError(f"the running daemon does not heed it: it says {status['sending']!r}; look at its log")
        time.sleep(0.1)
    return "the running daemon obeys" if status["figures"]["sending_enabled"] else f"and {status['sending']}"


def _status(folder: Path) -> dict[str, Any]:
    found = asyncio.run(control.ask(folder, "GET", "/status"))
    if found is None or "paused" not in found:
        raise GatewayError(f"the daemon that runs on {folder} does not answer: look at its log")
    return found
