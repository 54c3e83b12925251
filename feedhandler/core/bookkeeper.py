"""The book channel of one market: its events, its book, and the snapshots that repair and prove both (R7 and R9).

    syncing ──a snapshot that fits──▶ live ──a gap, a failed audit, a delta that can't be read──▶ syncing

**Syncing**: events are held, bounded; the oldest go first, which only asks for a younger snapshot. A snapshot shows
the book at some unknown moment. If that is past the hold, what is still to come would undo some of it; so a snapshot
is put by until the stream is **past** it: an event came that is younger by the exchange's times, or `PAST_S` went by.
If it is within the hold, its moment need not be known, since quantities are absolute: the snapshot *fits* after the
first p held events if each level that these set last stands so in it. The latest p that fits is taken: what the events
between the true moment and p have set stands in the snapshot, and the rest did not change, so it is the book after p.
What goes out is the gap if there is one, the snapshot, and the held events behind it.

A snapshot from before the hold fits after none of its events, or by accident after a few, and would hide what the gap
has hidden. So it has to **show** that it is young enough: by a level of a held event, or by a time that is not before
the first one's. And as long as a current source can be hoped for it has to know every event that was held for
`KNOWN_AFTER_S` when it was asked for. A source that lags gets its chance after `STRICT_ATTEMPTS`: events are kept
across attempts, so in the end it shows one of them.

Where nothing was held when it came there is nothing to show. A snapshot with a time must then not be older than the
last event; one without is believed once the market was silent for `KNOWN_AFTER_S`, or at the start. A book without
levels is believed when `EMPTY_REPLIES` in a row say so.

**Live**: events pass, and the book follows them lazily (`book_track`). An audit (`audit`) proves it at its interval,
at once where nobody has anything to say, and soon after a repair. Where it fails that is a gap, and syncing again. An
audit that fails again and again says more about itself than about the book: from the second time in a row on it is
believed only after a time that doubles, up to `DISTRUST_MOST_S`; until then it is only noted. A failed audit with a
snapshot that is newer than all that came, and nothing coming, says that the lines are **behind**.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

import msgspec

from feedhandler.config import Bounds, Recovery
from feedhandler.core.audit import PAST_S, ROUNDS, Audit
from feedhandler.core.book import Book
from feedhandler.core.book_track import BookTrack
from feedhandler.core.levels import Broken, Level, Levels, is_zero
from feedhandler.core.messages import Gap, Output, Release, Snapshot
from feedhandler.core.notes import Notify, note

START: Final = "start"
GAP: Final = "gap"
AUDIT: Final = "audit"
BEHIND: Final = "behind"
DAMAGE: Final = "damage"
LATE: Final = "late"
BOOK: Final = "book"

KNOWN_AFTER_S: Final = 2.0
"""A current source knows every event that was held for so long when it was asked."""

LAG_MOST_S: Final = 60.0
"""No snapshot is expected to be older than this."""

STRICT_ATTEMPTS: Final = 3
"""Requests after which a snapshot may come from a source that lags."""

STUCK_ATTEMPTS: Final = 10
"""Requests for a book after which it is said, and said again, that it cannot be synchronised."""

RETRY_FIRST_S: Final = 0.1
"""Pause after the first reply of no use; it doubles up to ``recovery.retry_s``."""

EMPTY_REPLIES: Final = 3
"""Snapshots without levels in a row that make a book without levels."""

DISTRUST_MOST_S: Final = 3600.0
"""After so long a failed audit is believed, however many have failed before it."""

MARK_EVERY_S: Final = 1.0
"""How exactly it is known when the book was at which position."""

NAMED_LEVELS: Final = 10
"""Differing levels that a note names."""


class BookImage(msgspec.Struct, frozen=True):
    """A snapshot of a book, read: its levels, and the exchange's time for it (ms) where it tells one."""

    levels: Levels
    ts: int | None


class _Candidate(NamedTuple):
    """A snapshot that is put by until the stream is past it."""

    image: BookImage
    asked_at: float
    came_at: float
    young: bool | None
    """Whether it is from behind the gap; None where the held events have to show that."""


class BookDesk(Protocol):
    """How the exchange writes books."""

    def levels(self, payload: bytes) -> Levels | Broken:
        """Read a delta."""

    def time_ms(self, payload: bytes) -> int | None:
        """Return a delta's own time."""

    def read(self, payload: bytes) -> BookImage | Broken:
        """Read a snapshot."""

    def write(self, book: Book) -> bytes:
        """Return a book as the exchange's own snapshot message."""


