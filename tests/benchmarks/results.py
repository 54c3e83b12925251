"""What was measured, over all rounds, and how it is put together: medians, spreads, ratios within a round.

The machine is noisy and its noise drifts, so absolute figures of different moments do not compare. Rounds are
interleaved (A B C, A B C, …); a ratio is taken within each round first, and the median is that of the ratios.
"""

import statistics
from collections.abc import Iterator
from typing import NamedTuple

from tests.benchmarks.experiments import Figures
from tests.benchmarks.stage import Setting


class Key(NamedTuple):
    """What was measured: an experiment in a setting."""

    name: str
    setting: Setting


class Spread(NamedTuple):
    """A median with the extremes."""

    median: float
    least: float
    most: float


class Results:
    """The figures of all measurements."""

    def __init__(self) -> None:
        self._rounds: dict[Key, dict[int, Figures]] = {}

    def add(self, key: Key, number: int, figures: Figures) -> None:
        """Take the figures of one measurement in a round."""
        self._rounds.setdefault(key, {})[number] = figures

    def measured(self, name: str = "") -> Iterator[Key]:
        """Yield what was measured, of one experiment or of all."""
        yield from (key for key in self._rounds if not name or key.name == name)

    def rounds(self, key: Key) -> dict[int, Figures]:
        """Return the figures of each round."""
        return self._rounds.get(key, {})

    def all(self, key: Key, figure: str) -> list[float]:
        """Return a figure of all rounds."""
        return [figures[figure] for figures in self.rounds(key).values() if figure in figures]

    def spread(self, key: Key, figure: str) -> Spread | None:
        """Return a figure over all rounds; None where it was not measured."""
        return _spread(self.all(key, figure))

    def ratio(self, figure: str, key: Key, other: Key) -> Spread | None:
        """Return how a figure compares to another setting's, within each round."""
        mine, theirs = self.rounds(key), self.rounds(other)
        pairs = [(mine[number], theirs[number]) for number in mine.keys() & theirs.keys()]
        return _spread([one[figure] / two[figure] for one, two in pairs if figure in one and two.get(figure)])


def _spread(values: list[float]) -> Spread | None:
    return Spread(statistics.median(values), min(values), max(values)) if values else None
