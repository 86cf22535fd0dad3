"""Every command of the runbook, as it is written there, on a running daemon with the troubles that it is for."""

import asyncio
import re
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from cht_rapidpro.adapters.spool.file import SpoolFile
from cht_rapidpro.domain.incoming import InboundMessage
from demo.couchdb import CouchDBServer
from demo.database import Database
from demo.process import COMMAND, Daemon, note_sender
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.e2e.test_command import logged
from tests.e2e.test_messages import FAST, record, uuid_of
from tests.support.fault_proxy import until

RUNBOOK: Final = Path(__file__).parents[2] / "docs/operations/runbook.md"
ELSEWHERE: Final = ("journalctl", "systemctl", "install ")  # they need systemd: tests/systemd has these
MINE: Final = "0123456789abcdef" * 2
ROWS: Final = 12  # the runbook's example is row 12


def commands() -> Iterator[str]:
    for block in re.findall(r"^```\n(.*?)^```", RUNBOOK.read_text(), re.M | re.S):
        for line in block.splitlines():
            command = line.partition("  #")[0].strip()
            if not any(each in command for each in ELSEWHERE):
                yield command


async def typed(config: Path, command: str) -> tuple[int, str]:
    """In a shell that finds the command and its configuration; `y` for who is asked."""
    environ = {"PATH": f"{Path(COMMAND).parent}:/usr/bin:/bin", "CHT_RAPIDPRO_CONFIG": str(config)}
    shell = await asyncio.create_subprocess_shell(command, stdin=PIPE, stdout=PIPE, stderr=STDOUT, env=environ)
    out, _ = await shell.communicate(b"y\n")
    return shell.returncode or 0, out.decode()


@pytest.fixture
def rejected_rows(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path / "spool.sqlite3")
    spool.put([InboundMessage(str(row), "+254712345678", "x", 0) for row in range(ROWS)], "CouchDB answers forbidden")
    spool.close()


@pytest.mark.usefixtures("rejected_rows")
async def test_each_command_of_the_runbook_works_as_it_is_written(
    tmp_path: Path, couchdb: CouchDBServer, medic: Database, rapidpro: RapidPro
) -> None:
    sections = {name: dict(keys) for name, keys in FAST.items()}
    daemon = Daemon(tmp_path, couchdb, medic.name, {"url": rapidpro.url}, TOKEN, sections)
    note_sender(tmp_path)
    (tmp_path / "instance-id").write_text(MINE + "\n")
    details = f"Claimed by cht-rapidpro {MINE} on here"
    open_ones = [record("often", "forwarded-to-gateway", ago=60.0, state_details=details) for _ in range(2)]
    failed, later = record("refused", "failed", ago=7200.0), record("tomorrow", "scheduled")
    rapidpro.anonymous = True
    refs = [str(rapidpro.create_broadcast([f"tel:+25471234567{each}"], "often").id) for each in range(4)]
    await medic.bulk([*open_ones, failed, later])
    uuids = {
        "resend": uuid_of(failed),
        "show": uuid_of(failed),
        "--ref": uuid_of(open_ones[0]),
        "--not-sent": uuid_of(open_ones[1]),
        "cancel": uuid_of(later),
    }
    typed_ones = []
    try:
        await daemon.start()
        await until(lambda: len(logged(daemon, "broadcast.undecidable")) == len(open_ones))
        [listening] = logged(daemon, "admin.listening")
        config = tmp_path / "operator.toml"  # beside the daemon's: with the port that the kernel chose for it
        section = '[admin]\nlisten = "{}"'
        config.write_text(
            daemon.config.read_text().replace(section.format("127.0.0.1:0"), section.format(listening["address"]))
        )
        for command in commands():
            words = [word for word in uuids if word in command.split()]
            line = command.replace("UUID", uuids[words[0]] if words else "").replace("BROADCAST_ID", refs[1])
            line = line.replace("drop 12", "drop 11")  # row 12 is stored by then
            code, out = await typed(config, line)
            # The rejected rows and the undecidable messages are what `status` and `check` are asked about.
            assert code in ((0, 1) if "status" in line or "check" in line else (0,)), (line, code, out)
            typed_ones.append(line)
        assert await daemon.stop() == 0
    finally:
        await daemon.kill()
    assert len(typed_ones) > 12
