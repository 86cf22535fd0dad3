"""What fresh delivery states cost in requests to RapidPro, beside one a message a minute, and how fresh they are.

`python -m bench.delivery [--full] [--messages N] [--rounds N] [--campaign N] [--held N,N]`; with COUCHDB_URL against
that server. Everything runs in one process on a clock that jumps over the waits between rounds: the minutes are
RapidPro's, the daemon's and the documents' alike, and the time that the machine needs for its work is part of them.
"""

import argparse
import asyncio
import itertools
import random
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final
from uuid import uuid4

import structlog
from msgspec.structs import replace

from bench.rig import TOKEN, percentile, table
from cht_rapidpro.config.schema import Admin, Cht, Config, Couchdb, Delivery, Incoming, Outgoing, Rapidpro
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.daemon import serve
from cht_rapidpro.domain.claim import Instance
from cht_rapidpro.domain.delivery import MessageRow, SentTask, match_broadcast
from cht_rapidpro.domain.outgoing import BroadcastId, Urn
from cht_rapidpro.domain.planner import PAGE, Listing, Round
from cht_rapidpro.domain.statuses import State, message_outcome
from cht_rapidpro.domain.task import DocId, MessageId
from cht_rapidpro.jobs.delivery.tracker import DeliveryTracker, loop_ms
from cht_rapidpro.jobs.live_config.reload import Reload
from demo.couchdb import CouchDBServer, couchdb_server
from demo.database import Database, Doc, delete_database
from demo.medic import create_medic, data_record, iso_time, message, task
from demo.process import note_sender
from demo.rapidpro import Call, RapidPro
from tests.support.virtual_time import JumpingLoop, jump, wall_clock

DAYS: Final = 2
MINUTE: Final = 60.0
YOUNG: Final = 10 * MINUTE
NEW: Final = 20  # messages that another daemon sends, a round
STEPS: Final = 6  # in which the statuses of a round change
CHANGING: Final = 5  # one in so many, a round
_BULK: Final = 500
GROUP: Final = 100  # recipients of a broadcast of the campaign
MOVES: Final = ("wired", "sent", "delivered")  # the last one: one in ten fails
_NEXT: Final = {"queued": "wired", "wired": "sent", "sent": "errored", "errored": "wired"}  # always outstanding


@dataclass
class Seen:
    """What the daemon has logged: finished rounds, and for each change of a state its broadcast, state and moment."""

    rounds: int = 0
    changes: list[tuple[int, str, float]] = field(default_factory=list)

    def __call__(self, _logger: object, _method: str, line: MutableMapping[str, Any]) -> str:
        if line["event"] == "round.finished":
            self.rounds += 1
        if line["event"] == "state.changed":
            self.changes.append((int(line["gateway_ref"]), str(line["state"]), _now()))
        raise structlog.DropEvent


@dataclass
class Change:
    """A status at RapidPro; `age`: of its message, in seconds."""

    state: str
    at: float
    age: float
    is_seen: bool = False


