"""Listings are whole or an error, and take a tenth of what RapidPro allows."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from cht_rapidpro.adapters.rapidpro.client import Listing
from cht_rapidpro.adapters.rapidpro.client import RapidPro as Client
from cht_rapidpro.config.schema import Rapidpro
from cht_rapidpro.config.secret_store import Keyring, Secrets
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.budget import Scope
from cht_rapidpro.jobs.rapidpro_pages.listings import Listings
from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.support.fault_proxy import until
from tests.support.virtual_time import jump, wall_clock

PER_HOUR = 30


@pytest.fixture
async def rapidpro() -> AsyncIterator[RapidPro]:
    """Four pages of messages and of runs."""
    async with RapidPro(TOKEN, clock=lambda: wall_clock() / 1000, page_size=2) as rapidpro:
        for number in range(7):
            rapidpro.receive(f"tel:+25471234567{number}", "hello", flow="relay")
        yield rapidpro


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    keyring = Keyring(Secrets(rapidpro_token=Secret(TOKEN)))
    async with Client(Rapidpro(requests_per_hour=PER_HOUR), keyring) as client:
        yield client


async def calls(rapidpro: RapidPro, count: int) -> None:
    """That many came, and no more come for now."""
    await until(lambda: len(rapidpro.calls) >= count)
    await asyncio.sleep(0.05)
    assert len(rapidpro.calls) == count


@pytest.mark.parametrize("listing", [Listing.MESSAGES, Listing.RUNS])
async def test_a_tenth_of_each_hour_and_the_rest_an_hour_later(
    listing: Listing, rapidpro: RapidPro, client: Client
) -> None:
    listings = Listings(client)
    asking = asyncio.create_task(listings.whole(rapidpro.url, listing, {}))
    await calls(rapidpro, 3)
    jump(3500)
    await calls(rapidpro, 3)
    jump(101)
    assert len(await asking) == 7
    await calls(rapidpro, 4)


async def test_a_listing_waits_for_the_budget_that_other_requests_have_spent(
    rapidpro: RapidPro, client: Client
) -> None:
    budget = client.budgets[Scope.MESSAGES]
    for _ in range(PER_HOUR - 1):
        budget.begin()
        budget.end(asyncio.get_running_loop().time(), counted=True)
    asking = asyncio.create_task(Listings(client).whole(rapidpro.url, Listing.MESSAGES, {}))
    await calls(rapidpro, 1)
    jump(3601)
    assert len(await asking) == 7


@pytest.mark.parametrize(("per_hour", "at_once"), [(None, 4), (5, 1)], ids=["no limit", "a tenth is less than one"])
async def test_limits_at_their_ends(per_hour: int | None, at_once: int, rapidpro: RapidPro, client: Client) -> None:
    client.limit(per_hour)
    pages: Any = Listings(client).pages(rapidpro.url, Listing.MESSAGES, {})
    asking = asyncio.create_task(anext(pages))
    assert len(await asking) == 2
    rest = asyncio.create_task(_count(pages))
    await calls(rapidpro, at_once)
    for count in range(at_once, 4):
        jump(3601)
        await calls(rapidpro, count + 1)
    assert await rest == 3


async def _count(pages: Any) -> int:
    return len([page async for page in pages])
