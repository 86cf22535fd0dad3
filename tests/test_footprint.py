"""What a running daemon does not need is not in its memory: each of these was megabytes."""

import json
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    """The modules of a process that has imported what `cht-rapidpro run` imports."""
    script = "import json, sys, cht_rapidpro.commands.main; print(json.dumps(sorted(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)  # noqa: S603 - our own words
    return set(json.loads(found.stdout))


@pytest.mark.parametrize(
    "name",
    [
        "rich",
        "pygments",
        "difflib",
        "demo",
        "cht_rapidpro.commands.check",
        "cht_rapidpro.commands.spool",
        "cht_rapidpro.commands.messages.site",
        "cht_rapidpro.page.parts",
        "Cryptodome",
    ],
)
def test_the_daemon_does_not_load(loaded: set[str], name: str) -> None:
    assert not {module for module in loaded if module == name or module.startswith(f"{name}.")}


def test_the_demo_has_its_library_all_the_same() -> None:
    """It is hidden from structlog alone."""
    subprocess.run([sys.executable, "-c", "import cht_rapidpro.commands.main, demo.story, rich.live"], check=True)
