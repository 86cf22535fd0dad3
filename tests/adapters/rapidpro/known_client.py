"""RapidPro's client for the tests of its adapter, and answers that they share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from cht_rapidpro.adapters.rapidpro.client import RapidPro
from cht_rapidpro.config.schema import Rapidpro
from cht_rapidpro.config.secret_store import Keyring, Secrets
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.outgoing import Broadcast, Urn
from tests.support.stub_server import Reply

TOKEN: Final = "a-token-to-guard"
BROADCAST: Final = Broadcast((Urn("tel:+254712345678"),), "Njoo kliniki é 😀")
PER_HOUR: Final = 100
CREATED: Final = Reply({"id": 7, "status": "queued", "urns": []}, 201)


@asynccontextmanager
async def client(timeout: float = 30.0) -> AsyncIterator[RapidPro]:
    keyring = Keyring(Secrets(rapidpro_token=Secret(TOKEN)))
    async with RapidPro(Rapidpro(timeout=timeout, requests_per_hour=PER_HOUR), keyring) as rapidpro:
        yield rapidpro


def html(status: int) -> Reply:
    return Reply(b"<html></html>", status, content_type="text/html")


def throttled(retry_after: str = "") -> Reply:
    headers = {"Retry-After": retry_after} if retry_after else {}
    return Reply({"detail": "Request was throttled."}, 429, headers)
