"""The state directory: the daemon's instance id, and the lock that prevents a second daemon from using it.

Two daemons with one instance id would take each other's claims for their own. The kernel's lock (flock) ends with the
process, even after a crash.
"""

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from cht_rapidpro.errors import ConfigError, GatewayError, UnusableError

_ID: Final = re.compile(r"[0-9a-f]{32}")

LEAST_ROOM: Final = 50 * 1024 * 1024  # bytes: some 100,000 messages


@contextmanager
def state_directory(path: Path) -> Iterator[str]:
    """Holds the lock on the directory and yields the instance id kept in it, 32 hex digits.

    Creates the directory if it does not exist, but not its parent. Blocking, for use before the event loop starts.
    Raises ConfigError: in use, no such path, or a damaged id; UnusableError: not readable or writable at present.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _unusable(path, "cannot be written to", error) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"[cht] state_dir: {path} is in use by another cht-rapidpro; each daemon needs a folder of its own"
            ) from error
        except OSError as error:
            raise _unusable(path, "cannot be locked", error) from error
        yield _instance_id(path / "instance-id")
    finally:
        os.close(lock)


@contextmanager
def state_copy(path: Path) -> Iterator[Path]:
    """A folder with the identity and the small notes of a state directory, which ends with the block.

    For a dry run: it must leave no note that a later start would believe, and may run beside the daemon itself.
    Raises UnusableError where one of them cannot be read.
    """
    with TemporaryDirectory(prefix="cht-rapidpro-dry-run-") as folder:
        try:
            for file in [path / "instance-id", *path.glob("*.json")]:
                if file.is_file():
                    shutil.copyfile(file, Path(folder, file.name))
        except OSError as error:
            raise _unusable(path, "cannot be read", error) from error
        yield Path(folder)


def check_instance_id(path: Path) -> str:
    """Returns why `run` cannot use the directory's instance id; "" if it can, or if there is none yet."""
    file = path / "instance-id"
    try:
        if file.exists():
            _instance_id(file)
    except (ConfigError, UnusableError) as error:
        return str(error)
    return ""


def known_instance_id(path: Path) -> str:
    """The directory's instance id; "" where it has none that can be read. Nothing is made."""
    file = path / "instance-id"
    try:
        return _instance_id(file) if file.exists() else ""
    except (OSError, ConfigError, UnusableError):
        return ""


def has_room(folder: Path) -> bool:
    """Whether the folder's disk has room for the messages of a longer outage of CouchDB.

    True for a folder that cannot be examined: the spool itself reports the problem then.
    """
    try:
        found = os.statvfs(folder)
    except OSError:
        return True
    return found.f_bavail * found.f_frsize >= LEAST_ROOM


def give_to_owner(path: Path) -> None:
    """Gives what root has made in the directory to the directory's owner: the service runs without root's rights."""
    if os.geteuid() != 0:
        return
    owner = path.stat()
    for file in path.iterdir():
        if file.lstat().st_uid == 0:
            os.chown(file, owner.st_uid, owner.st_gid, follow_symlinks=False)


def is_in_use(path: Path) -> bool:
    """Whether a daemon holds the lock on the directory at this moment."""
    try:
        lock = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


def _instance_id(file: Path) -> str:
    try:
        found = file.read_bytes().decode(errors="replace").strip()
    except FileNotFoundError:
        return _new_instance_id(file)
    except OSError as error:
        raise _unusable(file, "cannot be read", error) from error
    if not _ID.fullmatch(found):
        raise ConfigError(f"[cht] state_dir: {file} does not hold an instance id: restore it, or remove the file")
    return found


def _unusable(place: Path, what: str, error: OSError) -> GatewayError:
    """Makes the error: ConfigError if the path does not exist, UnusableError if disk or rights may be different at the
    next start.

    At most one folder is created: a longer path that does not exist is more often a typing error.
    """
    is_wrong = isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError | FileExistsError)
    kind = ConfigError if is_wrong else UnusableError
    return kind(f"[cht] state_dir: {place} {what}: {error.strerror}")


def _new_instance_id(file: Path) -> str:
    """Makes an id and writes it to disk before its first use: after a power cut, a claim must not name a lost id."""
    made = uuid.uuid4().hex
    temporary = file.with_suffix(".new")
    try:
        with temporary.open("w") as out:
            out.write(made + "\n")
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError as error:
        raise _unusable(file, "cannot be written", error) from error
    return made
