"""Disagreement between lines: who is to blame for an event that not all of them brought (rule R6).

An event that a line has passed without bringing it is in dispute. The verdict is given when every other aligned line
has got past it, too: one line alone missed it, and that line is to blame; or nobody but the line that brought it saw
it, at least two missing it, and that line is to blame. Anything between proves nothing.

Blame is forgotten after an hour. A line with more than the bound is to be quarantined, unless its peers are nearly as
bad: a check that fails on all lines alike says something about the exchange and not about a line, so it is switched
off (requirement 13).
"""

from collections import deque
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

FORGOTTEN_AFTER_S: Final = 3600.0
"""Blame older than this counts no more."""


class Verdict(NamedTuple):
    """Who is to blame for a disputed position, and whether that line made the event up."""

    position: int
    line: str
    invented: bool


class Divergences:
    """The disputes of one feed and the blame of its lines."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._disputes: dict[int, set[str]] = {}
        self._blame: dict[str, deque[float]] = {}
        self.switched_off = False

    def __bool__(self) -> bool:
        """Whether anything is in dispute."""
        return bool(self._disputes)

    def disputed(self) -> dict[int, set[str]]:
        """Return the disputed positions and who missed each."""
        return self._disputes

    def missed(self, line: str, position: int) -> None:
        """Note that a line has missed an event that another brought."""
        if not self.switched_off:
            self._disputes.setdefault(position, set()).add(line)

    def forget(self, base: int) -> None:
        """Drop disputes over what the window has dropped."""
        self._disputes = {position: lines for position, lines in self._disputes.items() if position >= base}

    def drop(self, positions: Iterable[int]) -> None:
        """Drop the disputes over some positions."""
        for position in positions:
            self._disputes.pop(position, None)

    def leave(self, line: str) -> None:
        """Drop what stands against a line that is no more; that it missed an event stays true under no line's name."""
        self._blame.pop(line, None)
        for missers in self._disputes.values():
            if line in missers:
                missers.remove(line)
                missers.add(f"former {line}")

    def judge(self, position: int, bringer: str, others: Collection[str]) -> Verdict | None:
        """Give the verdict on a position that all ``others`` (without the bringer) are past; end the dispute."""
        missers = self._disputes.pop(position)
        if len(missers) == 1:
            return Verdict(position, next(iter(missers)), invented=False)
        if missers.issuperset(others):
            return Verdict(position, bringer, invented=True)
        return None

    def blame(self, line: str, now: float) -> int:
        """Count one verdict against a line; return how many stand against it now."""
        times = self._blame.setdefault(line, deque(maxlen=2 * self.bound))
        times.append(now)
        while times[0] < now - FORGOTTEN_AFTER_S:
            times.popleft()
        return len(times)

    def to_quarantine(self, line: str, lines: Collection[str], now: float) -> bool:
        """Tell whether a line is over the bound and its peers are not; switch the check off where all are bad."""
        counts = {name: self._count(name, now) for name in lines}
        if self.switched_off or counts[line] < self.bound:
            return False
        if len(counts) > 1 and min(counts.values()) * 2 >= self.bound:
            self.switched_off = True
            self._disputes.clear()
            return False
        self._blame[line].clear()
        return True

    def _count(self, line: str, now: float) -> int:
        return sum(time >= now - FORGOTTEN_AFTER_S for time in self._blame.get(line, ()))
