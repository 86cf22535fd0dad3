"""The configuration: one TOML file and a few environment variables, checked whole before anything starts.

The invariant: a `Config` that exists can be used. Every key is known, every value of its type and in its
range, every secret is there, every file readable; whatever is not makes one ConfigError that names the file,
the key, what was found and what is allowed. Without it a typing error becomes a default in silence, or a
failure in the middle of the night. `config.example.toml` is the user's view of the doc lines below.
"""

import difflib
import socket
import tomllib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from cht_rapidpro.config_values import (
    NO_SECRET,
    Duration,
    Secret,
    Size,
    at,
    check_ca_file,
    check_url,
    checked_keys,
    find_secret,
    fixed_source,
    is_loopback,
    moment,
    read_address,
    read_text,
    shown,
    three_ways,
    toml_secret,
)
from cht_rapidpro.errors import ConfigError

_SECRETS: Final = ("couchdb-password", "rapidpro-token", "incoming-key")
_MAY_HOLD_SECRET: Final = ("user",)  # "name:password" is an easy mistake to make

_Database = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_$()+/-]*\Z", description="a-z first, then a-z, 0-9 or _$()+-/")]
_User = Annotated[str, Meta(pattern=r"^[^:\x00-\x1f\x7f]*\Z", description="a name without a colon")]
_Filled = Annotated[str, Meta(pattern=r"\S", description='"auto" or the name of a service')]
_Line = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]*\Z", description="one line of text")]
_Credentials = Annotated[Literal["config", "vault"], Meta(description='"config" or "vault"')]
_Count = Annotated[int, Meta(ge=0, description="a whole number, 0 or more")]
_Concurrency = Annotated[int, Meta(ge=1, le=100, description="a whole number from 1 to 100")]
_Waiting = Annotated[int, Meta(ge=1, le=100_000, description="a whole number from 1 to 100000")]
_Flow = Annotated[
    str,
    Meta(pattern=r"^([0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})?\Z", description='the UUID of a flow, or ""'),
]
_IdIs = Annotated[Literal["run", "message"], Meta(description='"run" or "message"')]
_Level = Annotated[
    Literal["debug", "info", "warning", "error"], Meta(description='"debug", "info", "warning" or "error"')
]
_Write = Annotated[Literal["all", "final"], Meta(description='"all" or "final"')]
_Format = Annotated[Literal["auto", "console", "json"], Meta(description='"auto", "console" or "json"')]
_Coalesce = Annotated[Literal["auto", "off", "always"], Meta(description='"auto", "off" or "always"')]
_Secret = Annotated[Secret, toml_secret]
_Kind = TypeVar("_Kind", bound=Struct)


class Couchdb(Struct, frozen=True, forbid_unknown_fields=True):
    url: str = "http://127.0.0.1:5984"
    """Base URL of CouchDB, or of the proxy before it. Without a trailing slash once loaded."""
    database: _Database = "medic"
    """CHT's database, where the tasks are."""
    user: _User = ""
    """Empty: no authentication. With a user there is a password, and the other way round."""
    password_file: str = ""
    """File that holds the password alone. Relative: to the folder of the configuration file."""
    password: _Secret = NO_SECRET
    """The password itself: works, and is warned about. Once loaded: the password from whichever source."""
    allow_plain_http: bool = False
    """True lets the password cross a network unencrypted, where http goes to another machine."""


class Cht(Struct, frozen=True, forbid_unknown_fields=True):
    outgoing_service: _Filled = "auto"
    """Which `sms.outgoing_service` of the app settings makes us send; a name is compared for equality."""
    credentials: _Credentials = "config"
    """Where RapidPro's token and the webhooks' key come from: this file and its environment, or CHT's vault."""
    instance: _Line = ""
    """Readable name of this daemon in `state_details` and logs. Empty: the host name."""
    state_dir: str = ""
    """Folder for the instance id and its lock; see `state_dir()` for what an empty text means."""


class Rapidpro(Struct, frozen=True, forbid_unknown_fields=True):
    url: str = ""
    """Base URL of RapidPro. Empty: `sms.rapidpro.url` of the app settings, whose editor gets our token."""
    token_file: str = ""
    """File that holds the API token alone. Relative: to the folder of the configuration file."""
    token: _Secret = NO_SECRET
    """The token itself: works, and is warned about. Once loaded: from whichever source; empty only with the vault."""
    timeout: Annotated[float, Duration(least=0.1)] = 30.0
    """Seconds that one request may take; after it, nobody knows yet whether a broadcast was created."""
    requests_per_hour: _Count = 3600
    """Our own limit for each of RapidPro's throttle scopes; 0: none, only its 429 slows us."""
    max_concurrency: _Concurrency = 16
    """Requests in flight at once. More is faster, and leaves more messages to look up after a crash."""
    ca_file: str = ""
    """PEM certificates to trust instead of the system's. Relative: as above; absolute once loaded."""
    allow_plain_http: bool = False
    """True lets the token cross a network unencrypted, where http goes to another machine."""


