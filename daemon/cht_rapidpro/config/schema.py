"""The configuration: its sections, each key with its type, its default and what it means.

Invariant: a `Config` that exists can be used. `config/loader.py` makes it, and checks the whole file before anything
starts. `config.example.toml` shows the doc lines below to the user.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, get_type_hints

from msgspec import Meta, Struct
from msgspec.structs import replace

from cht_rapidpro.config.secrets import NO_SECRET, Secret, toml_secret
from cht_rapidpro.config.value_types import Duration, Size, moment, requests_per_hour

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


class Live:
    """Marks a key that SIGHUP changes while the daemon runs. A secret counts with the key that names its file.

    `bound_to`: keys that say who gets the secret: while a change of one of them waits for a restart, so does this key.
    """

    def __init__(self, *bound_to: str) -> None:
        self.bound_to = frozenset(bound_to)


_Requests = Annotated[int, Meta(ge=1)] | None


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests an hour by RapidPro's throttle scopes; None: no configured limit."""

    broadcasts: _Requests = 3600
    """Scope `v2` (up to 10.2 `v2.broadcasts`): sends, and every request without a scope of its own."""
    messages: _Requests = 3600
    """Scope `v2.messages`: delivery states and backfill."""
    runs: _Requests = 3600
    """Scope `v2.runs`: backfill."""

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
    """Base URL of CouchDB, or of a proxy in front of it. Without a trailing slash once loaded."""
    database: _Database = "medic"
    """CHT's database, where the tasks are."""
    user: Annotated[_User, Live("couchdb.url")] = ""
    """Empty: no authentication. User and password are given together or not at all."""
    password_file: Annotated[str, Live("couchdb.url")] = ""
    """File that holds only the password. Relative: to the folder of the configuration file."""
    password: Annotated[_Secret, Live("couchdb.url")] = NO_SECRET
    """The password itself: works, with a warning. After loading: the password from the source that has it."""
    allow_plain_http: bool = False
    """True lets the password cross a network unencrypted, where http goes to another machine."""


class Cht(Struct, frozen=True, forbid_unknown_fields=True):
    outgoing_service: _Filled = "auto"
    """The `sms.outgoing_service` of the app settings that makes this gateway send; a name is compared for equality."""
    builtin_gateway_is_off: bool = False
    """True: send also where the app settings say "rapidpro" beside a CHT that has a RapidPro gateway of its own, which
    is known to be off. If it is not, every SMS goes out twice.
    """
    credentials: _Credentials = "config"
    """Where RapidPro's token and the webhooks' key come from: this file and its environment, or CHT's vault."""
    instance: _Line = ""
    """Readable name of this daemon in `state_details` and logs. Empty: the host name."""
    state_dir: str = ""
    """Folder of what survives a restart. Empty: $STATE_DIRECTORY, else the configuration file's folder; absolute once
    loaded."""


class Rapidpro(Struct, frozen=True, forbid_unknown_fields=True):
    url: str = ""
    """Base URL of RapidPro. Empty: `sms.rapidpro.url` of the app settings, so their editor decides who gets the
    token.
    """
    token_file: Annotated[str, Live("rapidpro.url", "cht.credentials")] = ""
    """File that holds only the API token. Relative: to the folder of the configuration file."""
    token: Annotated[_Secret, Live("rapidpro.url", "cht.credentials")] = NO_SECRET
    """The token itself: works, with a warning. After loading: from the source that has it; empty only with the
    vault.
    """
    timeout: Annotated[float, Duration(least=0.1)] = 30.0
    """Seconds that one request may take; after a time-out a look-up must show whether a broadcast was created."""
    requests_per_hour: Annotated[_PerHour, Live()] = 3600
    """Limit for each of RapidPro's throttle scopes, or a table of limits. None ("unlimited"): only a 429 limits."""
    max_concurrency: Annotated[_Concurrency, Live()] = 16
    """Requests in flight at once. More are faster, and leave more messages to look up after a crash."""
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
    """Seconds between two reads of the due tasks: how long a message that the feed missed may wait."""
    settle_time: Annotated[float, Duration(least=1)] = 120.0
    """Seconds after an attempt of unknown outcome until RapidPro's list is believed. Too short: two SMS."""
    claim_timeout: Annotated[float, Duration(least=0.1)] = 600.0
    """Seconds after which another daemon may take over a claim. At least 4 × [rapidpro] timeout."""
    expire_after: Annotated[float | None, Duration(least=60, off=True)] = None
    """Seconds after its due time from which a message fails instead of being sent. None (\"off\"): never."""
    coalesce: _Coalesce = "auto"
    """Whether messages of one text go out as one broadcast of up to 100 numbers; "auto": while many wait."""


