"""Notifies systemd (sd_notify): ready, status line, watchdog, stopping.

Sends datagrams to the socket that `NOTIFY_SOCKET` names; without it, outside of systemd, sends nothing. No call waits:
if systemd accepts no message, there is one warning until it accepts one again, and the watchdog's next message follows
soon.
"""

import os
import socket
import time
from collections.abc import Mapping
from typing import Final

import structlog

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_MICROSECONDS: Final = 1_000_000


class Notifier:
    """`watchdog_timeout`: seconds after which systemd ends a service that has not fed the watchdog; None: never."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._last_status: str | None = ""
        self._is_heard = True
        self.watchdog_timeout = _watchdog_timeout(environ)

    def ready(self) -> None:
        """Tells that the start, or a reload, is finished."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Tells that the configuration is being read again; `ready` ends this."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, line: str) -> None:
        """Sends the line that `systemctl status` shows, if it has changed; again where systemd did not take it."""
        if line != self._last_status:
            self._send(f"STATUS={line}")
            self._last_status = line if self._is_heard else None

    def feed_watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
                out.sendto(message.encode(), self._address)
            self._is_heard = True
        except OSError as error:
            if self._is_heard:
                log.warning("systemd.unheard", word=message.partition("=")[0], error=error.strerror)
            self._is_heard = False


def _watchdog_timeout(environ: Mapping[str, str]) -> float | None:
    """Returns the time-out if systemd set it for this process; a child that inherits the variables must not use it."""
    found = environ.get("WATCHDOG_USEC", "")
    is_ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(found) / _MICROSECONDS if found.isdigit() and is_ours else None


SILENT: Final = Notifier({})
