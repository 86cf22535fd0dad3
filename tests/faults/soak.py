"""Many faults at random steps while messages are written, edited and withdrawn; then a verdict.

`python -m tests.faults.soak [--minutes 10] [--seed N] [--daemons 1|2] [--messages N] [--repeated]
[--coalesce auto|always] [--no-faults] [--keep]` prints the seed, the faults by kind, what a message cost, and every
violation; exits 1 if there is one. Then its files stay, and the last line says where; so they do with `--keep`, and
when it was broken off. With $COUCHDB_URL it runs on that server.
"""

import argparse
import asyncio
import math
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from demo.database import Database, Doc
from tests.faults.cluster import Cluster, cluster, delete
from tests.faults.evidence import collect
from tests.faults.injector import Injector
from tests.faults.plan import Kind, kinds, plan
from tests.faults.population import repeated, unique
from tests.faults.times import CLAIM_TIMEOUT, SETTLE_TIME, TIMEOUT
from tests.faults.verdict import Verdict, judge
from tests.faults.wait import until_answered
from tests.faults.writer import Model, Writer

_STANDSTILL: Final = 180.0  # seconds without a message less that waits: no more will be sent
_QUIET: Final = SETTLE_TIME + TIMEOUT  # longer than any request that is late, and any second look
_EXAMPLES: Final = 5
_AT_ONCE: Final = 200  # documents a request


@dataclass(frozen=True)
class Soak:
    """What is to be run. `messages` are written evenly over `seconds`, `is_repeated`: texts and numbers repeat."""

    seed: int
    seconds: float
    messages: int
    daemons: int = 1
    is_repeated: bool = False
    has_faults: bool = True
    coalesce: str = "off"
    keeps: bool = False


@dataclass(frozen=True)
class Report:
    """`cost`: requests to RapidPro, and revisions of documents that the gateway wrote, each per wanted message."""

    soak: Soak
    database: str
    verdict: Verdict
    faults: Counter[Kind]
    cost: Mapping[str, float]
    exits: Sequence[int]
    seconds: float

    @property
    def is_good(self) -> bool:
        return self.verdict.is_good and not self.exits

    def __str__(self) -> str:
        verdict = self.verdict
        return "\n".join(
            [
                f"{self.soak}, took {self.seconds:.0f} s",
                f"messages by CHT's last word: {dict(verdict.messages)}; broadcasts: {verdict.broadcasts}",
                *(f"{figure:.2f} {what} per message" for what, figure in self.cost.items()),
                *self._fault_table(),
                *(line for name, found in verdict.violations.items() for line in _listed(name, found)),
                *_listed("daemons that ended by themselves", [f"exit code {code}" for code in self.exits]),
            ]
        )

    def _fault_table(self) -> list[str]:
        rows = [(kind, self.faults[kind]) for kind in kinds(self.soak.daemons)]
        width = max(len(kind) for kind, _ in rows)
        return [f"{kind:<{width}} {count:>5}" for kind, count in [*rows, ("faults", self.faults.total())]]


def _listed(name: str, found: Sequence[str]) -> list[str]:
    return [f"{name}: {len(found)}", *(f"    {each}" for each in found[:_EXAMPLES])]


async def run(soak: Soak, folder: Path) -> Report:
    """Runs it with its files in `folder`, on processes of its own."""
    start = time.monotonic()
    async with cluster(folder, soak.daemons, soak.coalesce) as running:
        injector = Injector(running)
        writer = Writer(running.medic, repeated() if soak.is_repeated else unique(), soak.seed)
        decks = plan(soak.seed, soak.daemons) if soak.has_faults else iter(())
        async with asyncio.TaskGroup() as group:
            faults = group.create_task(injector.run(decks, soak.seconds))
            group.create_task(writer.run(soak.messages, soak.seconds, faults))
        await writer.finish()
        await injector.calm()
        await _quiet(running)
        leaves = await _leaves(running.medic, list(writer.models))
        verdict = judge(writer.models, leaves, running.rapidpro.broadcasts)
        cost = _cost(verdict.wanted, running, writer.models, leaves)
        took = time.monotonic() - start
        report = Report(soak, running.medic.name, verdict, injector.done, cost, running.exits, took)
        if soak.keeps or not report.is_good:
            broadcasts = running.rapidpro.broadcasts
            await collect(folder, writer.models, leaves, broadcasts, injector.posts, injector.log)
    return report


