"""An HTTP client for what the daemon serves to operators, written from the standard alone."""

import json
from typing import Any, NamedTuple

import trio

PATIENCE_S = 30.0


class Reply(NamedTuple):
    """One answer; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as a value."""
        return json.loads(self.body)


class Browser:
    """Asks one address, a connection for each request unless it is handed one."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.address = address

    async def connect(self) -> trio.SocketStream:
        """Open a connection."""
        return await trio.open_tcp_stream(*self.address)

    async def get(self, target: str, method: str = "GET", **headers: str) -> Reply:
        """Ask for a path."""
        lines = [f"{method} {target} HTTP/1.1", "Host: test", "Connection: close"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        return await self.raw(("\r\n".join(lines) + "\r\n\r\n").encode())

    async def raw(self, data: bytes) -> Reply:
        """Send bytes and read one answer to its end."""
        with trio.fail_after(PATIENCE_S):
            async with await self.connect() as stream:
                await stream.send_all(data)
                received = b"".join([part async for part in stream])
        return parse(received)


def parse(received: bytes) -> Reply:
    """Read an answer."""
    head, _, body = received.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = (line.partition(": ") for line in lines)
    return Reply(int(first.split()[1]), {name.lower(): value for name, _, value in fields}, body)