class Incoming(Struct, frozen=True, forbid_unknown_fields=True):
    enabled: bool = True
    """False: the webhook is switched off."""
    listen: str = "127.0.0.1:8085"
    """Address and port of the webhook. A socket that systemd hands over is used instead."""
    key_file: Annotated[str, Live("cht.credentials")] = ""
    """File with the valid webhook keys, one a line. Relative: to the folder of the configuration file."""
    key: Annotated[_Secret, Live("cht.credentials")] = NO_SECRET
    """A key itself: works, with a warning. After loading: all keys from the source that has them, one a line."""
    spool: str = ""
    """The file that keeps messages while CouchDB is away. Empty: spool.sqlite3 in the state directory; absolute once
    loaded."""
    max_body: Annotated[int, Size(least=1024, most=16 * 1024 * 1024)] = 64 * 1024
    """Bytes of a webhook's body; a larger one is refused with 413."""
    max_waiting: _Waiting = 1000
    """Webhooks that wait for their answer at once; more are refused with 503."""
    accept_simulated: bool = False
    """True: messages from trying the flow in RapidPro's editor are stored, too."""
    check_legacy_ids: bool = False
    """True: look for each id among the records of CHT's own gateway first, while moving over; half the pace."""
    flow: _Flow = ""
    """The flow that calls the webhook; messages that it took while the gateway was off are fetched. Empty: no
    backfill.
    """
    id_is: _IdIs = "run"
    """What the flow sends as `id`: `run.uuid`, or `input.uuid`, the message's own."""
    backfill_interval: Annotated[float, Duration(least=1)] = 600.0
    """Seconds between two searches for missed messages."""
    backfill_from: Annotated[int | None, moment] = None
    """How far back the very first search goes, ms since the epoch. None (\"\"): to the moment of the first start."""

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
    """Seconds between two rounds of polling: how old the state of a young message may be."""
    give_up_after: Annotated[float, Duration(least=60)] = 7 * 86400.0
    """Seconds since a task's last change after which it is not polled any more."""
    write: _Write = "all"
    """Which states are written: all, or only sent, delivered and failed, to spare revisions."""


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    level: Annotated[_Level, Live()] = "info"
    """The least severe lines that are written."""
    format: _Format = "auto"
    """One JSON object a line, or colours for people; "auto": console on a terminal, else json."""


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """What `load` returns: the sections of the file, and the warnings for its author."""

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
    """The secrets that only a restart can change, each with its source."""
    dry_run: bool = False
    """From the command line: CouchDB and RapidPro are read, and nothing is posted or written."""

    def as_dry_run(self, state_dir: Path) -> "Config":
        """On another state directory. No webhook is listened for: one that is answered has to be stored."""
        cht, incoming = replace(self.cht, state_dir=str(state_dir)), replace(self.incoming, enabled=False)
        return replace(self, dry_run=True, cht=cht, incoming=incoming)


SECTIONS: Final[tuple[type[Struct], ...]] = (Couchdb, Cht, Rapidpro, Outgoing, Incoming, Delivery, Admin, Log)

LIVE: Final[Mapping[str, Live]] = {
    f"{section.__name__.lower()}.{key}": mark
    for section in SECTIONS
    for key, kind in get_type_hints(section, include_extras=True).items()
    for mark in getattr(kind, "__metadata__", ())
    if isinstance(mark, Live)
}
"""The keys that a reload applies, as `log.level`."""
