"""A small file of the state directory that holds one note, for the commands and the daemon.

A note takes its place whole or not at all, and is on disk before anything says so.
"""

import os
from pathlib import Path
from typing import Final

from cht_rapidpro.errors import ConfigError, GatewayError, UnusableError

_MOST: Final = 4096  # bytes


class NoteFile:
    """Blocking; `folder` is the state directory."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self.path = folder / name

    def read(self) -> str | None:
        """None where there is no file. Raises OSError, UnicodeDecodeError."""
        try:
            with self.path.open("rb") as file:
                return file.read(_MOST).decode()
        except FileNotFoundError:
            return None

    def write(self, text: str) -> None:
        """Makes it readable for the service's user, also when root writes it. Raises ConfigError, UnusableError."""
        temporary = self.path.with_suffix(".new")
        try:
            with temporary.open("w") as out:
                os.fchmod(out.fileno(), 0o644)  # the folder keeps others out
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(self.path)
            self._sync()
        except OSError as error:
            raise self._unusable(error) from error

    def remove(self) -> None:
        """Raises ConfigError, UnusableError."""
        try:
            self.path.unlink(missing_ok=True)
            self._sync()
        except OSError as error:
            raise self._unusable(error) from error

    def _sync(self) -> None:
        """The names in the folder, too, outlive a power cut."""
        folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _unusable(self, error: OSError) -> GatewayError:
        is_wrong = isinstance(error, FileNotFoundError | NotADirectoryError)
        kind = ConfigError if is_wrong else UnusableError
        return kind(f"[cht] state_dir: {self.path} cannot be written: {error.strerror}")
