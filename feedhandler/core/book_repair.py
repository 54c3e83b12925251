"""The repair of one book: what is held behind a gap, and the snapshot that it is laid over (rule R9).

Events are held at their true places, bounded; the oldest go first, which only asks for a younger snapshot. A snapshot
shows the book at some unknown moment. If that is beyond what is held, what is still to come would undo some of it; so
a snapshot is put by until the stream is **past** it: an event came that is younger by the exchange's times, or
`PAST_S` went by. If it is within, its moment need not be known, since quantities are absolute: the snapshot *fits*
after the first p held events if each level that these set last stands so in it. The latest p that fits is taken: what
the events between the true moment and p have set stands in the snapshot, and the rest did not change, so it is the
book after p. What goes out is the snapshot and the held events behind it.

What comes late and belongs before the first held event is from the gap, and that may hide more of its levels behind it.
It is no evidence and has no place among what is held: whatever is from behind the gap knows it.

A snapshot from before the hold fits after none of its events, or by accident after a few, and would hide what the gap
has hidden. So it has to show that it is **young** enough. As long as a current source can be hoped for, it knows every
event that was held for `KNOWN_AFTER_S` when it was asked for. Its time, where it tells one, is after the first held
event's, and it knows all events that are older than that. Without a time, or at the same one, it shows a level of a
held event. A source that lags, or that puts young times on old states, gets its chance after `STRICT_ATTEMPTS`: events
are kept across attempts, so in the end it shows one of them.

Where nothing was held when a snapshot came there is nothing to show. One with a time must then be younger than the
last event, or be the book from before the gap; one without is believed once the market was silent for
`KNOWN_AFTER_S`, or at the very start. So the first book of all is as old as the source; an audit tells.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from feedhandler.config import Bounds
from feedhandler.core.audit import PAST_S
from feedhandler.core.book import Book
from feedhandler.core.levels import Broken, Levels, is_zero
from feedhandler.core.messages import Release

LATE: Final = "late"

KNOWN_AFTER_S: Final = 2.0
"""A current source knows every event that was held for so long when it was asked."""

LAG_MOST_S: Final = 60.0
"""No snapshot is expected to be older than this."""

STRICT_ATTEMPTS: Final = 3
"""Requests after which a snapshot may come from a source that lags."""


class BookImage(msgspec.Struct, frozen=True):
    """A snapshot of a book, read: its levels, and the exchange's time for it (ms) where it tells one.

    ``doubtful`` says what is odd about a book that there may be all the same: ``empty`` or ``crossed``.
    """

    levels: Levels
    ts: int | None
    doubtful: str = ""


class BookDesk(Protocol):
    """How the exchange writes books."""

    def levels(self, payload: bytes) -> Levels | Broken:
        """Read a delta."""

    def run(self, payloads: Sequence[bytes]) -> Levels | None:
        """Read deltas as if they were one; None where each has to be read by itself."""

    def time_ms(self, payload: bytes) -> int | None:
        """Return a delta's own time."""

    def read(self, payload: bytes) -> BookImage | Broken:
        """Read a snapshot."""

    def write(self, book: Book) -> bytes:
        """Return a book as the exchange's own snapshot message."""


class _Candidate(NamedTuple):
    """A snapshot that is put by until the stream is past it."""

    image: BookImage
    asked_at: float
    came_at: float
    young: bool | None
    """Whether it is from behind the gap; None where the held events have to show that."""


class Entry:
    """One held event: when it came, and its time; ``in_place`` unless it is late and from before all others."""

    __slots__ = ("at", "in_place", "levels", "release", "time_ms")

    def __init__(self, release: Release, at: float, time_ms: int | None, *, in_place: bool) -> None:
        self.release = release
        self.at = at
        self.time_ms = time_ms
        self.in_place = in_place
        self.levels: Levels | Broken | None = None


