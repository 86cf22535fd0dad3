"""The file in the state directory that says who sent last: a restart of this gateway is no takeover."""

from pathlib import Path
from typing import Final

from cht_rapidpro.adapters.host.note_file import NoteFile
from cht_rapidpro.domain.takeover import Sender, read_sender, written

NAME: Final = "sender.json"


class SenderFile:
    """Blocking; `folder` is the state directory."""

    def __init__(self, folder: Path) -> None:
        self._file = NoteFile(folder, NAME)

    def read(self) -> Sender | None:
        """None where there is none, or none that can be read: then a takeover is the safe guess."""
        try:
            return read_sender(self._file.read() or "")
        except (OSError, UnicodeDecodeError):
            return None

    def write(self, sender: Sender) -> None:
        """Raises ConfigError, UnusableError."""
        self._file.write(written(sender))
