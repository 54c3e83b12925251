"""A server in a thread that does to each connection what a script says."""

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

A, B, C = "m/a", "m/b", "m/c"
PATIENCE_S = 30.0
"""What only a client that hangs makes a server wait for."""


def line(**fields: Any) -> bytes:
    """Write a record as the server does."""
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def hello(session: str = "s", channels: tuple[str, ...] = (A,)) -> bytes:
    """Write a greeting."""
    return line(type="hello", protocol=1, session=session, server="x", channels=channels)


def subscribed(**first: int) -> bytes:
    """Write the answer to a request; `a` stands for the channel `m/a`."""
    return line(type="subscribed", channels={f"m/{name}": {"next": seq} for name, seq in first.items()})


def event(seq: int, channel: str = A, msg: Any = None) -> bytes:
    """Write an event."""
    return line(type="event", channel=channel, seq=seq, line="a", recv=7, msg=msg or {})


class Connection:
    """One accepted connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock

    def say(self, data: bytes) -> None:
        """Send all of it, or what a client takes that leaves."""
        try:
            self.sock.sendall(data)
        except OSError:
            return

    def ask(self) -> dict[str, Any]:
        """Read the request; an empty one if there is none."""
        text = b""
        while not text.endswith(b"\n"):
            try:
                data = self.sock.recv(65_536)
            except OSError:
                return {}
            if not data:
                return {}
            text += data
        request: dict[str, Any] = json.loads(text)
        return request

    def wait(self) -> None:
        """Wait until the client leaves."""
        while True:
            try:
                if not self.sock.recv(65_536):
                    return
            except OSError:
                return


Act = Callable[[Connection], None]


@contextmanager
def scripted(path: Path, *acts: Act) -> Iterator[None]:
    """Serve the acts, one on each connection, while the block runs; all of them must be reached."""
    with socket.socket(socket.AF_UNIX) as listener:
        path.unlink(missing_ok=True)
        listener.bind(os.fspath(path))
        listener.listen(5)
        listener.settimeout(PATIENCE_S)
        played: list[Act] = []
        thread = threading.Thread(target=_play, args=(listener, acts, played))
        thread.start()
        try:
            yield
        finally:
            thread.join()
    assert len(played) == len(acts)


def _play(listener: socket.socket, acts: tuple[Act, ...], played: list[Act]) -> None:
    for act in acts:
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(PATIENCE_S)
            act(Connection(sock))
        played.append(act)
