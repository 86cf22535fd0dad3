"""`cht-rapidpro messages list|show|resend|cancel|settle`: the command line and what it prints.

Exit codes as everywhere: 0 done, 1 where a message that was named is not there or an order was refused, 2 wrong usage,
78 a configuration that cannot be used.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Mapping
from typing import Final

from cht_rapidpro.commands import arguments
from cht_rapidpro.commands.messages.listing import READ, Wanted, listed
from cht_rapidpro.commands.messages.ordering import carry_out
from cht_rapidpro.commands.messages.site import Site, site
from cht_rapidpro.commands.messages.story import as_text, stories
from cht_rapidpro.config import loader
from cht_rapidpro.config.schema import Config
from cht_rapidpro.config.value_types import Duration
from cht_rapidpro.domain.orders import Cancel, NotSent, Order, Refusal, Resend, SentAs
from cht_rapidpro.domain.outgoing import BroadcastId
from cht_rapidpro.domain.statuses import State
from cht_rapidpro.domain.task import Change, MessageId
from cht_rapidpro.errors import ConfigError, GatewayError, TransientError
from cht_rapidpro.telemetry import logs

_HELPS: Final = {
    "list": "the messages in a state, numbers masked and texts left out",
    "show": "everything known about one, with its text and number, and why it has not been sent",
    "resend": "send a failed, expired or given-up message again",
    "cancel": "never send a message that waits",
    "settle": "say what became of a message that the gateway cannot decide about",
}
_MOST: Final = 10_000
_PATIENCE: Final = 300.0  # seconds


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
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= _MOST):
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: a whole number from 1 to {_MOST}")
    return int(text)


def _ref(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise argparse.ArgumentTypeError(f"found {text!r}; allowed: the id of a broadcast, a whole number")
    return text


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """The exit code. Raises ConfigError."""
    config = loader.load(args.config, environ)
    logs.configure("critical", "console", sys.stderr)
    try:
        return asyncio.run(_run(args, config))
    except GatewayError as error:
        print(f"cht-rapidpro: {logs.masked(str(error))}", file=sys.stderr)
        return 1


async def _in_time(work: Awaitable[int]) -> int:
    """One message's part of a command; many may be named."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await work
    except TimeoutError as error:
        raise TransientError(f"it took longer than {_PATIENCE:g} s: CouchDB or RapidPro does not answer") from error


async def _run(args: argparse.Namespace, config: Config) -> int:
    async with site(config) as here:
        match args.action:
            case "list":
                wanted = Wanted(tuple(args.state), args.older, args.doc, args.number, args.limit)
                return await _in_time(_list(here, wanted, as_json=args.json))
            case "show":
                return max([await _in_time(_show(here, each, as_json=args.json)) for each in args.ids])
            case _:
                order = _order(args)
                return max([await _in_time(_carry_out(here, order, each, is_dry=args.dry_run)) for each in args.ids])


def _order(args: argparse.Namespace) -> Order:
    if args.action == "resend":
        return Resend()
    if args.action == "cancel":
        return Cancel()
    return NotSent() if args.not_sent else SentAs(BroadcastId(args.ref), None)


async def _list(here: Site, wanted: Wanted, *, as_json: bool) -> int:
    found, has_more = await listed(here, wanted)
    plain = [each.plain() for each in found]
    if as_json:
        print(json.dumps({"messages": plain, "has_more": has_more}, indent=2, ensure_ascii=False))
        return 0
    for each in plain:
        print(
            f"{each['due'] or '-':<24}  {each['state']:<20}  {each['to'] or '-':>5}"
            f"  {each['message'] or '-'}  {each['doc']}"
        )
    more = f"; there are more: narrow it down, or --limit (at most {_MOST:,} shown, {READ:,} read)" if has_more else ""
    print(f"{len(found)} messages{more}")
    return 0


async def _show(here: Site, wanted: str, *, as_json: bool) -> int:
    told = [story for doc, uuid in await here.find(wanted) for story in await stories(here, doc, uuid)]
    if not told:
        print(f"{wanted}: there is no such message or document", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps([story.plain() for story in told], indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(as_text(story) for story in told))
    return 0


async def _carry_out(here: Site, order: Order, uuid: str, *, is_dry: bool) -> int:
    here.requests.renew()
    found = [(doc, each) for doc, each in await here.find(uuid) if each == uuid]
    if len(found) != 1:
        why = "there is no such message" if not found else f"{len(found)} documents hold it: which one cannot be told"
        return _print(uuid, Refusal(why), is_dry=is_dry)
    decided = await carry_out(here, order, found[0][0], MessageId(uuid), is_dry=is_dry)
    return _print(uuid, decided, is_dry=is_dry)


def _print(uuid: str, decided: Change | Refusal, *, is_dry: bool) -> int:
    if isinstance(decided, Refusal):
        print(f"{uuid}: refused: {decided.why}")
        return 1
    ref = f", broadcast {decided.gateway_ref}" if decided.gateway_ref else ""
    print(f"{uuid}: {'would be' if is_dry else 'is'} {decided.state}{ref}: {decided.details}")
    return 0
