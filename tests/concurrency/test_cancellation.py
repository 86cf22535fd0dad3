"""A cancelled task ends, also where a library loses the cancel on the way."""

import asyncio

import pytest

from cht_rapidpro.concurrency.cancellation import end, raise_cancelled
from cht_rapidpro.errors import TransientError
from cht_rapidpro.jobs.documents.retry import until_it_works
from tests.support.fault_proxy import until
from tests.support.virtual_time import jump


async def _loses_cancels(times: int) -> None:
    """Waits as a request does; the first cancels become time-outs."""
    lost = 0

    async def request() -> None:
        nonlocal lost
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if lost == times:
                raise
            lost += 1
            raise TransientError("a time-out in place of the cancel") from None

    await until_it_works(request)


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_cancel_is_repeated_until_the_task_has_ended(times: int) -> None:
    jobs = [asyncio.create_task(_loses_cancels(times)), asyncio.create_task(asyncio.sleep(0))]
    await asyncio.sleep(0)
    ending = asyncio.create_task(end(*jobs))
    await until(lambda: _hurry() and ending.done())
    assert all(job.done() for job in jobs)


async def test_a_task_that_ends_another_may_be_cancelled_itself() -> None:
    job = asyncio.create_task(_loses_cancels(2))
    await asyncio.sleep(0)
    ending = asyncio.create_task(end(job))
    await asyncio.sleep(0)
    ending.cancel()
    await until(lambda: _hurry() and ending.done())
    assert (job.cancelled(), ending.cancelled()) == (True, True)


async def test_an_error_in_place_of_a_cancel_is_the_cancel() -> None:
    async def request() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            try:
                raise TimeoutError from None
            except TimeoutError as error:
                raise_cancelled(error)

    job = asyncio.create_task(request())
    await asyncio.sleep(0)
    job.cancel()
    await asyncio.wait([job])
    assert job.cancelled()
    raise_cancelled(TimeoutError())  # nobody has cancelled this one


def _hurry() -> bool:
    jump(0.2)
    return True
