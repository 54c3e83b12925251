"""The client for programs with plain threads, or with one.

`Client` is a context manager and iterator: one record after the other, across connections, blocking while
there is none. One thread at a time reads; any other may call `close`, which ends the iteration, and may look
at `books`. Leaving the context closes, too.

Two locks keep `close` apart from the thread that reads: `_reading` is held while it reads or waits, so that
its socket is closed by nobody else meanwhile, and `_using` for the moment in which the socket is woken or
closed, so that its descriptor is never one that the system has given to somebody else since.
"""

import socket
import threading
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
        self._sock: socket.socket | None = None
        self._reading = threading.RLock()
        self._using = threading.RLock()
        self._waker = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Received:
        try:
            return self.receive()
        except ClientClosed:
            raise StopIteration from None

    def receive(self) -> Received:
        """Wait for the next record."""
        while (received := self.receive_nowait()) is None:
            self.more()
        return received

    def more(self) -> None:
        """Read once, or try once to connect; there may be records then."""
        with self._reading:
            if self._torn:
                self._disconnect()
            trouble = self._connect() if self._sock is None else ""
            if self._sock is not None and not self._closed:
                trouble = self._read(self._sock)
            if trouble:
                self._disconnect()
                self._waker.wait(self._ended(trouble))

    def close(self) -> None:
        """End the iteration, and with it the connection."""
        self._closed = True
        self._waker.set()
        with self._using, suppress(OSError):
            if self._sock is not None:
                self._sock.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads
        with self._reading:
            self._disconnect()

    def _connect(self) -> str:
        """Make a connection, or return why there is none."""
        try:
            sock = dial(self._path)
        except OSError as error:
            return reason(error)
        sock.settimeout(SILENCE_S)
        self._began()
        self._sock = sock
        return ""

    def _read(self, sock: socket.socket) -> str:
        """Send what is due and read once; return what is wrong with the connection."""
        data = b""
        try:
            self._ask(sock)
            data = sock.recv(READ_BYTES)
        except TimeoutError:
            return SILENT
        except OSError:
            pass
        self._reader.feed(data)
        return "" if data else "the server closed the connection"

    def _ask(self, sock: socket.socket) -> None:
        request = self._reader.request()
        if not request:
            return
        try:
            sock.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            return  # what the server had to say can still be read
        except BaseException:
            self._disconnect()  # a part of a request can't be taken back
            raise

    def _disconnect(self) -> None:
        with self._using:
            if self._sock is not None:
                self._sock.close()
                self._sock = None
