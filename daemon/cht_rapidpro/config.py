"""The configuration: its sections, each key with its type, its default and what it means.

The invariant: a `Config` that exists can be used. It is made by `config_file.py`, which checks the whole file before
anything starts. `config.example.toml` is the user's view of the doc lines below.
"""

from pathlib import Path
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from cht_rapidpro.config_values import NO_SECRET, Duration, Secret, Size, moment, requests_per_hour, toml_secret

_Database = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_$()+/-]*\Z", description="a-z first, then a-z, 0-9 or _$()+-/")]
_User = Annotated[str, Meta(pattern=r"^[^:\x00-\x1f\x7f]*\Z", description="a name without a colon")]
_Filled = Annotated[str, Meta(pattern=r"\S", description='"auto" or the name of a service')]
_Line = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f]*\Z", description="one line of text")]
_Credentials = Annotated[Literal["config", "vault"], Meta(description='"config" or "vault"')]
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


_Requests = Annotated[int, Meta(ge=1)] | None


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests an hour by RapidPro's throttle scopes; None: no limit of our own."""

    broadcasts: _Requests = 3600
    """Scope `v2` (up to 10.2 `v2.broadcasts`): sends, and whatever has no scope of its own."""
    messages: _Requests = 3600
    """Scope `v2.messages`: delivery states and what was missed."""
    runs: _Requests = 3600
    """Scope `v2.runs`: what was missed."""

    @classmethod
    def of(cls, per_hour: "int | Limits | None") -> "Limits":
        """The same for each scope, where one number is given."""
        return per_hour if isinstance(per_hour, Limits) else cls(*3 * (per_hour,))


_PerHour = Annotated[
    _Requests | Limits,
    requests_per_hour,
    Meta(description='a whole number from 1 on, "unlimited", or a table of such values: broadcasts, messages, runs'),
]


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
    """Folder of what survives a restart. Empty: $STATE_DIRECTORY, else the configuration file's folder; absolute once
    loaded."""


class Rapidpro(Struct, frozen=True, forbid_unknown_fields=True):
    url: str = ""
    """Base URL of RapidPro. Empty: `sms.rapidpro.url` of the app settings, whose editor gets our token."""
    token_file: str = ""
    """File that holds the API token alone. Relative: to the folder of the configuration file."""
    token: _Secret = NO_SECRET
    """The token itself: works, and is warned about. Once loaded: from whichever source; empty only with the vault."""
    timeout: Annotated[float, Duration(least=0.1)] = 30.0
    """Seconds that one request may take; after it, nobody knows yet whether a broadcast was created."""
    requests_per_hour: _PerHour = 3600
    """Our own limit for each of RapidPro's throttle scopes, or one a scope. None ("unlimited"): only a 429 slows us."""
    max_concurrency: _Concurrency = 16
    """Requests in flight at once. More is faster, and leaves more messages to look up after a crash."""
    ca_file: str = ""
    """PEM certificates to trust instead of the system's. Relative: as above; absolute once loaded."""
    allow_plain_http: bool = False
    """True lets the token cross a network unencrypted, where http goes to another machine."""

    @property
    def limits(self) -> Limits:
        """`requests_per_hour`, by scope."""
        return Limits.of(self.requests_per_hour)


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
    dry_run: bool = False
    """From the command line: CouchDB and RapidPro are read, and nothing is posted or written."""

    def as_dry_run(self, state_dir: Path) -> "Config":
        """On another state directory. No webhook is listened for: one that is answered has to be stored."""
        cht, incoming = replace(self.cht, state_dir=str(state_dir)), replace(self.incoming, enabled=False)
        return replace(self, dry_run=True, cht=cht, incoming=incoming)


SECTIONS: Final[tuple[type[Struct], ...]] = (Couchdb, Cht, Rapidpro, Outgoing, Incoming, Delivery, Admin, Log)
