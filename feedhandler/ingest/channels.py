"""The channels of one feed, and how what is released gets into them.

A feed's channels are opened when it starts, as far as they are known then; others with their first event, up to
`CHANNELS` of them. A channel belongs to the feed that opened it. What another feed brings of it is no news there: it
is counted and left out, or it would come out twice. Only `MARKET/other`, which promises nothing, may be shared; its
states are those of the feed that opened it. What a feed of the account says there is left out of one that everybody
may read.

What comes of a stream that was given up is a straggler: it is counted and left out.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Final

from feedhandler.core.arbiter import DOWN, UNKNOWN
from feedhandler.core.channels import Channel, split
from feedhandler.core.messages import Gap, Output, Release, Run, Snapshot, State
from feedhandler.core.notes import note
from feedhandler.exchange.messages import ACCOUNT_STREAMS, OTHER, PUBLIC_BOOK
from feedhandler.ingest.surroundings import Surroundings

CHANNELS: Final = 10_000
"""Channels that a feed knows; events of further ones are counted and left out."""


class FeedChannels:
    """The channels that one feed has to do with; ``image`` returns the book of one."""

    def __init__(
        self,
        feed: str,
        streams: Iterable[str],
        around: Surroundings,
        image: Callable[[str], bytes | None],
    ) -> None:
        self.streams = tuple(streams)
        """What the lines are to bring."""
        self.given_up: set[str] = set()
        """What they may bring still, and what is left out of it."""
        self._feed = feed
        self._around = around
        self._outlet = around.outlet
        self._image = image
        self._channels: dict[str, Channel | None] = {}

    def own(self) -> list[Channel]:
        """Return the channels that this feed publishes in."""
        return [one for one in self._channels.values() if one is not None and one.feed == self._feed]

    def names(self) -> tuple[str, ...]:
        """Return the names of all channels that this feed has to do with."""
        return tuple(self._channels)

    def of(self, stream: str) -> list[str]:
        """Return the names of those that belong to a stream and that this feed may publish in."""
        return [name for name, channel in self._channels.items() if channel and split(name)[1] == stream]

    def adopt(self, channel: Channel) -> None:
        """Take a channel for the feed's that another daemon has opened for it."""
        self._channels[channel.name] = channel
        if channel.stream == PUBLIC_BOOK:
            self._outlet.offer_book(channel, partial(self._image, channel.name))

    def strange(self) -> list[str]:
        """Return the names of those that belong to none of the streams."""
        return [name for name in self._channels if split(name)[1] not in {*self.streams, OTHER}]

    def owns(self, name: str) -> bool:
        """Tell whether a channel is this feed's, opening it unless it is open."""
        channel = self._channels[name] if name in self._channels else self._channel(name)
        return channel is not None and channel.feed == self._feed

    @property
    def have_begun(self) -> bool:
        """Whether anything was published in any of those that this feed publishes in."""
        return any(channel.next > 1 for channel in self.own())

    def last_recv(self, name: str) -> int:
        """Return when the last event of a channel arrived that goes on; -1 for one that begins.

        Of one in which nothing but books has come nobody knows; that is now.
        """
        channel = self._channels.get(name)
        if channel is None or channel.next == 1:
            return -1
        return channel.last_ns if channel.last_ns >= 0 else self._around.wall_ns()

    def hears_account(self) -> bool:
        """Tell whether the lines are subscribed to anything of the account: then unknown messages may be about it."""
        return not ACCOUNT_STREAMS.isdisjoint((*self.streams, *self.given_up))

    def retire(self, name: str, since_ns: int) -> None:
        """Tell that nothing comes of a channel any more; one that another feed uses, too, is left to it."""
        channel = self._channels[name]
        if channel is not None and self._outlet.give_up(channel, self._feed):
            self._outlet.state(channel, DOWN, since_ns)
            self._outlet.retire(channel, since_ns)

    def forget(self, names: Iterable[str]) -> None:
        """Have nothing to do with some channels any more."""
        for name in names:
            del self._channels[name]

    def interleave(self) -> bool:
        """Let a daemon that follows know that the feed's lines interleave channels differently; tell if any is open."""
        for channel in self.own():
            self._outlet.interleaved(channel)
        return bool(self.own())

    # The way out

    def publish(self, outputs: Iterable[Output]) -> None:
        """Have everything on its way, in order."""
        for output in outputs:
            if type(output) is Run:
                self._publish_run(output)
            elif type(output) is Release:
                self._publish_release(output)
            elif isinstance(output, Gap | Snapshot | State):
                self._publish_mark(output)
        self._outlet.flush()

    def _publish_run(self, run: Run) -> None:
        """Publish the events of a run at once, or one by one where not all of them are for this feed to publish."""
        known = self._channels
        own: dict[str, Channel] = {}
        for name in set(run.channels):
            channel = known[name] if name in known else self._channel(name)
            if channel is None:
                for release in run.releases():
                    self._publish_release(release)
                return
            own[name] = channel
        if len(run.channels) == 1:
            self._outlet.publish(own[run.channels[0]], run.line, run.recv, run.payloads[0])
        else:
            channels = [own[name] for name in run.channels]
            self._outlet.publish_run(channels, run.line, run.recv, run.payloads)

    def _publish_release(self, release: Release) -> None:
        name = release.channel
        channel = self._channels[name] if name in self._channels else self._channel(name)
        if channel is None:
            self._leave_out(name)
            return
        if release.kind and self._is_leak(release, channel):
            return
        self._outlet.publish(channel, release.line, release.recv, release.payload, release.kind)
        if release.kind:
            self._around.notify(note("event_marked", feed=self._feed, channel=name, kind=release.kind))

    def _publish_mark(self, mark: Gap | Snapshot | State) -> None:
        channel = self._channels[mark.channel]
        assert channel is not None
        if isinstance(mark, State):
            self._outlet.state(channel, mark.state, mark.since)
        elif isinstance(mark, Snapshot):
            self._outlet.snapshot(channel, mark.reason, mark.payload)
        else:
            self._outlet.gap(channel, mark.reason, mark.since, mark.until)
            self._around.notify(
                note("gap_published", feed=self._feed, channel=channel.name, reason=mark.reason)
            )

    def _leave_out(self, name: str) -> None:
        """Count an event that is not for this feed to publish."""
        known = name in self._channels
        if split(name)[1] in self.given_up:
            self._around.notify(note("straggler_left_out", feed=self._feed, channel=name))
            return
        self._around.notify(
            note("foreign_event" if known else "channel_left_out", feed=self._feed, channel=name)
        )

    def _channel(self, name: str) -> Channel | None:
        """Return a channel that this feed may publish in, None for one that belongs to another or is too many."""
        stream = split(name)[1]
        if len(self._channels) >= CHANNELS or stream in self.given_up:
            return None
        secret = self._around.account_other() or self.hears_account()
        account = stream in ACCOUNT_STREAMS or (stream == OTHER and secret)
        channel = self._outlet.channel(name, feed=self._feed, account=account)
        if channel is None:
            return None
        own = channel.feed == self._feed
        self._channels[name] = channel if own or stream == OTHER else None
        if self._channels[name] is None:
            self._outlet.give_up(channel, self._feed)  # it is not left to who makes nothing of it
        if own and stream == PUBLIC_BOOK:
            self._outlet.offer_book(channel, partial(self._image, name))
        return self._channels[name]

    def _is_leak(self, release: Release, channel: Channel) -> bool:
        """Tell whether a message of unknown type may be about the account, and its channel is for everybody."""
        if release.kind != UNKNOWN or channel.account or not self.hears_account():
            return False
        self._around.notify(note("unknown_withheld", feed=self._feed, channel=channel.name))
        return True
