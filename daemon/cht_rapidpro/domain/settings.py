"""CHT's app settings, and whether they choose this gateway for sending.

Two gateways that send are two SMS for every message, since CHT treats a claim as sendable. So nothing is sent unless
the settings choose this gateway (docs/cht.md#only-one-gateway-may-send). Fields are read leniently: a field of the
wrong type counts as absent. The document itself must hold an object, else the last good one stays in force. The
translations, which records of incoming messages need, belong to the same snapshot.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from cht_rapidpro.domain.records import Rules, Translations, read_translations
from cht_rapidpro.domain.task import Doc, DocId

SETTINGS: Final = DocId("settings")
MEDIC: Final = DocId("_design/medic")
TRANSLATIONS: Final = (
    "messages-",
    "messages-\ufff0",
)  # first and last possible id of the documents `messages-<locale>`
OUR_SERVICE: Final = "cht-rapidpro"
BUILT_IN_SERVICE: Final = "rapidpro"
_BUILT_IN_SINCE: Final = (3, 11, 0)
_VERSION: Final = re.compile(
    r"(?:[a-z-]+:)*v?(\d{1,9})\.(\d{1,9})\.(\d{1,9})(?!\d)"
)  # old builds are named medic:medic:3.10.2


@dataclass(frozen=True)
class AppSettings:
    """A snapshot of the `settings` document, the CHT version that `_design/medic` names ("": none), and the
    translations. `revision`: the generation of the document `settings`, which each edit makes one more."""

    values: Mapping[str, Any]
    cht_version: str = ""
    translations: Translations = field(default_factory=lambda: read_translations(()))
    revision: int = 0

    @cached_property
    def rules(self) -> Rules:
        """For records of incoming messages; made for the first one."""
        return Rules(self.values, self.translations)

    @property
    def outgoing_service(self) -> str:
        """`sms.outgoing_service`; "" where it is absent, which to CHT means medic-gateway."""
        return _text(self._sms.get("outgoing_service"))

    @property
    def rapidpro_url(self) -> str:
        """`sms.rapidpro.url`, "" where it is absent."""
        rapidpro = self._sms.get("rapidpro")
        return _text(rapidpro.get("url")) if isinstance(rapidpro, Mapping) else ""

    @property
    def _sms(self) -> Mapping[str, Any]:
        sms = self.values.get("sms")
        return sms if isinstance(sms, Mapping) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def concerns_settings(doc_id: DocId) -> bool:
    """Whether the snapshot is made of this document, among others."""
    first, last = TRANSLATIONS
    return doc_id in (SETTINGS, MEDIC) or first <= doc_id <= last


def read_settings(settings: Doc | None, medic: Doc | None, translations: Sequence[Doc] = ()) -> AppSettings | str:
    """The snapshot of the documents `settings`, `_design/medic` (None: absent) and `messages-*` in the order of their
    ids, or what is wrong with them."""
    if settings is None:
        return "the document `settings` does not exist"
    values = settings.get("settings")
    if not isinstance(values, dict):
        return "the document `settings` has no object under the key `settings`"
    return AppSettings(values, _cht_version(medic or {}), read_translations(translations), generation(settings))


def generation(doc: Doc) -> int:
    """How often the document has been written; 0 where that cannot be read."""
    number, _, _ = str(doc.get("_rev")).partition("-")
    return int(number) if number.isdecimal() else 0


def _cht_version(medic: Doc) -> str:
    """`build_info.version`, else `deploy_info.build`, else `version` (docs/cht.md#only-one-gateway-may-send)."""
    places = (
        _inner(medic, "build_info", "version"),
        _inner(medic, "deploy_info", "build"),
        medic.get("version"),
    )
    return next((str(place) for place in places if place), "")


def _inner(doc: Doc, outer: str, inner: str) -> object:
    value = doc.get(outer)
    return value.get(inner) if isinstance(value, dict) else None


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether this gateway sends, and why; `conflict`: another gateway may be sending, so an operator must decide."""

    sends: bool
    why: str
    conflict: bool = False


def choose(settings: AppSettings, configured: str, *, builtin_gateway_is_off: bool = False) -> Choice:
    """Decides whether the app settings choose this gateway. `configured`: `[cht] outgoing_service`, "auto" or the value
    to expect. `builtin_gateway_is_off`: an operator says that CHT's own gateway does not run.
    """
    service = settings.outgoing_service
    if configured not in ("auto", service):
        return Choice(False, f"sms.outgoing_service is {service!r}, configured is {configured!r}")
    if configured == "auto" and service not in (OUR_SERVICE, BUILT_IN_SERVICE):
        return Choice(False, f"sms.outgoing_service is {service!r}: another gateway is chosen")
    if service != BUILT_IN_SERVICE:
        return Choice(True, f"sms.outgoing_service is {service!r}")
    if not _has_built_in_gateway(settings.cht_version):
        return Choice(True, f"sms.outgoing_service is {service!r}, and this CHT has no RapidPro gateway of its own")
    if builtin_gateway_is_off:
        return Choice(
            True, f"sms.outgoing_service is {service!r}, and the configuration says that CHT's gateway is off"
        )
    return Choice(
        False,
        f"sms.outgoing_service is {service!r}, and CHT {settings.cht_version} runs a RapidPro gateway of its own:"
        f" set sms.outgoing_service to {OUR_SERVICE!r} in the app settings, or, if that gateway is known to be off,"
        " set [cht] builtin_gateway_is_off = true in the configuration",
        conflict=True,
    )


def _has_built_in_gateway(version: str) -> bool:
    """CHT sends to RapidPro itself since 3.11.0; a version that cannot be read counts as new, none named as old."""
    found = _VERSION.match(version)
    return bool(version) and (not found or tuple(map(int, found.groups())) >= _BUILT_IN_SINCE)