class BookKeeper:
    """One market's book channel; gives back what is to be published, in order."""

    kind = BOOK

    def __init__(
        self, feed: str, channel: str, desk: BookDesk, *, settings: Recovery, bounds: Bounds, notify: Notify
    ) -> None:
        self.channel = channel
        self.passing = False
        """Whether the book is there: an ordinary event goes out as it is (`follow`)."""
        self.reason = START
        self.failed = ""
        """Why the book was given up, for whoever asks on its behalf to hear and reset: `AUDIT`, `BEHIND`, `DAMAGE`."""
        self.dropped = 0
        self.attempts = 0
        self._feed = feed
        self._desk = desk
        self._settings = settings
        self._bounds = bounds
        self._notify = notify
        self._gap: Gap | None = None
        self._began_ms: int | None = None
        self._held: list[tuple[Release, float]] = []
        self._held_bytes = 0
        self._candidate: _Candidate | None = None
        self._last: Release | None = None
        self._due = 0.0
        self._audit_due = float("inf")
        self._audit: Audit | None = None
        self._failures = 0
        self._believed_from = 0.0
        self._mend_due = 0.0
        self._empty_replies = 0
        self._gap_at = 0.0
        self._marks: deque[tuple[float, int]] = deque(maxlen=round(LAG_MOST_S / MARK_EVERY_S) + 1)
        self._image: tuple[BookTrack, int, bytes] | None = None
        self.track = self._new_track()

    def __repr__(self) -> str:
        return f"<BookKeeper {self.channel} {'live' if self.passing else f'syncing ({self.reason})'} {self.track!r}>"

    def _new_track(self) -> BookTrack:
        return BookTrack(self.channel, self._desk.levels, self._notify)

    @property
    def syncing(self) -> bool:
        """Whether the book is not there."""
        return not self.passing

    @property
    def auditing(self) -> bool:
        """Whether an audit is under way."""
        return self._audit is not None

    # Events

    def follow(self, release: Release) -> None:
        """Take an ordinary event that goes out as it is."""
        self._last = release
        self.track.append(release.position, release.payload)

    def take(self, release: Release, now: float) -> Iterable[Output]:
        """Take any event; return what goes out."""
        if not self.passing:
            self._hold(release, now)
            return self._settle(self._candidate, now) if self._is_past(release) else ()
        if release.kind != LATE:
            self.follow(release)
            return (release,)
        self._audit = None  # its base is not what it was taken for
        self.track.insert_late(release.payload, release.before)
        image = self.image()
        return (release,) if image is None else (release, Snapshot(self.channel, image, LATE))

    def _hold(self, release: Release, now: float) -> None:
        self._held.append((release, now))
        self._held_bytes += len(release.payload)
        if len(self._held) > self._bounds.hold_events or self._held_bytes > self._bounds.hold_bytes:
            drop = len(self._held) // 4 + 1
            self._held_bytes -= sum(len(one.payload) for one, _ in self._held[:drop])
            del self._held[:drop]
            self.dropped += drop
            self._candidate = None
            self._notify(note("repair_overflowed", feed=self._feed, channel=self.channel, events=drop))

    def _is_past(self, release: Release) -> bool:
        """Tell whether an event is younger than the snapshot that is put by, so that the stream is past that."""
        if self._candidate is None or self._candidate.image.ts is None:
            return False
        time_ms = self._desk.time_ms(release.payload)
        return time_ms is not None and time_ms > self._candidate.image.ts

    def open_gap(self, gap: Gap, now: float) -> Iterable[Output]:
        """Begin a repair; a gap during a repair belongs to it, for nothing was published in between."""
        if not self.passing:
            if self._gap is not None:
                self._gap = Gap(gap.channel, self._gap.reason, self._gap.since, gap.until)
            elif self.reason != START:
                self._gap = gap
        else:
            self._gap = gap
            self.reason = AUDIT if gap.reason == AUDIT else GAP
        self.passing = False
        self.attempts = self.dropped = 0
        self._due = self._gap_at = now
        self._audit, self._audit_due = None, float("inf")
        self._held, self._held_bytes, self._candidate = [], 0, None
        self._marks.clear()
        self.track = self._new_track()
        return ()

    # What is asked for

    def wants(self, now: float) -> bool:
        """Tell whether a snapshot is to be asked for now."""
        if not self.passing:
            return self._candidate is None and now >= self._due
        if self._audit is not None:
            return self._audit.comparison is None and now >= self._due
        return now >= self._audit_due

    def asked(self, now: float) -> None:
        """Hear that a snapshot was asked for."""
        self._due = now
        if self.passing and self._audit is None:
            book = self.track.book()
            if book is not None:
                last = self._last
                newest_ms = self._desk.time_ms(last.payload) if last else None
                self._audit = Audit(book.copy(), self.track.newest, newest_ms, now)

    def audit_soon(self, now: float) -> None:
        """Want an audit now: nothing is heard any more, and that may be a lie."""
        self._audit_due = min(self._audit_due, now)

    def in_vain(self, reason: str, now: float) -> list[Output]:
        """Note a request without a usable answer; the next one is made after a pause."""
        self.attempts += 1
        pause_s = min(RETRY_FIRST_S * 2 ** min(self.attempts, 16), self._settings.retry_s)
        self._due = now + pause_s
        if self.passing:
            self._audit, self._audit_due = None, self._due
        self._notify(note("snapshot_missed", feed=self._feed, channel=self.channel, reason=reason))
        if not self.passing and self.attempts % STUCK_ATTEMPTS == 0:
            self._notify(note("resync_stuck", feed=self._feed, channel=self.channel, attempts=self.attempts))
        return []

    # What is answered

    def answer(self, payload: bytes, line: str, asked_at: float, now: float, recv: int) -> list[Output]:  # noqa: ARG002 - what others need
        """Take the reply to a request that was made at ``asked_at``."""
        image = self._desk.read(payload)
        if isinstance(image, Broken):
            return self.in_vain(image.reason, now)
        self._empty_replies = 0 if image.levels else self._empty_replies + 1
        if 0 < self._empty_replies < EMPTY_REPLIES:
            return self.in_vain("empty", now)
        if not self.passing:
            self._candidate = _Candidate(image, asked_at, now, self._is_young(image.ts, now))
            is_past = bool(self._held) and self._is_past(self._held[-1][0])
            return self._settle(self._candidate, now) if is_past else []
        if self._audit is not None:
            if image.ts is not None and self._began_ms is not None and image.ts < self._began_ms:
                return self.in_vain("too_old", now)
            self.attempts = 0
            self._audit.examine(Book(image.levels), image.ts, now)
            return self._judge(self._audit, now, recv)
        return []

    def _is_young(self, ts: int | None, now: float) -> bool | None:
        """Tell whether a snapshot is from behind the gap where nothing is held; None where events are to show it."""
        if self._held:
            return None
        newest_ms = self._desk.time_ms(self._last.payload) if self._last else None
        if ts is None or newest_ms is None:
            return self.reason == START or now - self._gap_at >= KNOWN_AFTER_S
        return ts >= newest_ms

    def _settle(self, candidate: _Candidate | None, now: float) -> list[Output]:
        """End a repair with a snapshot that the stream is past, where it fits."""
        assert candidate is not None
        self._candidate = None
        image = candidate.image
        cut, shown = self._fit(Book(image.levels))
        young = self._shows_age(candidate, cut, shown=shown) if candidate.young is None else candidate.young
        if not young:
            return self.in_vain("too_old", now)
        held = [release for release, _ in self._held]
        position = held[cut - 1].position if cut else (held[0].position - 1 if held else self._head())
        self.track.reset(image.levels, position)
        marks = [self._gap] if self._gap else []
        snapshot = Snapshot(self.channel, self._desk.write(Book(image.levels)), self.reason)
        self.passing, self._gap, self._began_ms = True, None, image.ts
        self._held, self._held_bytes = [], 0
        self.attempts = 0
        self._audit_due = now + self._settings.verify_s if self._settings.audit_s else float("inf")
        self._notify(
            note(
                "book_synchronised", feed=self._feed, channel=self.channel, reason=self.reason, held=len(held)
            )
        )
        behind = [output for release in held[cut:] for output in self.take(release, now)]
        return [*marks, snapshot, *behind]

    def _head(self) -> int:
        return -1 if self._last is None else self._last.position

    def _fit(self, snapshot: Book) -> tuple[int, bool]:
        """Return after how many of the held events the snapshot is the book, and whether it shows any of them."""
        wrong: set[str] = set()
        best, shown, shows = 0, False, False
        for count, (release, _) in enumerate(self._held, 1):
            levels = self._desk.levels(release.payload)
            if release.kind == LATE or isinstance(levels, Broken):
                continue
            for key, level in levels.items():
                if snapshot.shows(key, level):
                    wrong.discard(key)
                    shows = shows or not is_zero(level)
                else:
                    wrong.add(key)
            if not wrong:
                best, shown = count, shows
        return best, shown

    def _shows_age(self, candidate: _Candidate, cut: int, *, shown: bool) -> bool:
        """Tell whether a snapshot shows that it is not from before the hold."""
        ts, asked_at = candidate.image.ts, candidate.asked_at
        first, came_at = self._held[0]
        first_ms = self._desk.time_ms(first.payload)
        known = sum(at <= asked_at - KNOWN_AFTER_S for _, at in self._held)
        if cut < known and self.attempts < STRICT_ATTEMPTS:
            return False
        dated = ts is not None and first_ms is not None and ts >= first_ms
        return shown or dated or (asked_at - came_at >= LAG_MOST_S and not self.dropped)

    # Audits

    def tick(self, now: float, recv: int) -> list[Output]:
        """Let time pass: judge an audit that waits for its line, mend a book with a delta that nobody could read."""
        if not self.passing:
            candidate = self._candidate
            is_past = candidate is not None and now - candidate.came_at >= PAST_S
            return self._settle(candidate, now) if is_past else []
        if not self._marks or now - self._marks[-1][0] >= MARK_EVERY_S:
            self._marks.append((now, self.track.newest))
        if self.track.damaged and now >= self._mend_due:
            self._mend_due = now + max(self._settings.audit_s, self._settings.verify_s)
            return self._fail(DAMAGE, now, recv)
        audit = self._audit
        return self._judge(audit, now, recv) if audit is not None and audit.comparison is not None else []

    def _judge(self, audit: Audit, now: float, recv: int) -> list[Output]:
        """Give the verdict on a snapshot as soon as there is one."""
        comparison, newest = audit.comparison, self.track.newest
        assert comparison is not None
        deltas = self.track.deltas(audit.followed, newest)
        if deltas is None:  # more than memory holds: begin anew
            self._audit = None
            return []
        for levels in self.track.readable(deltas):
            if comparison.found:
                break
            comparison.follow(levels)
        audit.followed = newest
        if comparison.found:
            self._failures, self._believed_from = 0, 0.0
            return self._conclude("passed", now)
        if now - comparison.began < PAST_S:
            return []
        wrong = comparison.unseen
        if audit.may_be_older:
            wrong = wrong - self.track.set_by(self._position_at(audit.began - LAG_MOST_S), audit.position)
        if not wrong:
            return self._conclude("unplaced", now)
        confirmed = audit.confirmed(wrong)
        if confirmed:
            return self._confirm(audit, comparison.snapshot, confirmed, now, recv)
        if audit.rounds >= ROUNDS:
            return self._conclude("unplaced", now)
        audit.comparison, self._due = None, now
        self._note_audit("suspicious")
        return []

    def _position_at(self, moment: float) -> int:
        """Return a position that the book had at a moment or before, -1 where that is not known."""
        return next((position for at, position in reversed(self._marks) if at <= moment), -1)

    def _conclude(self, result: str, now: float) -> list[Output]:
        self._audit = None
        self._audit_due = now + self._audit_s() if self._settings.audit_s else float("inf")
        self._note_audit(result)
        return []

    def _note_audit(self, result: str) -> None:
        self._notify(note("book_audited", feed=self._feed, channel=self.channel, result=result))

    def _confirm(self, audit: Audit, snapshot: Book, keys: set[str], now: float, recv: int) -> list[Output]:
        """Believe that the book is wrong, unless audits have failed too often of late."""
        believed = now >= self._believed_from
        self._conclude("failed" if believed else "distrusted", now)
        book = self.track.book()
        assert book is not None
        differences = book.difference(snapshot, keys)[:NAMED_LEVELS]
        levels = ", ".join(
            f"{one.side} {one.price}: {one.quantity or 0} is {one.other or 0}" for one in differences
        )
        feed, channel, count = self._feed, self.channel, len(keys)
        if not believed:
            self._notify(note("audit_distrusted", feed=feed, channel=channel, levels=levels, count=count))
            return []
        self._failures += 1
        if self._failures > 1:
            self._believed_from = now + min(self._settings.audit_s * 2**self._failures, DISTRUST_MOST_S)
        self._notify(note("book_failed", feed=feed, channel=channel, levels=levels, count=count))
        behind = audit.is_newer and audit.followed == audit.position
        return self._fail(BEHIND if behind else AUDIT, now, recv)

    def _fail(self, why: str, now: float, recv: int) -> list[Output]:
        """Give up a book that is wrong."""
        self.failed = why
        since = self._last.recv if self._last else recv
        return list(self.open_gap(Gap(self.channel, AUDIT, since, recv), now))

    def _audit_s(self) -> float:
        """Return the time to the next audit: spread, so that not all books are audited at once."""
        share: float = sum(self.channel.encode()) % 64 / 128
        return self._settings.audit_s * (0.75 + share)

    # What is known

    def levels(self) -> list[Level] | None:
        """Return the levels after all that was published, best first; None where there is no book."""
        book = self.track.book() if self.passing else None
        return None if book is None else book.levels()

    def image(self) -> bytes | None:
        """Return the book after all that was published, as a message; None where there is no sound one."""
        book = self.track.book() if self.passing else None
        if book is None or self.track.damaged:
            return None
        track, newest = self.track, self.track.newest
        if self._image is None or self._image[:2] != (track, newest):
            self._image = (track, newest, self._desk.write(book))
        return self._image[2]
