"""`/control/…`: the simulator's strings, as JSON over HTTP, for tests that run it as a process of its own.

The same things as `RapidPro`'s Python methods and attributes, with strict bodies: an unknown key is a 400
that names it, so that a mistyped fault does not silently test nothing.
"""

from typing import Literal, TypeVar

import msgspec
from aiohttp import web
from msgspec import UNSET, UnsetType

from .faults import Fault
from .records import ContactStatus
from .relay import Relay
from .throttle import Throttle
from .wire import Wire
from .workspace import Workspace

T = TypeVar("T")


class Webhook(msgspec.Struct, forbid_unknown_fields=True):
    """What every flow calls from now on when it has taken an SMS; an empty `url`: nothing."""

    url: str
    key: str = ""
    id_is: Literal["run", "message"] = "message"
    mode: str = "normal"


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What may be changed while running; what is absent stays."""

    latency: float | UnsetType = UNSET
    requests_per_hour: int | UnsetType | None = UNSET
    one_scope: bool | UnsetType = UNSET
    retry_after: bool | UnsetType = UNSET
    tokens: set[str] | UnsetType = UNSET
    powerless_tokens: set[str] | UnsetType = UNSET
    suspended: bool | UnsetType = UNSET
    anonymous: bool | UnsetType = UNSET
    community: bool | UnsetType = UNSET
    unresolvable: set[str] | UnsetType = UNSET
    globals: dict[str, str] | UnsetType = UNSET
    progress: list[tuple[float, str]] | UnsetType = UNSET
    webhook: Webhook | UnsetType = UNSET


class Move(msgspec.Struct, forbid_unknown_fields=True):
    broadcast: int
    status: str


class Received(msgspec.Struct, forbid_unknown_fields=True):
    urn: str
    text: str
    flow: str | None = None
    waits: bool = False


class NewContact(msgspec.Struct, forbid_unknown_fields=True):
    urns: list[str]
    name: str = ""
    fields: dict[str, str] = {}
    status: ContactStatus = "active"


class Control:
    """The handlers; each answers 200 with JSON, or 400 with the reason."""

    def __init__(self, workspace: Workspace, throttle: Throttle, wire: Wire, relay: Relay) -> None:
        self._workspace = workspace
        self._relay = relay
        self._throttle = throttle
        self._wire = wire

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/control", self._counts),
            web.get("/control/broadcasts", self._broadcasts),
            web.get("/control/messages", self._messages),
            web.get("/control/calls", self._calls),
            web.post("/control/faults", self._fail),
            web.delete("/control/faults", self._clear_faults),
            web.patch("/control/settings", self._change_settings),
            web.post("/control/move", self._move),
            web.post("/control/receive", self._receive),
            web.post("/control/contacts", self._add_contact),
        ]

    async def _counts(self, _: web.Request) -> web.Response:
        return _json(
            {
                "broadcasts": len(self._workspace.broadcasts),
                "messages": len(self._workspace.messages),
                "runs": len(self._workspace.runs),
                "calls": len(self._wire.calls),
                "faults": len(self._wire.faults),
            }
        )

    async def _broadcasts(self, _: web.Request) -> web.Response:
        return _json(self._workspace.broadcasts)

    async def _messages(self, _: web.Request) -> web.Response:
        return _json(self._workspace.messages)

    async def _calls(self, _: web.Request) -> web.Response:
        return _json(list(self._wire.calls))

    async def _fail(self, request: web.Request) -> web.Response:
        self._wire.faults.add(await _body(request, Fault))
        return _json({})

    async def _clear_faults(self, _: web.Request) -> web.Response:
        self._wire.faults.clear()
        return _json({})

    async def _change_settings(self, request: web.Request) -> web.Response:
        settings = msgspec.structs.asdict(await _body(request, Settings))
        holders = {
            "latency": self._wire,
            "requests_per_hour": self._throttle,
            "one_scope": self._throttle,
            "retry_after": self._throttle,
        }
        webhook = settings.pop("webhook")
        if webhook is not UNSET:
            for name, value in msgspec.structs.asdict(webhook).items():
                setattr(self._relay, name, value)
        for name, value in settings.items():
            if value is not UNSET:
                setattr(holders.get(name, self._workspace), name, value)
        return _json({})

    async def _move(self, request: web.Request) -> web.Response:
        move = await _body(request, Move)
        try:
            self._workspace.move(move.broadcast, move.status)
        except KeyError as error:
            raise web.HTTPBadRequest(text=f"no broadcast {move.broadcast}") from error
        return _json({})

    async def _receive(self, request: web.Request) -> web.Response:
        received = await _body(request, Received)
        message = await self._relay.receive(received.urn, received.text, flow=received.flow, waits=received.waits)
        return _json(message)

    async def _add_contact(self, request: web.Request) -> web.Response:
        new = await _body(request, NewContact)
        contact = self._workspace.add_contact(*new.urns, name=new.name, fields=new.fields, status=new.status)
        return _json(contact)


async def _body(request: web.Request, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(await request.read(), type=shape)
    except msgspec.DecodeError as error:
        raise web.HTTPBadRequest(text=str(error)) from error


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")
