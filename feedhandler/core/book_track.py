"""A book that follows its channel: lazily, through snapshots, and with late deltas at their true place.

**Appending only queues.** Deltas are applied when something needs the book, or when the shell is idle. Where more than
`WAITING_BYTES` of them wait, the oldest are applied until that is true no longer, a small part at a time, so that no
append takes long. A run of deltas nobody looks into is read as one, so that a level that it sets ten times is changed
once; a run that cannot be read so, since one of its deltas may be broken, is read delta by delta.

Deltas stay in memory after they were applied: the last `REMEMBERED` of them, up to `MEMORY_BYTES`. Two things need
them. *A snapshot* shows the book as it was after some position, usually not the newest: everything behind it is
applied again on top, which is exact for absolute quantities as long as no delta is missing. *A late delta* belongs
before a position that is already applied: of its levels those count that nothing after its place has set since.

| in memory | `_applied` divides it |
| --- | --- |
| before it | in the book, or older than the snapshot that the book began with |
| from it on | waiting; without a book all that was not forgotten waits for the snapshot |

A delta that can't be read leaves a book that nobody should trust: it is skipped, noted, and the book is `damaged`
until the next snapshot behind it.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from feedhandler.core.book import Book
from feedhandler.core.levels import Broken, Levels
from feedhandler.core.notes import Notify, note

WAITING_BYTES = 256 * 1024
"""Payloads of the deltas that may wait; all of them are applied in a few milliseconds."""

WAITING_PARTS = 16
"""With more the oldest are applied, one of so many parts of them at a time, which takes a fraction of a millisecond."""

RUN_DELTAS = 256
"""The most deltas that are read as one, which bounds what is decoded at a time."""

REMEMBERED = 16_384
"""Deltas kept after they were applied, or while there is no book; with more the oldest are forgotten."""

TRIM_SHARE = 8
"""Memory is trimmed when it is over its bound by one part in so many."""

MEMORY_BYTES = 8 * 2**20
"""Payloads of the deltas in memory; with more the older half is forgotten."""

BOOK_LEVELS_MOST = 400_000
"""Levels of a book; a delta that might lead beyond is refused."""

Folding = Literal["folded", "included", "guessed", "refused"]
"""What became of a late delta: put at its true place; in the book's snapshot already, so nothing to do; put before the
oldest delta in memory, since its place is older than that; not readable."""

Read = Callable[[bytes], Levels | Broken]
"""Reads a delta; never raises."""

ReadRun = Callable[[Sequence[bytes]], Levels | None]
"""Reads deltas as if they were one; None where each has to be read by itself, since one may be broken."""


def each_by_itself(_: Sequence[bytes]) -> Levels | None:
    """Read no deltas as one."""
    return None


class BookTrack:
    """The book of one channel, after all that was appended, once there is a snapshot."""

    def __init__(self, channel: str, read: Read, notify: Notify, read_run: ReadRun = each_by_itself) -> None:
        self._channel = channel
        self._read = read
        self._read_run = read_run
        self._notify = notify
        self._book: Book | None = None
        self._start = -1
        self._damaged = False
        self._positions: list[int] = []
        self._payloads: list[bytes] = []
        self._applied = 0
        self._settled_bytes = 0
        self._waiting_bytes = 0
        self._whole_from = 0
        self._first: int | None = None  # once it is no longer in memory

    def __repr__(self) -> str:
        state = "damaged" if self._damaged else "sound"
        return f"<BookTrack {self._channel} {state} {self._book!r}, {self.waiting} waiting>"

    @property
    def waiting(self) -> int:
        """How many deltas wait to be applied."""
        return len(self._positions) - self._applied

    @property
    def followed(self) -> Book | None:
        """The book without what still waits: to be looked at, not to be changed or kept."""
        return self._book

    @property
    def remembered_bytes(self) -> int:
        """Bytes of the payloads in memory, waiting or applied."""
        return self._settled_bytes + self._waiting_bytes

    @property
    def damaged(self) -> bool:
        """Whether a delta since the snapshot could not be used; true of what was applied so far."""
        return self._damaged

    def append(self, position: int, payload: bytes) -> None:
        """Take the channel's next delta, of a position above all before it; nothing is decoded yet."""
        self.extend((position,), (payload,))

    def extend(self, positions: Sequence[int], payloads: Sequence[bytes]) -> None:
        """Take the channel's next deltas, of rising positions above all before them; likewise."""
        self._positions += positions
        self._payloads += payloads
        self._waiting_bytes += _size(payloads)
        if self._waiting_bytes > WAITING_BYTES:
            self._relieve()

    def catch_up(self, most: int | None = None) -> int:
        """Apply what waits, the oldest ``most`` at a time; return how many still wait (without a book: all)."""
        if self._book is not None:
            end = len(self._positions)
            if most is not None:
                end = min(end, self._applied + most)
            self._apply_to(end, self._book)
        self._trim()
        return self.waiting

    def book(self) -> Book | None:
        """Return the book after all that was appended: to be looked at, not to be changed or kept."""
        self.catch_up()
        return self._book

    def reset(self, levels: Levels, position: int) -> bool:
        """Replace the book by a snapshot taken after ``position``, and apply all behind it again.

        The position may be older than the snapshot's true one. Return False, and do nothing, where a delta behind it
        is no longer in memory: a younger snapshot is needed.
        """
        if position + 1 < self._whole_from:
            return False
        self._book = Book(levels)
        self._start = position
        self._first = None
        self._damaged = False
        self._applied = bisect_right(self._positions, position)
        self._settled_bytes = _size(self._payloads[: self._applied])
        self._waiting_bytes = _size(self._payloads[self._applied :])
        self.catch_up()
        return True

    def insert_late(self, payload: bytes, before: int) -> Folding:
        """Take a delta that belongs right before ``before``, a position of this channel.

        Of several for the same place the later call is the later delta.
        """
        self.catch_up()
        index = bisect_right(self._positions, before)
        if index and self._positions[index - 1] == before:
            index -= 1
        remembered = before >= self._whole_from
        if remembered:
            self._insert(index, payload, before)
        if self._book is None:
            return "folded" if remembered else "included"
        if before <= self._start:
            return "included"
        levels = self._usable(payload, before, len(self._book))
        if levels is None:
            return "refused"
        self._fold(levels, index + remembered, self._book)
        return "folded" if remembered else "guessed"

    @property
    def newest(self) -> int:
        """The position after which the book is as it is; -1 where nothing came."""
        return max(self._start, self._positions[-1]) if self._positions else self._start

    @property
    def first(self) -> int | None:
        """The position of the first delta behind the snapshot; None where none came."""
        if self._first is not None:
            return self._first
        index = bisect_right(self._positions, self._start)
        return self._positions[index] if index < len(self._positions) else None

    @property
    def oldest(self) -> bytes:
        """The oldest delta behind the snapshot that is remembered; empty where there is none."""
        index = bisect_right(self._positions, self._start)
        return self._payloads[index] if index < len(self._payloads) else b""

    def deltas(self, after: int, to: int) -> Sequence[bytes] | None:
        """Return the deltas behind the position ``after`` up to ``to``; None where memory reaches back less."""
        if after + 1 < self._whole_from:
            return None
        return self._payloads[bisect_right(self._positions, after) : bisect_right(self._positions, to)]

    def set_by(self, after: int, to: int) -> set[str] | None:
        """Return the keys of all levels that the deltas behind ``after`` up to ``to`` have set; None as `deltas`."""
        deltas = self.deltas(after, to)
        return None if deltas is None else {key for levels in self.readable(deltas) for key in levels}

    def readable(self, payloads: Sequence[bytes]) -> Iterator[Levels]:
        """Read deltas, leaving out those that cannot be read."""
        for payload in payloads:
            levels = self._read(payload)
            if not isinstance(levels, Broken):
                yield levels

    def _relieve(self) -> None:
        """Apply the oldest of what waits, and no more of it than has to be; without a book forget it."""
        if self._book is None:
            self._trim()
        while self._book is not None and self._waiting_bytes > WAITING_BYTES:
            self.catch_up(self.waiting // WAITING_PARTS + 1)

    def _apply_to(self, end: int, book: Book) -> None:
        """Apply what waits before the index ``end``."""
        while self._applied < end:
            stretch = slice(self._applied, min(end, self._applied + RUN_DELTAS))
            payloads = self._payloads[stretch]
            book.apply(self._merged(payloads, self._positions[stretch], book))
            self._applied = stretch.stop
            size = _size(payloads)
            self._waiting_bytes -= size
            self._settled_bytes += size

    def _merged(self, payloads: Sequence[bytes], positions: Sequence[int], book: Book) -> Levels:
        """Return what a run of deltas sets all in all.

        Where there is room for all its levels twice, none of its deltas can lead beyond the bound.
        """
        merged = self._read_run(payloads)
        if merged is not None and len(book) + 2 * len(merged) <= BOOK_LEVELS_MOST:
            return merged
        merged = {}
        for payload, position in zip(payloads, positions, strict=True):
            levels = self._usable(payload, position, len(book) + len(merged))
            if levels is not None:
                merged.update(levels)
        return merged

    def _usable(self, payload: bytes, position: int, held: int) -> Levels | None:
        """Read a delta for a book that holds so many levels; None, and a damaged book, where that can't be."""
        levels = self._read(payload)
        if not isinstance(levels, Broken) and held + len(levels) > BOOK_LEVELS_MOST:
            levels = Broken("levels")
        if isinstance(levels, Broken):
            self._damaged = True
            self._notify(
                note("delta_refused", channel=self._channel, position=position, reason=levels.reason)
            )
            return None
        return levels

    def _insert(self, index: int, payload: bytes, before: int) -> None:
        self._positions.insert(index, before)
        self._payloads.insert(index, payload)
        if self._book is None:
            self._waiting_bytes += len(payload)
        else:
            self._settled_bytes += len(payload)
            self._applied += 1

    def _fold(self, levels: Levels, since: int, book: Book) -> None:
        """Apply those levels that no delta from the index ``since`` on has set."""
        left = dict(levels)
        for later in self.readable(self._payloads[since : self._applied]):
            if not left:
                return
            for key in later.keys() & left.keys():
                del left[key]
        book.apply(left)

    def _trim(self) -> None:
        """Keep memory within its bounds; what still waits for an existing book stays."""
        size = len(self._positions)
        drop = size - REMEMBERED if size > REMEMBERED + REMEMBERED // TRIM_SHARE else 0
        if self.remembered_bytes > MEMORY_BYTES:
            drop = max(drop, self._older_half())
        if self._book is not None:
            drop = min(drop, self._applied)
        if drop:
            self._first = self.first
            self._whole_from = max(self._whole_from, self._positions[drop - 1] + 1)
            self._drop(drop)

    def _older_half(self) -> int:
        """Count the oldest deltas that have to go to leave half the bytes."""
        kept = self.remembered_bytes
        for drop, payload in enumerate(self._payloads):
            if kept <= MEMORY_BYTES // 2:
                return drop
            kept -= len(payload)
        return len(self._payloads)

    def _drop(self, count: int) -> None:
        self._settled_bytes -= _size(self._payloads[: min(count, self._applied)])
        self._waiting_bytes -= _size(self._payloads[self._applied : count])
        del self._positions[:count], self._payloads[:count]
        self._applied = max(0, self._applied - count)


def _size(payloads: Sequence[bytes]) -> int:
    return sum(map(len, payloads))