async def _quiet(running: Cluster) -> None:
    """All is sent that will be, however slow the machine is: what is not by then is the verdict's to tell.

    While CouchDB takes longer than a claim is young enough to post under, a standstill is right, and tells nothing.
    """
    least, since, asked = math.inf, time.monotonic(), time.monotonic()
    while (waiting := await _waiting(running.medic)) > 0:
        is_slow = time.monotonic() > asked + CLAIM_TIMEOUT / 4
        if waiting < least or is_slow:
            least, since = min(waiting, least), time.monotonic()
        elif time.monotonic() > since + _STANDSTILL:
            break
        await asyncio.sleep(1)
        asked = time.monotonic()
    await asyncio.sleep(_QUIET)
    await running.end_daemons()


async def _waiting(medic: Database) -> int:
    key = "pending-or-forwarded"
    return len(await until_answered(lambda: medic.view("medic", "messages_by_state", startkey=[key], endkey=[key, {}])))


async def _leaves(medic: Database, ids: Sequence[str]) -> dict[str, list[Doc]]:
    """Every leaf of each document that is there, the winning one first."""
    found: dict[str, list[Doc]] = {}
    for start in range(0, len(ids), _AT_ONCE):
        some = {"keys": ids[start : start + _AT_ONCE]}
        answer = await until_answered(partial(_with_branches, medic, some))
        for doc in (row["doc"] for row in answer["rows"] if row.get("doc")):
            revs = doc.pop("_conflicts", ())
            losing = [await until_answered(partial(medic.request, "GET", doc["_id"], rev=rev)) for rev in revs]
            found[doc["_id"]] = [doc, *losing]
    return found


async def _with_branches(medic: Database, keys: Doc) -> Doc:
    found: Doc = await medic.request("POST", "_all_docs", body=keys, include_docs="true", conflicts="true")
    return found


def _cost(
    messages: int, running: Cluster, models: Mapping[str, Model], leaves: Mapping[str, Sequence[Doc]]
) -> dict[str, float]:
    ours = sum(int(found[0]["_rev"].partition("-")[0]) - models[doc_id].writes for doc_id, found in leaves.items())
    return {"requests to RapidPro": len(running.rapidpro.calls) / messages, "revisions": ours / messages}


def _options() -> Soak:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6), help="default: a new one")  # noqa: S311
    parser.add_argument("--messages", type=int, default=6000)
    parser.add_argument("--daemons", type=int, choices=(1, 2), default=1)
    parser.add_argument("--repeated", action="store_true", help="texts and numbers repeat")
    parser.add_argument("--no-faults", action="store_true", help="to see what a message costs")
    parser.add_argument(
        "--coalesce", choices=("off", "auto", "always"), default="off", help="one broadcast for equal texts"
    )
    parser.add_argument("--keep", action="store_true", help="keep the files and the database in any case")
    given = parser.parse_args()
    return Soak(
        given.seed,
        60 * given.minutes,
        given.messages,
        given.daemons,
        given.repeated,
        not given.no_faults,
        given.coalesce,
        given.keep,
    )


def main() -> int:
    soak = _options()
    print(f"seed {soak.seed}", flush=True)  # noqa: T201
    folder = Path(tempfile.mkdtemp(prefix="cht-rapidpro-soak-"))
    is_good, is_kept = False, True
    try:
        report = asyncio.run(run(soak, folder))
        print(report)  # noqa: T201
        is_good, is_kept = report.is_good, soak.keeps or not report.is_good
        if not is_kept:
            asyncio.run(delete(report.database))
            shutil.rmtree(folder)
        else:
            print(f"database {report.database}")  # noqa: T201
    finally:
        if is_kept:
            print(f"files kept in {folder}", flush=True)  # noqa: T201
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
