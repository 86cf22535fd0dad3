"""RapidPro's API v2, for one workspace: each request once, with its place in the budget and its word to the health.

What went wrong is returned, not raised: the caller has to tell "surely not sent" from "perhaps sent" in every case.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec
import structlog

from cht_rapidpro.adapters.transport import Reply, Transport
from cht_rapidpro.config import Rapidpro
from cht_rapidpro.domain.budget import Budget
from cht_rapidpro.domain.outgoing import (
    Answer,
    Broadcast,
    Created,
    Doubtful,
    NotSent,
    Refused,
    Throttled,
    Trouble,
    read_answer,
)
from cht_rapidpro.domain.reconcile import Listed, read_listed
from cht_rapidpro.domain.task import timestamp
from cht_rapidpro.errors import TransientError, TroubleError
from cht_rapidpro.health import Health

log: structlog.stdlib.BoundLogger = structlog.get_logger()

Failure = NotSent | Throttled | Trouble | Doubtful

# RapidPro counts neither 403s nor 429s; what else is trouble is mostly a proxy's, and comes once a minute.
_NOT_COUNTED: Final = (Throttled, NotSent, Trouble)


@dataclass(frozen=True, slots=True)
class Page:
    """One page of broadcasts.json, newest first; `cursor` None: it was the last one."""

    broadcasts: list[Listed]
    cursor: str | None


class RapidPro:
    """The API below a base URL that each call names, since it may come from CHT's app settings and change there.

    `budget` is that of the scope `v2`, which broadcasts and workspace share.
    """

    def __init__(self, config: Rapidpro) -> None:
        self._token = config.token
        self._transport = Transport(config)
        self.health = Health("rapidpro")
        self.budget = Budget(config.requests_per_hour)
        self._date: tuple[int, float] | None = None  # RapidPro's clock, and the loop time when it said so

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    def clock(self) -> int | None:
        """RapidPro's present time in ms since the epoch, after the Date header of its last answer; None before one."""
        if self._date is None:
            return None
        date, at = self._date
        return date + round((asyncio.get_running_loop().time() - at) * 1000)

    async def post_broadcast(self, base: str, broadcast: Broadcast) -> Answer:
        """POST broadcasts.json."""
        body = msgspec.json.encode(broadcast.body())
        answer = await self._ask("POST", f"{base}/api/v2/broadcasts.json", body)
        return read_answer(200, answer) if isinstance(answer, Mapping) else answer

    async def probe(self, base: str) -> Failure | None:
        """GET workspace.json, the cheapest request that needs a valid token; None: all is well."""
        answer = await self._ask("GET", f"{base}/api/v2/workspace.json")
        return None if isinstance(answer, Mapping) else _as_failure(answer)

    async def list_broadcasts(self, base: str, after: int, cursor: str | None) -> Page | Failure:
        """GET broadcasts.json: a page of those created at or after `after`, in ms of RapidPro's clock."""
        query = {"after": timestamp(after), **({"cursor": cursor} if cursor else {})}
        answer = await self._ask("GET", f"{base}/api/v2/broadcasts.json?{urlencode(query)}")
        if not isinstance(answer, Mapping):
            return _as_failure(answer)
        rows = answer.get("results")
        if not isinstance(rows, list):
            return Doubtful("a listing without results")
        read = [listed for row in rows if (listed := read_listed(row))]
        if len(read) < len(rows):
            return Doubtful("a listing with a row that is no broadcast")
        return Page(read, _cursor(answer.get("next")))

    async def _ask(self, method: str, url: str, data: bytes | None = None) -> Mapping[str, object] | Answer:
        """The JSON object of a success, or what the answer means."""
        self.budget.begin()
        answer: Mapping[str, object] | Answer = Doubtful("cancelled")
        try:
            answer = self._read(method, await self._transport.request(method, url, data))
        finally:
            now = asyncio.get_running_loop().time()
            self.budget.end(now, counted=not isinstance(answer, _NOT_COUNTED))
        self._note(answer, method, url, now)
        return answer

    def _read(self, method: str, reply: Reply | NotSent | Trouble | Doubtful) -> Mapping[str, object] | Answer:
        if not isinstance(reply, Reply):
            return reply
        if reply.date is not None:
            self._date = reply.date, asyncio.get_running_loop().time()
        if 200 <= reply.status < 300 and isinstance(reply.body, Mapping):
            return reply.body
        return read_answer(reply.status, reply.body, reply.retry_after)

    def _note(self, answer: Mapping[str, object] | Answer, method: str, url: str, now: float) -> None:
        """Bookkeeping of the budget and the health; what a server says in its error could quote our token."""
        url = url.partition("?")[0]
        match answer:
            case Throttled(retry_after):
                if self.budget.left(now) != 0:
                    log.warning("rapidpro.throttled", url=url, retry_after=retry_after)
                self.budget.throttled(now, retry_after)
            case NotSent(why):
                self.health.fails(TransientError(f"{method} {url}: {why}"))
            case Trouble(why):
                error = f"{method} {url}: {self._redact(why)}: {_remedy(why)}"
                self.health.fails(TroubleError(error, about=why[:40]))
            case Doubtful():
                pass  # about one message or one question: whoever asked logs it
            case _:
                self.health.works()

    def _redact(self, text: str) -> str:
        return text.replace(self._token.reveal(), "(token)")


def _as_failure(answer: Answer) -> Failure:
    """To a question that creates nothing, an answer like that of a creation is as good as none."""
    return Doubtful("an answer that RapidPro does not give") if isinstance(answer, Created | Refused) else answer


def _cursor(link: object) -> str | None:
    """The cursor of `next`; its host is never followed, the token must not travel."""
    found = parse_qs(urlsplit(link).query).get("cursor") if isinstance(link, str) else None
    return found[-1] if found else None


def _remedy(why: str) -> str:
    if why.startswith("HTTP 403"):
        return "check the token, and that its user may send broadcasts"
    if why.startswith("HTTP 400"):
        return "RapidPro takes no broadcast from this workspace now: look at the workspace in RapidPro"
    if why.startswith("HTTP"):
        return "check [rapidpro] url, or sms.rapidpro.url in the app settings: this does not answer as RapidPro does"
    return "check [rapidpro] url and ca_file, and the proxy that the environment names"
