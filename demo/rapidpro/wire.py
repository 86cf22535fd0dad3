"""The line between a client and the API: latency, scripted faults, and the log of what came.

A request takes its effect here whether or not its client is still there: aiohttp does not cancel a handler
whose client went away (`handler_cancellation` stays off), as RapidPro does not.
"""

import asyncio
import socket
import struct
from collections import deque
from email.utils import formatdate
from typing import assert_never

from aiohttp import hdrs, web

from .answers import Answer
from .api import Api
from .calls import Call
from .faults import Delay, Fault, Faults, HalfBody, Hang, Reset
from .workspace import Workspace

_HALF = Answer(200, '{"next":null,"previous":null,"results":[]}', "application/json")
_LINGER_NOT = struct.pack("ii", 1, 0)  # closing sends RST instead of FIN


class Wire:
    """`latency`: seconds before every answer. `calls`: the newest ones, oldest first."""

    def __init__(self, workspace: Workspace, api: Api, latency: float, calls_kept: int) -> None:
        self.latency = latency
        self.faults = Faults()
        self.calls: deque[Call] = deque(maxlen=calls_kept)
        self._workspace = workspace
        self._api = api
        self._stopping = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        call = Call(request.method, request.path, dict(request.query.items()), self._workspace.clock())
        self.calls.append(call)
        fault = self.faults.take(call, request, body)
        if self.latency:
            await asyncio.sleep(self.latency)
        if fault is None:
            return self._respond(call, self._api.answer(request, body, call))
        call.faulty = True
        return await self._trouble(fault, request, body, call)

    async def stop(self, _: web.Application) -> None:
        """End every wait, so that stopping does not take as long as the longest fault."""
        self._stopping.set()

    async def _trouble(self, fault: Fault, request: web.Request, body: bytes, call: Call) -> web.StreamResponse:
        answer = self._api.answer(request, body, call) if fault.after else None
        match fault.do:
            case Answer():
                return self._respond(call, fault.do)
            case Delay(seconds):
                await self._pause(seconds)
                return self._respond(call, answer or self._api.answer(request, body, call))
            case Hang(seconds):
                await self._pause(seconds)
                return _reset(request)
            case Reset():
                return _reset(request)
            case HalfBody():
                return await _half(request, self._respond(call, answer or _HALF))
            case never:
                assert_never(never)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _respond(self, call: Call, answer: Answer) -> web.Response:
        call.status = answer.status
        headers = {
            hdrs.CONTENT_TYPE: answer.content_type,
            hdrs.DATE: formatdate(self._workspace.clock(), usegmt=True),
            **answer.headers,
        }
        return web.Response(status=answer.status, body=answer.body.encode(), headers=headers)


def _reset(request: web.Request) -> web.StreamResponse:
    """Cut the connection; the response that aiohttp requires is not sent."""
    if request.transport is not None:
        connection: socket.socket = request.transport.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
        request.transport.abort()
    return web.Response()


async def _half(request: web.Request, whole: web.Response) -> web.StreamResponse:
    body = bytes(whole.body) if isinstance(whole.body, bytes) else b""
    response = web.StreamResponse(status=whole.status, headers=whole.headers)
    response.content_length = len(body)
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
