"""Every secret is rotated under load, from every source, without a lost or a failed message."""

from pathlib import Path
from typing import Final

import pytest

from demo.rapidpro import RapidPro
from tests.conftest import TOKEN
from tests.e2e.rotation import BY_RESTART, KEY, Source, installation

NEW: Final = "fedcba9876543210"
SOURCES: Final[tuple[Source, ...]] = ("file", "vault", "credential", "environment")


@pytest.mark.parametrize("source", SOURCES)
async def test_rapidpros_token(source: Source, tmp_path: Path, rapidpro: RapidPro) -> None:
    rapidpro.wire.latency = 0.05
    async with installation(tmp_path, rapidpro, source) as found:
        rapidpro.tokens.add(NEW)
        await found.give("rapidpro-token", NEW)
        await found.goes_on()
        if source != "vault":
            await found.take_over()
        rapidpro.tokens.remove(TOKEN)
    assert found.errors() == []
    assert len(found.logged("daemon.started")) == (2 if source in BY_RESTART else 1)
    assert {NEW, TOKEN}.isdisjoint(found.daemon.log.read_text().split('"'))


@pytest.mark.parametrize("source", SOURCES)
async def test_the_key_of_the_webhooks(source: Source, tmp_path: Path, rapidpro: RapidPro) -> None:
    async with installation(tmp_path, rapidpro, source) as found:
        if source == "vault":
            await found.give("incoming-key", NEW)
        else:
            await found.give("incoming-key", f"{KEY}\n{NEW}")
            await found.take_over()
        await found.goes_on()
        found.flow_key = NEW
        await found.goes_on()
        if source != "vault":
            await found.give("incoming-key", NEW)
            await found.take_over()
    assert found.errors() == []
    assert found.logged("incoming.refused") == []
    assert len(found.logged("daemon.started")) == (3 if source in BY_RESTART else 1)
    assert NEW not in found.daemon.log.read_text()


@pytest.mark.parametrize("source", SOURCES)
async def test_user_and_password_of_couchdb(source: Source, tmp_path: Path, rapidpro: RapidPro) -> None:
    async with installation(tmp_path, rapidpro, source) as found:
        await found.add_user("second", NEW)
        found.sign_in_as("second")
        await found.give("couchdb-password", NEW)
        await found.take_over()
        await found.remove_user(found.couchdb.user)
    assert found.errors() == []
    assert len(found.logged("daemon.started")) == (2 if source in BY_RESTART else 1)
    assert NEW not in found.daemon.log.read_text()


async def test_the_password_of_the_same_user_of_couchdb(tmp_path: Path, rapidpro: RapidPro) -> None:
    """CouchDB refuses the old one until the reload: nothing can be written meanwhile, and nothing is lost."""
    async with installation(tmp_path, rapidpro, "file") as found:
        await found.add_user(found.couchdb.user, NEW)
        await found.refused()
        await found.give("couchdb-password", NEW)
        await found.take_over()
    assert [entry["error"] for entry in found.logged("dependency.refused")]
    assert found.logged("dependency.recovered")
    assert NEW not in found.daemon.log.read_text()
