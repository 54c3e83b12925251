"""Ports for servers that have to know theirs before they listen.

They come from below those that the system hands out by itself, so that nobody is given one between the moment when it
is chosen and the moment when it is listened at; and each process that runs tests begins somewhere else.
"""

import os
import socket
from itertools import count

FIRST, COUNT = 20_000, 8_000
_next = count(os.getpid() * 97)


def free_port() -> int:
    """Return a port where nobody listens, another one each time."""
    for number in _next:
        port = FIRST + number % COUNT
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError
