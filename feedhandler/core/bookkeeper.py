"""The book channel of one market: its events, its book, and the snapshots that repair and prove both (R7 and R9).

    syncing ──a snapshot that fits──▶ live ──a gap, a failed audit, a delta that can't be read──▶ syncing

**Syncing**: events are held for the repair (`book_repair`). What ends it goes out as one: the gap if there is one, the
snapshot, and the held events behind it. A book without levels, or one whose bid reaches its ask, is believed when
`DOUBTFUL_REPLIES` in a row say so.

**Live**: events pass, and the book follows them lazily (`book_track`). Late deltas are folded in, and followed by the
book that comes of it (R3), once for all that come together. One that belongs before the first delta behind a snapshot
is from what the snapshot has put right: it is in there, with whatever else nobody has seen, and changes nothing. Only
if it is younger than the snapshot, by the exchange's times, a line has dropped it behind that.

An audit (`audit`) proves the book at its interval, at once where nobody has anything to say, and soon after a repair.
Where it fails that is a gap, and syncing again. An audit that fails again and again says more about itself than about
the book: from the second time in a row on it is believed only after a time that doubles, up to `DISTRUST_MOST_S`;
until then it is only noted. A failed audit with a snapshot that is newer than all that came, and no delta coming, says
that the lines are **behind**; that is always believed.

Whose snapshots were found at a recent position is known to be **current**. Of any other line's, undated or dated
before the base, it is assumed that they may be `LAG_MOST_S` old.
"""

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from feedhandler.config import Bounds, Recovery
from feedhandler.core.audit import PAST_S, ROUNDS, Audit, Comparison, Pulse
from feedhandler.core.book import Book
from feedhandler.core.book_repair import KNOWN_AFTER_S, LAG_MOST_S, LATE, BookDesk, BookRepair, Entry
from feedhandler.core.book_track import BookTrack
from feedhandler.core.levels import Broken
from feedhandler.core.messages import Gap, Output, Release, Run, Snapshot
from feedhandler.core.notes import Notify, note

START: Final = "start"
GAP: Final = "gap"
AUDIT: Final = "audit"
BEHIND: Final = "behind"
DAMAGE: Final = "damage"
BOOK: Final = "book"

STUCK_ATTEMPTS: Final = 10
"""Requests for a book after which it is said, and said again, that it cannot be synchronised; pauses double then."""

RETRY_FIRST_S: Final = 0.1
"""What the pause after a reply of no use grows from: it doubles with each one, up to ``recovery.retry_s``."""

RETRY_MOST_S: Final = 30.0
"""The longest pause, after many such replies."""

AUDIT_RETRY_SHARE: Final = 4
"""An audit without an answer is repeated after this part of ``recovery.audit_s``, or of a minute without one."""

DOUBTFUL_REPLIES: Final = 3
"""Snapshots in a row that are empty, or crossed, and make such a book."""

DISTRUST_MOST_S: Final = 3600.0
"""After so long a failed audit is believed, however many have failed before it."""

MARK_EVERY_S: Final = 1.0
"""How exactly it is known when the book was at which position."""

MARKS: Final = round(1.5 * LAG_MOST_S / MARK_EVERY_S)
"""Such moments that are known: as far back as a snapshot may be from, and for as long as its audit takes."""

NAMED_LEVELS: Final = 10
"""Differing levels that a note names."""


