"""The webhook that a flow calls when it has taken an SMS, as RapidPro's engine calls one.

One try, fifteen seconds, the engine's headers: a message that is not answered 2xx is lost to the gateway until the
backfill finds it. A simulator that tried again would hide exactly that.
"""

from typing import Final, Literal

import aiohttp

from .records import Message
from .workspace import Workspace

_TIMEOUT: Final = aiohttp.ClientTimeout(total=15)
_ENGINE: Final = "Mailroom/26.3.54"


class Relay:
    """`url`, `key`: of the webhook, "": flows call none. `id_is`: what they send as `id`. `mode`: or `simulation`.

    `answers`: the status of each call, None where there was none; a flow goes on well after a 2xx alone.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self.url = ""
        self.key = ""
        self.id_is: Literal["run", "message"] = "message"
        self.mode = "normal"
        self.answers: list[int | None] = []

    async def receive(self, urn: str, text: str, *, flow: str | None = None, waits: bool = False) -> Message:
        """An SMS from a phone, as `Workspace.receive`; the flow that takes it calls the webhook."""
        message = self._workspace.receive(urn, text, flow=flow, waits=waits)
        if flow is not None and self.url:
            self.answers.append(await self._call(message))
        return message

    async def _call(self, message: Message) -> int | None:
        headers = {
            "Authorization": f"Token {self.key}",
            "User-Agent": _ENGINE,
            "X-Mailroom-Mode": self.mode,
            "Accept-Encoding": "gzip",
        }
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT, headers=headers) as session,
                session.post(self.url, json=self._body(message)) as response,
            ):
                await response.read()
                return response.status
        except (aiohttp.ClientError, TimeoutError):
            return None

    def _body(self, message: Message) -> dict[str, str]:
        run = next(run for run in reversed(self._workspace.runs) if message in run.inputs)
        scheme, _, path = message.urn.partition(":")
        return {
            "id": message.uuid if self.id_is == "message" else run.uuid,
            "from": path if scheme == "tel" else "",
            "content": message.text,
        }
