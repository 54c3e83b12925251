"""The publisher as feeds see it: a channel that is open already is theirs to find.

A channel may have several feeds (`MARKET/other`): it is retired when the last one gives it up, and belongs to another
of them when its own does.
"""

from feedhandler.core.channels import Channel
from feedhandler.publish.server import Publisher


class Outlet:
    """Where all feeds' output goes."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._channels: dict[str, Channel] = {}
        self._users: dict[str, dict[str, None]] = {}
        self.publish = publisher.publish
        self.publish_run = publisher.publish_run
        self.gap = publisher.gap
        self.snapshot = publisher.snapshot
        self.offer_book = publisher.offer_book
        self.state = publisher.state
        self.interleaved = publisher.interleaved
        self.flush = publisher.flush

    def begin(self) -> None:
        """Know of no channel: the publisher has begun anew."""
        self._channels.clear()
        self._users.clear()

    def inherit(self, channel: Channel) -> None:
        """Know of a channel that another daemon has opened, for a feed of the same label here."""
        self._channels[channel.name] = channel
        self._users[channel.name] = {channel.feed: None}

    def orphan(self, name: str) -> None:
        """Know no more of a channel that another daemon has retired."""
        self._channels.pop(name, None)
        self._users.pop(name, None)

    def channel(self, name: str, *, feed: str, account: bool) -> Channel | None:
        """Return a channel, opened for ``feed`` unless it is open already; None where there are too many."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._publisher.channel(name, feed=feed, account=account)
            if channel is not None:
                self._channels[name] = channel
        self._users.setdefault(name, {})[feed] = None
        return channel

    def give_up(self, channel: Channel, feed: str) -> bool:
        """Hear that a feed has no use for a channel any more; tell whether nobody has, so that it can be retired."""
        users = self._users[channel.name]
        users.pop(feed, None)
        if users and channel.feed == feed:
            channel.feed = next(iter(users))
        return not users

    def retire(self, channel: Channel, since_ns: int) -> None:
        """Tell that nothing comes of a channel any more."""
        del self._channels[channel.name], self._users[channel.name]
        self._publisher.retire(channel, since_ns)
