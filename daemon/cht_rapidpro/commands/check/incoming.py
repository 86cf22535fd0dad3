"""Checks incoming messages: a key for the webhooks, the address, the spool, and the flow for the backfill."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import phonenumbers

from cht_rapidpro.adapters.couchdb.incoming_docs import ARCHIVE_SUFFIX
from cht_rapidpro.adapters.couchdb.inspection import Inspection, Seen
from cht_rapidpro.adapters.rapidpro.transport import Reply, Transport
from cht_rapidpro.adapters.spool.file import SpoolFile
from cht_rapidpro.commands.check.finding import Finding, bad, good, note
from cht_rapidpro.commands.check.host import check_address, check_disk
from cht_rapidpro.config.schema import Config, Incoming
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.backfill import NO_MESSAGE_IDS, IdIs
from cht_rapidpro.domain.findings import counted
from cht_rapidpro.errors import OperatorActionRequiredError

_PLANS_OF_CHT: Final = "google-libphonenumber 3.2.44 with the plans of 9.0.22 in CHT 5.2.0; a few numbers differ"
_SHORTEST_KEY: Final = 20  # characters


def check_incoming(config: Config, *, is_running: bool) -> Iterator[Finding]:
    """`is_running`: a daemon runs on the state directory, so the address is taken by it."""
    own = config.incoming
    if not own.enabled:
        yield note("incoming.enabled", "the webhook is switched off: [incoming] enabled is false")
        return
    if config.cht.credentials != "vault":  # which check_vault checks
        yield _key(own)
    if not is_running:
        yield check_address("incoming.listen", own.listen)
    yield _spool(Path(own.spool))
    yield good("incoming.numbers", f"numbering plans: phonenumbers {phonenumbers.__version__} here, {_PLANS_OF_CHT}")
    yield from check_disk(Path(own.spool).parent)
    if not own.flow:
        says = "messages that arrive while the gateway is off are lost: RapidPro tries once"
        yield note("incoming.flow", says, "set [incoming] flow to the relay flow, and they are fetched afterwards")


def check_miswired(found: object) -> Iterator[Finding]:
    """`found`: the `miswired` of the running daemon's status."""
    for each in found if isinstance(found, list) else []:
        times = counted(each["times"], "time")
        says = f"RapidPro's flow sends a wrong `{each['field']}`: {each['sends']} ({times} since the start)"
        yield bad("incoming.flow", says, "correct the webhook's body: docs/operations/connect-rapidpro.md")


def _key(own: Incoming) -> Finding:
    about = "incoming.key"
    if not own.keys:
        says = "no key is configured: every webhook is answered 403"
        return bad(about, says, "put a key into a file, name it by [incoming] key_file, and give it to the flow")
    if any(len(key.reveal()) < _SHORTEST_KEY for key in own.keys):
        says = f"a key has fewer than {_SHORTEST_KEY} characters: it can be guessed"
        return note(about, says, "make a longer one, such as by `openssl rand -hex 32`")
    return good(about, f"{len(own.keys)} key{'s' if len(own.keys) > 1 else ''} may open the webhook")


def _spool(file: Path) -> Finding:
    """Checks the file if it exists, else the folder in which it would be created."""
    about = "incoming.spool"
    place = file if file.exists() else file.parent
    if not place.exists():
        return note(about, f"{place} does not exist yet: the daemon makes it at its first start")
    if not os.access(place, os.W_OK):
        says = f"{place} cannot be written to by this user: with CouchDB away, webhooks are answered 503"
        return bad(about, says, "give it to the user that the daemon runs as")
    try:
        spool = SpoolFile(file) if file.exists() else None
    except OperatorActionRequiredError as error:
        return bad(about, f"{error}: with CouchDB away, webhooks are answered 503", "move the file away, or restore it")
    if spool is not None:
        spool.close()
    return good(about, f"{file} can be written")


async def check_archive(couchdb: Inspection, database: str) -> AsyncIterator[Finding]:
    """Checks the access to CHT's archive: the backfill must not fetch archived messages again."""
    about = "couchdb.archive"
    match await couchdb.get(f"{database}{ARCHIVE_SUFFIX}"):
        case Seen(status=200):
            yield good(about, "archived messages are not fetched again")
        case Seen(status=401 | 403):
            says = "CHT's archive cannot be read: with backfill_from, or a position lost, they are fetched again"
            yield bad(about, says, f"make the user of [couchdb] a member of {database}{ARCHIVE_SUFFIX}")


async def check_flow(rapidpro: Transport, base: str, token: Secret, flow: str, id_is: IdIs) -> Finding:
    """Asks RapidPro for the flow; `flow`: its UUID; `id_is`: what it sends."""
    about = "incoming.flow"
    if id_is == "message":
        listed = await rapidpro.request("GET", f"{base}/api/v2/messages.json?folder=flows", token)
        match listed:
            case Reply(status=200, body={"results": [{"id": _, **row}, *_]}) if "uuid" not in row:
                return bad(about, NO_MESSAGE_IDS, 'let the flow send run.uuid, and set id_is = "run"')
    reply = await rapidpro.request("GET", f"{base}/api/v2/flows.json?uuid={flow}", token)
    match reply:
        case Reply(status=200, body={"results": [{"name": str() as name, **rest}, *_]}):
            if rest.get("archived"):
                return bad(about, f"the flow {name!r} is archived: it takes no messages", "name the flow that does")
            return good(about, f"messages that the flow {name!r} takes while the gateway is off are fetched afterwards")
        case Reply(status=200, body={"results": []}):
            return bad(about, f"RapidPro has no flow {flow}", "copy the UUID from the flow's address in RapidPro")
        case Reply(status=status):
            return note(about, f"RapidPro does not say whether the flow exists (HTTP {status})")
        case _:
            return note(about, "RapidPro did not say whether the flow exists")
