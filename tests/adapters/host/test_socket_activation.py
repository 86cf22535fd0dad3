"""Sockets that systemd hands over; that they work is proved with the installed command (tests/e2e/test_incoming.py)."""

import os

from cht_rapidpro.adapters.host.socket_activation import take_sockets


def test_sockets_of_another_process_or_another_name_are_left_alone() -> None:
    own = str(os.getpid())
    for environ in (
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "incoming"},
        {"LISTEN_PID": own, "LISTEN_FDS": "nonsense"},
        {"LISTEN_PID": own, "LISTEN_FDS": "2", "LISTEN_FDNAMES": "admin:other"},
    ):
        variables = {**environ, "PATH": "/bin"}
        assert take_sockets("incoming", variables) == []
        assert variables == {"PATH": "/bin"}, "a child process must not take them for its own"
