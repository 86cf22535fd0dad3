"""A configuration is usable as a whole or refused with one message that helps, and no message shows a secret."""

import socket
import tomllib
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cht_rapidpro.config.addresses import check_url
from cht_rapidpro.config.loader import load, load_admin, load_spool
from cht_rapidpro.config.schema import (
    Admin,
    Cht,
    Config,
    Couchdb,
    Delivery,
    Incoming,
    Limits,
    Log,
    Outgoing,
    Rapidpro,
)
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.errors import ConfigError

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"
SECRET = "s3cr3t"
TOKEN = {"CHT_RAPIDPRO_RAPIDPRO_TOKEN": "T0ken"}
CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBhzCCAS2gAwIBAgIUSonUPruJ5AAeZi0zo+7IIiI2/TswCgYIKoZIzj0EAwIw
GTEXMBUGA1UEAwwOY2EuZXhhbXBsZS5vcmcwHhcNMjYxMTIyMjI0OTI3WhcNMzYx
MTE5MjI0OTI3WjAZMRcwFQYDVQQDDA5jYS5leGFtcGxlLm9yZzBZMBMGByqGSM49
AgEGCCqGSM49AwEHA0IABMZ1TOe2Ysja9SDJJjArl5IesSAhGTAkI41Dgsh++Z19
WTai1HP77rA3/ZhD3xfQHMKFLMf5WjYntNNz8kgbAzOjUzBRMB0GA1UdDgQWBBRQ
n0x4NwoNRqZg8r5jwMU8eFN6VzAfBgNVHSMEGDAWgBRQn0x4NwoNRqZg8r5jwMU8
eFN6VzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIDe4k4baQyx6
LU0nOTQRl2+it23OI01XW+4oQRkQUJT9AiEA6MSU6ZhQi0+UhJ6YKCmAlaaEmo1W
hhKasWiPZKX/Mlg=
-----END CERTIFICATE-----
"""


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Writes the configuration file, and returns where."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "gateway.toml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def refusal(path: Path, environ: dict[str, str] | None = None) -> str:
    """The message with which the file is refused; none may ever show the secret."""
    with pytest.raises(ConfigError) as caught:
        load(path, TOKEN if environ is None else environ)
    message = str(caught.value)
    assert message.startswith((str(path), f"cannot read {path}"))
    assert SECRET not in message
    return message


def test_the_example_holds_every_key_with_its_default(write: Callable[[str], Path]) -> None:
    def without_place(config: Config) -> Config:  # both are beside the file that was read
        cht = msgspec.structs.replace(config.cht, state_dir="")
        return msgspec.structs.replace(config, cht=cht, incoming=msgspec.structs.replace(config.incoming, spool=""))

    assert without_place(load(EXAMPLE, TOKEN)) == without_place(load(write(""), TOKEN))
    keys = {section: set(table) for section, table in tomllib.loads(EXAMPLE.read_text()).items()}
    assert keys == {
        kind.__name__.lower(): {field.name for field in msgspec.structs.fields(kind)}
        for kind in (Couchdb, Cht, Rapidpro, Outgoing, Incoming, Delivery, Admin, Log)
    }


def test_values_arrive_as_their_keys_and_units(write: Callable[[str], Path]) -> None:
    path = write("""
        [couchdb]
        url = "https://cht.example.org/couch/"
        user = "gateway"
        password = "s3cr3t"
        [cht]
        outgoing_service = "rapidpro"
        instance = "north"
        [rapidpro]
        url = "http://[::1]:8000/"
        timeout = "700ms"
        requests_per_hour = "unlimited"
        max_concurrency = 100
        [outgoing]
        sweep_interval = "0.2s"
        settle_time = "1.4s"
        claim_timeout = "2.8s"
        expire_after = "7d"
        [admin]
        listen = "[::]:0"
        [delivery]
        enabled = false
        interval = "5m"
        give_up_after = "2d"
        write = "final"
        [log]
        level = "debug"
        format = "json"
        [incoming]
        enabled = false
        listen = "[::1]:0"
        key = "k3y"
        spool = "incoming.sqlite3"
        max_body = "1MiB"
        max_waiting = 7
        flow = "0192AAAA-0000-7000-8000-000000000001"
        id_is = "message"
        backfill_interval = "1h"
        backfill_from = "2026-11-22T08:00:00Z"
    """)
    assert load(path, TOKEN) == Config(
        couchdb=Couchdb(url="https://cht.example.org/couch", user="gateway", password=Secret(SECRET)),
        cht=Cht(outgoing_service="rapidpro", instance="north", state_dir=str(path.parent)),
        rapidpro=Rapidpro(
            url="http://[::1]:8000", token=Secret("T0ken"), timeout=0.7, requests_per_hour=None, max_concurrency=100
        ),
        outgoing=Outgoing(sweep_interval=0.2, settle_time=1.4, claim_timeout=2.8, expire_after=7 * 86400.0),
        incoming=Incoming(
            enabled=False,
            listen="[::1]:0",
            key=Secret("k3y"),
            spool=str(path.with_name("incoming.sqlite3")),
            max_body=1024 * 1024,
            max_waiting=7,
            flow="0192aaaa-0000-7000-8000-000000000001",
            id_is="message",
            backfill_interval=3600.0,
            backfill_from=1795334400000,
        ),
        admin=Admin(listen="[::]:0"),
        delivery=Delivery(enabled=False, interval=300.0, give_up_after=2 * 86400.0, write="final"),
        log=Log(level="debug", format="json"),
        warnings=(
            f"{path}: [couchdb] password is in the file itself; password_file is the safer place",
            f"{path}: [incoming] key is in the file itself; key_file is the safer place",
            f'{path}: [admin] listen: "[::]:0" is open to other machines, and asks for no password',
        ),
        fixed=("rapidpro-token: environment variable CHT_RAPIDPRO_RAPIDPRO_TOKEN",),
    )


@pytest.mark.parametrize(
    ("toml", "parts"),
    [
        ('[couchdb]\nurl = "x" "y"', ["line 2, column 11"]),
        (b"[log]\n# caf\xe9", ["byte 11 is not UTF-8"]),
        ("[log]\nlevel = " + "9" * 5000, ["not TOML"]),
        ("[log]\nlevel = " + "[" * 5000, ["not TOML"]),
        ('[rapidpr]\nurl = ""', ['unknown section "rapidpr"; did you mean "rapidpro"?', "couchdb, cht, rapidpro"]),
        ('token = "s3cr3t"', ['unknown section "token"', "outgoing, incoming, delivery, admin, log"]),
        ('rapidpro = "s3cr3t"', ["[rapidpro]: found a text", "a table"]),
        ('[rapidpro]\ntokn = "s3cr3t"', ['[rapidpro]: unknown key "tokn"; did you mean "token"?', "token_file"]),
        ("[log]\nx = 1", ['[log]: unknown key "x"; allowed: level, format']),
        ('[rapidpro]\ntimeout = "soon"', ['[rapidpro] timeout: found "soon"', '"90s"', 'from "0.1s"']),
        ('[rapidpro]\ntimeout = "50ms"', ['[rapidpro] timeout: found "50ms"']),
        ("[rapidpro]\ntimeout = 30", ["[rapidpro] timeout: found 30;"]),
        ('[outgoing]\nsweep_interval = "9999d"', ['found "9999d"', 'to "3650d"']),
        ('[outgoing]\nsettle_time = "-1s"', ['[outgoing] settle_time: found "-1s"']),
        ('[admin]\nlisten = "8086"', ['[admin] listen: found "8086"', "127.0.0.1:8085"]),
        ('[admin]\nlisten = "127.0.0.1:80860"', ['[admin] listen: found "127.0.0.1:80860"']),
        ('[outgoing]\nexpire_after = "never"', ['found "never"', 'or "off"']),
        (
            '[rapidpro]\ntimeout = "61s"\n[outgoing]\nclaim_timeout = "20m"',
            ["[outgoing] settle_time: found 120s", "at least 2 × [rapidpro] timeout = 122s"],
        ),
        (
            '[outgoing]\nclaim_timeout = "119s"',
            ["[outgoing] claim_timeout: found 119s", "at least 4 × [rapidpro] timeout = 120s"],
        ),
        (
            '[outgoing]\nclaim_timeout = "239s"',
            ["[outgoing] claim_timeout: found 239s", "at least 2 × settle_time = 240s"],
        ),
        (
            '[outgoing]\nsweep_interval = "601s"',
            ["[outgoing] claim_timeout: found 600s", "at least sweep_interval = 601s"],
        ),
        ('[incoming]\nlisten = "8085"', ['[incoming] listen: found "8085"; allowed: an address and a port']),
        ('[incoming]\nlisten = "127.0.0.1:65536"', ["[incoming] listen: found"]),
        ('[incoming]\nlisten = "[::1"', ["[incoming] listen: found"]),
        ('[incoming]\nmax_body = "64kB"', ['[incoming] max_body: found "64kB"', '"64KiB"', 'from "1024B"']),
        ('[incoming]\nmax_body = "1GiB"', ["[incoming] max_body: found"]),
        ("[incoming]\nmax_waiting = 0", ["max_waiting: found 0; allowed: a whole number from 1 to 100000"]),
        ('[incoming]\nflow = "CHT"', ['[incoming] flow: found "CHT"; allowed: the UUID of a flow']),
        ('[incoming]\nid_is = "uuid"', ['[incoming] id_is: found "uuid"; allowed: "run" or "message"']),
        ('[incoming]\nbackfill_from = "yesterday"', ['[incoming] backfill_from: found "yesterday"', '"2026-']),
        ('[incoming]\nkey = "s3cr3t\\ns3cr3t"', ["[incoming] key: found a second line"]),
        ('[incoming]\nkey_file = "none"', ["[incoming] key_file: cannot read", "/none: No such"]),
        ('[delivery]\ninterval = "0s"', ['[delivery] interval: found "0s"', 'from "0.1s"']),
        ('[delivery]\ngive_up_after = "off"', ['[delivery] give_up_after: found "off"', 'from "60s"']),
        ('[delivery]\nwrite = "none"', ['[delivery] write: found "none"; allowed: "all" or "final"']),
        ("[rapidpro]\nmax_concurrency = 0", ["max_concurrency: found 0; allowed: a whole number from 1 to 100"]),
        ("[rapidpro]\nmax_concurrency = 1.5", ["found 1.5; allowed: a whole number from 1 to 100"]),
        ("[rapidpro]\nmax_concurrency = true", ["found true; allowed: a whole number from 1 to 100"]),
        ("[rapidpro]\nrequests_per_hour = { runs = -1 }", ["requests_per_hour", "broadcasts, messages, runs"]),
        ("[rapidpro]\nrequests_per_hour = { walks = 1 }", ["requests_per_hour", "broadcasts, messages, runs"]),
        ("[rapidpro]\nrequests_per_hour = 0", ["requests_per_hour: found 0", '"unlimited"', "pause` stops sending"]),
        ("[rapidpro]\nrequests_per_hour = { runs = 0 }", ["requests_per_hour: found 0", "pause` stops sending"]),
        ("[rapidpro]\nrequests_per_hour = false", ["requests_per_hour: found false; allowed: a whole number from 1"]),
        ("[rapidpro]\nrequests_per_hour = -1", ["found -1; allowed: a whole number from 1 on", '"unlimited"']),
        ('[couchdb]\nallow_plain_http = "yes"', ['[couchdb] allow_plain_http: found "yes"', "allowed: true or false"]),
        ('[couchdb]\ndatabase = "Medic"', ['[couchdb] database: found "Medic"; allowed: a-z first']),
        ('[couchdb]\ndatabase = "medic\\n"', ["[couchdb] database"]),
        ('[cht]\noutgoing_service = " "', ['[cht] outgoing_service: found " "; allowed: "auto"']),
        ('[cht]\ncredentials = "safe"', ['[cht] credentials: found "safe"; allowed: "config" or "vault"']),
        (
            '[cht]\ncredentials = "vault"\n[couchdb]\nuser = "u"\npassword = "x"',
            ['[rapidpro] token: found one beside [cht] credentials = "vault"'],
        ),
        ('[cht]\ninstance = "a\\u0007"', ["[cht] instance"]),
        ('[log]\nlevel = "loud"', ['[log] level: found "loud"; allowed: "debug", "info", "warning" or "error"']),
        ("[log]\nformat = 1979-05-27", ["[log] format: found a date or time", '"json"']),
        ('[couchdb]\nuser = "admin:s3cr3t"', ["[couchdb] user: found a text", "without a colon"]),
        ('[couchdb]\nuser = "admin"', ["[couchdb] user", "password_file", "CHT_RAPIDPRO_COUCHDB_PASSWORD"]),
        ('[couchdb]\npassword = "s3cr3t"', ["[couchdb] user: found a password but no user"]),
        ('[couchdb]\nuser = "u"\npassword = ["s3cr3t"]', ["[couchdb] password: found a list"]),
        ('[couchdb]\nuser = "u"\npassword = "s3cr3t\\n"', ["[couchdb] password: found a second line"]),
        ('[couchdb]\nuser = "u"\npassword_file = "none"', ["[couchdb] password_file: cannot read", "/none: No such"]),
        ('[couchdb]\nuser = "u"\npassword_file = "."', ["[couchdb] password_file: cannot read", "Is a directory"]),
        ('[couchdb]\nuser = "u"\npassword_file = "a\\u0000b"', ["[couchdb] password_file: cannot read", "null byte"]),
        ('[couchdb]\nurl = "http://u:s3cr3t@127.0.0.1"', ["[couchdb] url: found a user, password"]),
        ('[couchdb]\nurl = ""', ['[couchdb] url: found ""']),
        ('[rapidpro]\nurl = "http://rapidpro.example.org"', ["[rapidpro] url", "allow_plain_http = true"]),
        ('[rapidpro]\nca_file = "none.pem"', ["[rapidpro] ca_file: cannot read", "No such file", "PEM"]),
        ('[rapidpro]\nca_file = "gateway.toml"', ["[rapidpro] ca_file: cannot read", "PEM"]),
    ],
    ids=lambda value: value[:40] if isinstance(value, str | bytes) else "",
)
def test_a_wrong_file_is_refused_by_file_key_found_and_allowed(
    write: Callable[[str | bytes], Path], toml: str | bytes, parts: list[str]
) -> None:
    message = refusal(write(toml))
    assert [part for part in parts if part not in message] == [], message


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "gateway.toml")
    assert "Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"environ", "credential", "file", "toml"}, "environ"),
        ({"credential", "file", "toml"}, "credential"),
        ({"file", "toml"}, "file"),
        ({"toml"}, "toml"),
    ],
)
def test_the_nearest_source_of_a_secret_wins(
    tmp_path: Path, write: Callable[[str], Path], sources: set[str], expected: str
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}
    couchdb, rapidpro = ["user = 'u'"], [""]
    if "environ" in sources:
        environ |= {f"CHT_RAPIDPRO_{name}": "environ" for name in ("COUCHDB_PASSWORD", "RAPIDPRO_TOKEN")}
    if "credential" in sources:
        for name in ("couchdb-password", "rapidpro-token"):
            (credentials / name).write_text("credential\n")
    if "file" in sources:
        (tmp_path / "secret").write_text("file\r\n")
        couchdb.append("password_file = 'secret'")
        rapidpro.append("token_file = 'secret'")
    if "toml" in sources:
        couchdb.append("password = 'toml'")
        rapidpro.append("token = 'toml'")
    config = load(write("\n".join(["[couchdb]", *couchdb, "[rapidpro]", *rapidpro])), environ)
    assert config.couchdb.password.reveal() == expected
    assert config.rapidpro.token.reveal() == expected
    assert [warning.split()[1] for warning in config.warnings] == ["[couchdb]", "[rapidpro]"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "found nothing in it"),
        (b"\n", "found nothing in it"),
        (b"s3cr3t\ns3cr3t\n", "found a second line"),
        (b"s3cr3t\x00", "found a second line or a control character"),
        (b"s3cr3t\xff", "byte 6 is not UTF-8"),
    ],
)
def test_a_secret_that_cannot_be_meant_is_refused(
    tmp_path: Path, write: Callable[[str], Path], content: bytes, reason: str
) -> None:
    secret = tmp_path / "rapidpro-token"
    secret.write_bytes(content)
    for toml, environ in (
        ('[rapidpro]\ntoken_file = "rapidpro-token"', {}),
        ("", {"CREDENTIALS_DIRECTORY": str(tmp_path)}),
    ):
        message = refusal(write(toml), environ)
        assert "[rapidpro] token" in message
        assert str(secret) in message
        assert reason in message


def test_the_units_placeholder_for_a_missing_credential_is_no_secret(
    tmp_path: Path, write: Callable[[str], Path]
) -> None:
    for name in ("couchdb-password", "rapidpro-token", "incoming-key"):
        (tmp_path / name).write_text("(no file)")
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    config = load(write('[rapidpro]\ntoken = "of the file"'), environ)
    assert (config.rapidpro.token.reveal(), config.incoming.keys, config.fixed) == ("of the file", (), ())
    assert "/etc/cht-rapidpro/rapidpro-token" in refusal(write(""), environ)


def test_several_keys_stand_one_a_line_and_none_is_no_error(tmp_path: Path, write: Callable[[str], Path]) -> None:
    (tmp_path / "keys").write_text("new key\r\n\n  old-key \n")
    path = write('[incoming]\nkey_file = "keys"')
    assert [key.reveal() for key in load(path, TOKEN).incoming.keys] == ["new key", "old-key"]
    assert load(path, TOKEN | {"CHT_RAPIDPRO_INCOMING_KEY": "other"}).incoming.keys == (Secret("other"),)
    (tmp_path / "incoming-key").write_text("a\nb")
    credentials = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load(path, TOKEN | credentials).incoming.keys == (Secret("a"), Secret("b"))
    assert load(write(""), TOKEN).incoming.keys == ()


def test_a_key_beside_the_vault_is_refused(write: Callable[[str], Path]) -> None:
    vault = '[couchdb]\nuser = "u"\npassword = "p"\n[cht]\ncredentials = "vault"\n'
    assert load(write(vault), {}).incoming.keys == ()
    assert "[incoming] key: found one beside" in refusal(write(f'{vault}[incoming]\nkey = "s3cr3t"'), {})


@pytest.mark.parametrize("content", ["", "\n \n", "s3cr3t\n\x00s3cr3t\n"])
def test_a_file_of_keys_that_cannot_be_meant_is_refused(
    tmp_path: Path, write: Callable[[str], Path], content: str
) -> None:
    (tmp_path / "keys").write_text(content)
    assert str(tmp_path / "keys") in refusal(write('[incoming]\nkey_file = "keys"'))


@pytest.mark.parametrize(
    ("toml", "environ", "expected"),
    [
        ("", {}, "spool.sqlite3"),
        ("", {"STATE_DIRECTORY": "/var/lib/a"}, "/var/lib/a/spool.sqlite3"),
        ('[cht]\nstate_dir = "state"', {"STATE_DIRECTORY": "/var/lib/a"}, "state/spool.sqlite3"),
        ('[incoming]\nspool = "messages"\n[cht]\nstate_dir = "state"', {}, "messages"),
        ('[incoming]\nspool = "/srv/messages"', {}, "/srv/messages"),
    ],
)
def test_every_command_finds_the_same_spool(
    tmp_path: Path, write: Callable[[str], Path], toml: str, environ: dict[str, str], expected: str
) -> None:
    path = write(toml)
    assert load(path, TOKEN | environ).incoming.spool == str(tmp_path / expected)
    assert load_spool(path, environ) == tmp_path / expected, "without any secret"


def test_an_empty_variable_and_no_token_at_all_are_refused(write: Callable[[str], Path]) -> None:
    message = refusal(write(""), {"CHT_RAPIDPRO_RAPIDPRO_TOKEN": ""})
    assert "environment variable CHT_RAPIDPRO_RAPIDPRO_TOKEN: found nothing" in message
    message = refusal(write(""), {})
    for way in ("[rapidpro] token", "token_file", "CHT_RAPIDPRO_RAPIDPRO_TOKEN", "credential rapidpro-token"):
        assert way in message


def test_a_secret_shows_itself_only_when_asked(write: Callable[[str], Path]) -> None:
    config = load(write(""), {"CHT_RAPIDPRO_RAPIDPRO_TOKEN": SECRET})
    token = config.rapidpro.token
    for text in (repr(token), str(token), f"{token}", repr(config), repr([token])):
        assert SECRET not in text
    assert token.reveal() == SECRET
    with pytest.raises(TypeError):
        msgspec.json.encode(config)


def test_a_certificate_is_found_beside_the_file(tmp_path: Path, write: Callable[[str], Path]) -> None:
    (tmp_path / "ca.pem").write_text(CERTIFICATE)
    config = load(write('[rapidpro]\nca_file = "ca.pem"'), TOKEN)
    assert config.rapidpro.ca_file == str(tmp_path / "ca.pem")


@pytest.mark.parametrize(
    ("url", "plain", "checked"),
    [
        ("https://rapidpro.example.org", False, "https://rapidpro.example.org"),
        ("https://example.org:8443/rapidpro/", False, "https://example.org:8443/rapidpro"),
        ("http://localhost:5984/", False, "http://localhost:5984"),
        ("http://127.1.2.3", False, "http://127.1.2.3"),
        ("http://[::1]:80", False, "http://[::1]:80"),
        ("http://couchdb:5984", True, "http://couchdb:5984"),
        ("http://couchdb:5984", False, "http://couchdb:5984"),
        ("http://my_couchdb-1", False, "http://my_couchdb-1"),
        ("http://10.0.0.1", False, "http://10.0.0.1"),
        ("http://172.31.255.1:5984/", False, "http://172.31.255.1:5984"),
        ("http://192.168.7.1", False, "http://192.168.7.1"),
        ("http://[fd00::1]", False, "http://[fd00::1]"),
        ("http://127.0.0.1.example.org", False, None),
        ("http://couchdb.example.org", False, None),
        ("http://134744072", False, None),
        ("http://0x8080808", False, None),
        ("http://172.32.0.1", False, None),
        ("http://192.169.0.1", False, None),
        ("http://8.8.8.8", False, None),
        ("http://[2001:db8::1]", False, None),
        ("https://s3cr3t@example.org", True, None),
        ("https://u:s3cr3t@example.org", True, None),
        ("https://u:s3#cr3t@example.org", True, None),
        ("https://example.org?token=s3cr3t", True, None),
        ("https://example.org#s3cr3t", True, None),
        ("ftp://example.org", True, None),
        ("example.org", True, None),
        ("https://", True, None),
        ("https://:443", True, None),
        ("https://example.org:0", True, None),
        ("https://example.org:99999", True, None),
        ("https://example.org:s3", True, None),
        ("https://exa mple.org", True, None),
        ("https://example.org\n", True, None),
        ("https://127.0.0.1\\example.org", True, None),
        ("https://example..org", True, None),
        ("https://[::1", True, None),
        ("", True, None),
    ],
)
def test_urls(url: str, plain: bool, checked: str | None) -> None:
    if checked is not None:
        assert check_url(url, allow_plain_http=plain, allow_private=True) == checked
        return
    with pytest.raises(ConfigError, match=r"found .*; allowed: ") as caught:
        check_url(url, allow_plain_http=plain, allow_private=True)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["http://couchdb:5984", "http://10.0.0.1", "http://192.168.7.1", "http://[fd00::1]"])
def test_an_address_that_is_not_the_configurations_is_no_private_one(url: str) -> None:
    """Whoever may edit CHT's app settings must not get the token over a network in the clear."""
    with pytest.raises(ConfigError, match="allow_plain_http"):
        check_url(url, allow_plain_http=False)
    assert check_url(url, allow_plain_http=True) == url


