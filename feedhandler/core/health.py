"""The health of a line: a table of states, and how long the line may stand still.

    connecting ──connected──▶ witness ──joined──▶ probation ──kept_up──▶ good
                                 ▲                  ▲    │                │
                                 │               caught_up└───stalled─────┤
                              outrun                │                     ▼
                                 └───────────────── suspect ◀──────────────
    every state: lost ▶ backoff, quarantined ▶ quarantined; both: connecting ▶ connecting

A line is judged against its peers first: it is stalled when they have delivered events that it has not, and it has
not moved for longer than its own usual lag explains. Pongs and heartbeats play no part in that. A suspect that
catches up serves a probation before it counts as good; both, good and on probation, count as *up*.

Time is handed in (monotonic, seconds).
"""

from collections import deque
from typing import Final

from feedhandler.config import Health as Limits
from feedhandler.core.histogram import LAG_S, Histogram

CONNECTING: Final = "connecting"
WITNESS: Final = "witness"
PROBATION: Final = "probation"
GOOD: Final = "good"
SUSPECT: Final = "suspect"
QUARANTINED: Final = "quarantined"
BACKOFF: Final = "backoff"

STATES: Final = (CONNECTING, WITNESS, PROBATION, GOOD, SUSPECT, QUARANTINED, BACKOFF)

_TABLE: Final = {
    ("connecting", "connected"): WITNESS,
    ("witness", "joined"): PROBATION,
    ("witness", "stalled"): SUSPECT,
    ("probation", "kept_up"): GOOD,
    ("probation", "stalled"): SUSPECT,
    ("probation", "outrun"): WITNESS,
    ("good", "stalled"): SUSPECT,
    ("good", "outrun"): WITNESS,
    ("suspect", "caught_up"): PROBATION,
    ("suspect", "joined"): PROBATION,
    ("suspect", "outrun"): WITNESS,
    ("backoff", "connecting"): CONNECTING,
    ("quarantined", "connecting"): CONNECTING,
    **{(state, "lost"): BACKOFF for state in (CONNECTING, WITNESS, PROBATION, GOOD, SUSPECT)},
    **{(state, "quarantined"): QUARANTINED for state in (WITNESS, PROBATION, GOOD, SUSPECT)},
}

LAG_SAMPLES: Final = 512
"""How many of the last lags the usual lag is taken from."""


class LineHealth:
    """One line's state and its usual lag."""

    def __init__(self, limits: Limits, now: float) -> None:
        self.limits = limits
        self.state: str = BACKOFF
        self.since = now
        self.lags = Histogram(LAG_S)
        self._lags: deque[float] = deque(maxlen=LAG_SAMPLES)

    def on(self, event: str, now: float) -> bool:
        """Apply an event; tell whether it changed the state. What the table does not name changes nothing."""
        state = _TABLE.get((self.state, event))
        if state is None:
            return False
        self.state = state
        self.since = now
        return True

    @property
    def up(self) -> bool:
        """Whether others may rely on this line."""
        return self.state in (GOOD, PROBATION)

    def lagged(self, seconds: float) -> None:
        """Record how far behind the winner the line was."""
        self._lags.append(seconds)
        self.lags.observe(seconds)

    def usual_lag(self) -> float:
        """Return the 99th percentile of the recorded lags (s)."""
        return self.percentiles(99)[0]

    def percentiles(self, *percents: int) -> list[float]:
        """Return percentiles of the recorded lags (s)."""
        lags = sorted(self._lags)
        if not lags:
            return [0.0] * len(percents)
        return [lags[(len(lags) * percent - 1) // 100] for percent in percents]

    def patience(self) -> float:
        """Return how long the line may stand still behind its peers (s)."""
        return max(self.limits.stall_min_s, self.limits.stall_lag_factor * self.usual_lag())
