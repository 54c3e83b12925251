"""A consumer with the client library, for the machine: prints every record as it came, from the session's first on.

    python reader.py SOCKET

It says on the other output what becomes of its connection.
"""

import json
import socket
import sys
from functools import partial

from feedhandler.client import Position, Reader
from feedhandler.client.thread_client import Client


def beginning(path: str) -> Position:
    """Return the position before everything in the session that is served."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        hello = json.loads(sock.makefile("rb").readline())
    return Position(hello["session"], {})


def main(path: str) -> None:
    """Read until killed."""
    report = partial(print, file=sys.stderr, flush=True)
    with Client(path, Reader(resume=beginning(path)), report=report) as client:
        for line, _ in client:
            sys.stdout.buffer.write(line.rstrip(b"\n") + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main(sys.argv[1])
