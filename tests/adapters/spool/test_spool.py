"""The spool: what it has taken is on the disk, whole batches or nothing, for the owner's eyes alone."""

import asyncio
import sqlite3
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from cht_rapidpro.adapters.spool.file import Counts, Row, SpoolFile
from cht_rapidpro.adapters.spool.spool import Spool
from cht_rapidpro.domain.incoming import InboundMessage
from cht_rapidpro.errors import OperatorActionRequiredError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
ARRIVALS = st.builds(
    InboundMessage,
    id=TEXT | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    sender=TEXT | st.integers(),
    content=TEXT,
    at=st.integers(0, 2**53),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "spool.sqlite3"


@pytest.fixture
async def spool(path: Path) -> AsyncIterator[Spool]:
    async with Spool(path) as spool:
        yield spool


def arrival(number: int, content: str = "hello") -> InboundMessage:
    return InboundMessage(f"id-{number}", "+254712345678", content, number)


def waiting(rows: list[Row]) -> list[InboundMessage]:
    return [row.arrival for row in rows]


async def test_messages_are_found_by_their_ids_in_every_state(spool: Spool) -> None:
    await spool.put([arrival(1), arrival(2), arrival(1, "again")])
    await spool.put([arrival(3)], "too large")
    assert await spool.under(["id-1", "id-3", "id-4"]) == [arrival(1), arrival(1, "again"), arrival(3)]
    assert await spool.under([]) == []


@settings(max_examples=50)
@given(st.lists(ARRIVALS, max_size=5))
def test_the_spool_returns_each_message_as_it_was_put(arrivals: list[InboundMessage]) -> None:
    with TemporaryDirectory() as folder:
        file = SpoolFile(Path(folder, "spool"))
        file.put(arrivals)
        found = waiting(file.oldest(10))
        file.close()
    assert found == arrivals
    assert [type(each.id) for each in found] == [type(each.id) for each in arrivals]


async def test_the_oldest_come_first_and_leave_one_by_one(spool: Spool) -> None:
    await spool.put([arrival(1), arrival(2)])
    await spool.put([arrival(3)])
    rows = await spool.oldest(2)
    assert waiting(rows) == [arrival(1), arrival(2)]
    await spool.settle([rows[0].number], {rows[1].number: "it is too large"})
    assert waiting(await spool.oldest(10)) == [arrival(3)]
    assert await spool.counts() == Counts(waiting=1, rejected=1)
    await spool.put([arrival(4)], "forbidden")
    assert await spool.counts() == Counts(waiting=1, rejected=2)


async def test_another_process_sees_and_changes_it_meanwhile(spool: Spool, path: Path) -> None:
    """What the commands do while the daemon works."""
    await spool.put([arrival(number) for number in range(4)], "forbidden")
    await asyncio.to_thread(_retry_the_first_and_drop_the_second, path)
    assert waiting(await spool.oldest(10)) == [arrival(0)]
    assert await spool.counts() == Counts(waiting=1, rejected=2)


def _retry_the_first_and_drop_the_second(path: Path) -> None:
    other = SpoolFile(path)
    one, two, three, four = other.all_after(0, 10)
    assert [row.rejected for row in (one, four)] == ["forbidden"] * 2
    assert other.all_after(two.number, 1) == [three]
    assert other.find(one.number) == one
    assert (other.retry(one.number), other.retry(one.number), other.retry(99)) == (True, False, False)
    assert (other.drop(two.number), other.drop(two.number)) == (True, False)
    assert other.find(two.number) is None
    other.close()


async def test_a_number_never_comes_again(spool: Spool) -> None:
    await spool.put([arrival(1)])
    [first] = await spool.oldest(1)
    await spool.settle([first.number], {})
    await spool.put([arrival(2)])
    [second] = await spool.oldest(1)
    assert second.number > first.number


async def test_the_last_look_is_kept(path: Path) -> None:
    async with Spool(path) as spool:
        assert await spool.checkpoint() is None
        await spool.keep_last_look(1795334400000)
        await spool.keep_last_look(1795334400001)
    async with Spool(path) as spool:
        assert await spool.checkpoint() == 1795334400001


async def test_the_files_are_for_their_owner_alone_and_forget_what_is_deleted(spool: Spool, path: Path) -> None:
    await asyncio.to_thread(path.touch, 0o644)
    await spool.put([arrival(number, f"Zebra {number}") for number in range(100)])
    files = list(path.parent.iterdir())
    assert len(files) == 3, "the file, its log, and the index of the log"
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    await spool.settle([row.number for row in await spool.oldest(100)], {})
    await spool.clean()
    assert [file.name for file in files if b"Zebra" in file.read_bytes()] == []


async def test_a_disk_that_takes_nothing_is_told_once_and_used_again_when_it_does(tmp_path: Path) -> None:
    folder = tmp_path / "away"
    with capture_logs() as logs:
        async with Spool(folder / "spool.sqlite3") as spool:
            for _ in range(3):
                with pytest.raises(OperatorActionRequiredError, match="check the disk"):
                    await spool.put([arrival(1)])
            folder.mkdir()
            await spool.put([arrival(2)])
            assert waiting(await spool.oldest(10)) == [arrival(2)]
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("dependency.refused", "error"),
        ("dependency.recovered", "warning"),
    ]


async def test_a_locked_file_is_waited_for_and_then_given_up(spool: Spool, path: Path) -> None:
    await spool.put([arrival(1)])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writing = asyncio.create_task(spool.put([arrival(2)]))
    await asyncio.sleep(0.05)
    other.execute("ROLLBACK")
    await writing
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(OperatorActionRequiredError, match="locked"):
        await spool.put([arrival(3)])
    other.close()
    assert waiting(await spool.oldest(10)) == [arrival(1), arrival(2)]


@pytest.mark.parametrize("damage", [b"this is no database, and long enough to be seen as none", b"SQLite format 3\0"])
async def test_a_damaged_file_is_named(path: Path, damage: bytes) -> None:
    await asyncio.to_thread(path.write_bytes, damage)
    async with Spool(path) as spool:
        with pytest.raises(OperatorActionRequiredError, match=str(path)):
            await spool.put([arrival(1)])


async def test_a_file_of_a_newer_version_is_left_alone(path: Path) -> None:
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 2")
    other.close()
    async with Spool(path) as spool:
        with pytest.raises(OperatorActionRequiredError, match="newer version"):
            await spool.put([arrival(1)])


_WRITES_FOR_EVER = """
import sys
from pathlib import Path
from cht_rapidpro.adapters.spool.file import SpoolFile
from cht_rapidpro.domain.incoming import Arrival
file = SpoolFile(Path(sys.argv[1]))
for batch in range(1_000_000):
    file.put([Arrival(f"{batch}", "1", "x", part) for part in range(3)])
    print(batch, flush=True)
"""


async def test_a_kill_leaves_whole_batches_and_every_one_that_was_told(path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _WRITES_FOR_EVER, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    told = [await process.stdout.readline() for _ in range(20)]
    process.kill()
    told += (await process.stdout.read()).splitlines(keepends=True)
    await process.wait()
    async with Spool(path) as spool:
        rows = waiting(await spool.oldest(1_000_000))
    batches = len(rows) // 3
    assert [(row.id, row.at) for row in rows] == [(f"{batch}", part) for batch in range(batches) for part in range(3)]
    assert sum(line.endswith(b"\n") for line in told) <= batches