class Outgoing(Struct, frozen=True, forbid_unknown_fields=True):
    sweep_interval: Annotated[float, Duration(least=0.1)] = 60.0
    """Seconds between two reads of the due tasks: how long a message waits that the feed missed."""
    settle_time: Annotated[float, Duration(least=1)] = 120.0
    """Seconds after an attempt of unknown outcome until RapidPro's list is believed. Too short: two SMS."""
    claim_timeout: Annotated[float, Duration(least=0.1)] = 600.0
    """Seconds after which another daemon may take over a claim. At least 4 × [rapidpro] timeout."""
    expire_after: Annotated[float | None, Duration(least=60, off=True)] = None
    """Seconds after its due time when a message is `failed` instead of sent. None ("off"): never."""
    coalesce: _Coalesce = "auto"
    """Whether messages of one text go out as one broadcast of up to 100 numbers; "auto": while many wait."""


class Incoming(Struct, frozen=True, forbid_unknown_fields=True):
    enabled: bool = True
    """False: no webhook is listened for."""
    listen: str = "127.0.0.1:8085"
    """Address and port of the webhook. A socket that systemd hands over goes before it."""
    key_file: str = ""
    """File with the keys that webhooks may bring, one a line. Relative: to the folder of the configuration file."""
    key: _Secret = NO_SECRET
    """A key itself: works, and is warned about. Once loaded: all keys from whichever source, one a line."""
    spool: str = ""
    """The file that keeps messages while CouchDB is away. Empty: spool.sqlite3 in the state directory; absolute once
    loaded."""
    max_body: Annotated[int, Size(least=1024, most=16 * 1024 * 1024)] = 64 * 1024
    """Bytes of a webhook's body; a larger one is refused with 413."""
    max_waiting: _Waiting = 1000
    """Webhooks that wait for their answer at once; more are refused with 503."""
    accept_simulated: bool = False
    """True stores what somebody sends who tries the flow in RapidPro's editor."""
    check_legacy_ids: bool = False
    """True looks for each id among the records of CHT's own gateway first: for the move, at half the pace."""
    flow: _Flow = ""
    """The flow that calls the webhook; what it took while nobody listened is fetched afterwards. Empty: it is not."""
    id_is: _IdIs = "run"
    """What the flow sends as `id`: `run.uuid`, or `input.uuid`, the message's own."""
    backfill_interval: Annotated[float, Duration(least=1)] = 600.0
    """Seconds between two looks for what was missed."""
    backfill_from: Annotated[int | None, moment] = None
    """How far back the very first look goes, ms since the epoch. None (""): to the moment of the first start."""

    @property
    def keys(self) -> tuple[Secret, ...]:
        return tuple(Secret(line) for line in self.key.reveal().splitlines())


class Admin(Struct, frozen=True, forbid_unknown_fields=True):
    listen: str = "127.0.0.1:8086"
    """Address and port of /health, /ready, /metrics and /status. Empty: they are not offered."""


class Delivery(Struct, frozen=True, forbid_unknown_fields=True):
    enabled: bool = True
    """False: tasks stay in the state that RapidPro's first answer gave them."""
    interval: Annotated[float, Duration(least=0.1)] = 60.0
    """Seconds between two rounds of questions: how old the state of a young message may be."""
    give_up_after: Annotated[float, Duration(least=60)] = 7 * 86400.0
    """Seconds since a task's last change after which RapidPro is not asked for it any more."""
    write: _Write = "all"
    """Which states are written: all, or only sent, delivered and failed, to spare revisions."""


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    level: _Level = "info"
    """The least severe lines that are written."""
    format: _Format = "auto"
    """One JSON object a line, or colours for people; "auto": console on a terminal, else json."""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """What `load` returns: the sections of the file, and what its author should know about it."""

    couchdb: Couchdb = Couchdb()
    cht: Cht = Cht()
    rapidpro: Rapidpro = Rapidpro()
    outgoing: Outgoing = Outgoing()
    incoming: Incoming = Incoming()
    delivery: Delivery = Delivery()
    admin: Admin = Admin()
    log: Log = Log()
    warnings: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    """The secrets that only a restart can change, each with where it comes from."""


_SECTIONS: Final[tuple[type[Struct], ...]] = (Couchdb, Cht, Rapidpro, Outgoing, Incoming, Delivery, Admin, Log)


