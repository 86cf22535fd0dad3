"""The file in the state directory that holds sending (`cht-rapidpro pause`), for the command and the daemon.

The command writes it also while no daemon runs; the daemon reads it several times a second. It takes its place whole
or not at all, and is on disk before the command says so.
"""

import os
from pathlib import Path
from typing import Final

from cht_rapidpro.domain.pause import Pause, read, unreadable, written
from cht_rapidpro.errors import ConfigError, GatewayError, UnusableError

_NAME: Final = "pause.json"
_MOST: Final = 4096  # bytes


class PauseFile:
    """Blocking; `folder` is the state directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / _NAME

    def read(self) -> Pause | None:
        """None where there is no file. One that cannot be read is a pause that names its problem."""
        try:
            with self._path.open("rb") as file:
                return read(file.read(_MOST).decode())
        except FileNotFoundError:
            return None
        except OSError as error:
            return unreadable(f"{self._path}: {error.strerror}")
        except UnicodeDecodeError:
            return unreadable(f"{self._path} is not UTF-8")

    def write(self, pause: Pause) -> None:
        """Makes it readable for the service's user, also when root writes it. Raises ConfigError, UnusableError."""
        temporary = self._path.with_suffix(".new")
        try:
            with temporary.open("w") as out:
                os.fchmod(out.fileno(), 0o644)  # the folder keeps others out
                out.write(written(pause))
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(self._path)
            self._sync()
        except OSError as error:
            raise self._unusable(error) from error

    def remove(self) -> None:
        """Raises ConfigError, UnusableError."""
        try:
            self._path.unlink(missing_ok=True)
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
        return kind(f"[cht] state_dir: {self._path} cannot be written: {error.strerror}")