class BookKeeper:
    """One market's book channel; gives back what is to be published, in order."""

    kind = BOOK

    def __init__(
        self,
        feed: str,
        channel: str,
        desk: BookDesk,
        *,
        settings: Recovery,
        bounds: Bounds,
        notify: Notify,
        pulse: Pulse,
    ) -> None:
        self.channel = channel
        self.passing = False
        """Whether an ordinary event goes out as it is (`follow`): the book is there, and owes no snapshot."""
        self.asked_at = 0.0
        self.reason = START
        self.failed = ""
        """Why the book was given up, for whoever asks on its behalf to hear and reset: `AUDIT`, `BEHIND`, `DAMAGE`."""
        self.attempts = 0
        self._feed = feed
        self._desk = desk
        self.settings = settings
        self._bounds = bounds
        self._notify = notify
        self._pulse = pulse
        self._gap: Gap | None = None
        self._image_ms: int | None = None
        self._began_ms: int | None = None
        self._newest: Release | None = None
        self._repair: BookRepair | None = BookRepair(desk, bounds, None, None, 0.0)
        self._current: set[str] = set()
        self._due = 0.0
        self._audit_due = float("inf")
        self._audit: Audit | None = None
        self._failures = 0
        self._believed_from = 0.0
        self._mend_due = 0.0
        self._doubtful_replies = 0
        self._marks: deque[tuple[float, int]] = deque(maxlen=MARKS)
        self._image: tuple[BookTrack, int, bytes] | None = None
        self.track = self._new_track()

    def __repr__(self) -> str:
        return f"<BookKeeper {self.channel} {f'syncing ({self.reason})' if self.syncing else 'live'} {self.track!r}>"

    def _new_track(self) -> BookTrack:
        return BookTrack(self.channel, self._desk.levels, self._notify, self._desk.run)

    @property
    def syncing(self) -> bool:
        """Whether the book is not there."""
        return self._repair is not None

    @property
    def auditing(self) -> bool:
        """Whether an audit is under way."""
        return self._audit is not None

    @property
    def held(self) -> tuple[int, int]:
        """What is held of a repair: events and bytes."""
        return (len(self._repair.entries), self._repair.bytes) if self._repair is not None else (0, 0)

    # Events

    def follow(self, passing: Release | Run) -> None:
        """Take an ordinary event that goes out as it is, or those of the channel in a run."""
        if isinstance(passing, Run):
            positions, payloads = passing.of(self.channel)
            self._newest = Release(self.channel, payloads[-1], passing.line, passing.recv, "", positions[-1])
            self.track.extend(positions, payloads)
        else:
            self._newest = passing
            self.track.append(passing.position, passing.payload)

    def take(self, release: Release, now: float) -> Iterable[Output]:
        """Take any event; return what goes out."""
        if self._repair is not None:
            self._hold(self._repair, release, now)
            return self._settle(self._repair, now) if self._repair.is_past(now) else ()
        if release.kind != LATE:
            before = self.flush()
            self.follow(release)
            return (*before, release)
        self._audit = None  # its base is not what it was taken for
        self._fold(release)
        self.passing = False
        return (release,)

    def _fold(self, late: Release) -> None:
        """Put a late delta at its place in the book, unless the book has begun behind it."""
        first = self.track.first
        behind = first is not None and late.before > first and not self._is_older(late)
        if behind or self._is_younger(late):
            self._insert(late)

    def _is_older(self, late: Release) -> bool:
        """Tell whether a late delta is older than the first one behind the snapshot, as far as times tell.

        Who brings it may not know of that one: then it is placed before a later one.
        """
        time_ms, first_ms = self._desk.time_ms(late.payload), self._desk.time_ms(self.track.oldest)
        return time_ms is not None and first_ms is not None and time_ms < first_ms

    def _insert(self, late: Release) -> None:
        self.track.insert_late(late.payload, late.before)
        self._image = None

    def _is_younger(self, late: Release) -> bool:
        """Tell whether a late delta is younger than the snapshot that the book has begun with, as far as times tell."""
        time_ms = self._desk.time_ms(late.payload)
        return time_ms is not None and self._image_ms is not None and time_ms > self._image_ms

    def flush(self) -> list[Output]:
        """Return the book that is owed after late deltas, if any is."""
        if self.passing or self.syncing:
            return []
        self.passing = True
        image = self.image()
        return [] if image is None else [Snapshot(self.channel, image, LATE)]

    def _hold(self, repair: BookRepair, release: Release, now: float) -> None:
        if release.kind != LATE:
            self._newest = release
        dropped = repair.hold(release, now)
        if dropped:
            self._notify(note("repair_overflowed", feed=self._feed, channel=self.channel, events=dropped))

    def open_gap(self, gap: Gap, now: float) -> Iterable[Output]:
        """Begin a repair; a gap during a repair belongs to it, for nothing was published in between."""
        if self.syncing:
            if self._gap is not None:
                self._gap = Gap(gap.channel, self._gap.reason, self._gap.since, gap.until)
            elif self.reason != START:
                self._gap = gap
        else:
            self._gap = gap
            self.reason = AUDIT if gap.reason == AUDIT else GAP
        owed = self.flush()
        before = self.track.book() if self.reason == GAP and not self.track.damaged else None
        self.passing = False
        self.attempts = 0
        self._due = now
        self._audit, self._audit_due = None, float("inf")
        self._repair = BookRepair(self._desk, self._bounds, self._newest, before, now)
        self._marks.clear()
        self.track = self._new_track()
        return owed

    # What another daemon has published

    def inherit(self, passing: Release | Run, now: float) -> None:
        """Follow events that another daemon has published; those from before its book are in that."""
        if self.syncing:
            return
        if isinstance(passing, Release) and passing.kind == LATE:
            self.take(passing, now)
        else:
            self.follow(passing)

    def inherit_book(self, payload: bytes, position: int, now: float) -> None:
        """Take the book that another daemon has published, after all up to a position."""
        image = self._desk.read(payload)
        if isinstance(image, Broken):
            return
        self.track = self._new_track()
        self.track.reset(image.levels, position)
        self._repair, self._gap, self._image = None, None, None
        self._image_ms = self._began_ms = image.ts
        self.passing = True
        self._audit_due = now + self.settings.verify_s if self.settings.audit_s else float("inf")

    def inherit_gap(self, gap: Gap, now: float) -> None:
        """Give up the book behind a gap that another daemon has published: its snapshot is to follow."""
        self.open_gap(gap, now)
        self.reason = AUDIT if gap.reason == AUDIT else GAP
        self._gap = None

    # What is asked for

    def wants(self, now: float) -> bool:
        """Tell whether a snapshot is to be asked for now."""
        if self._repair is not None:
            return not self._repair.waits and now >= self._due
        if self._audit is not None:
            return self._audit.comparison is None and now >= self._due
        return now >= self._audit_due

    def due(self) -> float:
        """Return when time matters next to a book that is neither in repair nor audited."""
        mark = self._marks[-1][0] + MARK_EVERY_S if self._marks else 0.0
        mend = self._mend_due if self.track.damaged else self._audit_due
        moved = not self._marks or self._marks[-1][1] != self.track.newest
        return min(self._audit_due, mend, mark) if moved else min(self._audit_due, mend)

    def asked(self, now: float) -> None:
        """Hear that a snapshot was asked for."""
        self._due = self.asked_at = now
        if not self.syncing and self._audit is None:
            book = self.track.book()
            if book is not None:
                newest_ms = self._desk.time_ms(self._newest.payload) if self._newest else None
                self._audit = Audit(book.copy(), self.track.newest, newest_ms, now)

    def audit_soon(self, now: float) -> None:
        """Want an audit now: nothing is heard any more, and that may be a lie."""
        self._audit_due = min(self._audit_due, now)

    def in_vain(self, reason: str, now: float) -> list[Output]:
        """Note a request without a usable answer; the next one is made after a pause."""
        self.attempts += 1
        longest_s = min(self.settings.retry_s * 2 ** (self.attempts // STUCK_ATTEMPTS), RETRY_MOST_S)
        self._due = now + min(RETRY_FIRST_S * 2 ** min(self.attempts, 16), longest_s)
        if not self.syncing:
            self._audit = None
            self._audit_due = now + (self.settings.audit_s or 60.0) / AUDIT_RETRY_SHARE
        self._notify(note("snapshot_missed", feed=self._feed, channel=self.channel, reason=reason))
        if self.syncing and self.attempts % STUCK_ATTEMPTS == 0:
            self._notify(note("resync_stuck", feed=self._feed, channel=self.channel, attempts=self.attempts))
        return []

    def end(self, recv: int) -> list[Output]:
        """Return what is owed of a channel that is given up: its gap, with all that is held under it."""
        gap, self._gap = self._gap, None
        return [*self.flush(), *([] if gap is None else [Gap(gap.channel, gap.reason, gap.since, recv)])]

    # What is answered

    def answer(self, payload: bytes, line: str, asked_at: float, now: float, recv: int) -> list[Output]:
        """Take the reply of ``line`` to a request that was made at ``asked_at``."""
        image = Broken("size") if len(payload) > self._bounds.snapshot_bytes else self._desk.read(payload)
        if isinstance(image, Broken):
            return self.in_vain(image.reason, now)
        self._doubtful_replies = self._doubtful_replies + 1 if image.doubtful else 0
        if 0 < self._doubtful_replies < DOUBTFUL_REPLIES:
            return self.in_vain(image.doubtful, now)
        if self._repair is not None:
            self._repair.put_by(image, asked_at, now)
            return self._settle(self._repair, now) if self._repair.is_past(now) else []
        if self._audit is None:
            return []
        if image.ts is not None and self._began_ms is not None and image.ts < self._began_ms:
            self._began_ms = None  # a second one is no outlier
            return self.in_vain("too_old", now)
        self.attempts = 0
        self._audit.examine(Book(image.levels), image.ts, line, now, self._pulse.beats)
        return self._judge(self._audit, now, recv)

    def _settle(self, repair: BookRepair, now: float) -> list[Output]:
        """End the repair, where its snapshot fits: the gap, the snapshot, and what is held behind it.

        The book follows all that was held, from the snapshot on: what that shows already changes nothing, and what
        comes late finds its place among it.
        """
        fit = repair.settle(self.attempts)
        if fit is None:
            return self.in_vain("too_old", now)
        image, cut = fit
        entries = repair.entries
        head = -1 if self._newest is None else self._newest.position
        self.track.reset(image.levels, entries[0].release.position - 1 if entries else head)
        marks: list[Output] = [self._gap] if self._gap else []
        snapshot = Snapshot(self.channel, self._desk.write(Book(image.levels)), self.reason)
        self._repair, self._gap = None, None
        self._image_ms = self._began_ms = image.ts
        self.passing = True
        self.attempts = 0
        self._audit_due = now + self.settings.verify_s if self.settings.audit_s else float("inf")
        self._notify(
            note(
                "book_synchronised",
                feed=self._feed,
                channel=self.channel,
                reason=self.reason,
                held=len(entries),
            )
        )
        behind = [
            output for count, entry in enumerate(entries) for output in self._replay(entry, count >= cut)
        ]
        return [*marks, snapshot, *behind, *self.flush()]

    def _replay(self, entry: Entry, published: bool) -> list[Output]:
        """Let the book follow a held event; return it as it goes out: in its place, or late."""
        release = entry.release
        owed = self.flush() if published else []  # before that the book is on its way to the snapshot's place
        if release.kind != LATE:
            self.track.append(release.position, release.payload)
            return [*owed, release] if published else []
        if entry.in_place:
            self._insert(release)
            return [*owed, msgspec.structs.replace(release, kind="")] if published else []
        self._fold(release)
        self.passing = False
        return [*owed, release]

    # Audits

    def tick(self, now: float, recv: int) -> list[Output]:
        """Let time pass: judge an audit that waits for its line, mend a book with a delta that nobody could read."""
        if self._repair is not None:
            return self._settle(self._repair, now) if self._repair.is_past(now) else []
        if not self._marks or now - self._marks[-1][0] >= MARK_EVERY_S:
            self._marks.append((now, self.track.newest))
        if self.track.damaged and now >= self._mend_due:
            self._mend_due = now + max(self.settings.audit_s, self.settings.verify_s)
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
            self._current.add(audit.line)
            return self._conclude("passed", now)
        is_past = self._pulse.quiet or self._pulse.beats > comparison.beats
        if now - comparison.began < PAST_S or not is_past:
            return []
        wrong = comparison.unseen - self._excused(audit, comparison)
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

    def _excused(self, audit: Audit, comparison: Comparison) -> set[str]:
        """Return the levels that say nothing: those that changed since a snapshot may be from; all if not known."""
        if not audit.may_be_older:
            return set()
        lag_s = KNOWN_AFTER_S if audit.line in self._current else LAG_MOST_S
        since = next((position for at, position in reversed(self._marks) if at <= audit.began - lag_s), None)
        changed = None if since is None else self.track.set_by(since, audit.position)
        return comparison.unseen if changed is None else changed

    def _conclude(self, result: str, now: float) -> list[Output]:
        self._audit = None
        self._audit_due = now + self._audit_s() if self.settings.audit_s else float("inf")
        if result in {"passed", "unplaced"}:
            self._failures, self._believed_from = 0, 0.0
        self._note_audit(result)
        return []

    def _note_audit(self, result: str) -> None:
        self._notify(note("book_audited", feed=self._feed, channel=self.channel, result=result))

    def _confirm(self, audit: Audit, snapshot: Book, keys: set[str], now: float, recv: int) -> list[Output]:
        """Believe that the book is wrong, unless audits have failed too often of late."""
        behind = audit.is_newer and audit.followed == audit.position
        believed = behind or now >= self._believed_from
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
            self._believed_from = now + min(self.settings.audit_s * 2**self._failures, DISTRUST_MOST_S)
        self._notify(note("book_failed", feed=feed, channel=channel, levels=levels, count=count))
        return self._fail(BEHIND if behind else AUDIT, now, recv)

    def _fail(self, why: str, now: float, recv: int) -> list[Output]:
        """Give up a book that is wrong."""
        self.failed = why
        since = self._newest.recv if self._newest else recv
        return list(self.open_gap(Gap(self.channel, AUDIT, since, recv), now))

    def _audit_s(self) -> float:
        """Return the time to the next audit: spread, so that not all books are audited at once."""
        share: float = sum(self.channel.encode()) % 64 / 128
        return self.settings.audit_s * (0.75 + share)

    # What is known

    def image(self) -> bytes | None:
        """Return the book after all that was published, as a message; None where there is no sound one."""
        book = None if self.syncing else self.track.book()
        if book is None or self.track.damaged:
            return None
        track, newest = self.track, self.track.newest
        if self._image is None or self._image[:2] != (track, newest):
            self._image = (track, newest, self._desk.write(book))
        return self._image[2]
