"""Reads single values of a configuration: durations, sizes, secrets and their sources, URLs, files.

Separate from the sections, because one value also arrives at run time: RapidPro's URL may come from CHT's app settings
and must pass the same check. Invariant: a refused value raises a ConfigError that says what was found and what is
allowed, and never shows a secret. Without this rule a password that was typed at the wrong place would appear in the
journal.
"""

import ipaddress
import json
import math
import os
import re
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cht_rapidpro.domain.task import parse_timestamp
from cht_rapidpro.errors import ConfigError

_URL_PRIVATE: Final = re.compile("[@?#]")
_ADDRESS: Final = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})", re.ASCII)
_LAST_PORT: Final = 65535
_LOCAL_NAME: Final = re.compile(r"[a-z][a-z0-9_-]*", re.ASCII | re.IGNORECASE)
_PRIVATE_NETWORKS: Final = [*map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))]
_URL_NEVER: Final = re.compile(r"[\s\\\x00-\x1f\x7f]")
_RAPIDPRO: Final = "https://rapidpro.example.org"
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h|d)", re.ASCII)
# Decimal, because 700 × 0.001 would be a little more than "0.7s", and limits are compared.
_UNIT_SECONDS: Final = {
    unit: Decimal(n) for unit, n in (("ms", "0.001"), ("s", 1), ("m", 60), ("h", 3600), ("d", 86400))
}
_LONGEST: Final = 3650 * 86400.0  # a longer duration could exceed the range of datetime when added to a time


class Secret:
    """A password or token that no repr, log line or traceback shows. An empty one means "none"."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        return self._text

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __repr__(self) -> str:
        return "Secret(…)" if self._text else "Secret()"


NO_SECRET: Final = Secret("")
SECRETS: Final = ("couchdb-password", "rapidpro-token", "incoming-key")
"""The names of all secrets, as systemd's credentials have them: "section-key"."""
# What the unit's SetCredential= hands over in place of a file of LoadCredential= that is missing.
_NO_FILE: Final = b"(no file)"


def kind_of(value: object) -> str:
    """Names the TOML type of a value that must not be shown itself."""
    names = {str: "a text", bool: "true or false", int: "a whole number", float: "a number", dict: "a table"}
    return names.get(type(value), "a list" if isinstance(value, list) else "a date or time")


def shown(value: object) -> str:
    """Shows `value` in an error message: as in TOML if it is short, otherwise only its type."""
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, str | int | float) else ""
    return text if 0 < len(text) <= 80 else kind_of(value)


@dataclass(frozen=True)
class Duration:
    """How a duration is read: "30s" to seconds, no fewer than `least`; with `off`, "off" to None."""

    least: float
    off: bool = False

    def __call__(self, raw: object) -> float | None:
        if self.off and raw == "off":
            return None
        found = _DURATION.fullmatch(raw) if isinstance(raw, str) else None
        seconds = float(Decimal(found[1]) * _UNIT_SECONDS[found[2]]) if found else math.nan
        if not self.least <= seconds <= _LONGEST:  # false for NaN, too
            raise ConfigError(f"found {shown(raw)}; allowed: {self._allowed()}")
        return seconds

    def _allowed(self) -> str:
        also = ', or "off"' if self.off else ""
        return f'a number and its unit (ms, s, m, h, d) such as "90s", from "{self.least:g}s" to "3650d"{also}'


_SIZE: Final = re.compile(r"(\d{1,9})(B|KiB|MiB)", re.ASCII)
_UNIT_BYTES: Final = {"B": 1, "KiB": 1024, "MiB": 1024 * 1024}


@dataclass(frozen=True)
class Size:
    """How a size is read: "64KiB" to bytes, between `least` and `most`."""

    least: int
    most: int

    def __call__(self, raw: object) -> int:
        found = _SIZE.fullmatch(raw) if isinstance(raw, str) else None
        size = int(found[1]) * _UNIT_BYTES[found[2]] if found else -1
        if not self.least <= size <= self.most:
            allowed = f'a number and its unit (B, KiB, MiB) such as "64KiB", from "{self.least}B" to "{self.most}B"'
            raise ConfigError(f"found {shown(raw)}; allowed: {allowed}")
        return size


