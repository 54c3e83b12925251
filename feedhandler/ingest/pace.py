"""When a feed has to be told the time: when something has moved in it, or is due.

A feed in which something moves is told the time at every `TICK_S`; one at rest when the arbiter or recovery has
something due, and otherwise at every `REST_S`. Told the time only then, it says and does what it would say and do if it
were told at every tick.
"""

from collections.abc import Callable
from typing import Final

from feedhandler.core.arbiter import Arbiter
from feedhandler.core.health import GOOD, PROBATION
from feedhandler.core.recovery import Recovery
from feedhandler.ingest.beat import BEAT_S

TICK_S: Final = BEAT_S
"""How often a feed in which something moves is told the time."""

RETRY_S: Final = 1.0
"""What is due in a feed at rest and cannot be done yet is tried again after so long."""

REST_S: Final = 10.0
"""The longest that a feed is not told the time; only old events in memory wait for that."""

SETTLED: Final = frozenset({GOOD, PROBATION})
"""States of an aligned line that change by themselves, if at all, within seconds."""


class Pace:
    """When one feed has to be told the time; ``busy`` tells whether its lines or its streams are changing."""

    def __init__(self, arbiter: Arbiter, recovery: Recovery, busy: Callable[[], bool]) -> None:
        self.moved = True
        """Whether anything has happened since the last tick."""
        self.due_s = 0.0
        """When the feed has to be told the time, if nothing moves before."""
        self._arbiter = arbiter
        self._recovery = recovery
        self._busy = busy
        self._head = arbiter.window.head

    def is_due(self, now: float) -> bool:
        """Tell whether the feed has to be told the time."""
        return self.moved or now >= self.due_s

    def begin(self, now: float) -> bool:
        """Begin a tick; tell whether anything was released since the last one."""
        before, self._head = self._head, self._arbiter.window.head
        news = self._head != before
        if self.moved:
            self.due_s = now if news else min(self.due_s, self._next_s(now))
        return news

    def end(self, now: float) -> None:
        """End a tick in which the feed was told the time."""
        self.due_s = self._next_s(now)

    def _next_s(self, now: float) -> float:
        """Return when the feed has to be told the time next, if nothing moves before."""
        if self._recovery.busy or not self._settled():
            return now
        due = min(self._arbiter.due(), self._recovery.due())
        was_due = due <= now - TICK_S  # what was due since then was asked for and could not be done
        return now + RETRY_S if was_due else min(due, now + REST_S)

    def _settled(self) -> bool:
        """Tell whether time changes nothing soon: no line is suspect, owes anything, or holds anything."""
        if self._busy():
            return False
        head = self._arbiter.window.head
        return all(
            (line.health.state in SETTLED and not line.owing.count)
            if line.owing is not None
            else not (line.waiting or (line.connected and head > line.head_at_start))
            for line in self._arbiter.lines.values()
        )
