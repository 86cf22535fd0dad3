"""Takes over listening sockets from systemd.

While systemd holds the socket, a webhook that arrives during a restart waits in the kernel instead of being refused,
and RapidPro tries only once.
"""

import os
import socket
from collections.abc import MutableMapping
from typing import Final

from cht_rapidpro.errors import ConfigError

_FIRST: Final = 3  # sd_listen_fds(3): the descriptors begin here


def take_sockets(name: str, environ: MutableMapping[str, str]) -> list[socket.socket]:
    """Returns the listening sockets of that name (`FileDescriptorName=`), or all of them if they have no names.

    The variables are removed from `environ`, so that no child process uses the sockets. Raises ConfigError if a
    descriptor is not a listening socket.
    """
    pid, count, names = (environ.pop(f"LISTEN_{key}", "") for key in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    numbers = range(_FIRST, _FIRST + int(count))
    called = names.split(":") if names else []
    return [
        _socket(number, name)
        for number, own in zip(numbers, called or [name] * len(numbers), strict=False)
        if own == name
    ]


def _socket(number: int, name: str) -> socket.socket:
    try:
        found = socket.socket(fileno=number)
        is_good = found.type == socket.SOCK_STREAM and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(f"systemd's socket {name!r}: descriptor {number} is none: {error.strerror}") from error
    if not is_good:
        raise ConfigError(f"systemd's socket {name!r} does not listen: use ListenStream= and Accept=no")
    os.set_inheritable(number, False)
    found.setblocking(False)
    return found
