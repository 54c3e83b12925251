"""The book channel of one market: its events, its book, and the snapshots that repair and prove both (R7 and R9).

    syncing ──a snapshot that fits──▶ live ──a gap, or an audit that failed twice──▶ syncing

**Syncing**: events are held, bounded; the oldest go first, which only asks for a younger snapshot. A snapshot shows
the book at some unknown moment of the hold. Quantities are absolute, so that moment need not be known: the snapshot
*fits* after the first p held events if each level that these set last stands so in it, and then it is the book after
them, whatever its age within the hold. The latest p that fits is taken. What goes out is the gap if there is one, the
snapshot, and the held events behind it.

A snapshot from before the hold fits after none of its events. It is recognised by its time, or because it does not
know an event that came well before it was asked for; then the repair goes on with the next one.

**Live**: events pass, and the book follows them lazily (`book_track`). An audit takes a fresh snapshot and applies to
it what came lately; every level that this does not set must then be as in the book. One that differs twice, in
snapshots of two requests, is believed: a gap, and syncing again.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from feedhandler.core.book import Book, Difference
from feedhandler.core.book_track import BookTrack
from feedhandler.core.levels import Broken, Levels
from feedhandler.core.messages import Gap, Output, Release, Snapshot
from feedhandler.core.notes import Notify

START: Final = "start"
GAP: Final = "gap"
AUDIT: Final = "audit"
LATE: Final = "late"

KNOWN_AFTER_S: Final = 2.0
"""A snapshot knows every event that was held for so long when it was asked for, or it is from before the hold."""


class BookDesk(Protocol):
    """How the exchange writes books."""

    def levels(self, payload: bytes) -> Levels | Broken:
        """Read a delta."""

    def time_ms(self, payload: bytes) -> int | None:
        """Return a delta's own time."""

    def write(self, book: Book) -> bytes:
        """Return a book as the exchange's own snapshot message."""


class BookKeeper:
    """One market's book channel; gives back what is to be published, in order."""

    def __init__(
        self, channel: str, desk: BookDesk, *, hold_events: int, hold_bytes: int, notify: Notify
    ) -> None:
        self.channel = channel
        self.live = False
        self.reason = START
        self.dropped = 0
        self._desk = desk
        self._hold_events = hold_events
        self._hold_bytes = hold_bytes
        self._notify = notify
        self._gap: Gap | None = None
        self._held: list[tuple[Release, float]] = []
        self._held_bytes = 0
        self._head = -1
        self._recv = 0
        self._suspicion: list[Difference] = []
        self.differences: list[Difference] = []
        self.track = self._new_track()

    def __repr__(self) -> str:
        return f"<BookKeeper {self.channel} {'live' if self.live else f'syncing ({self.reason})'} {self.track!r}>"

    def _new_track(self) -> BookTrack:
        return BookTrack(self.channel, self._desk.levels, self._notify)

    def take(self, release: Release, now: float) -> Iterable[Output]:
        """Take an event."""
        self._head = max(self._head, release.position)
        self._recv = release.recv
        if not self.live:
            self._hold(release, now)
            return ()
        if release.kind != LATE:
            self.track.append(release.position, release.payload)
            return (release,)
        self.track.insert_late(release.payload, release.before)
        return (release, *self._snapshot(LATE))

    def _hold(self, release: Release, now: float) -> None:
        self._held.append((release, now))
        self._held_bytes += len(release.payload)
        if len(self._held) > self._hold_events or self._held_bytes > self._hold_bytes:
            drop = len(self._held) // 4 + 1
            self._held_bytes -= sum(len(one.payload) for one, _ in self._held[:drop])
            del self._held[:drop]
            self.dropped += drop

    def open_gap(self, gap: Gap, reason: str = GAP) -> Iterable[Output]:
        """Begin a repair; a gap during a repair belongs to it, for nothing was published in between."""
        if self._gap is None:
            self._gap = None if not self.live and self.reason == START else gap
        else:
            self._gap = Gap(gap.channel, self._gap.reason, self._gap.since, gap.until)
        if self.live:
            self.reason = reason
        self.live = False
        self._held.clear()
        self._held_bytes = 0
        self._suspicion = []
        self.track = self._new_track()
        return ()

    def synchronise(self, levels: Levels, ts: int | None, asked_at: float) -> list[Output] | None:
        """End a repair with a snapshot that was asked for at ``asked_at``; None where it does not fit."""
        held = [release for release, _ in self._held]
        cut = self._fit(Book(levels), held)
        if cut == 0 and self._is_too_old(ts, asked_at):
            return None
        position = held[cut - 1].position if cut else (held[0].position - 1 if held else self._head)
        self.track = self._new_track()
        for release in held[cut:]:
            if release.kind != LATE:
                self.track.append(release.position, release.payload)
        if not self.track.reset(levels, position):
            return None
        image = self._desk.write(Book(levels))
        gap, reason, self._gap = self._gap, self.reason, None
        self.live = True
        self._held, self._held_bytes = [], 0
        marks: list[Output] = [gap] if gap else []
        return [*marks, Snapshot(self.channel, image, reason), *held[cut:]]

    def _fit(self, snapshot: Book, held: Sequence[Release]) -> int:
        """Return after how many of the held events the snapshot is the book, the most that fit."""
        wrong: set[str] = set()
        best = 0
        for count, release in enumerate(held, 1):
            levels = self._desk.levels(release.payload)
            if not isinstance(levels, Broken):
                for key, level in levels.items():
                    if snapshot.shows(key, level):
                        wrong.discard(key)
                    else:
                        wrong.add(key)
            if not wrong:
                best = count
        return best

    def _is_too_old(self, ts: int | None, asked_at: float) -> bool:
        """Tell whether a snapshot that fits before all held events is from before the hold."""
        if not self._held:
            return False
        first, came_at = self._held[0]
        first_ms = self._desk.time_ms(first.payload)
        if ts is not None and first_ms is not None and ts >= first_ms:
            return False
        return asked_at - came_at >= KNOWN_AFTER_S or self.dropped > 0

    def audit(self, levels: Levels) -> bool | None:
        """Compare a fresh snapshot: True where it agrees, None where it is suspicious, False where it is so twice."""
        self.differences = differences = self.track.differences(levels)
        confirmed = bool(differences) and bool(self._suspicion)
        self._suspicion = [] if confirmed else differences
        return not confirmed and (None if differences else True)

    @property
    def suspicious(self) -> list[Difference]:
        """Return what the last audit found and the next one has to confirm."""
        return self._suspicion

    def fail(self, recv: int) -> Gap:
        """Return the gap of a book that is wrong."""
        return Gap(self.channel, AUDIT, self._recv, recv)

    def _snapshot(self, reason: str) -> list[Output]:
        image = self.image()
        return [] if image is None else [Snapshot(self.channel, image, reason)]

    def image(self) -> bytes | None:
        """Return the book after all that was published, as a message; None while there is none."""
        book = self.track.book() if self.live else None
        return None if book is None else self._desk.write(book)
