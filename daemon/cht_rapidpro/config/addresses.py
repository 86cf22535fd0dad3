"""Addresses of the configuration: where a server listens, and the URLs of CouchDB and RapidPro.

RapidPro's URL may also come from CHT's app settings at run time, and must pass the same check.
"""

import ipaddress
import re
from typing import Final
from urllib.parse import urlsplit

from cht_rapidpro.config.value_types import shown
from cht_rapidpro.errors import ConfigError

_URL_PRIVATE: Final = re.compile("[@?#]")
_ADDRESS: Final = re.compile(r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})", re.ASCII)
_LAST_PORT: Final = 65535
_LOCAL_NAME: Final = re.compile(r"[a-z][a-z0-9_-]*", re.ASCII | re.IGNORECASE)
_PRIVATE_NETWORKS: Final = [*map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"))]
_URL_NEVER: Final = re.compile(r"[\s\\\x00-\x1f\x7f]")
_RAPIDPRO: Final = "https://rapidpro.example.org"


def read_address(text: str) -> tuple[str, int]:
    """Reads host and port of "127.0.0.1:8085", "[::1]:8085" or "name:8085"; port 0 lets the kernel choose one."""
    found = _ADDRESS.fullmatch(text)
    if found and int(found["port"]) > _LAST_PORT:
        raise ConfigError(f"found {shown(text)}: there is no port {found['port']}; allowed: 0 to {_LAST_PORT}")
    if not found:
        raise ConfigError(f'found {shown(text)}; allowed: an address and a port such as "127.0.0.1:8085"')
    return found["ipv6"] or found["host"], int(found["port"])


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
