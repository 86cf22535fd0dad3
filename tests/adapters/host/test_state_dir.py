"""The state directory: one identity that survives, and one daemon at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cht_rapidpro.adapters.host.state_dir import give_to_owner, state_directory
from cht_rapidpro.errors import ConfigError, UnusableError

HOLD = """
import pathlib, sys
from cht_rapidpro.adapters.host.state_dir import state_directory
with state_directory(pathlib.Path(sys.argv[1])) as instance:
    print(instance, flush=True)
    sys.stdin.read()
"""


def identity(path: Path) -> str:
    with state_directory(path) as instance:
        return instance


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_the_id_survives_and_belongs_to_the_folder(tmp_path: Path) -> None:
    first = identity(tmp_path / "one")
    assert first == identity(tmp_path / "one") == f"{int(first, 16):032x}"
    assert identity(tmp_path / "two") != first


def test_the_state_directory_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    identity(tmp_path / "state")
    assert (mode(tmp_path / "state"), mode(tmp_path / "state" / "lock")) == (0o700, 0o600)


def test_a_second_process_is_kept_off_until_the_first_ends_however_it_ends(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:  # noqa: S603
        assert first.stdout is not None
        held = first.stdout.readline().strip()
        with pytest.raises(ConfigError, match=r"^\[cht\] state_dir: .* is in use by another cht-rapidpro; "):
            identity(tmp_path)
        first.kill()
    assert identity(tmp_path) == held


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"0123456789abcdef", b"0123456789ABCDEF" * 2, b"0123456789abcdef" * 2 + b"\nx", b"\xff\xfe"],
    ids=["empty", "blank", "short", "upper case", "more", "no text"],
)
def test_a_damaged_id_is_never_replaced(tmp_path: Path, content: bytes) -> None:
    """A new one would leave the claims of the old one to nobody."""
    file = tmp_path / "instance-id"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"^\[cht\] state_dir: {file} "):
        identity(tmp_path)
    assert file.read_bytes() == content


def test_a_folder_that_cannot_be_made_names_itself_and_the_reason(tmp_path: Path) -> None:
    """Below a file: where permissions stop nobody (root), this still does."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^\[cht\] state_dir: .*/file/state cannot be written to: Not a directory"):
        identity(tmp_path / "file" / "state")


def test_no_more_than_one_folder_is_made(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="/not/there cannot be written to: No such file or directory"):
        identity(tmp_path / "not" / "there")
    assert not (tmp_path / "not").exists()


def test_a_disk_that_is_read_only_or_anothers_is_no_fault_of_the_configuration() -> None:
    """The kernel's folder takes no file from anybody, root included."""
    with pytest.raises(UnusableError, match=r"^\[cht\] state_dir: /sys/kernel cannot be written to: "):
        identity(Path("/sys/kernel"))


def test_a_folder_where_the_id_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "instance-id").mkdir()
    with pytest.raises(ConfigError, match="instance-id cannot be read"):
        identity(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_files_that_root_has_made_belong_to_the_owner_of_the_directory(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    identity(folder)
    os.chown(folder, 12345, 12346)
    (folder / "link").symlink_to("/")
    give_to_owner(folder)
    assert {(file.lstat().st_uid, file.lstat().st_gid) for file in folder.iterdir()} == {(12345, 12346)}
    assert Path("/").stat().st_uid == 0
