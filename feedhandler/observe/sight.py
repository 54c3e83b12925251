"""What operators may look at: the running parts of the daemon, to be read and never to be changed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from feedhandler.config import Config
from feedhandler.core.histogram import Histogram
from feedhandler.exchange.token import TokenSource
from feedhandler.ingest.feed import Feed
from feedhandler.ingest.gate import Gate
from feedhandler.observe.counts import Counts
from feedhandler.observe.history import History
from feedhandler.observe.incidents import Incidents
from feedhandler.observe.liveness import Liveness
from feedhandler.publish.server import Publisher
from feedhandler.standby.service import Standby


class Log(Protocol):
    """The way of log lines to their reader."""

    @property
    def waiting(self) -> int:
        """How many lines wait for their reader."""

    @property
    def lost(self) -> int:
        """How many lines were left out so far."""


@dataclass(frozen=True)
class Sight:
    """The parts of one daemon."""

    config: Callable[[], Config]
    feeds: Mapping[str, Feed]
    publisher: Publisher
    gate: Gate
    tokens: TokenSource | None
    latency: Histogram
    counts: Counts
    history: History
    incidents: Incidents
    liveness: Liveness
    log: Log | None
    draining: Callable[[], bool]
    """Whether the end has begun."""
    pending: Callable[[], bool]
    """Whether feeds are still to be opened: the exchange has not told its markets yet."""
    standby: Callable[[], list[str] | None]
    """Why this daemon could not take over from the active one, nothing where it could; None: it is the active one."""
    course: Callable[[], Standby | None]
    """How this daemon follows the active one; None: it is the active one."""
    paired: bool
    """Whether the daemon was started as one of two, so that a standby is expected."""
    wall_ns: Callable[[], int]
    now_s: Callable[[], float]
    """The monotonic clock that the feeds go by."""
    started_ns: int
