"""RapidPro's API v2 for one workspace: sends each request once, counts it in the budget and reports it to the health.

Failures are returned, not raised: the caller has to tell "surely not sent" from "perhaps sent" in every case.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Final, Self
from urllib.parse import parse_qs, urlencode, urlsplit

import msgspec
import structlog

from cht_rapidpro.adapters.rapidpro.transport import Reply, Transport
from cht_rapidpro.concurrency.timing import loop_time
from cht_rapidpro.config.schema import Limits, Rapidpro
from cht_rapidpro.config.secret_store import Keyring
from cht_rapidpro.config.secrets import Secret
from cht_rapidpro.domain.budget import Budget, Scope, Sharing
from cht_rapidpro.domain.outgoing import (
    Ambiguous,
    Answer,
    Broadcast,
    Created,
    NotSent,
    Refused,
    Throttled,
    Trouble,
    is_invalid_token,
    read_answer,
    with_lengths,
)
from cht_rapidpro.domain.reconcile import Listed, read_listed
from cht_rapidpro.domain.task import timestamp
from cht_rapidpro.errors import OperatorActionRequiredError, TransientError
from cht_rapidpro.telemetry.dependency_health import Health
from cht_rapidpro.telemetry.metrics import request_times

log: structlog.stdlib.BoundLogger = structlog.get_logger()
Failure = NotSent | Throttled | Trouble | Ambiguous


@dataclass(frozen=True, slots=True)
class BadCursor:
    """RapidPro does not know the cursor any more: the listing has to begin again."""

    def __str__(self) -> str:
        return "RapidPro does not know the position in its list any more"


ListFailure = Failure | BadCursor

# Not counted in the budget: RapidPro counts neither 403s nor 429s, and other trouble is mostly a proxy's, once a
# minute.
_NOT_COUNTED: Final = (Throttled, NotSent, Trouble)
_WITHOUT: Final = {
    "id": "a success without a broadcast id",
    "results": "a listing without results",
    "uuid": "a workspace without uuid",
}
_BAD_CURSOR: Final = {"detail": "Invalid cursor"}


class Listing(StrEnum):
    """The endpoints that are listed in pages."""

    BROADCASTS = "broadcasts"
    MESSAGES = "messages"
    RUNS = "runs"


_DEPENDENCIES: Final = {
    Scope.GENERAL: "rapidpro",
    Scope.MESSAGES: "rapidpro messages.json",
    Scope.RUNS: "rapidpro runs.json",
}
_SCOPES: Final = {Listing.MESSAGES: Scope.MESSAGES, Listing.RUNS: Scope.RUNS}


@dataclass(frozen=True, slots=True)
class Rows:
    """One page of a listing, at most 250 rows, in RapidPro's order; `cursor` None: it was the last one."""

    rows: list[object]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Page:
    """One page of broadcasts.json, newest first; `cursor` None: it was the last one."""

    broadcasts: list[Listed]
    cursor: str | None


