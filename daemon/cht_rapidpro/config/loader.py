"""Reads the configuration file, and the secrets from the environment, from credentials and from files.

The whole file is checked before anything starts: every key is known, every value has its type and range, every secret
is there, every file readable. The first problem raises one ConfigError that names the file, the key, what was found and
what is allowed. Without this check a typing error would silently become a default, or a failure hours later.
"""

import socket
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Meta, Struct

from cht_rapidpro.config.addresses import check_url, is_loopback, is_plain_to_another, read_address
from cht_rapidpro.config.schema import (
    SECTIONS,
    Admin,
    Cht,
    Config,
    Couchdb,
    Delivery,
    Incoming,
    Log,
    Outgoing,
    Rapidpro,
)
from cht_rapidpro.config.secrets import SECRETS, checked_keys, find_secret, fixed_source, three_ways
from cht_rapidpro.config.value_types import at, check_ca_file, kind_of, read_text, shown
from cht_rapidpro.errors import ConfigError

_MAY_HOLD_SECRET: Final = ("user",)  # `name:password` is an easy mistake
_Kind = TypeVar("_Kind", bound=Struct)


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """Returns the configuration in the file at `path`, with the secrets that `environ` holds or points to.

    Reads files and the host name, so it is called before the event loop starts. Raises only ConfigError, with a message
    for the user.
    """
    text = read_text(path)
    with at(str(path)):
        document = _parse(text)
        couchdb, rapidpro = _read(document, Couchdb), _read(document, Rapidpro)
        cht, incoming = _read(document, Cht), _read(document, Incoming)
        admin = _read_admin(document)
        config = Config(
            couchdb=_complete_couchdb(couchdb, path, environ),
            cht=_complete_cht(cht, path, environ),
            rapidpro=_complete_rapidpro(rapidpro, path, environ),
            outgoing=_read(document, Outgoing),
            incoming=_complete_incoming(incoming, cht, path, environ),
            delivery=_read(document, Delivery),
            admin=admin,
            log=_read(document, Log),
            warnings=(*_warnings(path, document, couchdb, rapidpro, incoming), *_admin_warnings(path, admin)),
            fixed=tuple(filter(None, (fixed_source(name, environ) for name in SECRETS))),
        )
        _check_times(config)
        _check_listeners(config)
        _check_vault(config)
    return config


def load_spool(path: Path, environ: Mapping[str, str]) -> Path:
    """Returns where the spool is, for the `spool` commands, which need no secret."""
    text = read_text(path)
    with at(str(path)):
        document = _parse(text)
        return _spool(_read(document, Incoming), _read(document, Cht), path, environ)


def load_state_dir(path: Path, environ: Mapping[str, str]) -> Path:
    """The state directory, for commands that need no secret."""
    text = read_text(path)
    with at(str(path)):
        return _state_dir(_read(_parse(text), Cht), path, environ)


def load_admin(path: Path) -> Admin:
    """Returns the section [admin] only: a user who may ask for the status need not be able to read the secrets."""
    text = read_text(path)
    with at(str(path)):
        return _read_admin(_parse(text))


def _state_dir(cht: Cht, path: Path, environ: Mapping[str, str]) -> Path:
    # systemd lists the folders of a unit that has several, separated by colons.
    from_systemd = environ.get("STATE_DIRECTORY", "").split(":")[0]
    return _folder(path) / (cht.state_dir or from_systemd)


def _spool(incoming: Incoming, cht: Cht, path: Path, environ: Mapping[str, str]) -> Path:
    return _folder(path) / incoming.spool if incoming.spool else _state_dir(cht, path, environ) / "spool.sqlite3"


def _name(kind: type[Struct]) -> str:
    return kind.__name__.lower()


def _folder(path: Path) -> Path:
    return path.absolute().parent


def _parse(text: str) -> dict[str, Any]:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, a thousand nested brackets
        raise ConfigError(f"not TOML: {error}") from error
    _check_known("section", document, [_name(kind) for kind in SECTIONS])
    return document


