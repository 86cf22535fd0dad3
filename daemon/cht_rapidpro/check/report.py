"""All checks in their order, and how they are shown.

What the configuration alone can tell comes first (`--offline` ends there), then each dependency.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cht_rapidpro import config
from cht_rapidpro.adapters.inspection import Inspection, Seen
from cht_rapidpro.adapters.state_dir import is_in_use
from cht_rapidpro.adapters.transport import Transport
from cht_rapidpro.check.cht import check_settings
from cht_rapidpro.check.couchdb import check_couchdb
from cht_rapidpro.check.finding import Finding, Mark, note
from cht_rapidpro.check.host import check_address, check_files, check_state_dir
from cht_rapidpro.check.rapidpro import check_rapidpro
from cht_rapidpro.check.vault import check_vault
from cht_rapidpro.config import Config
from cht_rapidpro.config_values import Secret, check_url
from cht_rapidpro.domain.settings import AppSettings, read_settings
from cht_rapidpro.errors import ConfigError


async def check(path: Path, environ: Mapping[str, str], *, offline: bool) -> list[Finding]:
    """Raises ConfigError where the file cannot be used."""
    loaded = config.load(path, environ)
    findings = list(check_files(path, loaded))
    if offline:
        return findings
    state_dir = config.state_dir(loaded, path, environ)
    findings += check_state_dir(state_dir)
    if loaded.admin.listen and not is_in_use(state_dir):
        findings.append(check_address("admin.listen", loaded.admin.listen))
    async with Inspection(loaded.couchdb) as couchdb:
        findings += [finding async for finding in check_couchdb(couchdb, loaded.couchdb, _now)]
        settings = await _settings(couchdb, loaded)
    token = loaded.rapidpro.token
    if loaded.cht.credentials == "vault":
        of_vault, token = await check_vault(loaded)
        findings += of_vault
    if settings is not None:
        findings += check_settings(settings, loaded.cht, loaded.rapidpro)
    return findings + await _rapidpro(loaded, token, settings)


async def _settings(couchdb: Inspection, loaded: Config) -> AppSettings | str | None:
    """The snapshot, or what is wrong with it; None where CouchDB shows nothing."""
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
        base = check_url(loaded.rapidpro.url or known.rapidpro_url, allow_plain_http=loaded.rapidpro.allow_plain_http)
    except ConfigError:
        return [note("rapidpro.reachable", "not asked: there is no address that may have our token")]
    async with Transport(loaded.rapidpro) as rapidpro:
        return await check_rapidpro(rapidpro, base, token, known.values, _now)


def _now() -> int:
    return time.time_ns() // 1_000_000


def is_good(findings: Iterable[Finding]) -> bool:
    """Whether messages will flow: nothing is marked ✗."""
    return all(finding.mark is not Mark.BAD for finding in findings)


def as_text(findings: Sequence[Finding]) -> str:
    wrong = sum(finding.mark is Mark.BAD for finding in findings)
    notes = sum(finding.mark is Mark.NOTE for finding in findings)
    return "\n".join([*map(str, findings), f"{wrong} to mend, {notes} to know"])


def as_json(findings: Sequence[Finding]) -> str:
    return msgspec.json.format(msgspec.json.encode([_plain(finding) for finding in findings])).decode()


def _plain(finding: Finding) -> dict[str, Any]:
    name = finding.mark.name.lower()
    return {"mark": name, "about": finding.about, "says": finding.says, "remedy": finding.remedy}
