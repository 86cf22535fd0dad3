"""A Debian of its own for the package: an overlay over the debootstrapped root, thrown away with the test.

`make test-deb` and `make test-boot` build both. Without them, without root's rights or the tools, the tests are
skipped, and say why. The root shares this machine's network, so that the doubles of CouchDB and RapidPro are its peers.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from demo.couchdb import CouchDBServer
from demo.process import INCOMING_KEY
from tests.conftest import TOKEN

TOP: Final = Path(__file__).parents[2]
BASE: Final = Path(os.environ.get("DEBIAN_ROOT", TOP / "build" / "root"))
ETC: Final = "etc/cht-rapidpro"


def package() -> Path:
    """Return the package that `make deb` has built, or skip the test."""
    found = sorted((TOP / "build").glob("cht-rapidpro_*.deb"))
    for is_missing, what in (
        (os.geteuid() != 0, "root's rights"),
        (not found, "the package: make deb"),
        (not (BASE / "usr/bin/apt-get").exists(), f"a debootstrapped root in {BASE}: make build/root"),
    ):
        if is_missing:
            pytest.skip(f"needs {what}")
    return found[-1]


def run(*command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command of this machine to its end; both outputs are in `stdout`."""
    own = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    return subprocess.run(  # noqa: S603
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
        env=own | environ,
    )


class Root:
    """The tree at `path`. Commands run in it by chroot; `tests/systemd` boots it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *command: str, **environ: str) -> subprocess.CompletedProcess[str]:
        return run("chroot", str(self.path), *command, **environ)

    def configure(self, couchdb: CouchDBServer, database: str, rapidpro: str, extra: str = "") -> None:
        """What the package's note asks for: the addresses in the file."""
        file = self.path / ETC / "config.toml"
        text = file.read_text()
        for there, here in (
            ("http://127.0.0.1:5984", couchdb.url),
            ("https://rapidpro.example.org", rapidpro),
            ('"medic"', f'"{database}"'),
            ('"gateway"', f'"{couchdb.user}"'),
        ):
            assert there in text
            text = text.replace(there, here)
        file.write_text(text + extra)

    def give_secrets(self, couchdb: CouchDBServer) -> None:
        """And the three files beside it."""
        secrets = {"couchdb-password": couchdb.password, "rapidpro-token": TOKEN, "incoming-key": INCOMING_KEY}
        for name, secret in secrets.items():
            file = self.path / ETC / name
            file.touch(0o600)
            file.write_text(f"{secret}\n")

    def left(self) -> list[str]:
        """Every path that has the package's name, without what Debian keeps of every package."""
        found = run("find", str(self.path), "-xdev", "-name", "*cht[-_]rapidpro*", "-printf", "%P\\n").stdout.split()
        kept = re.compile(r"(var/(cache|log|backups)|proc|sys|run)/|.*\.deb$")
        return [path for path in found if not kept.match(path)]

    def add(self, deb: Path, *, version: str = "") -> str:
        """Copy the package into the root, as another version where one is named; return its path there."""
        if not version:
            shutil.copy(deb, self.path / deb.name)
            return f"/{deb.name}"
        tree = self.path.parent / f"as-{version}"
        assert run("dpkg-deb", "-R", str(deb), str(tree)).returncode == 0
        control = tree / "DEBIAN/control"
        control.write_text(re.sub(r"^Version: .*", f"Version: {version}", control.read_text(), flags=re.MULTILINE))
        name = f"cht-rapidpro_{version}.deb"
        assert run("dpkg-deb", "-Zgzip", "--build", str(tree), str(self.path / name)).returncode == 0
        return f"/{name}"


@contextmanager
def overlay(folder: Path) -> Iterator[Root]:
    """Mount a fresh root below `folder`."""
    parts: Mapping[str, Path] = {name: folder / name for name in ("upper", "work", "root")}
    for part in parts.values():
        part.mkdir()
    options = f"lowerdir={BASE},upperdir={parts['upper']},workdir={parts['work']}"
    mounted = run("mount", "-t", "overlay", "overlay", "-o", options, str(parts["root"]))
    if mounted.returncode:
        pytest.skip(f"needs overlayfs: {mounted.stdout.strip()}")
    try:
        yield Root(parts["root"])
    finally:
        run("umount", str(parts["root"]))
