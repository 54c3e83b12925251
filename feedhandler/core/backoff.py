"""How long to wait after a failed attempt: capped exponential backoff with full jitter.

The wait is drawn evenly from zero to a ceiling that doubles with every failure up to its cap, so that lines
that failed together do not return together. What the exchange asked for with ``Retry-After`` comes on top,
so that those who were told the same do not come back as one either. There is no last attempt: the cap
bounds the wait, and nothing bounds the number of tries.

The lot is drawn outside and handed in as a number from zero to one.
"""

from typing import Final

RETRY_AFTER_MAX_S: Final = 3600.0
"""The longest ``Retry-After`` that is obeyed; a longer one counts as this, since nothing is given up."""


class Backoff:
    """The waits of one line between good data and good data."""

    def __init__(self, min_s: float, max_s: float) -> None:
        self._min_s = min(min_s, max_s)
        self._max_s = max_s
        self._ceiling_s = self._min_s

    @property
    def ceiling_s(self) -> float:
        """The longest wait that the next failure can cost, ``Retry-After`` aside."""
        return self._ceiling_s

    def failed(self, lot: float, retry_after_s: float | None = None) -> float:
        """Count a failure and return the wait that it costs."""
        wait_s = lot * self._ceiling_s
        self._ceiling_s = min(2 * self._ceiling_s, self._max_s)
        if retry_after_s is None:
            return wait_s
        return wait_s + min(max(retry_after_s, 0.0), RETRY_AFTER_MAX_S)

    def reset(self) -> None:
        """Start over: good data has come."""
        self._ceiling_s = self._min_s