class BookRepair:
    """What is held for one repair.

    ``newest`` is what was released last before it, and ``before`` the book until then, as far as there were any.
    """

    def __init__(
        self, desk: BookDesk, bounds: Bounds, newest: Release | None, before: Book | None, now: float
    ) -> None:
        self.entries: list[Entry] = []
        self.dropped = 0
        self._desk = desk
        self._bounds = bounds
        self._newest = newest
        self._before = before
        self._began = now
        self.bytes = 0
        self._youngest_ms = -1
        self._candidate: _Candidate | None = None

    def __repr__(self) -> str:
        put_by = "a snapshot" if self._candidate else "no snapshot"
        return f"<BookRepair {len(self.entries)} held, {put_by} put by>"

    @property
    def waits(self) -> bool:
        """Whether a snapshot is put by."""
        return self._candidate is not None

    def hold(self, release: Release, now: float) -> int:
        """Hold an event; return how many old ones had to go for it."""
        time_ms = self._desk.time_ms(release.payload)
        index = self._place(release.before) if release.kind == LATE else len(self.entries)
        in_place = release.kind != LATE or index < len(self.entries)
        self.entries.insert(index, Entry(release, now, time_ms, in_place=in_place))
        self.bytes += len(release.payload)
        self._youngest_ms = max(self._youngest_ms, -1 if time_ms is None else time_ms)
        if len(self.entries) <= self._bounds.repair_events and self.bytes <= self._bounds.repair_bytes:
            return 0
        drop = len(self.entries) // 4 + 1
        self.bytes -= sum(len(entry.release.payload) for entry in self.entries[:drop])
        del self.entries[:drop]
        self.dropped += drop
        self._candidate = None
        return drop

    def _place(self, before: int) -> int:
        """Return where a late event belongs: between the one of that position and another, or at the end."""
        entries = self.entries
        index = next((i for i, entry in enumerate(entries) if entry.release.position == before), 0)
        return index if any(entry.in_place for entry in entries[:index]) else len(entries)

    def put_by(self, image: BookImage, asked_at: float, now: float) -> None:
        """Put a snapshot by that was asked for at ``asked_at``."""
        self._candidate = _Candidate(image, asked_at, now, self._is_young(image, asked_at, now))

    def is_past(self, now: float) -> bool:
        """Tell whether the stream is past the snapshot that is put by."""
        one = self._candidate
        if one is None:
            return False
        return now - one.came_at >= PAST_S or (one.image.ts is not None and self._youngest_ms > one.image.ts)

    def settle(self, attempts: int) -> tuple[BookImage, int] | None:
        """Take the snapshot that was put by, and after how many of the held events it is the book; None if too old."""
        one = self._candidate
        assert one is not None
        self._candidate = None
        cut, shown = self._fit(Book(one.image.levels))
        young = self._shows_age(one, cut, attempts, shown=shown) if one.young is None else one.young
        return (one.image, cut) if young and not (cut == 0 and self.dropped) else None

    def _is_young(self, image: BookImage, asked_at: float, now: float) -> bool | None:
        """Tell whether a snapshot is from behind the gap where nothing is held; None where events are to show it."""
        if self.entries:
            return None
        ts, newest_ms = image.ts, self._desk.time_ms(self._newest.payload) if self._newest else None
        if ts is None or newest_ms is None:
            return self._newest is None or now - self._began >= KNOWN_AFTER_S
        if ts == newest_ms and self._before is not None:
            return not self._before.differing(Book(image.levels))
        return ts >= newest_ms or asked_at - self._began >= LAG_MOST_S

    def _shows_age(self, one: _Candidate, cut: int, attempts: int, *, shown: bool) -> bool:
        """Tell whether a snapshot shows that it is not from before the hold."""
        ts, asked_at, strict = one.image.ts, one.asked_at, attempts < STRICT_ATTEMPTS
        known = sum(entry.at <= asked_at - KNOWN_AFTER_S for entry in self.entries)
        if strict and cut < known:
            return False
        first_ms = self.entries[0].time_ms
        if ts is not None and first_ms is not None:
            claimed = max(_older(self.entries, ts), default=0)
            if ts < first_ms or (strict and cut < claimed):
                return False
            if ts > first_ms and cut >= claimed:
                return True
        return shown or asked_at - self.entries[0].at >= LAG_MOST_S

    def _fit(self, snapshot: Book) -> tuple[int, bool]:
        """Return after how many of the held events the snapshot is the book, and whether it shows any of them."""
        wrong: set[str] = set()
        best, shown, shows = 0, False, False
        for count, entry in enumerate(self.entries, 1):
            if entry.levels is None:
                entry.levels = self._desk.levels(entry.release.payload)
            if not entry.in_place or isinstance(entry.levels, Broken):
                continue
            for key, level in entry.levels.items():
                if snapshot.shows(key, level):
                    wrong.discard(key)
                    shows = shows or not is_zero(level)
                else:
                    wrong.add(key)
            if not wrong:
                best, shown = count, shows
        return best, shown


def _older(entries: Sequence[Entry], ts: int) -> list[int]:
    """Return the counts of the held events up to each in its place that is older than a time."""
    placed = ((count, one.time_ms) for count, one in enumerate(entries, 1) if one.in_place)
    return [count for count, time_ms in placed if time_ms is not None and time_ms < ts]
