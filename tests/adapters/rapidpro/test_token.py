"""RapidPro's token: asked for at each request, and renewed where RapidPro does not know it any more."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from structlog.testing import capture_logs

from cht_rapidpro.adapters.rapidpro.client import Listing, RapidPro, Rows
from cht_rapidpro.config.schema import Rapidpro
from cht_rapidpro.config.secret_store import Keyring, Refused, Secrets
from cht_rapidpro.config.secrets import NO_SECRET, Secret
from cht_rapidpro.domain.outgoing import Broadcast, BroadcastId, Created, NotSent, Trouble, Urn
from tests.support.stub_server import Reply, Request, Scripted, scripted
from tests.support.virtual_time import jump

BROADCAST: Final = Broadcast((Urn("tel:+254712345678"),), "Njoo kliniki")
CREATED: Final = Created(BroadcastId("7"), "queued")
UNKNOWN: Final = Trouble("HTTP 403: Invalid token")
TIMEOUT: Final = 30.0


class Scene:
    """A RapidPro that knows the tokens in `valid`, and a keyring whose source runs `on_refusal`."""

    def __init__(self, token: str) -> None:
        self.keyring = Keyring(Secrets(Secret(token) if token else NO_SECRET))
        self.valid = {"new"}
        self.server = Scripted()
        self.renewals = 0
        self.on_refusal: Callable[[], None] = lambda: None
        self.keyring.refill_from(self._renew)

    def use(self, token: str) -> None:
        self.keyring.replace(Secrets(Secret(token)))

    async def _renew(self, refused: Refused) -> None:
        assert refused == "rapidpro_token"
        self.renewals += 1
        self.on_refusal()

    async def answer(self, request: Request) -> Reply:
        token = request.headers["Authorization"].removeprefix("Token ")
        if token not in self.valid:
            return Reply({"detail": "Invalid token"}, 403)
        return Reply({"id": 7, "status": "queued"}, 201) if request.name.startswith("POST") else Reply({"results": []})

    @property
    def tokens(self) -> list[str]:
        return [request.headers["Authorization"].removeprefix("Token ") for request in self.server.requests]


@asynccontextmanager
async def scene(first: str = "old") -> AsyncIterator[tuple[Scene, RapidPro]]:
    found = Scene(first)
    config = Rapidpro(timeout=TIMEOUT, requests_per_hour=100)
    async with scripted(found.answer) as found.server, RapidPro(config, found.keyring) as rapidpro:
        yield found, rapidpro


async def test_each_request_carries_the_token_in_force() -> None:
    async with scene() as (found, rapidpro):
        found.valid = {"old", "new"}
        await rapidpro.probe(found.server.url)
        found.use("new")
        await rapidpro.probe(found.server.url)
    assert (found.tokens, found.renewals) == (["old", "new"], 0)


async def test_a_request_with_a_rotated_token_is_made_again_with_the_newer_one() -> None:
    """RapidPro has done nothing: nobody has to hear of it, no message to wait."""
    with capture_logs() as logs:
        async with scene() as (found, rapidpro):
            found.on_refusal = lambda: found.use("new")
            assert await rapidpro.post_broadcast(found.server.url, BROADCAST) == CREATED
            assert await rapidpro.list_rows(found.server.url, Listing.MESSAGES, {}, None) == Rows([], None)
            assert rapidpro.budget.left(0) == 99, "RapidPro does not count a 403"
    assert (found.tokens, found.renewals, logs) == (["old", "new", "new"], 1, [])


async def test_a_token_that_was_exchanged_meanwhile_needs_no_looking_for() -> None:
    async with scene() as (found, rapidpro):
        answer = found.answer

        async def exchange(request: Request) -> Reply:
            said = await answer(request)
            found.use("new")
            return said

        async with scripted(exchange) as found.server:
            assert await rapidpro.post_broadcast(found.server.url, BROADCAST) == CREATED
    assert (found.tokens, found.renewals) == (["old", "new"], 0)


async def test_a_refused_token_without_a_newer_one_needs_an_operator() -> None:
    async with scene() as (found, rapidpro):
        assert await rapidpro.post_broadcast(found.server.url, BROADCAST) == UNKNOWN
    assert (found.tokens, found.renewals) == (["old"], 1)


async def test_each_token_that_is_refused_is_told() -> None:
    with capture_logs() as logs:
        async with scene() as (found, rapidpro):
            found.valid = set()
            for token in ("old", "old", "wrong", "wrong"):
                found.use(token)
                assert await rapidpro.post_broadcast(found.server.url, BROADCAST) == UNKNOWN
    assert [entry["event"] for entry in logs] == ["dependency.refused"] * 2


async def test_two_wrong_tokens_in_a_row_end_with_the_last_one() -> None:
    tokens = iter(["wrong", "wrong again"])
    with capture_logs() as logs:
        async with scene() as (found, rapidpro):
            found.on_refusal = lambda: found.use(next(tokens, "wrong again"))
            assert await rapidpro.post_broadcast(found.server.url, BROADCAST) == UNKNOWN
    assert (found.tokens, found.renewals) == (["old", "wrong", "wrong again"], 3)
    assert not [token for token in found.tokens if token in f"{[entry['error'] for entry in logs]}"]


async def test_a_claim_never_grows_old_while_a_token_is_looked_for() -> None:
    """The caller has reckoned with one request: one that would begin too late is left to the next round."""
    async with scene() as (found, rapidpro):

        def slowly() -> None:
            jump(TIMEOUT / 2)
            found.use("new")

        found.on_refusal = slowly
        assert await rapidpro.post_broadcast(found.server.url, BROADCAST) == UNKNOWN
        assert await rapidpro.post_broadcast(found.server.url, BROADCAST) == CREATED
    assert found.tokens == ["old", "new"]


async def test_without_any_token_nothing_leaves() -> None:
    async with scene(first="") as (found, rapidpro):
        assert await rapidpro.post_broadcast(found.server.url, BROADCAST) == NotSent("there is no token yet")
        assert rapidpro.budget.left(0) == 100
    assert found.tokens == []
