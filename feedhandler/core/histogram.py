"""A histogram as plain numbers: how many values fell into each bucket, and what they sum up to.

Counting is one search in a short tuple and two additions, so it may stand on the way in. Bounds are fixed when the
histogram is made; values above the last one have a bucket of their own.
"""

from bisect import bisect_left
from typing import Final

LAG_S: Final = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Bounds for how far one line is behind another."""

LATENCY_S: Final = (
    *(0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025),
    *(0.005, 0.01, 0.025, 0.05, 0.1, 1.0),
)
"""Bounds for what the way in takes."""


class Histogram:
    """Counts of values between ascending bounds: ``counts[i]`` are up to ``bounds[i]``, but above the one before."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def __repr__(self) -> str:
        return f"<Histogram of {self.count} values, sum {self.sum:g}>"

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, as often as it came."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times
