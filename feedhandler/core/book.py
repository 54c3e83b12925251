"""The book of one market: its levels, and in what it differs from another.

A snapshot *replaces* the levels, a delta sets some of them: quantities are absolute, a quantity of zero removes its
level, and removing what is not there is nothing. Strings stay as the exchange sent them; sameness is that of numbers.
"""

from bisect import bisect_left
from collections.abc import Collection
from heapq import nlargest, nsmallest
from typing import NamedTuple

import msgspec

from feedhandler.core.levels import ZEROS, Level, Levels, crossed, is_zero, normal, present

DIFFERENCES_MOST = 100
"""The most differing levels that a comparison of two books names."""


class Difference(msgspec.Struct, frozen=True, gc=False):
    """A level in which two books differ: the quantity in the one and in the other, "" where the level is missing."""

    side: str
    price: str
    quantity: str
    other: str


class Best(NamedTuple):
    """The two sides' first levels, None for an empty side."""

    bid: Level | None
    ask: Level | None


class Book:
    """The levels of one market."""

    def __init__(self, levels: Levels | None = None) -> None:
        self._levels = present(levels or {})

    def __len__(self) -> int:
        """Return how many levels there are, both sides together."""
        return len(self._levels)

    def __repr__(self) -> str:
        bid, ask = self.best()
        shown = " / ".join(f"{level.quantity} @ {level.price}" if level else "-" for level in (bid, ask))
        return f"<Book {shown}, {len(self)} levels>"

    def replace(self, levels: Levels) -> None:
        """Take a full image."""
        self._levels = present(levels)

    def apply(self, levels: Levels) -> None:
        """Take an increment."""
        held = self._levels
        held.update(levels)
        for key, level in levels.items():
            if level.quantity in ZEROS:  # `is_zero`, without the call
                del held[key]

    def copy(self) -> "Book":
        """Return a book of its own with the same levels."""
        twin = Book()
        twin._levels = self._levels.copy()
        return twin

    @property
    def crossed(self) -> bool:
        """Whether the highest bid reaches the lowest ask; looks at every level."""
        return crossed(self._levels)

    def best(self) -> Best:
        """Return the highest bid and the lowest ask; looks at every level."""
        highest, lowest = max(self._levels, default=""), min(self._levels, default="")
        return Best(
            self._levels[highest] if highest.startswith("b") else None,
            self._levels[lowest] if lowest.startswith("a") else None,
        )

    def top(self, count: int) -> tuple[list[Level], list[Level]]:
        """Return the first ``count`` bids and asks, best first; looks at every level."""
        bids = [key for key in nlargest(count, self._levels) if key[0] == "b"]
        asks = [key for key in nsmallest(count, self._levels) if key[0] == "a"]
        return [self._levels[key] for key in bids], [self._levels[key] for key in asks]

    def levels(self) -> list[Level]:
        """Return all levels: bids descending, then asks ascending."""
        held = self._levels
        keys = sorted(held)
        bids = bisect_left(keys, "b")
        return [held[key] for key in reversed(keys[bids:])] + [held[key] for key in keys[:bids]]

    def shows(self, key: str, level: Level) -> bool:
        """Tell whether a level stands in the book as a delta has set it."""
        held = self._levels.get(key)
        return held is None if is_zero(level) else held is not None and _same(held, level)

    def differing(self, other: "Book") -> set[str]:
        """Return the keys of the levels in which the two books differ."""
        mine, theirs = self._levels, other._levels
        changed = {
            key for key, _ in mine.items() ^ theirs.items()
        }  # few, and found without looking at the others
        return {key for key in changed if not _same(mine.get(key), theirs.get(key))}

    def difference(self, other: "Book", keys: Collection[str] | None = None) -> list[Difference]:
        """Describe the first `DIFFERENCES_MOST` levels in which the books differ, or those of ``keys``, asks first."""
        mine, theirs = self._levels, other._levels
        differing = self.differing(other) if keys is None else keys
        return [_difference(mine.get(key), theirs.get(key)) for key in nsmallest(DIFFERENCES_MOST, differing)]


def _same(one: Level | None, other: Level | None) -> bool:
    if one is None or other is None:
        return False
    return one.quantity == other.quantity or normal(one.quantity) == normal(other.quantity)


def _difference(one: Level | None, other: Level | None) -> Difference:
    named = one or other
    side, price = (named.side, named.price) if named else ("", "")
    return Difference(side, price, one.quantity if one else "", other.quantity if other else "")