def requests_per_hour(raw: object) -> object:
    """A limit, or a table of limits, with "unlimited" as None; what else it may hold is checked by its type.

    0 is refused: it reads as "send nothing", and an operator in a hurry would start a campaign at full speed.
    """
    if isinstance(raw, dict):
        return {key: requests_per_hour(value) for key, value in raw.items()}
    if type(raw) is int and raw == 0:
        raise ConfigError(
            'found 0; allowed: a whole number from 1 on, or "unlimited" for no limit of our own;'
            " `cht-rapidpro pause` stops sending"
        )
    return None if raw == "unlimited" else raw


def moment(raw: object) -> int | None:
    """Reads a moment in ISO-8601 (without offset: UTC) as ms since the epoch, an empty text as None."""
    if raw == "":
        return None
    try:
        return parse_timestamp(str(raw))
    except (ValueError, OverflowError) as error:
        raise ConfigError(f'found {shown(raw)}; allowed: a moment such as "2026-11-22T08:00:00Z", or ""') from error


def read_address(text: str) -> tuple[str, int]:
    """Reads host and port of "127.0.0.1:8085", "[::1]:8085" or "name:8085"; port 0 lets the kernel choose one."""
    found = _ADDRESS.fullmatch(text)
    if found and int(found["port"]) > _LAST_PORT:
        raise ConfigError(f"found {shown(text)}: there is no port {found['port']}; allowed: 0 to {_LAST_PORT}")
    if not found:
        raise ConfigError(f'found {shown(text)}; allowed: an address and a port such as "127.0.0.1:8085"')
    return found["ipv6"] or found["host"], int(found["port"])


@contextmanager
def at(place: str) -> Iterator[None]:
    """Adds `place` to the message of a ConfigError that is raised inside the block."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def toml_secret(raw: object) -> Secret:
    """Reads a secret in the TOML itself; an empty text means that there is none."""
    if not isinstance(raw, str):
        raise ConfigError(f"found {kind_of(raw)}; allowed: a text: put it in quotes")
    return checked_secret(raw) if raw else NO_SECRET


def checked_secret(text: str) -> Secret:
    """Refuses an empty secret, and one that cannot be part of an HTTP header."""
    if not text:
        raise ConfigError("found nothing in it; allowed: only the secret")
    if not text.isprintable():
        raise ConfigError("found a second line or a control character in it; allowed: only the secret")
    return Secret(text)


def checked_keys(text: str) -> Secret:
    """Reads keys, one a line, each of them valid; blanks around them and empty lines are ignored."""
    keys = [checked_secret(line.strip()) for line in text.split("\n") if line.strip()]
    return Secret("\n".join(key.reveal() for key in keys)) if keys else checked_secret("")


def file_secret(path: Path, check: Callable[[str], Secret] = checked_secret) -> Secret:
    """Reads the secret in the file, without the newline with which an editor ends the last line."""
    text = read_text(path)
    with at(str(path)):
        return check(text.removesuffix("\n").removesuffix("\r"))


def find_secret(
    name: str,
    given: Secret,
    file: str,
    folder: Path,
    environ: Mapping[str, str],
    check: Callable[[str], Secret] = checked_secret,
) -> Secret:
    """Returns the secret from the first source that has it: environment, systemd's credentials, the named file, the
    TOML.

    `name` is "section-key", as the systemd credential is called; `folder` is where a relative `file` starts.
    """
    section, _, key = name.partition("-")
    variable = _variable(name)
    if variable in environ:
        with at(f"[{section}] {key}: environment variable {variable}"):
            return check(environ[variable])
    if credential := _credential(name, environ):
        with at(f"[{section}] {key}: systemd credential"):
            return file_secret(credential, check)
    if file:
        with at(f"[{section}] {key}_file"):
            return file_secret(folder / file, check)
    return given


def fixed_source(name: str, environ: Mapping[str, str]) -> str:
    """Names the source of the secret `name` if that source cannot change while the process runs, else ""."""
    if _variable(name) in environ:
        return f"{name}: environment variable {_variable(name)}"
    return f"{name}: systemd credential" if _credential(name, environ) else ""


def _credential(name: str, environ: Mapping[str, str]) -> Path | None:
    """Returns the file of the systemd credential, None where there is none."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder or not os.access(path := Path(folder, name), os.F_OK):
        return None
    with suppress(OSError):  # one that cannot be read is refused by name later
        if path.read_bytes() == _NO_FILE:
            return None
    return path


