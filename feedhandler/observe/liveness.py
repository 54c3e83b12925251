"""Whether the daemon is alive: its ticker comes round, and whoever asks is told how long ago that was.

An event loop that stands still answers nobody, and that is answer enough. This is for the other case: the loop runs,
and the ticker, which tells every feed the time, does not come round any more, or a part of the data path stands still
with work before it (`observe.systemd` looks for those).
"""

from collections.abc import Callable
from typing import Final

import trio

PROGRESS_S: Final = 5.0
"""The ticker has not come round for so long: the daemon makes no progress."""


class Liveness:
    """When the ticker last came round (monotonic, s)."""

    def __init__(self) -> None:
        self._at = trio.current_time()
        self._standing_s: Callable[[], float] = lambda: 0.0

    def ask(self, standing_s: Callable[[], float]) -> None:
        """Ask this as well: for how long a part of the data path has stood still with work before it (s)."""
        self._standing_s = standing_s

    def beat(self) -> None:
        """Note that every feed was told the time."""
        self._at = trio.current_time()

    @property
    def idle_s(self) -> float:
        """For how long the ticker, or any part of the data path that has work to do, has not come round."""
        return max(trio.current_time() - self._at, self._standing_s())

    @property
    def made(self) -> bool:
        """Whether the daemon makes progress."""
        return self.idle_s <= PROGRESS_S
