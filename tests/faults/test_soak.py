"""The soak in short: one deck with every kind of fault, from a fixed seed, in three forms at once."""

import asyncio
from pathlib import Path

from tests.faults.cluster import delete
from tests.faults.plan import kinds
from tests.faults.soak import Soak, run

SOAKS = [
    Soak(seed=3, seconds=10, messages=250),
    Soak(seed=4, seconds=10, messages=250, daemons=2, is_repeated=True),
    Soak(seed=5, seconds=10, messages=250, is_repeated=True, coalesce="always"),
]


async def test_never_twice_and_never_lost(tmp_path: Path) -> None:
    reports = await asyncio.gather(*(run(soak, tmp_path / str(soak.seed)) for soak in SOAKS))
    for report in reports:
        await delete(report.database)
    told = "\n\n".join(map(str, reports))
    assert all(report.is_good for report in reports), told
    assert all(set(report.faults) == set(kinds(report.soak.daemons)) for report in reports), told