class RapidPro:
    """The API below a base URL, which each call names, because it may come from CHT's app settings and change there.

    There is one budget and one health for each throttle scope, because RapidPro limits each kind of request separately,
    and a token's role permits each kind separately: a refused listing of messages says nothing about sending. `budget`
    and `health` are those of the scope `v2`, which broadcasts and workspace share.
    """

    def __init__(self, config: Rapidpro, keyring: Keyring) -> None:
        self._keyring = keyring
        self._patience = config.timeout / 2
        self._transport = Transport(config)
        self.healths = {scope: Health(_DEPENDENCIES[scope]) for scope in Scope}
        self.budgets = {scope: Budget(per_hour) for scope, per_hour in _by_scope(config.requests_per_hour).items()}
        self.sharing = Sharing(self.budgets)
        self.times = request_times("rapidpro", "scope")
        self.health = self.healths[Scope.GENERAL]
        self.budget = self.budgets[Scope.GENERAL]
        self._date: tuple[int, float] | None = None  # RapidPro's clock, and the loop time when it was read
        self._hides_urns: dict[str, bool] = {}
        self.text_limit: int | None = None  # characters, once a refusal told it
        keyring.subscribe(self._forget_refusals)

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    def clock(self) -> int | None:
        """RapidPro's present time in ms since the epoch, by the Date header of its last answer; None before the first
        answer.
        """
        if self._date is None:
            return None
        date, at = self._date
        return date + round((loop_time() - at) * 1000)

    def hides_urns(self, base: str) -> bool | None:
        """Whether the workspace is anonymous, by its last answer; None before the first answer."""
        return self._hides_urns.get(base)

    async def post_broadcast(self, base: str, broadcast: Broadcast) -> Answer:
        """POST broadcasts.json."""
        body = msgspec.json.encode(broadcast.body())
        answer = await self._ask("POST", f"{base}/api/v2/broadcasts.json", body, names="id")
        if isinstance(answer, Mapping) and "urns" in answer:
            self._hides_urns[base] = answer["urns"] is None
        read = with_lengths(
            read_answer(200, answer) if isinstance(answer, Mapping) else _as_answer(answer), broadcast.text
        )
        self._learn_limit(read, len(broadcast.text))
        return read

    def _learn_limit(self, answer: Answer, length: int) -> None:
        """Forgets a learned limit when a longer text was accepted: the site's setting was raised."""
        if isinstance(answer, Refused) and answer.text_limit is not None:
            self.text_limit = answer.text_limit
        elif isinstance(answer, Created) and self.text_limit is not None and length > self.text_limit:
            self.text_limit = None

    async def probe(self, base: str) -> Failure | None:
        """GET workspace.json, the cheapest request that needs a valid token. Returns None on success."""
        answer = await self._ask("GET", f"{base}/api/v2/workspace.json", names="uuid")
        if isinstance(answer, Mapping) and "anon" in answer:
            self._hides_urns[base] = bool(answer["anon"])
        return None if isinstance(answer, Mapping) else _as_failure(_as_answer(answer))

    async def hides_numbers(self, base: str) -> bool | Failure:
        """Whether the workspace is anonymous: every URN in its answers is null."""
        answer = await self._ask("GET", f"{base}/api/v2/workspace.json", names="uuid")
        return answer.get("anon") is True if isinstance(answer, Mapping) else _as_failure(_as_answer(answer))

    async def list_broadcasts(
        self, base: str, after: int, before: int | None, cursor: str | None
    ) -> Page | ListFailure:
        """GET broadcasts.json: a page of those created from `after` to `before` (None: now), ms of RapidPro's clock."""
        query = {"after": timestamp(after)} | ({} if before is None else {"before": timestamp(before)})
        page = await self.list_rows(base, Listing.BROADCASTS, query, cursor)
        if not isinstance(page, Rows):
            return page
        read = [listed for row in page.rows if (listed := read_listed(row))]
        if len(read) < len(page.rows):
            return Ambiguous("a listing with a row that is no broadcast")
        return Page(read, page.cursor)

    async def list_rows(
        self, base: str, listing: Listing, query: Mapping[str, str], cursor: str | None
    ) -> Rows | ListFailure:
        """GET a page of a listing. `query`: RapidPro's own filters; `cursor`: of the page before, None for the first.

        Dates in `query` end with `Z`: RapidPro answers one that it cannot read with an empty listing.
        """
        following = {"cursor": cursor} if cursor else {}
        url = f"{base}/api/v2/{listing}.json?{urlencode({**query, **following})}"
        answer = await self._ask("GET", url, names="results", scope=_SCOPES.get(listing, Scope.GENERAL))
        if isinstance(answer, BadCursor):
            return answer
        if not isinstance(answer, Mapping):
            return _as_failure(answer)
        rows = answer["results"]
        if not isinstance(rows, list):
            return Ambiguous("a listing without results")
        return Rows(rows, _cursor(answer.get("next")))

    async def _ask(
        self, method: str, url: str, data: bytes | None = None, *, names: str, scope: Scope = Scope.GENERAL
    ) -> Mapping[str, object] | Answer | BadCursor:
        """Sends the request; returns the JSON object of a success, which has the key `names`, or what the answer means.

        A token that RapidPro does not know may have been rotated meanwhile. RapidPro has then done nothing, so the
        request is made again with the newer token, unless so much time has passed that a claim could become too old.
        """
        until = loop_time() + self._patience
        token = self._keyring.secrets.rapidpro_token
        answer = await self._ask_once(method, url, token, data, names, scope)
        while is_invalid_token(answer) and (newer := await self._newer_than(token)):
            if loop_time() > until:
                break
            token = newer
            answer = await self._ask_once(method, url, token, data, names, scope)
        self._note(answer, method, url, scope)
        return answer

    async def _newer_than(self, refused: Secret) -> Secret | None:
        """Returns the token that has replaced the refused one, None if there is no new token."""
        if self._keyring.secrets.rapidpro_token == refused:
            await self._keyring.renew("rapidpro_token")
        token = self._keyring.secrets.rapidpro_token
        return token if token != refused else None

    async def _ask_once(
        self, method: str, url: str, token: Secret, data: bytes | None, names: str, scope: Scope
    ) -> Mapping[str, object] | Answer | BadCursor:
        if not token:
            return NotSent("there is no token yet")
        budget = self.budgets[scope]
        budget.begin()
        started = loop_time()
        answer: Mapping[str, object] | Answer | BadCursor = Ambiguous("cancelled")
        try:
            answer = self._read(await self._transport.request(method, url, token, data), names)
        finally:
            now = loop_time()
            budget.end(now, counted=not isinstance(answer, _NOT_COUNTED))
            self.times.labels(scope).observe(now - started)
        return answer

    def _read(
        self, reply: Reply | NotSent | Trouble | Ambiguous, names: str
    ) -> Mapping[str, object] | Answer | BadCursor:
        if not isinstance(reply, Reply):
            return reply
        if reply.date is not None:
            self._date = reply.date, loop_time()
        if 200 <= reply.status < 300 and isinstance(reply.body, Mapping):
            return reply.body if names in reply.body else Ambiguous(_WITHOUT[names])
        if reply.status == 404 and reply.body == _BAD_CURSOR:
            return BadCursor()
        return read_answer(reply.status, reply.body, reply.retry_after)

    def _note(self, answer: Mapping[str, object] | Answer | BadCursor, method: str, url: str, scope: Scope) -> None:
        """Reports the answer to the budget and the health."""
        url = url.partition("?")[0]
        kind = f"{method} {url.rpartition('/')[2]}"
        now = loop_time()
        budget, health = self.budgets[scope], self.healths[scope]
        match answer:
            case Throttled(retry_after):
                if budget.left(now) != 0:
                    log.warning("rapidpro.throttled", url=url, retry_after=retry_after)
                self.sharing.throttled(scope, now)
                budget.throttled(now, retry_after)
            case NotSent(why):
                health.fails(TransientError(f"{method} {url}: {why}"), kind)
            case Ambiguous(why):  # may be about one message, or about all of RapidPro
                health.fails(TransientError(f"{method} {url}: {why}"), kind, is_certain=False)
            case Trouble(why):
                error = f"{method} {url}: {why}: {_remedy(why)}"
                health.fails(OperatorActionRequiredError(error, about=why[:40]), kind)
            case _:
                health.works(kind)

    def limit(self, requests_per_hour: int | Limits | None) -> None:
        """Sets the configured limit for each scope; requests of the last hour stay counted."""
        for scope, per_hour in _by_scope(requests_per_hour).items():
            self.budgets[scope].configured = per_hour

    def _forget_refusals(self) -> None:
        """Forgets refusals of the old token, so that a refusal of the new one is logged, too."""
        for health in self.healths.values():
            health.tell_again()


