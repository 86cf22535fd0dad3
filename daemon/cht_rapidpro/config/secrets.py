"""Secrets of the configuration, and where each comes from: environment, systemd's credentials, a file, the TOML.

Invariant: a refused secret raises a ConfigError that names its source and never shows the secret. Without this rule a
password that was typed at the wrong place would appear in the journal.
"""

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from cht_rapidpro.config.value_types import at, kind_of, read_text
from cht_rapidpro.errors import ConfigError


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
