"""The newest events of one channel in the stream: where a host finds its place, and how often a key has come.

It is bounded in events (`WINDOW_EVENTS`); the oldest go.

**How often a key has come is a question to the stream, and every host gets the same answer.** It is the number that the
newest event of this key has, if that is among the last `WINDOW_EVENTS` records of the channel and the last
`COUNTED_MESSAGES` of the stream, else 0. A host that starts reads that far back (`link`), so it counts like one that
has run for ever.
"""

from collections import deque
from itertools import islice
from typing import Final

from feedhandler.bridge.entries import LATE, Stored

WINDOW_EVENTS: Final = 8192

COUNTED_MESSAGES: Final = 50_000
"""An event so many messages back in the stream is counted no more, all channels together."""


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
        self._newest: dict[str, Stored] = {}
        self._late: set[int] = set()

    def add(self, stored: Stored) -> None:
        """Put an event at the end."""
        number = self._first + len(self._events)
        self._events.append((stored.key, stored.origin))
        self._at.setdefault(stored.key, deque()).append(number)
        self._origins[stored.origin] = number
        self._newest[stored.key] = stored._replace(data=b"")
        if stored.kind == LATE:
            self._late.add(number)
        if len(self._events) > WINDOW_EVENTS:
            self._forget()

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
    def last(self) -> int:
        """Where the newest stands."""
        return self._first + len(self._events) - 1

    def after(self, number: int) -> list[Place]:
        """Return what stands behind a place, in order."""
        return [Place(key) for key, _ in islice(self._events, number + 1 - self._first, None)]

    def occurrences(self, key: str, sequence: int, seq: int) -> int:
        """Return how often a key has come before a message that will have this sequence and this seq."""
        newest = self._newest.get(key)
        if (
            newest is None
            or sequence - newest.sequence > COUNTED_MESSAGES
            or seq - newest.seq > WINDOW_EVENTS
        ):
            return 0
        return newest.occurrence

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
        self._first += 1
