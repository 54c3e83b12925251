"""The book of one market: its levels, what it looks like, and its digest.

A snapshot *replaces* the levels, a delta sets some of them: quantities are absolute, a quantity of zero removes its
level, and removing what is not there is nothing. Strings stay as the exchange sent them; sameness is that of numbers.

**Equal books have equal digests, and in practice only they.** The digest (rule R7) is the sum, modulo 2**64, of one
64-bit BLAKE2b hash per level, over its side, normalised price and normalised quantity. A sum does not depend on order
and follows a delta with two hashes for each level that it changes. The hash is no linear function of its text, so
that quantities which trade places, or cancel out, do change the sum: two different books share it with a chance of
2**-64, and an audit compares thousands of them, not billions.

The digest costs more than the delta. It is therefore kept up only from the first time that it is asked for until
`forget_digest`; a book that nobody compares with anything never hashes.
"""

from bisect import bisect_left
from functools import lru_cache
from hashlib import blake2b
from heapq import nlargest, nsmallest
from typing import NamedTuple

import msgspec

from feedhandler.core.levels import ZEROS, Level, Levels, crossed, is_zero, normal

DIFFERENCES_MOST = 100
"""The most differing levels that a comparison of two books names."""

HASHES_KEPT = 65_536
"""Hashes of levels remembered, over all books: a snapshot shares most of its levels with the book it is compared to."""

_MODULUS_MASK = 2**64 - 1


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
        self._levels = _present(levels or {})
        self._digest: int | None = None

    def __len__(self) -> int:
        """Return how many levels there are, both sides together."""
        return len(self._levels)

    def __repr__(self) -> str:
        bid, ask = self.best()
        shown = " / ".join(f"{level.quantity} @ {level.price}" if level else "-" for level in (bid, ask))
        return f"<Book {shown}, {len(self)} levels>"

    def replace(self, levels: Levels) -> None:
        """Take a full image."""
        self._levels = _present(levels)
        self._digest = None

    def apply(self, levels: Levels) -> None:
        """Take an increment."""
        if self._digest is not None:
            self._digest = self._digest_after(levels, self._digest)
        held = self._levels
        held.update(levels)
        for key, level in levels.items():
            if level.quantity in ZEROS:  # `is_zero`, without the call
                del held[key]

    def copy(self) -> "Book":
        """Return a book of its own with the same levels."""
        twin = Book()
        twin._levels = self._levels.copy()
        twin._digest = self._digest
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

    def difference(self, other: "Book", most: int = DIFFERENCES_MOST) -> list[Difference]:
        """Return the first ``most`` levels in which the two books differ, asks ascending before bids ascending."""
        mine, theirs = self._levels, other._levels
        differing = [
            key
            for key in mine.keys() | theirs.keys()
            if (one := mine.get(key)) is not (two := theirs.get(key)) and not _same(one, two)
        ]
        return [_difference(mine.get(key), theirs.get(key)) for key in nsmallest(most, differing)]

    def digest(self) -> int:
        """Return the digest of the levels, and keep it up from now on."""
        if self._digest is None:
            total = sum(_hash(key, level.quantity) for key, level in self._levels.items())
            self._digest = total & _MODULUS_MASK
        return self._digest

    def forget_digest(self) -> None:
        """No longer keep the digest up."""
        self._digest = None

    def _digest_after(self, levels: Levels, digest: int) -> int:
        for key, level in levels.items():
            before = self._levels.get(key)
            if before is not None:
                digest -= _hash(key, before.quantity)
            if not is_zero(level):
                digest += _hash(key, level.quantity)
        return digest & _MODULUS_MASK


def _present(levels: Levels) -> Levels:
    """Return the levels that hold anything."""
    return {key: level for key, level in levels.items() if not is_zero(level)}


@lru_cache(HASHES_KEPT)
def _hash(key: str, quantity: str) -> int:
    """Return the hash of one level; its key holds side and normalised price."""
    text = f"{key} {normal(quantity)}"
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())


def _same(one: Level | None, other: Level | None) -> bool:
    if one is None or other is None:
        return False
    return one.quantity == other.quantity or normal(one.quantity) == normal(other.quantity)


def _difference(one: Level | None, other: Level | None) -> Difference:
    named = one or other
    assert named is not None
    return Difference(named.side, named.price, one.quantity if one else "", other.quantity if other else "")