@pytest.mark.parametrize(
    ("host", "plain", "warned"),
    [("couchdb", False, True), ("10.1.2.3", False, True), ("couchdb", True, False), ("127.0.0.1", False, False)],
)
def test_plain_http_in_a_private_network_is_warned_about(
    write: Callable[[str], Path], host: str, plain: bool, warned: bool
) -> None:
    keys = f'url = "http://{host}:5984"\nallow_plain_http = {str(plain).lower()}\n'
    warnings = load(write(f"[couchdb]\n{keys}[rapidpro]\n{keys}"), TOKEN).warnings
    told = [section for section in ("[couchdb] url", "[rapidpro] url") if any(section in each for each in warnings)]
    assert told == (["[couchdb] url", "[rapidpro] url"] if warned else [])


@pytest.mark.parametrize(
    ("key", "environ", "expected"),
    [
        ("", {}, "."),
        ("", {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b"}, "/var/lib/a"),
        ("state", {"STATE_DIRECTORY": "/var/lib/a"}, "state"),
        ("/srv/state", {}, "/srv/state"),
    ],
)
def test_the_state_directory(
    tmp_path: Path, write: Callable[[str], Path], key: str, environ: dict[str, str], expected: str
) -> None:
    path = write(f'[cht]\nstate_dir = "{key}"')
    assert load(path, {**TOKEN, **environ}).cht.state_dir == str(tmp_path / expected)


def test_the_instance_is_called_like_the_host(write: Callable[[str], Path]) -> None:
    assert load(write(""), TOKEN).cht.instance == socket.gethostname()


def test_with_the_vault_no_token_is_needed_and_a_user_is(write: Callable[[str], Path]) -> None:
    toml = '[cht]\ncredentials = "vault"\n'
    config = load(write(f'{toml}[couchdb]\nuser = "admin"\npassword = "x"'), {})
    assert (config.cht.credentials, config.rapidpro.token) == ("vault", Secret(""))
    message = refusal(write(f'{toml}[couchdb]\nuser = "u"\npassword = "x"\n[incoming]\nkey = "x"'), {})
    assert '[incoming] key: found one beside [cht] credentials = "vault"' in message
    message = refusal(write(toml), {})
    assert '[cht] credentials: found "vault" without [couchdb] user; allowed: with a server administrator' in message


def test_secrets_that_a_reload_cannot_change_are_known_with_their_source(
    tmp_path: Path, write: Callable[[str], Path]
) -> None:
    (tmp_path / "couchdb-password").write_text("x")
    environ = {**TOKEN, "CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load(write('[couchdb]\nuser = "u"'), environ).fixed == (
        "couchdb-password: systemd credential",
        "rapidpro-token: environment variable CHT_RAPIDPRO_RAPIDPRO_TOKEN",
    )
    assert load(write('[couchdb]\nuser = "u"\npassword = "x"\n[rapidpro]\ntoken = "x"'), {}).fixed == ()


def test_the_admin_listener_is_found_without_any_secret(write: Callable[[str], Path]) -> None:
    """Whoever asks the daemon how it does need not be able to read its token."""
    assert load_admin(write('[couchdb]\nuser = "gateway"\npassword_file = "none"')) == Admin()
    assert load_admin(write('[admin]\nlisten = ""')) == Admin(listen="")
    with pytest.raises(ConfigError, match="listen"):
        load_admin(write('[admin]\nlisten = "here"'))


@pytest.mark.parametrize(
    ("value", "limits"),
    [
        ("7", Limits(7, 7, 7)),
        ('"unlimited"', Limits(None, None, None)),
        ('{ runs = "unlimited" }', Limits(3600, 3600, None)),
        ("{ broadcasts = 36000, messages = 2500 }", Limits(36_000, 2500, 3600)),
        ("{}", Limits(3600, 3600, 3600)),
    ],
)
def test_a_limit_for_all_scopes_or_one_for_each(value: str, limits: Limits, write: Callable[[str], Path]) -> None:
    loaded = load(write(f'[rapidpro]\ntoken = "T0ken"\nrequests_per_hour = {value}\n'), {})
    assert loaded.rapidpro.limits == limits
