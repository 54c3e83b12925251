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

    def _unpinned(self, line: Line, owing: Owing, held: Held, now: float) -> bool:
        """Judge a first message of a channel in which the line is not pinned; tell whether that settled it."""
        channel = held.event.channel
        assert line.pinned is not None
        if channel not in line.guessed and self._has_delivered(line, owing, channel):
            line.pinned.add(channel)
            return False
        distinct = held.identity.distinct
        positions = self.window.find_from(held.payload, line.floor) if distinct else ()
        if len(positions) == 1:
            if positions[0] not in self.window.late:
                self._pin_from(line, owing, channel, positions[0])
            self._delivered(line, owing, now)
            return True
        if channel not in line.guessed:
            if (distinct or self._interleaved) and self._others_in(line, channel):
                line.aside = [held]
                return True
            self._guess(line, channel, held.recv)
        return distinct and self._is_older(line, owing, held, now)

    def _needs_from(self, line: Line) -> int:
        """Return the first position that a line may still deliver or have to be compared with."""
        owing = line.owing
        is_unpinned = line.pinned is not None and not line.pinned.issuperset(self.window.newest)
        if owing is None or line.aside or is_unpinned:
            return line.floor
        first = owing.first()
        return min(owing.position if first is None else first, *owing.passed, owing.position)

    def _is_older(self, line: Line, owing: Owing, held: Held, now: float) -> bool:
        """Release as late what is older than what stands in its channel; else pin the line there.

        Where the window has left that place behind it may have been released: that is a gap.
        """
        channel = held.event.channel
        before = self._first_newer(channel, held.identity.time_ms)
        if before is None:
            assert line.pinned is not None
            line.pinned.add(channel)
            return False
        if self._is_unreleased(held):
            self._release(line, owing, held.payload, held.event, now, held.recv, before=before)
        else:
            self._leave_out(held, line.left_out)
        return True

    def _held(self, payload: bytes, event: Event, now: float, recv: int, floor: int) -> Held:
        return Held(payload, event, self._dialect.identify(payload), recv, now, floor)

    def _is_unreleased(self, held: Held) -> bool:
        """Tell whether what is not in the window was not there earlier either: what has gone from there is older."""
        last = self.window.gone_last.get(held.event.channel)
        if last is None or held.floor >= self.window.base:
            return True
        time, other = held.identity.time_ms, self._dialect.identify(last).time_ms
        return time is not None and other is not None and other < time

    def _leave_out(self, held: Held, left_out: dict[str, int]) -> None:
        """Leave an event to a gap: the first one of its channel writes it, and each behind what has come since."""
        channel = held.event.channel
        newest = self.window.newest.get(channel, -1)
        self._note("hold_outdated", channel=channel, events=1)
        if left_out.get(channel) != newest:
            left_out[channel] = newest
            self.outputs.append(Gap(channel, UNPROVEN, self._last_recv, held.recv))

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
        line.first[channel] = position
        for later in range(position + 1, min(line.joined_at, owing.position)):
            if self.window.channel(later) == channel and later not in self.window.late:
                owing.reopen(later)

    def _guess(self, line: Line, channel: str, recv: int) -> None:
        """Go on in a channel where no other line can prove this one's place any more.

        Where all lines have kept one order over all channels, its place in one is its place in all. Where they have
        not, or where the line's hold was too small for the channel, nothing proves that it is complete.
        """
        line.guessed.add(channel)
        if self._is_guess_marked(line, channel):
            self.outputs.append(Gap(channel, UNPROVEN, self._last_recv, recv))

    def _is_guess_marked(self, line: Line, channel: str) -> bool:
        """Tell whether nothing proves that a line that guesses its place in a channel has all of it."""
        return (self._interleaved or channel in line.cut) and self._has_begun(channel)

    def _has_begun(self, channel: str) -> bool:
        """Tell whether anything of a channel is out."""
        return channel in self.window.newest
