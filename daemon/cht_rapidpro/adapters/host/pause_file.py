"""The file in the state directory that holds sending (`cht-rapidpro pause`), for the command and the daemon.

The command writes it also while no daemon runs; the daemon reads it several times a second.
"""

from pathlib import Path
from typing import Final

from cht_rapidpro.adapters.host.note_file import NoteFile
from cht_rapidpro.domain.pause import Pause, read, unreadable, written

_NAME: Final = "pause.json"


class PauseFile:
    """Blocking; `folder` is the state directory."""

    def __init__(self, folder: Path) -> None:
        self._file = NoteFile(folder, _NAME)

    def read(self) -> Pause | None:
        """None where there is no file. One that cannot be read is a pause that names its problem."""
        try:
            found = self._file.read()
        except OSError as error:
            return unreadable(f"{self._file.path}: {error.strerror}")
        except UnicodeDecodeError:
            return unreadable(f"{self._file.path} is not UTF-8")
        return None if found is None else read(found)

    def write(self, pause: Pause) -> None:
        """Raises ConfigError, UnusableError."""
        self._file.write(written(pause))

    def remove(self) -> None:
        """Raises ConfigError, UnusableError."""
        self._file.remove()
