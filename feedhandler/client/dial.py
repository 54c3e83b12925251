"""One attempt to connect, for all faces: it never waits.

A Unix socket connects at once or not at all: where the server's queue of waiting connections is full, that
is an error like any other, and another attempt follows.
"""

import os
import socket
from pathlib import Path


def dial(path: str) -> socket.socket:
    """Return a connected socket that does not block, or raise an `OSError`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def no_socket(path: str) -> str:
    """Say what stands at a path where no server will ever listen; empty where one may."""
    if os.path.isdir(path):
        return "expected a socket, got a folder"
    return "expected a socket, got a file" if os.path.exists(path) and not Path(path).is_socket() else ""


def reason(error: OSError) -> str:
    """Say for people why it failed."""
    return (error.strerror or str(error) or type(error).__name__).lower()
