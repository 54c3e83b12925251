"""The client for programs that run on asyncio.

`Client` is an asynchronous context manager and iterator: one record after the other, across connections.
Cancelling what waits for a record loses nothing. `close`, called by any task of the loop, ends the
iteration; leaving the context closes, too.
"""

import asyncio
import fcntl
import sys
import termios
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from feedhandler.client.core import Reader, Received
from feedhandler.client.dial import dial, reason
from feedhandler.client.errors import ClientClosed
from feedhandler.client.following import READ_BYTES, SILENCE_S, SILENT, Following, Report, silent


class Client(Following):
    """The records of one subscription, across connections."""

    def __init__(
        self, path: Path | str, reader: Reader, *, books: bool = False, report: Report = silent
    ) -> None:
        super().__init__(path, reader, books=books, report=report)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._waker = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        await asyncio.sleep(0)  # the loop's turn to close the socket

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received:
        try:
            return await self.receive()
        except ClientClosed:
            raise StopAsyncIteration from None

    async def receive(self) -> Received:
        """Wait for the next record; other tasks get no turn if the record is there already."""
        while (received := self.receive_nowait()) is None:
            await self.more()
        return received

    async def more(self) -> None:
        """Read once, or try once to connect; there may be records then."""
        if self._torn:
            self._disconnect()
        trouble = await self._connect() if self._streams is None else ""
        if self._streams is not None:
            trouble = await self._read(*self._streams)
        if trouble:
            self._disconnect()
            await self._pause(trouble)

    def unread_bytes(self) -> int:
        """Return how many bytes wait in the connection's socket; 0 without one."""
        if self._streams is None:
            return 0
        sock = self._streams[1].get_extra_info("socket")
        try:
            waiting = fcntl.ioctl(sock.fileno(), termios.FIONREAD, bytes(4))
        except (OSError, ValueError):
            return 0
        return int.from_bytes(waiting, sys.byteorder)

    def close(self) -> None:
        """End the iteration, and with it the connection."""
        self._closed = True
        self._waker.set()
        self._disconnect()

    async def _connect(self) -> str:
        """Make a connection, or return why there is none."""
        try:
            sock = dial(self._path)
        except OSError as error:
            return reason(error)
        streams = await asyncio.open_unix_connection(sock=sock, limit=READ_BYTES)
        self._began()
        self._streams = streams
        if self._closed:  # meanwhile
            self._disconnect()
        return ""

    async def _read(self, incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> str:
        """Send what is due and read once; return what is wrong with the connection."""
        outgoing.write(self._reader.request())
        data = b""
        try:
            async with asyncio.timeout(SILENCE_S):
                data = await incoming.read(READ_BYTES)
        except TimeoutError:
            return SILENT
        except OSError:
            pass
        self._reader.feed(data)
        return "" if data else "the server closed the connection"

    def _disconnect(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _pause(self, trouble: str) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._ended(trouble)):
                await self._waker.wait()
