"""Waiting with a limit, and signals, on a virtual clock."""

import asyncio
import math

from cht_rapidpro.concurrency.signal import Signal
from cht_rapidpro.concurrency.timing import loop_time, wait_for_event
from tests.support.virtual_time import jump


async def test_an_event_ends_the_wait() -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(wait_for_event(event, 60))
    await asyncio.sleep(0)
    event.set()
    assert await waiting


async def test_the_limit_ends_the_wait() -> None:
    began = loop_time()
    waiting = asyncio.create_task(wait_for_event(asyncio.Event(), 60))
    await asyncio.sleep(0)
    jump(61)
    assert not await waiting
    assert loop_time() - began >= 60


async def test_no_limit_waits_for_ever() -> None:
    waiting = asyncio.create_task(wait_for_event(asyncio.Event(), math.inf))
    await asyncio.sleep(0)
    jump(1e6)
    await asyncio.sleep(0)
    assert not waiting.done()
    waiting.cancel()


async def test_a_limit_that_is_over_returns_at_once() -> None:
    event = asyncio.Event()
    assert not await wait_for_event(event, -1)
    event.set()
    assert await wait_for_event(event, -1)


def test_a_signal_calls_each_subscriber_in_order() -> None:
    heard: list[tuple[str, int]] = []
    signal = Signal[int]()
    signal.subscribe(lambda value: heard.append(("first", value)))
    signal.subscribe(lambda value: heard.append(("second", value)))
    signal.emit(7)
    assert heard == [("first", 7), ("second", 7)]