def _by_scope(requests_per_hour: int | Limits | None) -> dict[Scope, int | None]:
    limits = Limits.of(requests_per_hour)
    return {Scope.GENERAL: limits.broadcasts, Scope.MESSAGES: limits.messages, Scope.RUNS: limits.runs}


def _as_answer(answer: Answer | BadCursor) -> Answer:
    """RapidPro does not give this answer to a request without a cursor, so a proxy gave it."""
    return Trouble("HTTP 404: Invalid cursor") if isinstance(answer, BadCursor) else answer


def _as_failure(answer: Answer) -> Failure:
    """An answer of a creation to a request that creates nothing counts as a failure."""
    return Ambiguous("an answer that RapidPro does not give") if isinstance(answer, Created | Refused) else answer


def _cursor(link: object) -> str | None:
    """Returns the cursor of `next`; its host is never used, because the token must not go to another host."""
    found = parse_qs(urlsplit(link).query).get("cursor") if isinstance(link, str) else None
    return found[-1] if found else None


def _remedy(why: str) -> str:
    if why.startswith("HTTP 403"):
        return "check the token, and that its user may do this"
    if why.startswith("HTTP 400"):
        return "RapidPro accepts no broadcast from this workspace now: look at the workspace in RapidPro"
    if why.startswith("HTTP"):
        return "check [rapidpro] url, or sms.rapidpro.url in the app settings: this does not answer as RapidPro does"
    return "check [rapidpro] url and ca_file, and the proxy that the environment names"