def three_ways(name: str) -> str:
    """Says how to give the secret `name`, for an error message."""
    key = name.partition("-")[2]
    return (
        f'give it by {key}_file = "FILE", by the environment variable {_variable(name)} '
        f"or as the systemd credential {name}, which the unit takes from /etc/cht-rapidpro/{name}"
    )


def _variable(name: str) -> str:
    return f"CHT_RAPIDPRO_{name.replace('-', '_').upper()}"


def read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")  # editors on Windows put a byte order mark first
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: byte {error.start} is not UTF-8") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {_reason(error)}") from error


def check_ca_file(path: Path) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (OSError, ValueError) as error:
        found = f"cannot read {path}: {_reason(error)}"
        raise ConfigError(f"{found}; allowed: a file of PEM certificates") from error


def _reason(error: OSError | ValueError) -> str:
    """Describes an error without the path, which the message names already; a ValueError means a NUL in the path."""
    return str(getattr(error, "strerror", None) or error)


def check_url(url: str, *, allow_plain_http: bool, allow_private: bool = False, example: str = _RAPIDPRO) -> str:
    """Returns the base URL of a service without its trailing slash; raises ConfigError if it must not be used.

    For the configuration and for `sms.rapidpro.url` of CHT's app settings. Plain http shows the token to the whole
    network, so it needs `allow_plain_http` unless the host is this machine. `allow_private`: a host that is certainly
    in a private network is enough, too; for the configuration, which warns about it. CHT's app settings have other
    editors than this machine has, so an address of theirs needs more. The error never shows a URL that may contain a
    credential.
    """
    if _URL_PRIVATE.search(url):
        raise ConfigError("found a user, password, query or fragment in the URL; allowed: scheme, host, port, path")
    if (port := _port(url)) is not None and not 0 < port <= _LAST_PORT:
        raise ConfigError(f"found {shown(url)}: there is no port {port}; allowed: 1 to {_LAST_PORT}")
    scheme, host = _scheme_and_host(url)
    if scheme not in ("http", "https") or not host:
        raise ConfigError(f'found {shown(url)}; allowed: a URL such as "{example}"')
    if scheme == "http" and not (allow_plain_http or is_loopback(host) or (allow_private and _is_private(host))):
        private = ", to a name without a dot or to a private address" if allow_private else ""
        raise ConfigError(
            f"found {shown(url)}; allowed: https, or http to this machine{private}; "
            "allow_plain_http = true in this section lets secrets cross a network unencrypted"
        )
    return url.rstrip("/")


def _port(url: str) -> int | None:
    found = re.match(r"[a-z]+://[^/]*:(\d{1,9})(?:/|\Z)", url, re.ASCII)
    return int(found[1]) if found else None


def _scheme_and_host(url: str) -> tuple[str, str]:
    """Returns scheme and host; both empty if an HTTP client cannot use the URL."""
    if _URL_NEVER.search(url):  # urlsplit would silently drop some of these
        return "", ""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        host.encode("idna")
        return ("", "") if parts.port == 0 else (parts.scheme, host)
    except ValueError:
        return "", ""


def is_plain_to_another(url: str) -> bool:
    """Whether secrets cross a network unencrypted on their way to this URL."""
    scheme, host = _scheme_and_host(url)
    return scheme == "http" and not is_loopback(host)


def _is_private(host: str) -> bool:
    """Whether a host is in a private network, independent of name servers.

    A name without a dot is a container's or this network's own, unless it is a number: `134744072` is 8.8.8.8.
    """
    if _LOCAL_NAME.fullmatch(host):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return any(address in network for network in _PRIVATE_NETWORKS)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, independent of name servers."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # not an IP address: some other name
        return False
