"""User and password of CouchDB: exchanged while running, and not asked for too often where they are refused."""

import base64

import msgspec
import pytest
from structlog.testing import capture_logs

from cht_rapidpro.adapters.couchdb.client import Couch
from cht_rapidpro.config.schema import Couchdb
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.errors import DeniedError, TransientError
from tests.support.stub_server import Reply, Request, Scripted, always, couchdb_at, scripted
from tests.support.virtual_time import jump

UP = Reply({"update_seq": "1-x"})


def _sent(server: Scripted) -> list[str]:
    """The logins that came, as `user:password`, "" for none."""
    return [_login(request) for request in server.requests]


def _login(request: Request) -> str:
    return base64.b64decode(request.headers.get("Authorization", "").removeprefix("Basic ")).decode()


def _with(couch: Couch, user: str, password: str) -> Couchdb:
    return msgspec.structs.replace(couch.config, user=user, password=Secret(password))


async def test_each_request_carries_the_login_in_force() -> None:
    async with scripted(always(UP)) as server, Couch(couchdb_at(server)) as couch:
        await couch.update_seq()
        couch.sign_in_with(_with(couch, "clerk", "clé"))
        await couch.update_seq()
        couch.sign_in_with(_with(couch, "", ""))
        await couch.update_seq()
    assert _sent(server) == ["gateway:correct horse battery staple", "clerk:clé", ""]


async def test_a_refused_login_is_held_back_for_all_requests() -> None:
    """Five wrong passwords within five minutes would lock the user."""
    async with scripted(always(Reply(status=401))) as server, Couch(couchdb_at(server)) as couch:
        for _ in range(300):
            with pytest.raises(DeniedError):
                await couch.update_seq()
            with pytest.raises(DeniedError):
                await couch.write([{"_id": "a"}])
            jump(1)
    assert len(server.requests) == 3


async def test_a_newer_login_goes_out_at_once_and_is_told_about_if_it_is_refused_too() -> None:
    good = "right"

    async def script(request: Request) -> Reply:
        return UP if _login(request) == f"gateway:{good}" else Reply(status=401)

    with capture_logs() as logs:
        async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
            for password in ("wrong", "wrong", "wrong again", good):
                couch.sign_in_with(_with(couch, "gateway", password))
                try:
                    await couch.update_seq()
                except DeniedError:
                    continue
    assert _sent(server) == ["gateway:wrong", "gateway:wrong again", f"gateway:{good}"]
    assert [entry["event"] for entry in logs] == ["dependency.refused", "dependency.refused", "dependency.recovered"]


async def test_an_answer_to_the_old_login_says_nothing_about_the_new_one() -> None:
    async def script(request: Request) -> Reply:
        if len(server.requests) > 1:
            return UP
        couch.sign_in_with(_with(couch, "clerk", "new"))
        return Reply(status=401)

    async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
        with pytest.raises(DeniedError):
            await couch.update_seq()
        assert await couch.update_seq() == "1-x"


async def test_other_faults_hold_nothing_back() -> None:
    replies = iter([Reply(status=503), Reply(status=500), UP])

    async def script(_: Request) -> Reply:
        return next(replies)

    async with scripted(script) as server, Couch(couchdb_at(server)) as couch:
        for _ in range(2):
            with pytest.raises(TransientError):
                await couch.update_seq()
        assert await couch.update_seq() == "1-x"