def _check_known(noun: str, given: Collection[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            import difflib  # noqa: PLC0415 - for this error alone

            close = difflib.get_close_matches(name, known, 1)
            hint = f'; did you mean "{close[0]}"?' if close else ";"
            raise ConfigError(f"unknown {noun} {shown(name)}{hint} allowed: {', '.join(known)}")


def _read(document: Mapping[str, Any], kind: type[_Kind]) -> _Kind:
    """Reads one section; each key is converted separately, so that an error names its place."""
    section = document.get(_name(kind), {})
    fields = {field.name: field.type for field in msgspec.structs.fields(kind)}
    with at(f"[{_name(kind)}]"):
        _check_table(section)
        _check_known("key", section, fields)
    values = {}
    for key, raw in section.items():
        with at(f"[{_name(kind)}] {key}"):
            values[key] = _value(key, raw, fields[key])
    return msgspec.convert(values, kind)


def _check_table(section: object) -> None:
    if not isinstance(section, dict):
        raise ConfigError(f"found {kind_of(section)}; allowed: a table of keys")


def _value(key: str, raw: object, kind: Any) -> object:
    """Applies the reader that the annotation names, if any, then msgspec's check of type and range."""
    metadata = getattr(kind, "__metadata__", ())
    for reader in filter(callable, metadata):
        raw = reader(raw)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        is_unquoted = getattr(kind, "__origin__", kind) is str and not isinstance(raw, str)
        allowed = [meta.description for meta in metadata if isinstance(meta, Meta) and not is_unquoted]
        found = kind_of(raw) if key in _MAY_HOLD_SECRET else shown(raw)
        raise ConfigError(f"found {found}; allowed: {allowed[0] if allowed else _type_of(kind)}") from error


def _type_of(kind: Any) -> str:
    """Describes what a key without limits may hold."""
    kind = getattr(kind, "__origin__", kind)
    return {str: "a text: put it in quotes", bool: "true or false", int: "a whole number"}.get(kind, str(kind))


def _complete_couchdb(couchdb: Couchdb, path: Path, environ: Mapping[str, str]) -> Couchdb:
    with at("[couchdb] url"):
        url = check_url(
            couchdb.url, allow_plain_http=couchdb.allow_plain_http, allow_private=True, example=Couchdb().url
        )
    password = find_secret("couchdb-password", couchdb.password, couchdb.password_file, _folder(path), environ)
    if couchdb.user and not password:
        raise ConfigError(f"[couchdb] user: found one without a password; {three_ways('couchdb-password')}")
    if password and not couchdb.user:
        raise ConfigError("[couchdb] user: found a password but no user; allowed: both or neither")
    return msgspec.structs.replace(couchdb, url=url, password=password)


def _complete_cht(cht: Cht, path: Path, environ: Mapping[str, str]) -> Cht:
    """The same folder for every command on the file at `path`."""
    folder = str(_state_dir(cht, path, environ))
    return msgspec.structs.replace(cht, instance=cht.instance or socket.gethostname(), state_dir=folder)


def _complete_rapidpro(rapidpro: Rapidpro, path: Path, environ: Mapping[str, str]) -> Rapidpro:
    with at("[rapidpro] url"):
        url = rapidpro.url and check_url(rapidpro.url, allow_plain_http=rapidpro.allow_plain_http, allow_private=True)
    ca_file = rapidpro.ca_file and str(_folder(path) / rapidpro.ca_file)
    if ca_file:
        with at("[rapidpro] ca_file"):
            check_ca_file(Path(ca_file))
    token = find_secret("rapidpro-token", rapidpro.token, rapidpro.token_file, _folder(path), environ)
    return msgspec.structs.replace(rapidpro, url=url, ca_file=ca_file, token=token)


def _complete_incoming(incoming: Incoming, cht: Cht, path: Path, environ: Mapping[str, str]) -> Incoming:
    with at("[incoming] listen"):
        read_address(incoming.listen)
    key = find_secret("incoming-key", incoming.key, incoming.key_file, _folder(path), environ, checked_keys)
    if key and cht.credentials == "vault":
        raise ConfigError('[incoming] key: found one beside [cht] credentials = "vault"; allowed: one of the two')
    spool = str(_spool(incoming, cht, path, environ))
    return msgspec.structs.replace(incoming, key=key, spool=spool, flow=incoming.flow.lower())


def _read_admin(document: Mapping[str, Any]) -> Admin:
    admin = _read(document, Admin)
    if admin.listen:
        with at("[admin] listen"):
            read_address(admin.listen)
    return admin


def _admin_warnings(path: Path, admin: Admin) -> Iterator[str]:
    if admin.listen and not is_loopback(read_address(admin.listen)[0].lower()):
        yield f"{path}: [admin] listen: {shown(admin.listen)} is open to other machines, and asks for no password"


def _check_listeners(config: Config) -> None:
    """Refuses one address for both listeners; port 0 is a different port for each."""
    incoming, admin = config.incoming, config.admin
    if not (incoming.enabled and admin.listen) or read_address(admin.listen)[1] == 0:
        return
    if read_address(admin.listen) == read_address(incoming.listen):
        found = f"[admin] listen: found {shown(admin.listen)}, which is [incoming] listen, too"
        raise ConfigError(f"{found}; allowed: an address and port of its own")


def _check_times(config: Config) -> None:
    outgoing, timeout = config.outgoing, config.rapidpro.timeout
    settle, claim = outgoing.settle_time, outgoing.claim_timeout
    for key, found, least, means, why in (
        (
            "settle_time",
            settle,
            2 * timeout,
            "2 × [rapidpro] timeout",
            "a broadcast that is created late is sent twice",
        ),
        ("claim_timeout", claim, 4 * timeout, "4 × [rapidpro] timeout", "a message in flight is taken over"),
        ("claim_timeout", claim, 2 * settle, "2 × settle_time", "two daemons take over each other's look-ups for ever"),
        ("claim_timeout", claim, outgoing.sweep_interval, "sweep_interval", "two daemons decide about equal messages"),
    ):
        if found < least:
            raise ConfigError(f"[outgoing] {key}: found {found:g}s; allowed: at least {means} = {least:g}s, or {why}")


def _check_vault(config: Config) -> None:
    """Refuses a secret in two places: it would be unclear which one is in force."""
    if config.cht.credentials != "vault":
        if not config.rapidpro.token:
            raise ConfigError(f"[rapidpro] token: found none; {three_ways('rapidpro-token')}")
        return
    if not config.couchdb.user:
        raise ConfigError(
            '[cht] credentials: found "vault" without [couchdb] user; allowed: with a server administrator'
        )
    for place, secret in (("[rapidpro] token", config.rapidpro.token), ("[incoming] key", config.incoming.key)):
        if secret:
            raise ConfigError(f'{place}: found one beside [cht] credentials = "vault"; allowed: one of the two')


def _warnings(
    path: Path, document: Collection[str], couchdb: Couchdb, rapidpro: Rapidpro, incoming: Incoming
) -> Iterator[str]:
    for section, secret in ((couchdb, "password"), (rapidpro, "token")):
        if is_plain_to_another(section.url) and not section.allow_plain_http:
            says = f"http shows the {secret} to everyone in that network; allow_plain_http = true says that you know"
            yield f"{path}: [{_name(type(section))}] url: {shown(section.url)}: {says}"
    if couchdb.password:
        yield f"{path}: [couchdb] password is in the file itself; password_file is the safer place"
    if rapidpro.token:
        yield f"{path}: [rapidpro] token is in the file itself; token_file is the safer place"
    if incoming.key:
        yield f"{path}: [incoming] key is in the file itself; key_file is the safer place"
