"""The last minutes: who led, how far behind the others were, how fast each channel was.

Every `STEP_S` the counters of all lines and channels are looked at once, and what they grew by is kept for `STEPS`
steps. So a page that is opened in the middle of trouble shows how it began. Between steps nothing is done.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

import trio

from feedhandler.core.channels import Channel
from feedhandler.core.line import Line
from feedhandler.ingest.feed import Feed
from feedhandler.observe.slices import in_slices

STEP_S: Final = 5.0
"""From one look to the next."""

STEPS: Final = 60
"""How many steps are kept; the oldest go."""


class Totals(NamedTuple):
    """A line's counters at one moment."""

    wins: int
    lags: int
    lag_s: float


class Past:
    """What one line did in the last steps."""

    def __init__(self, totals: Totals) -> None:
        self.wins: deque[int] = deque(maxlen=STEPS)
        self.lag_s: deque[float] = deque(maxlen=STEPS)
        self._totals = totals

    def step(self, totals: Totals) -> None:
        """Take the counters at the end of a step."""
        before, self._totals = self._totals, totals
        lags = totals.lags - before.lags
        self.wins.append(max(0, totals.wins - before.wins))
        self.lag_s.append((totals.lag_s - before.lag_s) / lags if lags > 0 else 0.0)


class Pace:
    """How fast one channel was in the last step, or, where none has ended yet, since a moment (monotonic, s)."""

    def __init__(self, events: int, at: float) -> None:
        self._events = events
        self._at = at
        self._rate: float | None = None

    def step(self, events: int, now: float) -> None:
        """Take the number of events at the end of a step; one without length is none."""
        if now > self._at:
            self._rate = self._since(events, now)
            self._events, self._at = events, now

    def rate(self, events: int, now: float) -> float:
        """Return the events in a second, given their number now."""
        return self._since(events, now) if self._rate is None else self._rate

    def _since(self, events: int, now: float) -> float:
        return (events - self._events) / (now - self._at) if now > self._at else 0.0


class History:
    """The last minutes of all feeds."""

    def __init__(self, feeds: Mapping[str, Feed]) -> None:
        self._feeds = feeds
        self._lines: dict[tuple[str, str], Past] = {}
        self._channels: dict[str, Pace] = {}
        self._began = self._at = trio.current_time()

    def line(self, feed: str, line: str) -> Past | None:
        """Return what a line did, None before the first look."""
        return self._lines.get((feed, line))

    def rate(self, channel: Channel) -> float:
        """Return how many events of a channel came in a second of the last step, or since it was seen first."""
        now = trio.current_time()
        return self._pace(channel, now).rate(channel.published, now)

    async def run(self) -> None:
        """Look at every step, until cancelled."""
        while True:
            await in_slices(self._look())
            await trio.sleep_until(self._at + STEP_S)

    def _look(self) -> Iterator[None]:
        now = trio.current_time()
        lines: dict[tuple[str, str], Past] = {}
        channels: dict[str, Pace] = {}
        for feed in tuple(self._feeds.values()):
            for line in feed.arbiter.lines.values():
                lines[feed.label, line.name] = self._line(feed.label, line)
            for channel in feed.channels():
                channels[channel.name] = self._step(channel, now)
            yield
        self._lines, self._channels, self._at = lines, channels, now

    def _line(self, feed: str, line: Line) -> Past:
        lags = line.health.lags
        totals = Totals(line.wins, lags.count, lags.sum)
        past = self._lines.get((feed, line.name))
        if past is None:
            return Past(totals)
        past.step(totals)
        return past

    def _step(self, channel: Channel, now: float) -> Pace:
        pace = self._pace(channel, now)
        pace.step(channel.published, now)
        return pace

    def _pace(self, channel: Channel, now: float) -> Pace:
        """Return a channel's pace; in the first step of all, that of a channel that has just begun to count."""
        pace = self._channels.get(channel.name)
        if pace is None:
            return Pace(0, self._began) if self._at == self._began else Pace(channel.published, now)
        return pace