def load(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration in the file at `path`, with the secrets that `environ` brings or points to.

    Reads files and the host name, so it is called before the event loop starts. Raises ConfigError, the one
    error for all that can be wrong, with a message for the user.
    """
    text = read_text(path)
    with at(str(path)):
        document = _parse(text)
        couchdb, rapidpro = _read(document, Couchdb), _read(document, Rapidpro)
        cht, incoming = _read(document, Cht), _read(document, Incoming)
        admin = _read_admin(document)
        config = Config(
            couchdb=_complete_couchdb(couchdb, path, environ),
            cht=msgspec.structs.replace(cht, instance=cht.instance or socket.gethostname()),
            rapidpro=_complete_rapidpro(rapidpro, path, environ),
            outgoing=_read(document, Outgoing),
            incoming=_complete_incoming(incoming, cht, path, environ),
            delivery=_read(document, Delivery),
            admin=admin,
            log=_read(document, Log),
            warnings=(*_warnings(path, document, couchdb, rapidpro, incoming), *_admin_warnings(path, admin)),
            fixed=tuple(filter(None, (fixed_source(name, environ) for name in _SECRETS))),
        )
        _check_times(config)
        _check_vault(config)
    return config


def load_spool(path: Path, environ: Mapping[str, str]) -> Path:
    """Where the spool is, for the commands about it: they need no secret, and none may be at hand."""
    text = read_text(path)
    with at(str(path)):
        document = _parse(text)
        return _spool(_read(document, Incoming), _read(document, Cht), path, environ)


def load_admin(path: Path) -> Admin:
    """The section [admin] alone: whoever may ask the daemon how it does need not be able to read its secrets."""
    text = read_text(path)
    with at(str(path)):
        return _read_admin(_parse(text))


def state_dir(config: Config, path: Path, environ: Mapping[str, str]) -> Path:
    """The folder of the instance id and the lock, the same for every command on the file at `path`."""
    return _state_dir(config.cht, path, environ)


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
    _check_known("section", document, [_name(kind) for kind in _SECTIONS])
    return document


def _check_known(noun: str, given: Collection[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f'; did you mean "{close[0]}"?' if close else ";"
            raise ConfigError(f"unknown {noun} {shown(name)}{hint} allowed: {', '.join(known)}")


def _read(document: Mapping[str, Any], kind: type[_Kind]) -> _Kind:
    """The section of this kind, each key converted alone, so that an error knows its place."""
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
        raise ConfigError(f"found a value of type {type(section).__name__}; allowed: a table of keys")


def _value(key: str, raw: object, kind: Any) -> object:
    """Our own reader, where the annotation names one, then msgspec's check of type and range."""
    metadata = getattr(kind, "__metadata__", ())
    for reader in filter(callable, metadata):
        raw = reader(raw)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        allowed = [meta.description for meta in metadata if isinstance(meta, Meta)]
        found = f"a value of type {type(raw).__name__}" if key in _MAY_HOLD_SECRET else shown(raw)
        raise ConfigError(f"found {found}; allowed: {allowed[0] if allowed else error}") from error


def _complete_couchdb(couchdb: Couchdb, path: Path, environ: Mapping[str, str]) -> Couchdb:
    with at("[couchdb] url"):
        url = check_url(couchdb.url, allow_plain_http=couchdb.allow_plain_http)
    password = find_secret("couchdb-password", couchdb.password, couchdb.password_file, _folder(path), environ)
    if couchdb.user and not password:
        raise ConfigError(f"[couchdb] user: found one without a password; {three_ways('couchdb-password')}")
    if password and not couchdb.user:
        raise ConfigError("[couchdb] user: found a password but no user; allowed: both or neither")
    return msgspec.structs.replace(couchdb, url=url, password=password)


def _complete_rapidpro(rapidpro: Rapidpro, path: Path, environ: Mapping[str, str]) -> Rapidpro:
    with at("[rapidpro] url"):
        url = rapidpro.url and check_url(rapidpro.url, allow_plain_http=rapidpro.allow_plain_http)
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


def _check_times(config: Config) -> None:
    settle, timeout = config.outgoing.settle_time, config.rapidpro.timeout
    if settle < timeout:
        raise ConfigError(
            f"[outgoing] settle_time: found {settle:g}s; allowed: at least [rapidpro] timeout = {timeout:g}s,"
            " or a message is sent again while its first request may still take effect"
        )
    claim, least = config.outgoing.claim_timeout, 4 * timeout
    if claim < least:
        raise ConfigError(
            f"[outgoing] claim_timeout: found {claim:g}s; allowed: 4 × [rapidpro] timeout = {least:g}s or more,"
            " or another daemon takes over what this one is still sending"
        )


def _check_vault(config: Config) -> None:
    """Each secret has one place, or nobody could tell which one is in force."""
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
    if couchdb.password:
        yield f"{path}: [couchdb] password stands in the file itself; password_file is the safer place"
    if rapidpro.token:
        yield f"{path}: [rapidpro] token stands in the file itself; token_file is the safer place"
    if incoming.key:
        yield f"{path}: [incoming] key stands in the file itself; key_file is the safer place"
