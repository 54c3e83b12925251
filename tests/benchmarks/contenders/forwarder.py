"""The floor: a uvloop program that copies the bytes of one line to the socket and does nothing else.

No frames are told apart, no duplicates found, no book kept, nothing numbered: what comes from the first line of each
market goes out as it is, frame headers included. Nothing in Python that does any of the work can be faster.
"""

import asyncio
import base64
import os
from functools import partial
from typing import cast
from urllib.parse import urlsplit

import uvloop

from tests.benchmarks.contenders.outlet import Outlet
from tests.benchmarks.contenders.task import Task, read_task

HEAD_END = b"\r\n\r\n"


class Line(asyncio.Protocol):
    """One connection to the exchange."""

    def __init__(self, url: str, outlet: Outlet) -> None:
        self._url = urlsplit(url)
        self._outlet = outlet
        self._head: bytes | None = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask for the WebSocket."""
        key = base64.b64encode(os.urandom(16)).decode()
        cast("asyncio.WriteTransport", transport).write(
            f"GET {self._url.path}?{self._url.query} HTTP/1.1\r\nHost: {self._url.netloc}\r\n"
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n\r\n".encode()
        )

    def data_received(self, data: bytes) -> None:
        """Copy what comes behind the handshake."""
        if self._head is None:
            self._outlet.write(data)
            self._outlet.flush()
            return
        self._head += data
        if HEAD_END in self._head:
            self._head = None


async def run(task: Task) -> None:
    """Copy for ever."""
    outlet = Outlet()
    await outlet.serve(task.socket)
    loop = asyncio.get_running_loop()
    for market in task.markets:
        url = task.line_url(market)
        parts = urlsplit(url)
        context = task.tls()
        await loop.create_connection(
            partial(Line, url, outlet),
            host=parts.hostname or "",
            port=parts.port or 0,
            ssl=context,
            server_hostname=parts.hostname if context else None,
        )
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(run(read_task()))
