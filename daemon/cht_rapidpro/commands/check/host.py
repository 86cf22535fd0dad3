"""Checks this machine: the files with secrets, the state directory, the addresses to listen at.

A running daemon holds the lock on its state directory and listens already; this is not a problem.
"""

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec

from cht_rapidpro.adapters.host.state_dir import LEAST_ROOM, check_instance_id, has_room, is_in_use
from cht_rapidpro.commands.check.finding import Finding, bad, good, note
from cht_rapidpro.config.schema import Config
from cht_rapidpro.domain.findings import Level
from cht_rapidpro.domain.pause import Pause


def check_files(path: Path, config: Config) -> Iterator[Finding]:
    """The configuration file and the files of secrets that it names."""
    yield good("config.file", f"{path} can be used")
    for warning in config.warnings:
        yield note("config.file", warning)
    if path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        says = f"not only its owner can write {path}, which decides where password and token are sent"
        yield bad("config.permissions", says, f"chmod go-w {path}")
    holds_secret = any("is in the file itself" in warning for warning in config.warnings)
    secrets = [path.absolute().parent / name for name in _secret_files(config)]
    for file in [*secrets, *[path] * holds_secret]:
        yield _permissions(file)


def _secret_files(config: Config) -> Iterator[str]:
    """Every key of every section that names a file with a secret."""
    for section in (getattr(config, field.name) for field in msgspec.structs.fields(config)):
        if isinstance(section, msgspec.Struct):
            named = (field.name for field in msgspec.structs.fields(section) if field.name.endswith("_file"))
            yield from (file for name in named if name != "ca_file" and (file := getattr(section, name)))


def _permissions(file: Path) -> Finding:
    about = "config.permissions"
    mode = file.stat().st_mode
    if mode & stat.S_IROTH:
        return bad(about, f"every user of this machine can read the secret in {file}", f"chmod 600 {file}")
    return good(about, f"{file} is not readable by everyone ({stat.filemode(mode)})")


def check_disk(folder: Path) -> Iterator[Finding]:
    """`folder`: of the spool; if it does not exist yet there is nothing to check."""
    if folder.is_dir() and not has_room(folder):
        says = f"less than {LEAST_ROOM >> 20} MiB are free on the disk of {folder}: incoming messages may be refused"
        yield bad("host.disk", says, "make room there")


def check_pause(pause: Pause | None, now: int) -> Iterator[Finding]:
    """`now`: ms since the epoch."""
    if pause is not None and not pause.is_over(now):
        found = pause.finding()
        kind = bad if found.level is Level.BROKEN else note
        yield kind("outgoing.paused", found.what.rstrip("."), found.advice)


def check_state_dir(state_dir: Path) -> Iterator[Finding]:
    about = "host.state_dir"
    if is_in_use(state_dir):
        yield good(about, f"a daemon is running on {state_dir}")
    elif not state_dir.parent.is_dir():
        says = f"{state_dir} does not exist, nor does the folder above it: the daemon makes one folder at most"
        yield bad(about, says, "check [cht] state_dir, or make the folder above it")
    elif not state_dir.is_dir():
        yield note(about, f"{state_dir} does not exist yet: the daemon makes it at its first start")
    elif not os.access(state_dir, os.W_OK | os.X_OK):
        yield bad(
            about, f"{state_dir} cannot be written to by this user", "give it to the user that the daemon runs as"
        )
    elif problem := check_instance_id(state_dir):
        yield bad(about, problem, "restore the file from a backup, or remove it where no claim of this daemon is open")
    else:
        yield good(about, f"{state_dir} can be written to; no daemon is running on it")


def check_address(about: str, address: str) -> Finding:
    """Checks whether a daemon could listen there; `address`: host and port."""
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        for family, kind, protocol, _, place in found:
            with closing(socket.socket(family, kind, protocol)) as listener:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(place)
    except OSError as error:
        remedy = "name another one, or end the process that has it"
        return bad(about, f"cannot listen at {address}: {error.strerror}", remedy)
    return good(about, f"{address} is free")
