"""Checks CHT's app settings: which gateway sends, RapidPro's address, and settings that prevent messages.

Reads the documents that the daemon reads and applies the daemon's own rules, so that the results agree.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from cht_rapidpro.commands.check.finding import Finding, bad, good, note
from cht_rapidpro.config.addresses import check_url
from cht_rapidpro.config.schema import Cht, Rapidpro
from cht_rapidpro.domain import phone
from cht_rapidpro.domain.records.flaws import flaws
from cht_rapidpro.domain.settings import OUR_SERVICE, AppSettings, choose
from cht_rapidpro.errors import ConfigError

_MOST_FLAWS: Final = 10
_TO_PASTE: Final = json.dumps({"sms": {"outgoing_service": OUR_SERVICE}})


def check_settings(settings: AppSettings | str, cht: Cht, rapidpro: Rapidpro) -> Iterator[Finding]:
    """`settings`: the snapshot, or why there is none."""
    if isinstance(settings, str):
        says = f"{settings}: a running daemon keeps the last good settings, a daemon that starts now sends nothing"
        yield bad("cht.settings", says, "check [couchdb] database; does CHT run on it?")
        return
    version = f"CHT {settings.cht_version}" if settings.cht_version else "CHT of an unknown version"
    yield good("cht.settings", f"the app settings can be read ({version})")
    yield _service(settings, cht)
    yield _address(settings, rapidpro)
    yield _country(settings.values)
    yield from _transitions(settings.values)
    yield from _forms(settings.values)


def _service(settings: AppSettings, cht: Cht) -> Finding:
    about = "cht.outgoing_service"
    choice = choose(settings, cht.outgoing_service, builtin_gateway_is_off=cht.builtin_gateway_is_off)
    if choice.sends:
        return good(about, f"we send: {choice.why}")
    if choice.conflict:
        says = f"nothing is sent, because two gateways would send every message twice: {choice.why}"
        return bad(about, says, f"put into the app settings: {_TO_PASTE}")
    return note(about, f"nothing is sent: {choice.why}", f"to send, put into the app settings: {_TO_PASTE}")


def _address(settings: AppSettings, rapidpro: Rapidpro) -> Finding:
    about = "cht.rapidpro_url"
    if rapidpro.url:
        other = settings.rapidpro_url.rstrip("/")
        if other and other != rapidpro.url:
            return note(
                about, f"[rapidpro] url is used, sms.rapidpro.url in the app settings is another one: {other!r}"
            )
        return good(about, "the address is pinned by [rapidpro] url")
    try:
        url = check_url(settings.rapidpro_url, allow_plain_http=rapidpro.allow_plain_http)
    except ConfigError as error:
        return bad(about, f"[rapidpro] url is empty, and sms.rapidpro.url in the app settings: {error}", "set one")
    says = f"{url} comes from the app settings: their editors decide who gets the token"
    return note(about, says, "pin it by [rapidpro] url")


def _country(values: Mapping[str, Any]) -> Finding:
    about, code = "cht.default_country_code", values.get("default_country_code")
    region = phone.default_region(code)
    if region is None:
        says = f"default_country_code is {code!r}: numbers without + are sent unchanged"
        return note(about, says, 'set it to a calling code such as "254" in the app settings')
    return good(about, f"numbers without + belong to {region}")


def _forms(values: Mapping[str, Any]) -> Iterator[Finding]:
    found = list(flaws(values))
    for form, flaw in found[:_MOST_FLAWS]:
        yield note("cht.forms", f"form {form!r}: {flaw}", "correct the form in the app settings")
    if len(found) > _MOST_FLAWS:
        yield note("cht.forms", f"and {len(found) - _MOST_FLAWS} more forms with problems")
    if not found:
        yield good("cht.forms", "the form definitions have no known problem")


def _transitions(values: Mapping[str, Any]) -> Iterator[Finding]:
    transitions = values.get("transitions")
    resolve = transitions.get("resolve_pending") if isinstance(transitions, Mapping) else None
    if resolve and not (isinstance(resolve, Mapping) and resolve.get("disable")):
        yield bad(
            "cht.resolve_pending",
            "the transition resolve_pending is on: it marks every pending message as sent, so no gateway sends it",
            'remove "resolve_pending" from transitions in the app settings',
        )
