"""What the chronicle keeps of the facts that the metrics are told of: no full number, nothing missing."""

import asyncio
from contextlib import suppress

from cht_rapidpro.domain.history import History, MessageRef
from cht_rapidpro.jobs.status.history import HistoryKeeper
from cht_rapidpro.telemetry.metrics import Arrived, Figure, Metrics, Outcome
from tests.support.virtual_time import jump


def kept(history: History) -> list[tuple[str, str, MessageRef]]:
    return [(each.fact.direction, each.fact.outcome, each.fact.about) for each in history.recent(10)]


async def test_every_fact_is_kept_with_its_number_cut() -> None:
    metrics = Metrics()
    history = HistoryKeeper(metrics, dict, lambda: 5000).history
    metrics.sent(MessageRef("doc", "uuid", "71 234 567", "9"), due=1000, now=3000)
    metrics.count(Arrived.STORED, MessageRef("rapidpro-sms:tel:+254712345678", number="+254712345678", gateway_ref="x"))
    metrics.count(Outcome.EXPIRED, MessageRef("doc", "uuid"))
    assert kept(history) == [
        ("outgoing", "expired", MessageRef("doc", "uuid")),
        ("incoming", "stored", MessageRef("rapidpro-sms:tel:…678", "", "…678", "x")),
        ("outgoing", "sent", MessageRef("doc", "uuid", "…567", "9")),
    ]
    assert [event.at for event in history.recent(10)] == [5000] * 3
    assert [event.fact.waited for event in history.recent(10)] == [None, None, 2.0]


async def test_the_remaining_budget_is_sampled_while_the_job_runs() -> None:
    left: dict[str, float | None] = {"v2": 100, "v2.runs": None}
    figures: dict[str, Figure] = {"budget_left_requests": left}
    history = HistoryKeeper(Metrics(), lambda: figures, lambda: 0)
    running = asyncio.create_task(history.run())
    loop = asyncio.get_running_loop()
    await asyncio.sleep(0)
    left["v2"] = 40
    jump(60.0)
    for _ in range(3):
        await asyncio.sleep(0)
    minutes = history.history.minutes(loop.time())
    assert [minute.least for minute in minutes[-2:]] == [{"v2": 100}, {"v2": 40}]
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
