"""Checks CouchDB: reachable, credentials, database, rights, and CHT's views.

Each check depends on the one before; checks that cannot succeed are left out, so that the first ✗ is the one to fix.
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Final

from cht_rapidpro.adapters.couchdb.inspection import Inspection, Seen, Unseen
from cht_rapidpro.commands.check.finding import Finding, bad, good, note
from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.config.secrets import three_ways
from cht_rapidpro.domain.task import SENDABLE, Doc, Lack, lack, message_fields, unlisted

# The views of CHT that the daemon reads (docs/cht.md#views); the last two are for delivery states and backfill.
VIEWS: Final = (
    ("medic", "messages_by_state"),
    ("medic-sms", "messages_by_gateway_ref"),
    ("medic-sms", "messages_by_last_updated_state"),
    ("medic-sms", "gateway_messages_by_state"),
)
CLOCK_LIMIT: Final = 60_000  # ms by which clocks may differ before it is worth a line
UNSENDABLE: Final = "couchdb.messages"
_REPAIR: Final = "repair or clear these tasks in CHT"
_LOOKED_AT: Final = 1000  # rows
_READ: Final = 200  # documents
_OLDEST: Final = 2  # major version: `_selector` feeds and `_bulk_docs` as we use them


async def check_couchdb(couchdb: Inspection, config: Couchdb, now: Callable[[], int]) -> AsyncIterator[Finding]:
    """`now`: ms since the epoch, our clock."""
    root = await couchdb.get("")
    if isinstance(root, Unseen) or root.status != 200 or "couchdb" not in root.fields:
        yield _no_couchdb(config, root)
        return
    yield _version(str(root.fields.get("version", "")))
    yield clock("couchdb.clock", "CouchDB", root.date, now())
    session = await couchdb.get("_session")
    if isinstance(session, Seen) and session.status in (401, 403):
        yield _wrong_password(config, session.status)
        return
    info = await couchdb.get(config.database)
    if not _is_well(info):
        yield _no_database(config, info)
        return
    yield good("couchdb.database", f"{config.database!r} can be read{_as_whom(session)}")
    yield _rights(config, await couchdb.post(f"{config.database}/_bulk_docs", {"docs": []}))
    for design, view in VIEWS:
        path = f"{config.database}/_design/{design}/_view/{view}"
        yield _view(f"{design}/{view}", await couchdb.get(path, limit="1", reduce="false"))
    path = f"{config.database}/_design/medic/_view/messages_by_state"
    keys = {"startkey": '["pending-or-forwarded"]', "endkey": '["pending-or-forwarded",{}]'}
    for finding in _unsendable(await couchdb.get(path, limit=str(_LOOKED_AT), reduce="false", **keys)):
        yield finding
    for finding in _unlisted(await _waiting_longest(couchdb, config)):
        yield finding


def _no_couchdb(config: Couchdb, seen: Seen | Unseen) -> Finding:
    if isinstance(seen, Unseen):
        return bad("couchdb.reachable", f"{config.url} does not answer ({seen.why})", "check [couchdb] url; is it up?")
    if seen.status in (401, 403):
        return _wrong_password(config, seen.status)
    if 300 <= seen.status < 400:
        says = f"{config.url} redirects (HTTP {seen.status}); no redirect is followed, to protect the password"
        return bad("couchdb.reachable", says, "set [couchdb] url to the final address")
    return bad(
        "couchdb.reachable",
        f"{config.url} answers HTTP {seen.status} and is not CouchDB",
        "check [couchdb] url, and the proxy in front of it",
    )


def _version(version: str) -> Finding:
    major = version.partition(".")[0]
    if major.isdigit() and int(major) < _OLDEST:
        return bad("couchdb.version", f"CouchDB {version} is too old", "CHT itself needs 2 or later")
    return good("couchdb.version", f"CouchDB {version}")


def clock(about: str, whose: str, theirs: int | None, ours: int) -> Finding:
    """Compares the clocks: they stamp documents and limit RapidPro's listings, so a large difference makes both
    unreliable.
    """
    if theirs is None:
        return note(about, f"{whose} sends no Date header, so its clock is not known")
    seconds = abs(theirs - ours) / 1000
    if seconds * 1000 > CLOCK_LIMIT:
        return bad(about, f"{whose}'s clock and ours differ by {seconds:.0f} s", "let both follow a time server")
    return good(about, f"{whose}'s clock and ours agree")


def _wrong_password(config: Couchdb, status: int) -> Finding:
    return bad(
        "couchdb.credentials",
        f"CouchDB refuses the user {config.user!r} (HTTP {status}); five wrong passwords lock it for minutes",
        f"check [couchdb] user; {three_ways('couchdb-password')}",
    )


def _is_well(seen: Seen | Unseen) -> bool:
    return isinstance(seen, Seen) and seen.status in (200, 201)


def _no_database(config: Couchdb, seen: Seen | Unseen) -> Finding:
    about = "couchdb.database"
    match seen:
        case Unseen(why):
            return bad(about, f"{config.database!r} does not answer ({why})", "try again")
        case Seen(status=404):
            return bad(about, f"there is no database {config.database!r}", "check [couchdb] database")
        case Seen(status=401) if not config.user:
            return bad(about, f"{config.database!r} wants a user", "set [couchdb] user and its password")
        case Seen(status=401 | 403 as status):
            says = f"the user {config.user!r} may not read {config.database!r} (HTTP {status})"
            return bad(about, says, "make it a member of the database, or name another user")
        case Seen(status=status):
            return bad(about, f"{config.database!r} answers HTTP {status}", "look at CouchDB's log")


def _as_whom(session: Seen | Unseen) -> str:
    context = session.fields.get("userCtx") if isinstance(session, Seen) else None
    if not isinstance(context, dict) or not context.get("name"):
        return ", without a user"
    roles = context.get("roles") or []
    return f" as {context['name']}" + (f" ({', '.join(map(str, roles))})" if roles else "")


def _rights(config: Couchdb, seen: Seen | Unseen) -> Finding:
    """Checks the right to write: an empty `_bulk_docs` writes nothing, and needs the same rights as a full one."""
    if _is_well(seen):
        return good("couchdb.rights", "writing is allowed (tried without writing)")
    how = f"HTTP {seen.status}" if isinstance(seen, Seen) else seen.why
    return bad(
        "couchdb.rights",
        f"the user {config.user!r} may not write to {config.database!r} ({how})",
        "make it a member with the right to write",
    )


def _unsendable(seen: Seen | Unseen) -> Iterator[Finding]:
    """The oldest messages that CouchDB wants sent, and that lack what a message has to have."""
    rows = _rows(seen)
    by_lack: dict[Lack, list[str]] = defaultdict(list)
    for row in rows:
        if reason := lack(message_fields(row.get("value"))):
            by_lack[reason].append(str(row.get("id")))
    for reason, docs in by_lack.items():
        says = f"{len(docs)} of the {len(rows)} oldest messages to send have no usable {reason} and never go"
        yield bad(UNSENDABLE, f"{says}; one is in {docs[0]}", _REPAIR)


async def _waiting_longest(couchdb: Inspection, config: Couchdb) -> list[Doc]:
    """Documents with a task that is to be sent, of the tasks that have not changed for longest."""
    path = f"{config.database}/_design/medic-sms/_view/messages_by_last_updated_state"
    keys = {"startkey": '["pending"]', "endkey": '["pending",{}]', "limit": str(_LOOKED_AT), "reduce": "false"}
    rows = _rows(await couchdb.get(path, **keys))
    ids = dict.fromkeys(row.get("id") for row in rows if row.get("key", [None])[-1] in SENDABLE)
    if not ids:
        return []
    seen = await couchdb.post(f"{config.database}/_all_docs?include_docs=true", {"keys": list(ids)[:_READ]})
    return [doc for row in _rows(seen) if isinstance(doc := row.get("doc"), dict)]


def _rows(seen: Seen | Unseen) -> list[dict[str, Any]]:
    rows = seen.fields.get("rows") if isinstance(seen, Seen) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _unlisted(docs: Sequence[Doc]) -> Iterator[Finding]:
    """Messages that the view of messages to send has no row for."""
    by_lack: dict[Lack, list[str]] = defaultdict(list)
    for doc in docs:
        for reason in {reason for _, reason in unlisted(doc)}:
            by_lack[reason].append(str(doc.get("_id")))
    for reason, found in by_lack.items():
        says = f"of the {len(docs)} documents whose messages wait longest, {len(found)} have a task without a {reason}"
        yield bad(UNSENDABLE, f"{says}, which never goes; one is {found[0]}", _REPAIR)


def _view(name: str, seen: Seen | Unseen) -> Finding:
    about = "couchdb.views"
    match seen:
        case Seen(status=200):
            return good(about, f"{name} answers")
        case Seen(status=404):
            return bad(about, f"{name} is missing: this is not a CHT database, or a very old one", "update CHT")
        case Seen(status=status):
            return bad(about, f"{name} answers HTTP {status}", "look at CouchDB's log")
        case Unseen(why):
            return note(about, f"{name} did not answer in time ({why}): its index is being built", "wait, try again")
