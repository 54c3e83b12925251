"""The newest events of one channel in the stream: where a host finds its place, and how often a key has come.

It is bounded in events (`WINDOW_EVENTS`); the oldest go. One record in `MILESTONE_EVENTS` is kept whole: it tells how
new the stream was there, so that an event that is newer, and is not behind it, is not in the stream.

**How often a key has come is a question to the stream, and every host gets the same answer.** It is the number that the
newest event of this key has, if that is among the last `WINDOW_EVENTS` records of the channel and the last
`COUNTED_MESSAGES` of the stream, else 0. A host that starts reads that far back (`link`), so it counts like one that
has run for ever.
"""

from collections import deque
from itertools import islice
from typing import Final

from feedhandler.bridge.entries import LATE, ORDINARY, Stored

WINDOW_EVENTS: Final = 8192

COUNTED_MESSAGES: Final = 50_000
"""An event so many messages back in the stream is counted no more, all channels together."""

MILESTONE_EVENTS: Final = 256
"""So far apart are the records that are kept whole."""


class Place:
    """One event of the window, as what a host owes."""

    __slots__ = ("index", "key")

    def __init__(self, key: str) -> None:
        self.key = key
        self.index = 0


class Window:
    """The newest events of a channel."""

    def __init__(self) -> None:
        self._events: deque[tuple[str, str]] = deque()
        self._first = 0  # the number of the oldest
        self._at: dict[str, deque[int]] = {}
        self._origins: dict[str, int] = {}
        self._newest: dict[str, tuple[int, int, int]] = {}  # its sequence, seq and occurrence
        self._late: set[int] = set()
        self._milestones: deque[tuple[int, bytes | int]] = deque()

    def __contains__(self, key: str) -> bool:
        return key in self._at

    def add(self, stored: Stored) -> None:
        """Put an event at the end."""
        number = self._first + len(self._events)
        self._events.append((stored.key, stored.origin))
        self._at.setdefault(stored.key, deque()).append(number)
        self._origins[stored.origin] = number
        self._newest[stored.key] = stored.sequence, stored.seq, stored.occurrence
        if stored.kind == LATE:
            self._late.add(number)
        if not self._milestones or not number % MILESTONE_EVENTS:
            self.mark(stored, number)
        if len(self._events) > WINDOW_EVENTS:
            self._forget()

    def mark(self, stored: Stored, number: int | None = None) -> None:
        """Take note of what tells how new the stream was when a record came, which may be none of an event."""
        told = stored.data if stored.kind == ORDINARY else stored.newest_ms
        if told is not None:
            self._milestones.append((self.last + 1 if number is None else number, told))

    def find(self, key: str) -> int | None:
        """Return where a key stands, if it stands there once."""
        numbers = self._at.get(key)
        return numbers[0] if numbers is not None and len(numbers) == 1 else None

    def is_late(self, number: int) -> bool:
        """Tell whether what stands at a place came late, so that the place tells nothing."""
        return number in self._late

    def find_origin(self, origin: str) -> int | None:
        """Return where the record of this origin stands."""
        return self._origins.get(origin)

    @property
    def oldest(self) -> bytes | int | None:
        """How new the stream was where the window begins: an ordinary event's record, or a time (ms)."""
        return self._milestones[0][1] if self._milestones else None

    @property
    def last(self) -> int:
        """Where the newest stands."""
        return self._first + len(self._events) - 1

    def after(self, number: int) -> list[Place]:
        """Return what stands behind a place, in order."""
        return [Place(key) for key, _ in islice(self._events, number + 1 - self._first, None)]

    def occurrences(self, key: str, sequence: int, seq: int) -> int:
        """Return how often a key has come before a message that will have this sequence and this seq."""
        newest = self._newest.get(key)
        if newest is None:
            return 0
        newest_sequence, newest_seq, occurrence = newest
        is_near = sequence - newest_sequence <= COUNTED_MESSAGES and seq - newest_seq <= WINDOW_EVENTS
        return occurrence if is_near else 0

    def _forget(self) -> None:
        key, origin = self._events.popleft()
        if self._origins.get(origin) == self._first:
            del self._origins[origin]
        numbers = self._at[key]
        numbers.popleft()
        if not numbers:
            del self._at[key]
            del self._newest[key]
        self._late.discard(self._first)
        if self._milestones and self._milestones[0][0] == self._first:
            self._milestones.popleft()
        self._first += 1
