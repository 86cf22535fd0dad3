"""`cht-rapidpro status`: reads the status from the running daemon's admin listener, and prints it.

A plain HTTP request without a proxy. Exit code 0 means that the state is `ok`, 1 that it is not, or that no daemon
answers.
"""

import http.client
import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cht_rapidpro.config.addresses import read_address
from cht_rapidpro.domain.span import span
from cht_rapidpro.errors import ConfigError, TransientError, UnusableError

_TIMEOUT: Final = 5.0
_CLEAR: Final = "\x1b[H\x1b[2J"


def run(listen: str, *, as_json: bool, interval: float | None) -> int:
    """Prints the status once, or every `interval` seconds until Ctrl-C; returns the exit code."""
    while True:
        try:
            found = ask(listen)
        except TransientError as error:
            print(f"cht-rapidpro: {error}", file=sys.stderr)
            if interval is None:
                return 1
        else:
            shown = json.dumps(found, ensure_ascii=False) if as_json else as_table(found)
            print(_CLEAR + shown if interval and sys.stdout.isatty() else shown, flush=True)
            if interval is None:
                return 0 if found["state"] == "ok" else 1
        time.sleep(interval)


def ask(listen: str) -> dict[str, Any]:
    """Returns the answer of /status. Raises TransientError if no daemon answers."""
    if not listen:
        raise ConfigError('[admin] listen: found "", which switches status off; allowed here: the daemon\'s address')
    host, port = read_address(listen)
    if not port:
        raise ConfigError('[admin] listen: found port 0: the kernel chose one, which the log names: "admin.listening"')
    connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        found = json.loads(answer.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise TransientError(f"no cht-rapidpro answers at {listen}: {error}") from error
    finally:
        connection.close()
    if not isinstance(found, dict) or "figures" not in found:
        raise TransientError(f"what answers at {listen} is no cht-rapidpro")
    return found


def ensure_no_other(listen: str, folder: Path) -> None:
    """Raises UnusableError where a daemon answers on the admin listener though none has the state directory `folder`.

    A command that looked into the wrong directory would say that no daemon is running.
    """
    try:
        ask(listen)
    except (ConfigError, TransientError):
        return
    raise UnusableError(
        f"a daemon is running that does not read {folder}: it has another state directory; give the command the"
        " service's own by [cht] state_dir or STATE_DIRECTORY, such as STATE_DIRECTORY=/var/lib/cht-rapidpro"
    )


def as_table(found: Mapping[str, Any]) -> str:
    """Formats the status in two columns; problems are named in words, not by colour."""
    rows = list(_rows(found))
    width = max(len(what) for what, _ in rows)
    return "\n".join(f"{what:<{width}}  {value}".rstrip() for what, value in rows)


def _rows(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "state", f"{found['state']}, up {span(found['uptime_seconds'])}, version {found['version']}"
    for finding in found["findings"]:
        yield "", " ".join(filter(None, (f"{finding['level']}:", finding["what"], finding["more"], finding["advice"])))
    yield "daemon", f"{found['name']} ({found['instance']})"
    yield "sending", f"paused, {found['sending']}" if found["paused"] else found["sending"]
    for dependency in found["dependencies"]:
        yield from _dependency(dependency)
    for name, figure in found["figures"].items():
        if name not in _SHOWN_ELSEWHERE:
            yield from _figure(name, figure)


_SHOWN_ELSEWHERE: Final = ("sending_enabled", "sending_paused", "dependency_up", "state")


def _dependency(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield found["name"], f"{found['condition']}, for {span(found['for_seconds'])}"
    if found["last_error"] and found["condition"] != "works":
        yield "", found["last_error"]


def _figure(name: str, figure: object) -> Iterator[tuple[str, str]]:
    what, _, unit = name.rpartition("_")
    label = what.replace("_", " ")
    values = figure if isinstance(figure, dict) else {"": figure}
    for of, value in values.items():
        yield f"{label} {of}".rstrip(), _amount(value, unit)


def _amount(value: object, unit: str) -> str:
    if not isinstance(value, int | float):
        return "-"
    return span(value) if unit == "seconds" else f"{value:g} {unit}"
