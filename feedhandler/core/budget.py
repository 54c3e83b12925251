"""Attempts to connect as a budget: how many in any minute, and who goes first.

The exchange counts new connections of the last minute and bans who goes above its limit. It counts an
attempt at some moment between our decision and its end, so an attempt keeps its slot while it lasts and for
a minute after: then no minute holds more than the limit, wherever the exchange's begin.

Who waits is served by priority (the lower the more urgent), then in the order of asking. A priority is
asked for at the moment of choice and not remembered: a feed that gets its first line while another of its
lines waits is less urgent from then on. For the same reason a chosen request is told so before the next one
is chosen.

    waiting ──grant──▶ under way ──finish──▶ (counted for a minute more)
       └─────withdraw──▶ forgotten

Time is handed in (monotonic, seconds).
"""

from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW_S: Final = 60.0

NO_LINE: Final = 0
"""Priority of a feed without any line."""
ONE_LINE: Final = 1
"""Priority of a feed with a single line."""
REDUNDANCY: Final = 2
"""Priority of everything else."""


class Request:
    """One wish to connect; ``granted`` once it may."""

    __slots__ = ("granted", "on_grant", "priority")

    def __init__(self, priority: Callable[[], int], on_grant: Callable[[], None]) -> None:
        self.priority = priority
        self.on_grant = on_grant
        self.granted = False


class Budget:
    """At most ``connections_per_minute`` attempts in any minute."""

    def __init__(self, connections_per_minute: int) -> None:
        self.connections_per_minute = connections_per_minute
        self._waiting: list[Request] = []
        self._under_way = 0
        self._counted_until: deque[float] = deque()

    def __repr__(self) -> str:
        return (
            f"<Budget {self.connections_per_minute}/min: {len(self._waiting)} waiting, "
            f"{self._under_way} under way, {len(self._counted_until)} counted>"
        )

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def available(self, now_s: float) -> int:
        """Return how many attempts may begin at once."""
        while self._counted_until and self._counted_until[0] <= now_s:
            self._counted_until.popleft()
        return max(0, self.connections_per_minute - self._under_way - len(self._counted_until))

    def next_s(self, now_s: float) -> float:
        """Return a time before which no further slot gets free."""
        if self.available(now_s) > 0:
            return now_s
        return self._counted_until[0] if self._counted_until else now_s + WINDOW_S

    def ask(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self._waiting.append(request)

    def withdraw(self, request: Request) -> None:
        """Forget a request that still waits."""
        self._waiting.remove(request)

    def grant(self, now_s: float) -> list[Request]:
        """Give the free slots to the most urgent requests, which are under way from now on."""
        granted: list[Request] = []
        while self._waiting and self.available(now_s) > 0:
            request = min(self._waiting, key=lambda waiting: waiting.priority())
            self._waiting.remove(request)
            self._under_way += 1
            request.granted = True
            request.on_grant()
            granted.append(request)
        return granted

    def finish(self, now_s: float) -> None:
        """End an attempt, whatever came of it: it is counted for a minute more."""
        self._under_way -= 1
        self._counted_until.append(now_s + WINDOW_S)