class Workload:
    """The messages of the last two days in RapidPro and in CouchDB, and how their statuses change."""

    def __init__(self, rapidpro: RapidPro, database: Database) -> None:
        self._rapidpro = rapidpro
        self._database = database
        self._random = random.Random(7)  # noqa: S311 - the same start each time
        self._numbers = itertools.count(1)
        self.changes: dict[int, list[Change]] = {}

    async def fill(self, count: int, others: int, clock: "Clock") -> None:
        """The messages of two days, `others` of other programs among them, evenly spread."""
        now = _now()
        kinds = ["ours"] * count + ["other"] * others
        self._random.shuffle(kinds)
        docs = []
        for index, kind in enumerate(kinds):
            clock.fixed = now - DAYS * 86_400 * (1 - index / len(kinds))
            if kind == "ours":
                docs.append(self._send())
            else:
                number = next(self._numbers)
                self._rapidpro.create_broadcast([f"tel:+2547{number:08}"], f"Campaign {number}")
        clock.fixed = None
        for start in range(0, len(docs), _BULK):
            await self._database.bulk(docs[start : start + _BULK])
            for ddoc, view in (("medic", "messages_by_state"), ("medic-sms", "messages_by_last_updated_state")):
                await self._database.view(ddoc, view, limit=1)

    def _send(self) -> Doc:
        """One message, as a relay leaves it: claimed, and settled a moment later."""
        number = next(self._numbers)
        to = f"+2547{number:08}"
        broadcast = self._rapidpro.create_broadcast([f"tel:{to}"], f"Reminder {number}")
        self.changes[broadcast.id] = []
        settled = broadcast.created_on
        sent = task(message(f"Reminder {number}", to), state="received-by-gateway", at=settled)
        history = [{"state": "received-by-gateway", "state_details": "Queued", "timestamp": iso_time(settled)}]
        extra = {"state_details": "Queued", "gateway_ref": str(broadcast.id), "state_history": history}
        return data_record({**sent, **extra}, at=settled)

    async def send(self, count: int) -> None:
        await self._database.bulk([self._send() for _ in range(count)])

    def change(self, count: int) -> None:
        for broadcast in self._random.sample(sorted(self.changes), count):
            (sms,) = self._rapidpro.messages_of(broadcast)
            status = _NEXT[sms.status]
            self._rapidpro.move(sms, status)
            outcome = message_outcome(status)
            assert outcome  # noqa: S101 - one of _NEXT
            age = _now() - sms.created_on.timestamp()
            self.changes[broadcast].append(Change(str(outcome.state), _now(), age))

    def observe(self, seen: Seen) -> Iterator[tuple[float, float]]:
        """Age and delay of each change that arrived in its task; one that the next overtook never does."""
        for broadcast, state, at in seen.changes:
            made = [each for each in self.changes[broadcast] if each.at <= at and each.state == state]
            if made and not made[-1].is_seen:
                made[-1].is_seen = True
                yield made[-1].age, at - made[-1].at


class Campaign:
    """Messages of some broadcasts, made within two seconds, in one document or each in its own."""

    def __init__(self, rapidpro: RapidPro, database: Database) -> None:
        self._rapidpro = rapidpro
        self._database = database

    async def fill(self, count: int, clock: "Clock", *, in_one: bool) -> None:
        tasks = []
        now = _now()
        for start in range(0, count, GROUP):
            clock.fixed = now + 2 * start / count
            numbers = [f"+2547{number:08}" for number in range(start, start + GROUP)]
            broadcast = self._rapidpro.create_broadcast([f"tel:{to}" for to in numbers], f"Campaign {start}")
            at = broadcast.created_on
            history = [{"state": "received-by-gateway", "state_details": "Queued", "timestamp": iso_time(at)}]
            extra = {"state_details": "Queued", "gateway_ref": str(broadcast.id), "state_history": history}
            sent = (task(message(broadcast.text, to), state="received-by-gateway", at=at) for to in numbers)
            tasks += [{**each, **extra} for each in sent]
        clock.fixed = None
        docs = [data_record(*tasks)] if in_one else [data_record(each) for each in tasks]
        for start in range(0, len(docs), _BULK):
            await self._database.bulk(docs[start : start + _BULK])

    def move(self, status: str) -> Counter[str]:
        """What the states of the tasks are to be then."""
        expected: Counter[str] = Counter()
        for number, sms in enumerate(self._rapidpro.messages):
            new = "failed" if status == "delivered" and number % 10 == 0 else status
            self._rapidpro.move(sms, new)
            outcome = message_outcome(new)
            assert outcome  # noqa: S101 - one of RapidPro's
            expected[str(outcome.state)] += 1
        return expected

    async def states(self) -> Counter[str]:
        rows = (await self._database.request("GET", "_all_docs", include_docs="true"))["rows"]
        return Counter(each["state"] for row in rows for each in row["doc"].get("tasks", ()))


class Clock:
    """RapidPro's: the virtual one, or fixed while the past is being written."""

    fixed: float | None = None

    def __call__(self) -> float:
        return _now() if self.fixed is None else self.fixed


async def main() -> None:
    options = _options()
    async with couchdb_server() as couchdb:
        rows = await _freshness(couchdb, options.messages, options.rounds)
        table(f"delivery: {options.messages} outstanding messages of two days, {options.rounds} rounds", rows)
        for in_one in (True, False):
            where = "one document" if in_one else "as many documents"
            rows = await _campaign(couchdb, options.campaign, in_one=in_one)
            table(f"delivery: a campaign of {options.campaign} in {where}, {GROUP} a broadcast, within 2 s", rows)
        held = [(f"{count} messages", await _held(count)) for count in options.held]
        table("delivery: a round over so many outstanding messages of mixed ages, answers included", held)
        rows = await _scattered(couchdb, options.scattered, options.others)
        table(f"delivery: {options.scattered} messages among {options.others} others, the first round", rows)


