"""The newest events of one channel in the stream: where a host finds its place, and how often a key has come.

It is bounded in events (`WINDOW_EVENTS`); the oldest go. What went is not counted any more, so a content that comes
again after so many others may get a number that it had before. The server says so (`duplicate`), and `count_on` makes
the next number the one behind it.
"""

from collections import deque
from itertools import islice
from typing import Final

from feedhandler.bridge.entries import LATE, Stored

WINDOW_EVENTS: Final = 8192


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
        self._counts: dict[str, int] = {}
        self._late: set[int] = set()

    def add(self, stored: Stored) -> None:
        """Put an event at the end."""
        number = self._first + len(self._events)
        self._events.append((stored.key, stored.origin))
        self._at.setdefault(stored.key, deque()).append(number)
        self._origins[stored.origin] = number
        if stored.kind == LATE:
            self._late.add(number)
        self._counts[stored.key] = max(stored.occurrence, self._counts.get(stored.key, 0))
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

    def occurrences(self, key: str) -> int:
        """Return how often a key has come, as far as is known."""
        return self._counts.get(key, 0)

    def count_on(self, key: str, occurrence: int) -> None:
        """Take note that a key has come so often."""
        self._counts[key] = max(occurrence, self._counts.get(key, 0))

    def _forget(self) -> None:
        key, origin = self._events.popleft()
        if self._origins.get(origin) == self._first:
            del self._origins[origin]
        numbers = self._at[key]
        numbers.popleft()
        if not numbers:
            del self._at[key]
            self._counts.pop(key, None)
        self._late.discard(self._first)
        self._first += 1
