"""Makes the man pages and the shells' completions from the parser's own texts, into a folder.

`python -m deploy.manpage FOLDER VERSION` writes cht-rapidpro.1, cht-rapidpro.toml.5 and completions for bash, zsh and
fish. There is one source for each text: the parser for the commands, config.example.toml for the keys.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import shtab

from cht_rapidpro.commands.main import parser as command_parser

ROOT: Final = Path(__file__).parents[1]
COMPLETIONS: Final = {"bash": "cht-rapidpro", "zsh": "_cht-rapidpro", "fish": "cht-rapidpro.fish"}

_FILES: Final = {
    "/etc/cht-rapidpro/config.toml": "the configuration, cht-rapidpro.toml(5)",
    "/etc/cht-rapidpro/couchdb-password, rapidpro-token, incoming-key": "the secrets, each in a file for root alone",
    "/var/lib/cht-rapidpro": "the state directory: the daemon's id, its lock, and the spool",
}
_ENVIRONMENT: Final = {
    "CHT_RAPIDPRO_CONFIG": "the configuration of a command without --config",
    "CHT_RAPIDPRO_COUCHDB_PASSWORD, CHT_RAPIDPRO_RAPIDPRO_TOKEN, CHT_RAPIDPRO_INCOMING_KEY": "the secrets",
    "CREDENTIALS_DIRECTORY, STATE_DIRECTORY": "as systemd sets them for the service",
}


def escaped(text: str) -> str:
    """Return `text` as roff shows it unchanged: backslashes and hyphens, and no line that begins with a request."""
    plain = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in plain.splitlines())


def command_page(parser: argparse.ArgumentParser, version: str) -> str:
    """Return cht-rapidpro(1)."""
    exits = (parser.epilog or "").partition("\n")[2]
    lines = [
        f'.TH CHT\\-RAPIDPRO 1 "" "cht\\-rapidpro {version}" "User Commands"',
        ".SH NAME",
        f"cht\\-rapidpro \\- {escaped((parser.description or '').rstrip('.'))}",
        ".SH SYNOPSIS",
        ".B cht\\-rapidpro\n.I COMMAND\n[OPTION]...",
        ".SH COMMANDS",
        *_commands(parser),
        ".SH OPTIONS",
        *_options(parser),
        ".SH ENVIRONMENT",
        *_list(_ENVIRONMENT),
        ".SH FILES",
        *_list(_FILES),
        ".SH EXIT STATUS",
        *_verbatim(exits),
        ".SH SEE ALSO",
        ".BR cht\\-rapidpro.toml (5),\n/usr/share/doc/cht\\-rapidpro/operations/",
    ]
    return "\n".join(lines) + "\n"


def file_page(example: str, version: str) -> str:
    """Return cht-rapidpro.toml(5), which is the commented example."""
    lines = [
        f'.TH CHT\\-RAPIDPRO.TOML 5 "" "cht\\-rapidpro {version}" "File Formats"',
        ".SH NAME",
        "cht\\-rapidpro.toml \\- configuration of cht\\-rapidpro(1)",
        ".SH DESCRIPTION",
        *_verbatim(example),
        ".SH SEE ALSO",
        ".BR cht\\-rapidpro (1)",
    ]
    return "\n".join(lines) + "\n"


def _verbatim(text: str) -> Iterator[str]:
    yield from (".nf", escaped(text.rstrip("\n")), ".fi")


def _list(entries: dict[str, str]) -> Iterator[str]:
    for term, meaning in entries.items():
        yield f".TP\n.B {escaped(term)}\n{escaped(meaning)}"


def _commands(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The leaves of the tree of commands, each with its options, in the order of --help."""
    for action in parser._actions:  # argparse shows its commands nowhere else
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield f".SS {escaped(command.prog)}\n{escaped(helps.get(name, ''))}"
                yield from _options(command)
                yield from _commands(command)


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction):
            continue
        names = ", ".join(action.option_strings)
        value = str(action.metavar or action.dest) if action.nargs != 0 else ""
        yield f".TP\n.B {escaped(f'{names} {value}'.strip())}\n{escaped(action.help or '')}"


def _complete_files(parser: argparse.ArgumentParser) -> None:
    """Let the shells complete file names where a FILE is asked for."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command)
        elif action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined]


def main(folder: Path, version: str) -> None:
    """Write all of them into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    parser = command_parser()
    (folder / "cht-rapidpro.1").write_text(command_page(parser, version))
    (folder / "cht-rapidpro.toml.5").write_text(file_page((ROOT / "config.example.toml").read_text(), version))
    _complete_files(parser)
    for shell, name in COMPLETIONS.items():
        (folder / shell).mkdir(exist_ok=True)
        (folder / shell / name).write_text(shtab.complete(parser, shell=shell))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
