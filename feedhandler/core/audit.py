"""Whether a snapshot shows the book at one of its recent positions: the audit of rule R7.

A snapshot names no position. It is a little older or newer than its place on the line, or the exchange's source lags
by seconds. So an audit begins when its snapshot is asked for, with a copy of the book of that moment, the **base**.
When the snapshot is there, the deltas since are laid over the comparison one by one: after each of them it is known in
which levels the snapshot and the book of that position differ. Where they differ in none the snapshot is **found**:
the book was right there. That is the equality that a digest would show, without its collisions; and where it fails,
the levels are named.

**Not found is not yet wrong.** An exchange may take its snapshots between two deltas (it batches them), and then no
position has that state although every level of the book is right. What counts is a level that the snapshot shows as
the book never had it, at no position of the stretch: it is **unseen**. A snapshot that may be older than the base is
not blamed for levels that changed shortly before it.

A verdict needs a stream that is past the reply: something came on the feed since, or it is known to be quiet. And it
needs two snapshots of two requests that agree on an unseen level; until then the first is a suspicion.
"""

from feedhandler.core.book import Book
from feedhandler.core.levels import Levels

PAST_S = 0.5
"""A snapshot may be newer than its place on the line; after so long the stream is past what it shows."""

ROUNDS = 2
"""Snapshots that an audit asks for; of more, what two in a row do not agree on is nothing."""


class Pulse:
    """What a feed's keepers know of the feed as a whole: how often something came, and whether it is quiet."""

    def __init__(self) -> None:
        self.beats = 0
        self.quiet = False


class Comparison:
    """One snapshot against a book that moves on from ``base``."""

    def __init__(self, snapshot: Book, base: Book, now: float, beats: int) -> None:
        self.snapshot = snapshot
        self.began = now
        self.beats = beats
        self._differing = snapshot.differing(base)
        self.unseen = set(self._differing)
        self.found = not self._differing

    def __repr__(self) -> str:
        return f"<Comparison {'found' if self.found else f'{len(self.unseen)} levels unseen'}>"

    def follow(self, levels: Levels) -> None:
        """Take the book's next delta."""
        shows = self.snapshot.shows
        for key, level in levels.items():
            if shows(key, level):
                self._differing.discard(key)
                self.unseen.discard(key)
            else:
                self._differing.add(key)
        self.found = self.found or not self._differing


class Audit:
    """One audit of a book: its base, and what its snapshots say."""

    def __init__(self, base: Book, position: int, newest_ms: int | None, now: float) -> None:
        self.base = base
        self.position = position
        self.newest_ms = newest_ms
        self.began = now
        self.rounds = 0
        self.followed = position
        self.may_be_older = False
        self.is_newer = False
        self.line = ""
        self.comparison: Comparison | None = None
        self._suspected: set[str] = set()

    def __repr__(self) -> str:
        return f"<Audit from {self.position}, {self.rounds} snapshots, {self.comparison!r}>"

    def examine(self, snapshot: Book, ts: int | None, line: str, now: float, beats: int) -> None:
        """Take a snapshot of ``line``; ``ts`` is the exchange's time for it (ms), if it tells one."""
        self.rounds += 1
        self.followed = self.position
        self.line = line
        self.comparison = Comparison(snapshot, self.base, now, beats)
        newest_ms = self.newest_ms
        self.may_be_older = ts is None or newest_ms is None or ts < newest_ms
        self.is_newer = ts is not None and newest_ms is not None and ts > newest_ms

    def confirmed(self, wrong: set[str]) -> set[str]:
        """Suspect levels; return those that the snapshot before this one has made suspect, too."""
        twice = self._suspected & wrong
        self._suspected = wrong
        return twice
