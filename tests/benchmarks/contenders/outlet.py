"""The Unix socket of the asyncio contenders: what is written in one turn of the loop goes out in one piece."""

import asyncio
from typing import cast


class Outlet:
    """Writes to all who are connected."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transports: set[asyncio.WriteTransport] = set()
        self._pending: list[bytes] = []

    async def serve(self, path: str) -> None:
        """Listen."""
        self._server = await self._loop.create_unix_server(lambda: _Reader(self._transports), path)

    def write(self, record: bytes) -> None:
        """Write a record at the end of this turn."""
        if not self._pending:
            self._loop.call_soon(self.flush)
        self._pending.append(record)

    def flush(self) -> None:
        """Write what is pending now."""
        if self._pending:
            data = b"".join(self._pending)
            self._pending.clear()
            for transport in self._transports:
                transport.write(data)


class _Reader(asyncio.Protocol):
    """A consumer: what it says is not listened to."""

    def __init__(self, transports: set[asyncio.WriteTransport]) -> None:
        self._transports = transports
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take it up."""
        self._transport = cast("asyncio.WriteTransport", transport)
        self._transports.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let it go."""
        del exc
        if self._transport is not None:
            self._transports.discard(self._transport)
