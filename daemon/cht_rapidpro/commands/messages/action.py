"""What `cht-rapidpro messages` does and prints, once its arguments are read; the daemon does not load it."""

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable
from typing import Final

from cht_rapidpro.commands.messages.command import MOST
from cht_rapidpro.commands.messages.listing import READ, Wanted, listed
from cht_rapidpro.commands.messages.ordering import carry_out
from cht_rapidpro.commands.messages.site import Site, site
from cht_rapidpro.commands.messages.story import as_text, stories
from cht_rapidpro.config.schema import Config
from cht_rapidpro.domain.orders import Cancel, NotSent, Order, Refusal, Resend, SentAs
from cht_rapidpro.domain.outgoing import BroadcastId
from cht_rapidpro.domain.task import Change, MessageId
from cht_rapidpro.errors import TransientError

_PATIENCE: Final = 300.0  # seconds


async def run(args: argparse.Namespace, config: Config) -> int:
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


async def _in_time(work: Awaitable[int]) -> int:
    """One message's part of a command; many may be named."""
    try:
        async with asyncio.timeout(_PATIENCE):
            return await work
    except TimeoutError as error:
        raise TransientError(f"it took longer than {_PATIENCE:g} s: CouchDB or RapidPro does not answer") from error


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
    more = f"; there are more: narrow it down, or --limit (at most {MOST:,} shown, {READ:,} read)" if has_more else ""
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
