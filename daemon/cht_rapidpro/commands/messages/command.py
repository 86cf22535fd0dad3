"""`cht-rapidpro messages list|show|resend|cancel|settle`: the command line.

Exit codes as everywhere: 0 done, 1 where a message that was named is not there or an order was refused, 2 wrong usage,
78 a configuration that cannot be used.
"""

import argparse
import asyncio
import sys
from collections.abc import Mapping
from typing import Final

from cht_rapidpro.commands import arguments
from cht_rapidpro.config import loader
from cht_rapidpro.config.value_types import Duration
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.errors import ConfigError, GatewayError
from cht_rapidpro.telemetry import logs

_HELPS: Final = {
    "list": "the messages in a state, numbers masked and texts left out",
    "show": "everything known about one, with its text and number, and why it has not been sent",
    "resend": "send a failed, expired or given-up message again",
    "cancel": "never send a message that waits",
    "settle": "say what became of a message that the gateway cannot decide about",
}
MOST: Final = 10_000


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("messages", help="see, explain, resend, cancel or settle single messages")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in _HELPS.items():
        action = actions.add_parser(name, help=text)
        arguments.add_config(action)
        if name == "list":
            _add_filters(action)
        elif name == "show":
            action.add_argument("ids", nargs="+", metavar="UUID|DOC", help="of a message, or of a document: all of it")
        else:
            action.add_argument("ids", nargs="+", metavar="UUID", help="of the messages, as `list` shows them")
            action.add_argument("--dry-run", action="store_true", help="decide and say, write nothing")
        if name in ("list", "show"):
            action.add_argument("--json", action="store_true", help="for machines")
        if name == "settle":
            verdict = action.add_mutually_exclusive_group(required=True)
            verdict.add_argument("--ref", metavar="ID", type=_ref, help="it is this broadcast of RapidPro's")
            verdict.add_argument("--not-sent", action="store_true", help="RapidPro never got it: it is sent again")


def _add_filters(action: argparse.ArgumentParser) -> None:
    states = ", ".join(State)
    action.add_argument(
        "--state",
        action="append",
        type=_state,
        default=[],
        metavar="STATE",
        help=f"of {states}; else what is to be sent",
    )
    action.add_argument("--older", type=_seconds, metavar="TIME", help="due longer ago than, such as 1h")
    action.add_argument("--doc", metavar="ID", help="of this document, in any state")
    action.add_argument("--number", metavar="NUMBER", help="to this number")
    action.add_argument("--limit", type=_limit, default=100, metavar="N", help="how many at most (100)")


def _state(text: str) -> State:
    try:
        return State(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: {', '.join(State)}") from error


def _seconds(text: str) -> float | None:
    try:
        return Duration(least=0)(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= MOST):
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a whole number from 1 to {MOST}")
    return int(text)


def _ref(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: the id of a broadcast, a whole number")
    return text


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """The exit code. Raises ConfigError."""
    from cht_rapidpro.commands.messages import action  # noqa: PLC0415 - the daemon does not load it

    config = loader.load(args.config, environ)
    logs.configure("critical", "console", sys.stderr)
    try:
        return asyncio.run(action.run(args, config))
    except GatewayError as error:
        print(f"cht-rapidpro: {logs.masked(str(error))}", file=sys.stderr)
        return 1
