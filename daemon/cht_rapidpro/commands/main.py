"""The command `cht-rapidpro`.

Help texts and EXIT_CODES are the documentation: the man page and the shells' completions are made from the parser. The
project's only `except Exception` is here: a crash is logged with its traceback, and a restart recovers.
"""

import argparse
import asyncio
import faulthandler
import getpass
import os
import resource
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import structlog

from cht_rapidpro import daemon
from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.adapters.couchdb.vault import CredentialName, Vault
from cht_rapidpro.adapters.host.socket_activation import take_sockets
from cht_rapidpro.adapters.host.state_dir import state_copy, state_directory
from cht_rapidpro.commands import arguments, drain, pause
from cht_rapidpro.commands.messages import command as messages_command
from cht_rapidpro.config import loader
from cht_rapidpro.config.schema import Config, Couchdb
from cht_rapidpro.config.secrets import Secret, checked_secret
from cht_rapidpro.errors import ConfigError, GatewayError, OperatorActionRequiredError, PermanentError, UnusableError
from cht_rapidpro.telemetry import logs

log: structlog.stdlib.BoundLogger = structlog.get_logger()

CRASHED: Final = 1
BAD_USAGE: Final = 2
BAD_CONFIG: Final = 78
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141  # as a shell shows what SIGPIPE ended
_WATCH_INTERVAL: Final = 2.0  # seconds

