"""What the faces of the client share, without any I/O: following one subscription across connections.

A face owns a socket and a way to wait; everything else is here. What it does, again and again:

    _began()           a connection stands
    _reader.request()  what has to be sent now, if anything
    _reader.feed(data) what came
    receive_nowait()   one record after the other, until there is none
    _ended(trouble)    the connection is gone, or none came about: how long to wait before the next attempt

`_torn` tells that the connection has to be replaced at once. Nothing is heard for `SILENCE_S`, several
heartbeats, only from a server that hangs: then the face ends the connection, too.

**Trouble with the connection is never raised**; it is reported as one line for people, once for each new
trouble and once when it is over. Between attempts a face waits, from `BACKOFF_MIN_S` doubling to
`BACKOFF_MAX_S`, each time a random part of the second half of that; the wait starts anew with the first
record of the stream. It never gives up, unless the server answers with an `error` record (`ServerError`) or
breaks the protocol (`ProtocolError`): then the same is raised for ever. Two errors are of the moment and so
trouble like any other: `busy`, and `unknown_channel` for a consumer that has a position (a daemon that
starts opens its channels one after the other).
"""

import os
import random
from collections.abc import Callable
from pathlib import Path

from feedhandler.client.books import Books
from feedhandler.client.core import Bye, Error, Event, Hello, Reader, Received, Record, Subscribed, Unknown
from feedhandler.client.errors import ClientClosed, ProtocolError, ServerError
from feedhandler.client.position import Position

BACKOFF_MIN_S = 0.1
BACKOFF_MAX_S = 5.0
SILENCE_S = 5.0
READ_BYTES = 256 * 1024

SILENT = f"nothing heard for {SILENCE_S:g} s"

Report = Callable[[str], None]
"""Takes one line about the connection, for people."""


def silent(_: str) -> None:
    """Report nothing."""


class Following:
    """One subscription across connections; `books` follow it where they are wanted, else they stay empty."""

    def __init__(
        self, path: Path | str, reader: Reader, *, books: bool = False, report: Report = silent
    ) -> None:
        self._path = os.fspath(path)
        self._reader = reader
        self._report = report
        self.books = Books()
        self._keeps_books = books
        self._closed = False
        self._fault: ServerError | ProtocolError | None = None
        self._backoff_s = BACKOFF_MIN_S
        self._settled = False  # the present connection has brought a record of the stream
        self._parting = ""  # the server's own word for the end of the connection
        self._trouble = ""  # reported, and not over yet

    def position(self) -> Position | None:
        """Return where a consumer can resume that has dealt with all it was given so far."""
        return self._reader.position()

    def receive_nowait(self) -> Received | None:
        """Return the next record if it is there already; raise where there will never be one."""
        if self._closed:
            raise ClientClosed
        if self._fault is not None:
            raise self._fault
        try:
            received = self._reader.next()
        except ProtocolError as fault:
            self._fault = fault
            raise
        if received is None:
            return None
        if not (self._settled and isinstance(received.record, Event)):
            self._look(received.record)
        if self._keeps_books:
            self.books.follow(received.record)
        return received

    # What the faces call.

    @property
    def _torn(self) -> bool:
        return self._reader.torn

    def _began(self) -> None:
        self._settled = False
        self._parting = ""
        self._reader.restart()

    def _ended(self, trouble: str) -> float:
        """Take the end of a connection or of an attempt; return the seconds until the next one."""
        self._complain(self._parting or trouble)
        pause_s = self._backoff_s * random.uniform(0.5, 1.0)  # noqa: S311 - spreads the attempts, no secret
        self._backoff_s = min(2 * self._backoff_s, BACKOFF_MAX_S)
        return pause_s

    # What the records tell about the connection.

    def _look(self, record: Record) -> None:
        match record:
            case Error():
                self._refused(record)
            case Bye():
                self._parting = f"the server ended the connection ({record.reason})"
            case Subscribed():
                self._recover()
            case Hello() | Unknown():
                pass
            case _:
                self._settled = True
                self._backoff_s = BACKOFF_MIN_S

    def _refused(self, error: Error) -> None:
        known = self.position() is not None
        if error.code == "busy" or (error.code == "unknown_channel" and known):
            self._parting = f"{error.code}: {error.detail}"
        else:
            self._fault = ServerError(error.code, error.detail)

    def _recover(self) -> None:
        if self._trouble:
            self._trouble = ""
            self._report(f"{self._path}: connected")

    def _complain(self, trouble: str) -> None:
        """Report trouble once, not for each attempt that ends in the same."""
        if trouble != self._trouble and not self._closed:
            self._trouble = trouble
            self._report(f"{self._path}: {trouble}; trying again")
