"""The client for programs that run on trio: connected as long as it is wanted.

`Client` gives one record after the other and connects by itself, again and again, each time from where the
stream was left; what could not be resumed exactly comes as the server's `refused` record. Between attempts
it waits, from `BACKOFF_MIN_S` doubling to `BACKOFF_MAX_S`, each time a random part of the second half of
that; the wait starts anew once the server has confirmed a request. It never gives up, unless the server
answers with an `error` record (`ServerError`) or breaks the protocol (`ProtocolError`).
"""

import os
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

from feedhandler.client.core import Error, Reader, Received, ServerError

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 5.0
READ_BYTES = 256 * 1024

Report = Callable[[str], None]
"""Takes one line about the connection, for people."""


def _silent(_: str) -> None:
    """Report nothing."""


class Client:
    """The records of one subscription, across connections; an asynchronous context manager and iterator."""

    def __init__(self, path: Path, reader: Reader, *, report: Report = _silent) -> None:
        self._path = path
        self._reader = reader
        self._report = report
        self._stream: trio.SocketStream | None = None
        self._backoff_s = BACKOFF_MIN_S
        self._trouble = ""
        self._error: ServerError | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._disconnect()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Received:
        return await self.receive()

    async def receive(self) -> Received:
        """Wait for the next record; it is no checkpoint if the record is there already."""
        while (received := self.receive_nowait()) is None:
            await self.more()
        return received

    def receive_nowait(self) -> Received | None:
        """Return the next record if it is there already; raise what the last one said was wrong."""
        if self._error is not None:
            raise self._error
        received = self._reader.next()
        if received is not None:
            self._look(received)
        return received

    async def more(self) -> None:
        """Read once, connected or connecting for as long as it takes."""
        stream = self._stream or await self._connect()
        try:
            data = await stream.receive_some(READ_BYTES)
        except trio.BrokenResourceError:
            data = b""
        if data:
            self._reader.feed(data)
            return
        self._disconnect()
        self._complain("the server closed the connection")
        await self._pause()

    def _look(self, received: Received) -> None:
        if isinstance(received.record, Error):
            self._error = ServerError(received.record.code, received.record.detail)
        if self._trouble and self._reader.subscribed:
            self._trouble = ""
            self._report(f"{self._path}: connected")
        if self._reader.subscribed:
            self._backoff_s = BACKOFF_MIN_S

    async def _connect(self) -> trio.SocketStream:
        while True:
            try:
                stream = await trio.open_unix_socket(os.fspath(self._path))
            except OSError as error:
                self._complain((error.strerror or type(error).__name__).lower())
                await self._pause()
                continue
            self._stream = stream
            self._reader.restart()
            with suppress(trio.BrokenResourceError):  # what the server had to say can still be read
                await stream.send_all(self._reader.subscribe())
            return stream

    def _disconnect(self) -> None:
        if self._stream is not None:
            self._stream.socket.close()
            self._stream = None

    def _complain(self, trouble: str) -> None:
        """Report trouble once, not for each attempt that ends in the same."""
        if trouble != self._trouble:
            self._trouble = trouble
            self._report(f"{self._path}: {trouble}; trying again")

    async def _pause(self) -> None:
        pause_s = self._backoff_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads the attempts, no secret
        self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)
        await trio.sleep(pause_s)