EXIT_CODES: Final = f"""exit codes:
    0  done; of run: stopped by a signal
    1  run: crashed, or the state directory cannot be written (a restart recovers);
       check: at least one ✗; status: not ok, or no daemon answers;
       drain: something is left
    {BAD_USAGE}  wrong usage
   {BAD_CONFIG}  a configuration that cannot be used; the message names the file and the key
  {INTERRUPTED}  ended by Ctrl-C
  {PIPE_CLOSED}  the reader of the output, such as `head`, has closed it
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    try:
        try:
            return _run_command(parser().parse_args(argv))
        finally:  # also after --version and --help, which end by SystemExit
            sys.stdout.flush()  # here, where its errors are handled; the interpreter flushes only after `main`
    except ConfigError as error:
        print(f"cht-rapidpro: {error}", file=sys.stderr)
        return BAD_CONFIG
    except UnusableError as error:
        print(f"cht-rapidpro: {error}", file=sys.stderr)
        return CRASHED
    except KeyboardInterrupt:  # until the event loop installs its own signal handlers
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output, such as `head`, has closed it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter's last flush fails
        return PIPE_CLOSED


def _run_command(args: argparse.Namespace) -> int:
    match args.command:
        case "run":
            return _run(args.config, is_dry=args.dry_run)
        case "check":
            return _check(args.config, offline=args.offline, as_json=args.json, of_migration=args.migration)
        case "credentials":
            return _set_credential(args.config, CredentialName(args.name))
        case "status":
            from cht_rapidpro.commands import status  # noqa: PLC0415 - only this command loads it

            interval = _WATCH_INTERVAL if args.watch else None
            listen = loader.load_admin(args.config).listen
            return status.run(listen, as_json=args.json, interval=interval)
        case "pause" | "resume":
            return pause.run(args, _of_service(args.config))
        case "drain":
            return drain.run(args, _of_service(args.config))
        case "messages":
            return messages_command.run(args, _of_service(args.config))
        case _:
            return _spool(args)


def parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands, whose help texts deploy/manpage.py reads, too."""
    top = argparse.ArgumentParser(
        prog="cht-rapidpro",
        description="SMS gateway between the Community Health Toolkit (CHT) and RapidPro.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"cht-rapidpro {version('cht-rapidpro')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run the daemon until SIGTERM or SIGINT")
    arguments.add_config(run)
    run.add_argument("--dry-run", action="store_true", help="post and write nothing, log what it would")
    check = commands.add_parser(
        "check",
        help="check every dependency, and say what to do about each finding; as root with the service's secrets",
    )
    arguments.add_config(check)
    check.add_argument("--offline", action="store_true", help="check the configuration only, without a connection")
    check.add_argument("--migration", action="store_true", help="where a move from another gateway, or back, stands")
    check.add_argument("--json", action="store_true", help="for machines")
    credentials = commands.add_parser(
        "credentials", help="write RapidPro's token or the webhooks' key into CHT's vault"
    )
    setting = credentials.add_subparsers(required=True, metavar="set").add_parser(
        "set", help="the value is one line on standard input; on a terminal it is asked for and not shown"
    )
    setting.add_argument("name", choices=[*map(str, CredentialName)], metavar="NAME", help=" or ".join(CredentialName))
    arguments.add_config(setting)
    status = commands.add_parser("status", help="show the condition of the running daemon")
    arguments.add_config(status)
    status.add_argument("--json", action="store_true", help="for machines")
    status.add_argument("--watch", action="store_true", help="repeat until Ctrl-C")
    pause.add_to(commands)
    drain.add_to(commands)
    messages_command.add_to(commands)
    _add_spool(commands.add_parser("spool", help="list and handle the incoming messages that wait for CouchDB"))
    return top


def _add_spool(spool: argparse.ArgumentParser) -> None:
    actions = spool.add_subparsers(dest="action", required=True, metavar="ACTION")
    helps = {
        "list": "list all messages, numbers masked and texts left out",
        "show": "show one message with its text and number",
        "retry": "let rejected messages wait again (NUMBER: all, for every one)",
        "drop": "delete for good",
    }
    for name, help_text in helps.items():
        action = actions.add_parser(name, help=help_text)
        arguments.add_config(action)
        if name == "drop":
            action.add_argument("--yes", action="store_true", help="drop messages that still wait, without a question")
        if name != "list":
            action.add_argument("numbers", nargs="+", metavar="NUMBER", help="as `list` shows it")


def _of_service(path: Path) -> dict[str, str]:
    return arguments.service_environ(os.environ, path, is_root=os.geteuid() == 0)


def _run(path: Path, *, is_dry: bool) -> int:
    def load() -> Config:
        return loader.load(path, os.environ)

    settings = load()
    if not is_dry:
        return _serve(settings, load)
    with state_copy(Path(settings.cht.state_dir)) as folder:
        return _serve(settings.as_dry_run(folder), lambda: load().as_dry_run(folder))


def _serve(settings: Config, load: Callable[[], Config]) -> int:
    logs.configure(settings.log.level, settings.log.format)
    _take_all_files()
    faulthandler.enable()  # the watchdog ends a stuck process by SIGABRT: the journal then shows where
    for warning in settings.warnings:
        log.warning("config.warned", warning=warning)
    sockets = take_sockets("incoming", os.environ)
    with state_directory(Path(settings.cht.state_dir)) as instance_id:
        try:
            asyncio.run(daemon.run(settings, instance_id, load, sockets))
        except Exception:
            log.critical("daemon.crashed", exc_info=True)
            return CRASHED
    return 0


def _take_all_files() -> None:
    """Raises the soft limit of open files, usually 1,024, to the hard limit: each connection takes a file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _check(path: Path, *, offline: bool, as_json: bool, of_migration: bool) -> int:
    from cht_rapidpro.commands.check import report  # noqa: PLC0415 - only this command loads it

    logs.configure("critical", "console", sys.stderr)  # the findings contain the errors
    if of_migration:
        findings = asyncio.run(report.check_migration(path, _of_service(path)))
    else:
        findings = asyncio.run(report.check(path, _of_service(path), offline=offline))
    print(report.as_json(findings) if as_json else report.as_text(findings))
    return 0 if report.is_good(findings) else CRASHED


def _set_credential(path: Path, name: CredentialName) -> int:
    settings = loader.load(path, _of_service(path))
    try:
        value = checked_secret(_read_value(name).strip(" \t"))
    except ConfigError as error:
        print(f"cht-rapidpro: the value of {name}: {error}", file=sys.stderr)
        return BAD_USAGE
    try:
        where, is_new = asyncio.run(_write_credential(settings.couchdb, name, value))
    except GatewayError as error:
        print(f"cht-rapidpro: {name} was not written: {error}", file=sys.stderr)
        return CRASHED
    print(f"{name} was {'created' if is_new else 'replaced'} in {where}")
    if settings.cht.credentials != "vault":
        print(f'{path}: [cht] credentials is not "vault": cht-rapidpro itself does not read it there')
    return 0


def _read_value(name: CredentialName) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(f"{name}: ")
    try:
        return sys.stdin.buffer.read().decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise ConfigError(f"byte {error.start} is not UTF-8") from error


async def _write_credential(couchdb: Couchdb, name: CredentialName, value: Secret) -> tuple[str, bool]:
    """Returns where the secret was written, and whether it is new."""
    async with Couch(couchdb) as couch:
        vault = Vault(couch)
        return vault.url, await vault.write(name, value)


def _spool(args: argparse.Namespace) -> int:
    from cht_rapidpro.commands import spool  # noqa: PLC0415 - only this command loads it

    path = loader.load_spool(args.config, os.environ)
    try:
        return spool.run(args.action, path, getattr(args, "numbers", []), is_sure=getattr(args, "yes", False))
    except (PermanentError, OperatorActionRequiredError) as error:
        print(f"cht-rapidpro: {error}", file=sys.stderr)
        return CRASHED
