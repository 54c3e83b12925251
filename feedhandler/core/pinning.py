"""Channels in which a line has no proven place.

A line that has joined is **pinned** in the channels in which it shared an event. In another channel its first message
proves nothing yet, since lines may interleave channels differently: another line that is up may still bring older
events of that channel. Such a message is put **aside**, and with it all that follows on the line, until the other
line has reached it.

Where no other line can prove the place any more, it is **guessed** that the line's place in one channel is its place in
all; and a line that was aligned by decree has to guess in every channel. As long as a channel is guessed, what has an
identity is looked up: it may have been released already, or be older than what is out.
"""

from feedhandler.core.holding import Held
from feedhandler.core.line import Line
from feedhandler.core.merge import UNPROVEN, Merge
from feedhandler.core.messages import Event, Gap
from feedhandler.core.owing import Owing


class Pinning(Merge):
    """The merge, with the channels in which a line has its place."""

    def _unpinned(
        self, line: Line, owing: Owing, payload: bytes, event: Event, now: float, recv: int
    ) -> bool:
        """Judge a first message of a channel in which the line is not pinned; tell whether that settled it."""
        channel = event.channel
        assert line.pinned is not None
        if channel not in line.guessed and self._has_delivered(line, owing, channel):
            line.pinned.add(channel)
            return False
        held = Held(payload, event, self._dialect.identify(payload), recv, now)
        distinct = held.identity.distinct
        positions = self.window.find_from(payload, line.floor) if distinct else ()
        if len(positions) == 1:
            if positions[0] not in self.window.late:
                self._pin_from(line, owing, channel, positions[0])
            self._delivered(line, owing, now)
            return True
        if channel not in line.guessed:
            if (distinct or self._interleaved) and self._others_in(line, channel):
                line.aside = [held]
                return True
            self._guess(line, channel, recv)
        return distinct and self._is_older(line, owing, held, now)

    def _is_older(self, line: Line, owing: Owing, held: Held, now: float) -> bool:
        """Release as late what is older than what stands in its channel; else pin the line there."""
        channel = held.event.channel
        before = self._first_newer(channel, held.identity.time_ms)
        if before is None:
            assert line.pinned is not None
            line.pinned.add(channel)
            return False
        self._release(line, owing, held.payload, held.event, now, held.recv, before=before)
        return True

    def _has_delivered(self, line: Line, owing: Owing, channel: str) -> bool:
        """Tell whether the line has brought an event of a channel since it joined."""
        last = self.window.ordinary.get(channel, -1)
        if last < line.joined_at or last in owing.open:
            return False
        return last < owing.position or last in owing.early

    def _pin_from(self, line: Line, owing: Owing, channel: str, position: int) -> None:
        """Pin a line that has brought an event from before it joined: it owes what follows in that channel."""
        assert line.pinned is not None
        line.pinned.add(channel)
        for later in range(position + 1, min(line.joined_at, owing.position)):
            if self.window.channel(later) == channel and later not in self.window.late:
                owing.reopen(later)

    def _guess(self, line: Line, channel: str, recv: int) -> None:
        """Go on in a channel where no other line can prove this one's place any more.

        Where all lines have kept one order over all channels, its place in one is its place in all. Where they have
        not, nothing proves that the channel is complete.
        """
        line.guessed.add(channel)
        if self._interleaved and channel in self.window.newest:
            self.outputs.append(Gap(channel, UNPROVEN, self._last_recv, recv))
