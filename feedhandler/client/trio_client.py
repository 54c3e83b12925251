"""The client for programs that run on trio.

`Client` is an asynchronous context manager and iterator: one record after the other, across connections.
Cancelling what waits for a record loses nothing. `close`, called by any task, ends the iteration; leaving
the context closes, too.
"""

from pathlib import Path
from types import TracebackType
from typing import Self

import trio

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
        self._stream: trio.SocketStream | None = None
        self._waker = trio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received:
        try:
            return await self.receive()
        except ClientClosed:
            raise StopAsyncIteration from None

    async def receive(self) -> Received:
        """Wait for the next record; it is no checkpoint if the record is there already."""
        while (received := self.receive_nowait()) is None:
            await self.more()
        return received

    async def more(self) -> None:
        """Read once, or try once to connect; there may be records then."""
        if self._torn:
            self._disconnect()
        stream = self._stream or self._connect()
        if isinstance(stream, str):
            await self._pause(stream)
            return
        trouble = ""
        with trio.move_on_after(SILENCE_S) as patience:
            trouble = await self._read(stream)
        if patience.cancelled_caught:
            trouble = SILENT
        if trouble:
            self._disconnect()
            await self._pause(trouble)

    def close(self) -> None:
        """End the iteration, and with it the connection."""
        self._closed = True
        self._waker.set()
        self._disconnect()

    def _connect(self) -> trio.SocketStream | str:
        """Return a stream, or why there is none."""
        try:
            sock = dial(self._path)
        except OSError as error:
            return reason(error)
        self._began()
        self._stream = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        return self._stream

    async def _read(self, stream: trio.SocketStream) -> str:
        """Send what is due and read once; return what is wrong with the connection."""
        try:
            await self._ask(stream)
            data = await stream.receive_some(READ_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        self._reader.feed(data)
        return "" if data else "the server closed the connection"

    async def _ask(self, stream: trio.SocketStream) -> None:
        request = self._reader.request()
        if not request:
            return
        try:
            await stream.send_all(request)
        except trio.BrokenResourceError:
            return  # what the server had to say can still be read
        except BaseException:
            self._disconnect()  # a part of a request can't be taken back
            raise

    def _disconnect(self) -> None:
        if self._stream is not None:
            self._stream.socket.close()
            self._stream = None

    async def _pause(self, trouble: str) -> None:
        with trio.move_on_after(self._ended(trouble)):
            await self._waker.wait()
