"""What is released: one version, its changes, and exactly the versions of its dependencies that were tested."""

import re
import shutil
import subprocess
import tomllib
from importlib.metadata import requires, version
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# A requirement with its hashes, without the comment that says what it is for.
BLOCK: Final = re.compile(r"^(([\w.-]+)==.*(?:\\\n.*)+)", re.MULTILINE)


def blocks(file: str) -> dict[str, str]:
    """Each requirement of a lock file, by its first line."""
    text = re.sub(r"^ *#.*\n", "", (ROOT / file).read_text(), flags=re.MULTILINE)
    return {block.splitlines()[0]: block for block, _ in BLOCK.findall(text)}


def needed(name: str) -> set[str]:
    """What is installed for the package `name`, itself included, without extras."""
    found, waiting = set[str](), [name]
    while waiting:
        if (each := canonicalize_name(waiting.pop())) not in found:
            found.add(each)
            wanted = [Requirement(line) for line in requires(each) or []]
            waiting += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def test_the_runtime_has_the_versions_that_the_tests_run_with() -> None:
    runtime, tested = blocks("requirements-runtime.lock"), blocks("requirements.lock")
    assert runtime
    assert {line: tested.get(line) for line in runtime} == runtime


def test_the_runtime_is_locked_whole_and_without_the_developers_tools() -> None:
    locked = {line.partition("==")[0] for line in blocks("requirements-runtime.lock")}
    assert locked == needed("cht-rapidpro") - {"cht-rapidpro"}


def test_the_changes_begin_with_this_version() -> None:
    told = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert told[0] == PROJECT["version"] == version("cht-rapidpro")


def test_a_tag_is_the_version() -> None:
    git = shutil.which("git") or "git"
    done = subprocess.run([git, "tag", "--points-at", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)  # noqa: S603
    tags = [tag for tag in done.stdout.split() if re.fullmatch(r"v\d.*", tag)]
    assert tags in ([], [f"v{PROJECT['version']}"])