async def _freshness(couchdb: CouchDBServer, count: int, rounds: int) -> list[tuple[str, str]]:
    async with _Bench(couchdb) as bench:
        await bench.workload.fill(count, 0, bench.clock)
        async with bench.daemon():
            cost_of_cht = 0
            for _ in range(rounds):
                cost_of_cht += len(bench.workload.changes)
                await bench.workload.send(NEW)
                for _ in range(STEPS):
                    bench.workload.change(count // CHANGING // STEPS)
                    jump(MINUTE / STEPS)
                    await asyncio.sleep(0)
                await bench.finish_round()
            asked = Counter(_kind(call) for call in bench.rapidpro.calls)
        changes = [change for made in bench.workload.changes.values() for change in made]
        delays = list(bench.workload.observe(bench.seen))
    young = [delay for age, delay in delays if age < YOUNG]
    requests = sum(asked.values())
    return [
        ("requests to RapidPro", f"{requests}: {', '.join(f'{n} {kind}' for kind, n in sorted(asked.items()))}"),
        ("one a message a minute, as CHT", f"{cost_of_cht}, {cost_of_cht / requests:.0f} times as many"),
        ("at RapidPro's 3,600 requests an hour", f"CHT asks for each once in {count / 60:.0f} min"),
        ("changes at RapidPro", f"{len(changes)}"),
        ("states written into documents", f"{len(bench.seen.changes)}"),
        ("change to task, all ages, p50 / p99", _both([delay for _, delay in delays])),
        (f"younger than ten minutes ({len(young)}), p50 / p99", _both(young)),
    ]


async def _campaign(couchdb: CouchDBServer, count: int, *, in_one: bool) -> list[tuple[str, str]]:
    async with _Bench(couchdb) as bench:
        campaign = Campaign(bench.rapidpro, bench.database)
        await campaign.fill(count, bench.clock, in_one=in_one)
        jump(3)
        rows = []
        async with bench.daemon():
            await bench.finish_round()
            rows.append(("first round", f"{len(bench.rapidpro.calls)} requests"))
            for status in MOVES:
                expected = campaign.move(status)
                before, rounds = len(bench.rapidpro.calls), 0
                while rounds < 5 and await campaign.states() != expected:
                    rounds += 1
                    jump(MINUTE)
                    await bench.finish_round()
                asked = len(bench.rapidpro.calls) - before
                state = "all" if await campaign.states() == expected else "NOT all"
                hold = -(-count // PAGE)
                rows.append(
                    (f"to {status}", f"{state} states in {rounds} rounds, {asked} requests; {hold} pages hold them")
                )
    return rows


async def _held(count: int) -> str:
    """CPU of a round in which all are due and answered, and what holding them takes; no CouchDB, no network."""
    tracemalloc.start()
    tracker = DeliveryTracker(60_000, 7 * 86_400_000)
    now = wall_clock()
    ages = random.Random(7)  # noqa: S311 - the same start each time
    for number in range(count):
        changed = now - int(ages.random() * DAYS * 86_400_000)
        broadcast, urn = BroadcastId(str(10_000_000 + number)), Urn(f"tel:+2547{number:08}")
        known = (DocId(uuid4().hex), MessageId(str(uuid4())), broadcast, (urn,), State.SENT, "Sent")
        tracker.hold(SentTask(*known, changed, changed - 2000, changed), loop_ms(), now)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    started = time.process_time()
    due = tracker.due(loop_ms())
    for each in due:
        each.after, each.before = each.task.created_after, each.task.created_before
    asked = Round(due, by_turn=False)
    newest_first = sorted(due, key=lambda each: -each.before)
    pages = 0
    while step := asked.next(4):
        if not isinstance(step, Listing):
            for each in step:
                del asked.left[each]
            continue
        goes_on = True
        while goes_on:
            page = newest_first[pages * PAGE : (pages + 1) * PAGE]
            pages += 1
            moments = [each.before for each in page]
            rows = [MessageRow(each.broadcast, each.task.urns[0], "sent", each.before) for each in page]
            for each, row in zip(page, rows, strict=True):
                match_broadcast([other.task for other in tracker.of(row.broadcast)], [row], None)
                each.answered(loop_ms())
            goes_on = step.goes_on(page, max(moments), min(moments), is_last=pages * PAGE >= count)
    cpu = time.process_time() - started
    return f"{cpu:.2f} s of CPU, {pages} pages, {held / 1e6:.0f} MB"


async def _scattered(couchdb: CouchDBServer, count: int, others: int) -> list[tuple[str, str]]:
    async with _Bench(couchdb) as bench:
        await bench.workload.fill(count, others, bench.clock)
        async with bench.daemon():
            await bench.finish_round()
            asked = Counter(_kind(call) for call in bench.rapidpro.calls)
    return [(kind, f"{number}") for kind, number in sorted(asked.items())]


def _kind(call: Call) -> str:
    return "look-ups of one message" if "broadcast" in call.query else f"pages of {call.target.partition(' ')[2]}"


def _both(delays: list[float]) -> str:
    return f"{percentile(delays, 0.5):.0f} s / {percentile(delays, 0.99):.0f} s" if delays else "none"


class _Bench:
    """A database, a RapidPro and a daemon in this process."""

    def __init__(self, couchdb: CouchDBServer) -> None:
        self._couchdb = couchdb
        self._name = f"bench-{uuid4().hex}"
        self.clock = Clock()
        self.seen = Seen()
        self.rapidpro = RapidPro(TOKEN, clock=self.clock)
        self.database = Database(couchdb, self._name)
        self.workload = Workload(self.rapidpro, self.database)
        self._stop = asyncio.Event()

    async def __aenter__(self) -> "_Bench":
        await create_medic(self._couchdb, self._name)
        await self.database.__aenter__()
        await self.rapidpro.__aenter__()
        structlog.configure(processors=[structlog.processors.add_log_level, self.seen])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.rapidpro.__aexit__(None, None, None)
        await self.database.__aexit__(None, None, None)
        await delete_database(self._couchdb, self._name)

    def daemon(self) -> "_Daemon":
        return _Daemon(self._config())

    def _config(self) -> Config:
        server = self._couchdb
        return Config(
            couchdb=Couchdb(server.url, self._name, server.user, password=Secret(server.password)),
            rapidpro=Rapidpro(url=self.rapidpro.url, token=Secret(TOKEN)),
            outgoing=Outgoing(sweep_interval=3600.0),
            incoming=Incoming(enabled=False),
            delivery=Delivery(),
            admin=Admin(listen=""),
        )

    async def finish_round(self) -> None:
        """Waits for the end of a round that begins about now."""
        wanted = self.seen.rounds + 1
        while self.seen.rounds < wanted:
            await asyncio.sleep(0.01)


class _Daemon:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._stop = asyncio.Event()

    async def __aenter__(self) -> None:
        self._folder = TemporaryDirectory()
        note_sender(Path(self._folder.name))
        config = replace(self._config, cht=Cht(state_dir=self._folder.name))
        reload = Reload(config, lambda: config, asyncio.Event())
        serving = serve(config, Instance(uuid4().hex, "bench"), self._stop, wall_clock, reload)
        self._serving = asyncio.create_task(serving)

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self._serving
        self._folder.cleanup()


def _now() -> float:
    """Seconds since 1970 of the clock that jumps."""
    return wall_clock() / 1000


def _counts(text: str) -> list[int]:
    return [int(count) for count in text.split(",")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="10,000 messages, 20 rounds, 100,000 others")
    parser.add_argument("--messages", type=int, help="outstanding ones")
    parser.add_argument("--rounds", type=int, help="of a minute each")
    parser.add_argument("--campaign", type=int, default=5000, help="messages made within two seconds")
    parser.add_argument("--held", type=_counts, default="10000,100000", help="outstanding ones, for CPU and memory")
    parser.add_argument("--scattered", type=int, default=100, help="outstanding ones among the others")
    parser.add_argument("--others", type=int, help="messages of other programs")
    options = parser.parse_args()
    sizes = {"messages": 10_000, "rounds": 20, "others": 100_000}
    small = {"messages": 500, "rounds": 5, "others": 20_000}
    for name, size in (sizes if options.full else small).items():
        if getattr(options, name) is None:
            setattr(options, name, size)
    return options


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(main())
