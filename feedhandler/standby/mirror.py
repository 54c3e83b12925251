"""What the active daemon has published, kept here as if it had been published here.

Each record goes two ways: as it came into the backlog, under the number that it has, so that consumers can go on from
it; and to the feed that its channel belongs to (`ingest.heir`), which goes on with the sequence.

    channel, forgotten      the numbering is taken over
    event, gap, snapshot    the next seq of their channel, or nothing here can be relied on any more
    state, retired          kept for later consumers
    interleaved             the feed of a channel knows that lines interleave its channels differently
    snapshot (reason join)  the book of a channel after a seq: the feed has it as soon as it has come so far
    heard                   the other daemon relies on this one, or does not any more
    level                   from here on all is known before any consumer knows it

Ordinary events that follow one another in a feed go there as one.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from feedhandler.core.arbiter import DOWN
from feedhandler.core.channels import Channel
from feedhandler.core.messages import Gap
from feedhandler.ingest.heir import Heir
from feedhandler.publish.outlet import Outlet
from feedhandler.publish.server import Publisher
from feedhandler.standby.records import Head, Record, read

JOIN: Final = "join"


class HasHeir(Protocol):
    """A feed that follows."""

    @property
    def heir(self) -> Heir:
        """What takes the records for it."""


class Mirror:
    """The numbering, the backlog and the feeds, as the records of one following make them."""

    def __init__(
        self,
        publisher: Publisher,
        outlet: Outlet,
        feeds: Mapping[str, HasHeir],
        now_s: Callable[[], float],
    ) -> None:
        self._publisher = publisher
        self._outlet = outlet
        self._feeds = feeds
        self._now_s = now_s
        self._images: dict[str, Record] = {}
        self._ended: dict[str, Record] = {}
        self._states: dict[str, str] = {}
        self._label = ""
        self._channels: list[str] = []
        self._payloads: list[bytes] = []
        self._recv = 0
        self.is_level = False
        """Whether all is known that any consumer knows."""
        self.is_heard = False
        """Whether the other daemon would hand over to this one."""
        self.wrong = ""
        """Why what is here cannot be relied on; empty while it can."""
        self.said: Head | None = None
        """The last word of the other daemon: an error, or why it leaves."""
        self._acts: dict[str, Callable[[Record], None]] = {
            "event": self._event,
            "gap": self._gap,
            "snapshot": self._snapshot,
            "state": self._state,
            "channel": self._channel,
            "forgotten": self._forgotten,
            "retired": self._retired,
            "interleaved": self._interleaved,
            "level": self._level,
            "heard": self._heard,
            "error": self._last_word,
            "bye": self._last_word,
        }

    def take(self, lines: Iterable[bytes]) -> None:
        """Take lines without their ends, as many as can be relied on."""
        for line in lines:
            record = read(line)
            if record is None:
                self.wrong = "a line is no record"
            elif record.head.type in self._acts:  # others are for consumers alone
                self._acts[record.head.type](record)
            if self.wrong:
                break
        self._pass_on()

    # Records with a seq

    def _number(self, record: Record, *, mark: bool) -> Channel | None:
        """Keep a record under its number; return its channel, None where that is not the next."""
        head = record.head
        channel = self._publisher.find(head.channel)
        if channel is None or channel.next != head.seq:
            self.wrong = f"a record of {head.channel} has the seq {head.seq} out of turn"
            return None
        self._publisher.inherit_record(channel, record.line, head.recv, mark=mark)
        return channel

    def _event(self, record: Record) -> None:
        channel, head = self._number(record, mark=False), record.head
        if channel is None:
            return
        if head.event_class:
            self._pass_on()
            heir = self._heir(channel)
            if heir is not None:
                heir.marked(channel.name, record.message, self._now_s(), head.recv, head.event_class)
        else:
            if channel.feed != self._label:
                self._pass_on()
                self._label = channel.feed
            self._channels.append(channel.name)
            self._payloads.append(record.message)
            self._recv = head.recv
        self._show_image(channel)

    def _pass_on(self) -> None:
        """Give the feed the events that have come for it."""
        if self._channels:
            channels, payloads = self._channels, self._payloads
            self._channels, self._payloads = [], []
            if self._label in self._feeds:
                self._feeds[self._label].heir.events(channels, payloads, self._now_s(), self._recv)

    def _heir(self, channel: Channel) -> Heir | None:
        return self._feeds[channel.feed].heir if channel.feed in self._feeds else None

    def _gap(self, record: Record) -> None:
        channel, head = self._number(record, mark=True), record.head
        if channel is None:
            return
        self._pass_on()
        heir = self._heir(channel)
        if heir is not None:
            heir.gap(Gap(channel.name, head.reason, head.since, head.until), self._now_s())
        self._show_image(channel)

    def _snapshot(self, record: Record) -> None:
        if record.head.reason == JOIN:
            self._images[record.head.channel] = record
            channel = self._publisher.find(record.head.channel)
        else:
            channel = self._number(record, mark=True)
            if channel is not None:
                self._show(channel, record)
        if channel is not None:
            self._show_image(channel)

    def _show_image(self, channel: Channel) -> None:
        """Show a feed the book that was sent in advance, where it has come so far."""
        image = self._images.get(channel.name)
        if image is not None and image.head.seq < channel.next:
            del self._images[channel.name]
            if image.head.seq == channel.next - 1:
                self._show(channel, image)

    def _show(self, channel: Channel, record: Record) -> None:
        self._pass_on()
        heir = self._heir(channel)
        if heir is not None:
            heir.book(channel.name, record.message, self._now_s(), record.head.reason)

    # Channels

    def _channel(self, record: Record) -> None:
        """Open a channel; one that is retired already is ended when all that is kept of it has come."""
        self._pass_on()
        head = record.head
        known = self._publisher.find(head.channel)
        if known is not None and not known.retired:
            self.wrong = f"the channel {head.channel} opens twice"
            return
        channel = self._publisher.inherit_channel(
            head.channel, feed=head.feed, account=head.account, first=head.first, last_ns=head.last
        )
        if channel is None:
            self.wrong = "there are too many channels"
        elif head.retired:
            self._ended[channel.name] = record
        else:
            self._outlet.inherit(channel)
            heir = self._heir(channel)
            if heir is not None:
                heir.open(channel, DOWN)

    def _forgotten(self, record: Record) -> None:
        head = record.head
        self._publisher.inherit_numbering(head.channel, head.first, head.last, account=head.account)

    def _state(self, record: Record) -> None:
        channel = self._publisher.find(record.head.channel)
        if channel is not None:
            self._publisher.inherit_state(channel, record.line)
            self._states[channel.name] = record.head.state
            if self.is_level:
                self._show_states()

    def _show_states(self) -> None:
        """Tell the feeds the states: when level, since what is replayed comes behind a state that is newer."""
        self._pass_on()
        states, self._states = self._states, {}
        for name, word in states.items():
            channel = self._publisher.find(name)
            heir = None if channel is None else self._heir(channel)
            if heir is not None:
                heir.state(name, word)

    def _interleaved(self, record: Record) -> None:
        channel = self._publisher.find(record.head.channel)
        heir = None if channel is None else self._heir(channel)
        if heir is not None:
            heir.interleaved()

    def _retired(self, record: Record) -> None:
        channel = self._publisher.find(record.head.channel)
        if channel is None or channel.retired:
            return
        if channel.name in self._ended:
            self._ended[channel.name] = record
            return
        self._pass_on()
        heir = self._heir(channel)
        if heir is not None:
            heir.close(channel.name)
        self._outlet.orphan(channel.name)
        self._publisher.inherit_end(channel, record.line, record.head.since)

    # The course of the following

    def _level(self, _: Record) -> None:
        self.finish()
        self.is_level = True

    def finish(self) -> None:
        """End what was retired before: all that is kept of it has come, be it that the other daemon died just then.

        Likewise the states are now those that were told before.
        """
        for name, record in self._ended.items():
            channel = self._publisher.find(name)
            if channel is not None:
                self._publisher.inherit_end(channel, record.line, record.head.since)
        self._ended.clear()
        self._show_states()

    def _heard(self, record: Record) -> None:
        self.is_heard = record.head.ready

    def _last_word(self, record: Record) -> None:
        self.said = record.head
