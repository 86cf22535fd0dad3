"""Runs all checks in their order, and prints the findings.

The configuration comes first (`--offline` ends there), then each dependency.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cht_rapidpro.adapters.couchdb.inspection import Inspection, Seen
from cht_rapidpro.adapters.host.pause_file import PauseFile
from cht_rapidpro.adapters.host.sender_file import SenderFile
from cht_rapidpro.adapters.host.state_dir import is_in_use
from cht_rapidpro.adapters.rapidpro.transport import Transport
from cht_rapidpro.adapters.web import control
from cht_rapidpro.commands import status
from cht_rapidpro.commands.check.cht import check_settings
from cht_rapidpro.commands.check.couchdb import UNSENDABLE, check_couchdb
from cht_rapidpro.commands.check.finding import Finding, Mark, bad, good, note
from cht_rapidpro.commands.check.host import check_address, check_files, check_pause, check_state_dir
from cht_rapidpro.commands.check.incoming import check_archive, check_flow, check_incoming, check_miswired
from cht_rapidpro.commands.check.migration import Site, migration
from cht_rapidpro.commands.check.rapidpro import check_rapidpro
from cht_rapidpro.commands.check.vault import check_vault
from cht_rapidpro.config import loader
from cht_rapidpro.config.addresses import check_url
from cht_rapidpro.config.schema import Config
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.findings import unsendable
from cht_rapidpro.domain.settings import AppSettings, choose, read_settings
from cht_rapidpro.errors import ConfigError, GatewayError, TransientError

_LIMITS = "set [rapidpro] requests_per_hour to what RapidPro allows, a number for each scope where they differ"


async def check(path: Path, environ: Mapping[str, str], *, offline: bool) -> list[Finding]:
    """Raises ConfigError if the file cannot be used."""
    loaded = loader.load(path, environ)
    findings = list(check_files(path, loaded))
    if offline:
        return findings
    state_dir = Path(loaded.cht.state_dir)
    is_running = is_in_use(state_dir)
    findings += [*check_state_dir(state_dir), *check_pause(PauseFile(state_dir).read(), _now())]
    if loaded.admin.listen and not is_running:
        findings.append(check_address("admin.listen", loaded.admin.listen))
    findings += check_incoming(loaded, is_running=is_running)
    async with Inspection(loaded.couchdb) as couchdb:
        findings += [finding async for finding in check_couchdb(couchdb, loaded.couchdb, _now)]
        if loaded.incoming.enabled and loaded.incoming.flow:
            findings += [finding async for finding in check_archive(couchdb, loaded.couchdb.database)]
        settings = await _settings(couchdb, loaded)
    token = loaded.rapidpro.token
    if loaded.cht.credentials == "vault":
        of_vault, token = await check_vault(loaded)
        findings += of_vault
    if settings is not None:
        findings += check_settings(settings, loaded.cht, loaded.rapidpro)
    findings += await _rapidpro(loaded, token, settings)
    are_named = any(finding.about == UNSENDABLE for finding in findings)
    return findings + await asyncio.to_thread(_told_by_daemon, loaded, is_running=is_running, are_named=are_named)


async def check_migration(path: Path, environ: Mapping[str, str]) -> list[Finding]:
    """The steps of moving over and back. Raises ConfigError if the file cannot be used."""
    findings = await check(path, environ, offline=False)
    loaded = loader.load(path, environ)
    state_dir = Path(loaded.cht.state_dir)
    async with Inspection(loaded.couchdb) as couchdb:
        found = await _settings(couchdb, loaded)
    settings = found if isinstance(found, AppSettings) else None
    is_off = loaded.cht.builtin_gateway_is_off
    choice = choose(settings, loaded.cht.outgoing_service, builtin_gateway_is_off=is_off) if settings else None
    pause = PauseFile(state_dir).read()
    return migration(
        Site(
            findings,
            settings,
            choice,
            await _status(state_dir),
            is_in_use(state_dir),
            None if pause is None or pause.is_over(_now()) else pause,
            SenderFile(state_dir).read(),
            loaded.incoming.enabled,
        )
    )


async def _status(state_dir: Path) -> Mapping[str, Any] | None:
    """What the running daemon says; None where none runs or answers."""
    try:
        return await control.ask(state_dir, "GET", "/status") if is_in_use(state_dir) else None
    except GatewayError:
        return None


def _told_by_daemon(loaded: Config, *, is_running: bool, are_named: bool) -> list[Finding]:
    """What only the running daemon knows: of the flow, of what it cannot send, of RapidPro's answers.

    `are_named`: messages that lack something were found in CouchDB already.
    """
    try:
        told = status.ask(loaded.admin.listen) if is_running else {}
    except (ConfigError, TransientError) as error:
        return [note("rapidpro.requests_left", f"unknown: the running daemon does not tell ({error})")]
    figures = told.get("figures", {})
    return [
        *check_miswired(told.get("miswired")),
        *_contested(figures),
        *_unsendable(figures, are_named=are_named),
        *_text_limit(figures),
        _requests_left(figures),
    ]


def _unsendable(figures: Mapping[str, Any], *, are_named: bool) -> Iterator[Finding]:
    found = figures.get("unsendable_messages") or {}
    told = {reason: found.get(reason) for reason in ("held", "undecidable")} if are_named else found
    for finding in unsendable({"unsendable_messages": told}):
        yield bad("outgoing.unsendable", finding.what.rstrip("."), finding.advice)


def _contested(figures: Mapping[str, Any]) -> Iterator[Finding]:
    if count := figures.get("contested_messages"):
        says = f"another gateway has sent {count:g} of our messages while this one is chosen: they may go out twice"
        remedy = "set sms.outgoing_service to 'cht-rapidpro' in the app settings, and find the gateway that goes on"
        yield bad("sending.contested", says, remedy)


def _text_limit(figures: Mapping[str, Any]) -> Iterator[Finding]:
    if limit := figures.get("text_limit_characters"):
        says = f"RapidPro takes texts of at most {limit:g} characters, as its refusals say; longer messages fail"
        yield note("rapidpro.text_limit", says, "shorten the texts in CHT, or raise RapidPro's MSG_FIELD_SIZE")


def _requests_left(figures: Mapping[str, Any]) -> Finding:
    about = "rapidpro.requests_left"
    left = figures.get("budget_left_requests")
    if not isinstance(left, dict):
        return good(about, "unknown: RapidPro does not report it, and no daemon is running that counts")
    told = ", ".join(f"{scope}: {'no limit' if count is None else f'{count:g}'}" for scope, count in left.items())
    says = f"by the running daemon's count: {told}"
    if learned := figures.get("budget_learned_requests"):
        fewer = ", ".join(f"{scope}: {count:g}" for scope, count in learned.items())
        return note(about, f"{says}; RapidPro allows fewer an hour than configured: {fewer}", _LIMITS)
    return good(about, says)


async def _settings(couchdb: Inspection, loaded: Config) -> AppSettings | str | None:
    """Reads the app settings: the snapshot, or what is wrong with it; None if CouchDB does not answer."""
    seen = [await couchdb.get(f"{loaded.couchdb.database}/{doc_id}") for doc_id in ("settings", "_design/medic")]
    if not all(isinstance(one, Seen) and one.status in (200, 404) for one in seen):
        return None
    docs = [one.body if isinstance(one, Seen) and one.status == 200 else None for one in seen]
    settings, medic = docs
    return read_settings(settings, medic)


async def _rapidpro(loaded: Config, token: Secret, settings: AppSettings | str | None) -> list[Finding]:
    if not token:
        return [note("rapidpro.reachable", "not asked: there is no token")]
    known = settings if isinstance(settings, AppSettings) else AppSettings({})
    try:
        base = loaded.rapidpro.url or check_url(known.rapidpro_url, allow_plain_http=loaded.rapidpro.allow_plain_http)
    except ConfigError:
        return [note("rapidpro.reachable", "not asked: there is no address to which the token may be sent")]
    async with Transport(loaded.rapidpro) as rapidpro:
        findings = await check_rapidpro(rapidpro, base, token, known.values, _now)
        own = loaded.incoming
        if own.enabled and own.flow and is_good(findings):
            findings.append(await check_flow(rapidpro, base, token, own.flow, own.id_is))
        return findings


def _now() -> int:
    return time.time_ns() // 1_000_000


def is_good(findings: Iterable[Finding]) -> bool:
    """Whether messages will flow: no finding is marked ✗."""
    return all(finding.mark is not Mark.BAD for finding in findings)


def as_text(findings: Sequence[Finding]) -> str:
    wrong = sum(finding.mark is Mark.BAD for finding in findings)
    notes = sum(finding.mark is Mark.NOTE for finding in findings)
    return "\n".join([*map(str, findings), f"{wrong} to fix, {notes} to know"])


def as_json(findings: Sequence[Finding]) -> str:
    return msgspec.json.format(msgspec.json.encode([_plain(finding) for finding in findings])).decode()


def _plain(finding: Finding) -> dict[str, Any]:
    name = finding.mark.name.lower()
    return {"mark": name, "about": finding.about, "says": finding.says, "remedy": finding.remedy}
