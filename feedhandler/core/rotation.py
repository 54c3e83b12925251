"""When a line is replaced although nothing is wrong with it.

A connection ends with its token, or at an age that the exchange allows, whether the exchange then closes it or not.
Each is replaced some time before: a span before its end, plus a lot of at most a third of the span, so that lines that
began together do not end together. What is left is the room for attempts that fail, for lines that wait until the
others of their feed are done, and for a budget that is used up.

Time is handed in (monotonic, seconds), and so is the lot, a number from zero to one.
"""

from typing import Final

AGE_SHARE: Final = 0.25
"""The last part of a connection's longest age is the span in which it is replaced."""
LOT_SHARE: Final = 1 / 3
"""The part of the span over which the beginnings are spread."""


def due_s(born_s: float, ends_s: float, span_s: float, lot: float) -> float:
    """Return when a connection that ends at ``ends_s`` is to be replaced: within ``span_s`` before that.

    >>> due_s(0.0, 1800.0, 360.0, 0.5)
    1500.0
    """
    start_s = max(born_s, ends_s - span_s)
    return start_s + lot * LOT_SHARE * max(0.0, ends_s - start_s)


def due_by_age_s(born_s: float, max_age_s: float, lot: float) -> float:
    """Return when a connection is to be replaced that may become so old."""
    return due_s(born_s, born_s + max_age_s, max_age_s * AGE_SHARE, lot)
