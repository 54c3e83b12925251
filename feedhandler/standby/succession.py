"""What becomes of a daemon's session, numbering and feeds when it begins to follow, and when it is the active one.

    begin       another session, of which nothing is known yet: all feeds are others, and none of them runs
    follow      likewise with the active daemon's session; what that one publishes is mirrored from there
    take over   the session goes on: feeds that know enough publish where the other daemon's output has ended, with all
                their lines; one that does not begins anew, with a gap; what no feed here publishes is given up

The feeds of a standby are those that its own configuration wants, which need not be the active daemon's.
"""

import time
from collections.abc import Callable, Mapping
from typing import Protocol

import trio

from feedhandler.config import Config, Wanted
from feedhandler.core.arbiter import DOWN
from feedhandler.ingest.feeds import Feeds
from feedhandler.publish.outlet import Outlet
from feedhandler.publish.server import Publisher
from feedhandler.standby.mirror import Mirror


class Fleet(Protocol):
    """The feeds that are wanted, and run."""

    @property
    def feeds(self) -> Feeds:
        """The feeds that are there."""

    @property
    def running(self) -> Mapping[str, Wanted]:
        """What they are to be."""

    def renew(self, config: Config) -> None:
        """Begin anew with all of them."""

    def replace(self, label: str) -> None:
        """Begin anew with one of them."""


class Succession:
    """The parts of one daemon that go from one session to another, or from one daemon to the next."""

    def __init__(
        self, publisher: Publisher, outlet: Outlet, fleet: Fleet, config: Callable[[], Config]
    ) -> None:
        self._publisher = publisher
        self._outlet = outlet
        self._fleet = fleet
        self._config = config

    def begin(self, session: str) -> None:
        """Begin with nothing known, and with feeds that do not run yet."""
        self._fleet.feeds.halt()
        self._publisher.begin(session)
        self._outlet.begin()
        self._fleet.renew(self._config())

    def follow(self, session: str) -> Mirror:
        """Begin with nothing known of a session that another daemon has, and mirror it."""
        self.begin(session)
        return Mirror(self._publisher, self._outlet, self._fleet.feeds, trio.current_time)

    def take_over(self) -> None:
        """Let the feeds publish, with all their lines; what no feed here publishes is given up."""
        wall_ns = time.time_ns()
        feeds = self._fleet.feeds
        for channel in self._publisher.channels():
            if not channel.retired and channel.feed not in feeds:
                self._outlet.state(channel, DOWN, wall_ns)
                self._outlet.retire(channel, wall_ns)
        for label, wanted in self._fleet.running.items():
            if feeds[label].heir.is_whole:
                feeds[label].take_over()
                feeds[label].change(wanted.streams, wanted.lines)
            else:
                self._fleet.replace(label)
