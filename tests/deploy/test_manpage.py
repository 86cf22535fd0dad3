"""The man pages and completions, made from the parser: every command and option is in each of them."""

import argparse
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cht_rapidpro.commands.main import BAD_CONFIG, BAD_USAGE
from cht_rapidpro.commands.main import parser as command_parser
from deploy import manpage

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pages")
    manpage.main(folder, "1.2.3")
    return folder


def words(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every command and option that a user can type, but for --help."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield name
                yield from words(command)
        elif not isinstance(action, argparse._HelpAction):
            yield from (option.lstrip("-") for option in action.option_strings)


@pytest.mark.parametrize(
    "file", ["cht-rapidpro.1", *(f"{shell}/{name}" for shell, name in manpage.COMPLETIONS.items())]
)
def test_every_command_and_option_is_told(pages: Path, file: str) -> None:
    told = (pages / file).read_text().replace("\\-", "-")
    assert {word for word in words(command_parser()) if word not in told} == set()


def test_the_page_tells_the_version_and_the_exit_codes(pages: Path) -> None:
    told = (pages / "cht-rapidpro.1").read_text()
    assert "1.2.3" in told
    assert all(f"   {code}  " in told for code in (BAD_USAGE, BAD_CONFIG))


@pytest.mark.parametrize(
    ("text", "roff"), [("a-b", "a\\-b"), ("C:\\n", "C:\\en"), (".SH x\n'y", "\\&.SH x\n\\&'y"), ("a.b", "a.b")]
)
def test_roff_shows_a_text_unchanged(text: str, roff: str) -> None:
    assert manpage.escaped(text) == roff


@pytest.mark.skipif(shutil.which("man") is None, reason="man is missing: apt-get install man-db")
def test_the_manual_page_holds_the_configuration_unchanged(pages: Path) -> None:
    man = shutil.which("man") or ""
    done = subprocess.run(  # noqa: S603
        [man, "--warnings", "-P", "cat", "-l", str(pages / "cht-rapidpro.toml.5")],
        capture_output=True, text=True, timeout=60, check=True,
        env={"MANWIDTH": "200", "LC_ALL": "C.UTF-8", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    example = [line.strip() for line in (ROOT / "config.example.toml").read_text().splitlines() if line]
    assert [line for line in example if line not in [shown.strip() for shown in done.stdout.splitlines()]] == []
    assert done.stderr == ""


def test_bash_completes_a_command(pages: Path) -> None:
    script = f"source {pages}/bash/cht-rapidpro; complete -p cht-rapidpro; COMP_WORDS=(cht-rapidpro st); COMP_CWORD=1; "
    script += "_shtab_cht_rapidpro; echo ${COMPREPLY[@]}"
    bash = shutil.which("bash") or ""
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    assert done.stdout.splitlines()[-1] == "status"
