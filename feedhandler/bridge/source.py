"""The daemon's socket, as the bridge reads it: from the oldest record that the backlog still has.

A bridge keeps no position of its own: what the stream holds is its position, and the records that stand on both sides
tell where it is. So it asks twice before it reads: once for the session, the channels and a snapshot of each book, and
once for the oldest record that is kept of each channel (`refused` tells it). Then it reads from there, or a little
later, since the oldest are about to go.

The snapshots that were sent to it alone are put where they belong: behind the event whose seq they name. One that is
asked for later, since the stream needs a book, is put there too. While it is on its way the stream is not read, for
`PAUSE_S` at most, so that it does not come too late for its place; one that does is asked for again.

Where the socket can't go on exactly (`refused`), the channel's place is lost, which is the merge's to deal with. A
daemon with another session is begun with anew.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from feedhandler.bridge.entries import BOOK, Entry, entry_of
from feedhandler.bridge.merge import Merge
from feedhandler.client import (
    Event,
    Gap,
    Heartbeat,
    Hello,
    Position,
    Reader,
    Record,
    Refused,
    Snapshot,
    Subscribed,
)
from feedhandler.client.asyncio_client import Client

NAME: Final = "bridge-nats"
TURN_RECORDS: Final = 200
"""Records that are read before others have their turn."""

MARGIN: Final = 8
"""The reading begins so small a part of what is kept after the oldest."""

ROOM_S: Final = 0.05
"""How often it is looked whether there is room again."""

SILENCE_S: Final = 3.0
"""A daemon says something every second; after so long it is not there."""

PAUSE_S: Final = 0.25
"""How long nothing is read for the sake of a book."""

IN_STREAM: Final = frozenset({"start", "gap", "late", "audit"})


class _NewSession(Exception):
    """The daemon has begun a new numbering."""


class Source:
    """The records of one socket, brought to a merge."""

    def __init__(
        self,
        path: Path,
        channels: tuple[str, ...],
        merge: Merge,
        wake: Callable[[], None],
        report: Callable[[str], None],
    ) -> None:
        self._path = path
        self._channels = channels
        self._merge = merge
        self._wake = wake
        self._report = report
        self._session = ""
        self._seqs: dict[str, int] = {}
        self._books: dict[str, Snapshot] = {}
        self._client: Client | None = None
        self._may_read = asyncio.Event()
        self._may_read.set()
        self._heard_at = float("-inf")
        self.taken = 0
        """Records that were taken."""

    @property
    def connected(self) -> bool:
        """Whether the daemon is there and its stream is read, or was until there was no room."""
        return self._merge.is_full or _now() - self._heard_at < SILENCE_S

    def waits(self) -> bool:
        """Tell whether there is something to read, and room for it."""
        return self._client is not None and not self._merge.is_full and self._client.unread_bytes() > 0

    async def run(self) -> None:
        """Read for ever; a fault of the daemon is raised."""
        while True:
            start = await self._find_start()
            try:
                await self._read(start)
            except _NewSession:
                self._books.clear()
                for name in self._merge.channels:
                    self._merge.lose_place(name)

    # Where to begin.

    async def _find_start(self) -> Position:
        """Return the position before the oldest records that will still be there in a moment."""
        seqs: dict[str, int] = {}

        def look(record: Record) -> None:
            match record:
                case Hello():
                    self._session = record.session
                case Subscribed():
                    seqs.update(dict.fromkeys(record.channels, 0))
                case Snapshot() if record.reason not in IN_STREAM:
                    self._books[record.channel] = record

        def begin_later(record: Record) -> None:
            if isinstance(record, Refused) and record.reason == "too_old":
                seqs[record.channel] = record.oldest - 1 + (record.next - record.oldest) // MARGIN

        await self._ask(look, self._channels, snapshot=True)
        if seqs:
            start = Position(self._session, dict(seqs))
            await self._ask(begin_later, self._channels, resume=start)
        return Position(self._session, seqs)

    async def _ask(
        self,
        take: Callable[[Record], None],
        channels: tuple[str, ...],
        *,
        snapshot: bool = False,
        resume: Position | None = None,
    ) -> None:
        """Hand on the answer to a request: what comes before the stream does."""
        reader = Reader(channels, snapshot=snapshot, name=NAME, resume=resume)
        subscribed = False
        async with Client(self._path, reader, report=self._report) as client:
            async for _, record in client:
                take(record)
                subscribed = subscribed or isinstance(record, Subscribed)
                if subscribed and (isinstance(record, Heartbeat | Event | Gap) or _is_in_stream(record)):
                    return

    # The stream.

    async def _read(self, start: Position) -> None:
        reader = Reader(self._channels, name=NAME, resume=start)
        self._seqs = dict(start.seq)
        async with Client(self._path, reader, report=self._report) as client:
            self._client = client
            while True:
                for _ in range(TURN_RECORDS):
                    received = client.receive_nowait()
                    if received is None:
                        self._wake()
                        await client.more()
                        break
                    self._take(received.record)
                self._wake()
                await asyncio.sleep(0)
                await self._rest_for_books()
                while self._merge.is_full:
                    await asyncio.sleep(ROOM_S)

    async def _rest_for_books(self) -> None:
        if not self._may_read.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(PAUSE_S):
                    await self._may_read.wait()

    def _take(self, record: Record) -> None:
        self.taken += 1
        self._heard_at = _now()
        match record:
            case Event() | Gap():
                self._advance(record.channel, record.seq)
                self._bring(entry_of(record, self._session, _now()))
            case Snapshot() if record.reason in IN_STREAM:
                if record.channel in self._books and self._books[record.channel].seq <= record.seq:
                    del self._books[record.channel]  # the stream has one of its own there
                self._advance(record.channel, record.seq)
                self._bring(entry_of(record, self._session, _now()))
            case Snapshot():
                self._books[record.channel] = record
                self._place_book(record.channel)
            case Refused():
                self._refuse(record)
            case Heartbeat():
                for channel in record.next:
                    self._place_book(channel)

    def _refuse(self, record: Refused) -> None:
        if record.reason == "unknown_session":
            raise _NewSession
        self._seqs[record.channel] = record.next - 1
        self._merge.lose_place(record.channel)

    def _advance(self, channel: str, seq: int) -> None:
        """Put a book that belongs before a record there."""
        self._seqs[channel] = seq - 1
        self._place_book(channel)
        self._seqs[channel] = seq

    def _place_book(self, channel: str) -> None:
        """Bring a book that was sent to us alone, where the channel is as far as the book is."""
        book = self._books.get(channel)
        if book is None:
            return
        at = self._seqs.get(channel, 0)
        if at == book.seq:
            self._bring(entry_of(book, self._session, _now()))
        if at >= book.seq:
            del self._books[channel]

    def _bring(self, entry: Entry) -> None:
        self._merge.bring(entry, _now())

    # Books that the stream needs.

    async def ask_for_books(self, channels: Iterable[str]) -> None:
        """Ask for the books of some channels; each is put in its place once that has been read."""
        for channel in list(channels):
            if channel in self._seqs and channel not in self._books and channel.endswith(f"/{BOOK}"):
                self._may_read.clear()
                try:
                    await self._ask_for_book(channel)
                finally:
                    self._may_read.set()

    async def _ask_for_book(self, channel: str) -> None:
        session = ""

        def look(record: Record) -> None:
            nonlocal session
            if isinstance(record, Hello):
                session = record.session
            if isinstance(record, Snapshot) and record.reason not in IN_STREAM and session == self._session:
                self._books[channel] = record
                self._place_book(channel)
                self._may_read.set()

        await self._ask(look, (channel,), snapshot=True)


def _is_in_stream(record: Record) -> bool:
    return isinstance(record, Snapshot) and record.reason in IN_STREAM


def _now() -> float:
    return asyncio.get_running_loop().time()
