"""The state directory: the identity of this daemon, and the lock that keeps a second one off it.

Two daemons under one instance id would take each other's claims for their own. The lock is the kernel's (flock), so
it ends with the process, however that ends.
"""

import fcntl
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cht_rapidpro.errors import ConfigError

_ID: Final = re.compile(r"[0-9a-f]{32}")


@contextmanager
def state_directory(path: Path) -> Iterator[str]:
    """Holds the lock on the directory (made if need be) and yields the instance id kept in it, 32 hex digits.

    Blocking, for use before the event loop starts. Raises ConfigError: in use, not writable, a damaged id.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"[cht] state_dir: {path} cannot be written to: {error.strerror}") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"[cht] state_dir: {path} is in use by another cht-rapidpro; each daemon needs a folder of its own"
            ) from error
        except OSError as error:
            raise ConfigError(f"[cht] state_dir: {path} cannot be locked: {error.strerror}") from error
        yield _instance_id(path / "instance-id")
    finally:
        os.close(lock)


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
        found = file.read_text().strip()
    except FileNotFoundError:
        return _new_instance_id(file)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"[cht] state_dir: {file} cannot be read: {error}") from error
    if not _ID.fullmatch(found):
        raise ConfigError(f"[cht] state_dir: {file} does not hold an instance id: restore it, or remove the file")
    return found


def _new_instance_id(file: Path) -> str:
    """On disk before its first use: a claim must never name an instance that nobody is after a power cut."""
    made = uuid.uuid4().hex
    temporary = file.with_suffix(".new")
    try:
        with temporary.open("w") as out:
            out.write(made + "\n")
            out.flush()
            os.fsync(out.fileno())
        temporary.replace(file)
    except OSError as error:
        raise ConfigError(f"[cht] state_dir: {file} cannot be written: {error.strerror}") from error
    return made
