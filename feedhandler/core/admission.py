"""Messages of a line: what is read, held, a duplicate, or new (rules R1 to R3)."""

from collections.abc import Iterable, Sequence
from itertools import islice

from feedhandler.core.canonical import canonical
from feedhandler.core.holding import Held
from feedhandler.core.line import Line
from feedhandler.core.merge import UNKNOWN, VALUE_SEARCH_EVENTS
from feedhandler.core.messages import Event, Garbage, Release, Reply, Run, Unknown
from feedhandler.core.owing import Owing
from feedhandler.core.pinning import Pinning
from feedhandler.core.trail import Frames


class Admission(Pinning):
    """The merge, with the judgement of each message."""

    def _receive_aligned(
        self,
        line: Line,
        owing: Owing,
        payloads: Sequence[bytes],
        frames: Frames,
        now: float,
        recv: int,
        replies: list[Reply],
    ) -> int:
        """Take one read of an aligned line, or what it brings as such; return how many messages that were.

        Runs that continue the window are compared whole.
        """
        window = self.window
        index, count, first = 0, len(payloads), owing.position
        if frames.known:
            owing.position += frames.known
            line.duplicates += frames.known
        while index < count and line.owing is owing:
            if owing.position < window.head and not line.aside:
                run = owing.deliver_run(payloads, index)
                if run:
                    line.duplicates += run
                    index += run
                    continue
            elif not line.aside:
                run = self._lead_on(line, owing, payloads, index, frames, now, recv)
                if run:
                    index += run
                    continue
            self._receive_one(line, payloads[index], now, recv, replies)
            index += 1
        if owing.position > first:
            line.moved = now
            last = owing.position - 1
            if last >= window.base and window.line(last) != line.name:
                line.health.lagged(now - window.released_at(last))
        return index

    def _lead_on(
        self,
        line: Line,
        owing: Owing,
        payloads: Sequence[bytes],
        start: int,
        frames: Frames,
        now: float,
        recv: int,
    ) -> int:
        """Release a run of events of a line that owes nothing; return how many messages that were.

        This is the hot path of rule R3.3: nobody has brought these, and nothing stands against their place.
        """
        if owing.open or owing.passed or owing.fence is not None:
            return 0
        given = payloads[start:] if start else payloads
        channels, published = self._read_run(given, line.pinned)
        count = len(channels)
        if not count:
            return 0
        if count < len(given):
            given = given[:count]
        position = self.window.extend(given, channels, line.name, now)
        owing.position = position + count
        if frames.ends and len(self.lines) > 1:
            self._trail.add(position, frames, start, count)
        self.outputs += Run(channels, published, line.name, recv, position).narrow()
        self._led(line, count, now, recv)
        return count

    def _read_run(
        self, payloads: Sequence[bytes], pinned: set[str] | None
    ) -> tuple[Sequence[str], Sequence[bytes]]:
        """Return the channels of the events that messages begin with, and what is published of each."""
        channels = self._dialect.ordinary(payloads)
        if channels is not None and (pinned is None or pinned.issuperset(channels)):
            return channels, payloads
        events: list[Event] = []
        for payload in payloads:
            message = self._dialect.classify(payload)
            if not isinstance(message, Event) or (pinned is not None and message.channel not in pinned):
                break
            events.append(message)
        return [event.channel for event in events], [event.payload for event in events]

    def _receive_one(self, line: Line, payload: bytes, now: float, recv: int, replies: list[Reply]) -> None:
        """Read one message that is not owed as it stands, or whose line cannot tell yet."""
        message = self._dialect.classify(payload)
        if isinstance(message, Event):
            self._take(line, payload, message, now, recv)
        elif isinstance(message, Reply):
            replies.append(message)
        elif isinstance(message, Unknown):
            if message.fault:
                self._note("event_misshapen", line=line.name, reason=message.fault)
            if self._unknowns.admit(line.name, payload):
                self.outputs.append(Release(message.channel, message.payload, line.name, recv, UNKNOWN))
        else:
            self._garbage(line, message)

    def _garbage(self, line: Line, garbage: Garbage) -> None:
        line.garbage += 1
        self._note("garbage_received", line=line.name, reason=garbage.reason)

    def _take(self, line: Line, payload: bytes, event: Event, now: float, recv: int) -> None:
        """Take one event: hold it, put it aside, or judge it."""
        owing = line.owing
        if owing is None:
            dropped = line.hold.add(self._held(payload, event, now, recv, line.floor))
            if dropped:
                self._note("hold_overflowed", line=line.name, events=dropped)
        elif line.aside:
            line.aside.append(self._held(payload, event, now, recv, line.floor))
            line.moved = now
        else:
            self._judge(line, owing, payload, event, now, recv, line.floor)

    def _rejudge(self, line: Line, held: Iterable[Held], now: float) -> None:
        """Judge what was held as if it came now; its arrival stays what it was."""
        for one in held:
            if line.owing is None:
                line.hold.add(one)
            elif line.aside:
                line.aside.append(one)
            else:
                self._judge(line, line.owing, one.payload, one.event, now, one.recv, one.floor)

    def _judge(
        self, line: Line, owing: Owing, payload: bytes, event: Event, now: float, recv: int, floor: int
    ) -> None:
        """Tell whether an event of an aligned line is owed or new (rule R3)."""
        if owing.count and owing.deliver(payload, now) is not None:
            self._delivered(line, owing, now)
            return
        if owing.passed and self._dialect.identify(payload).distinct:
            position = owing.take_passed(payload)
            if position is not None:
                self._delivered(line, owing, now)
                if position not in self.window.late:
                    self._correct(line, owing, position, now)
                return
        if owing.fence is not None:
            self._stop_at_fence(line, self._held(payload, event, now, recv, floor), now)
            return
        unpinned = line.pinned is not None and event.channel not in line.pinned
        if unpinned and self._unpinned(line, owing, self._held(payload, event, now, recv, floor), now):
            return
        before = None
        if owing.count and owing.owes(self.window.ordinary.get(event.channel, -1)):
            if self._same_value(line, owing, payload, event.channel, now):
                return
            before = self._belongs_before(owing, payload, event.channel)
        elif event.channel in self.window.displaced:
            before = self._displaced_behind(payload, event.channel)
        self._release(line, owing, payload, event, now, recv, before=before)

    def _stop_at_fence(self, line: Line, held: Held, now: float) -> None:
        """Make a line a witness again that has come to a gap: what it brings may be from the gap or from behind it."""
        if line.owing is not None and line.owing.fence is not None:
            line.crossing = line.owing.fence
            line.floor = max(line.floor, min(self._needs_from(line), line.owing.fence))
        self._vacate(line)
        line.hold.add(held._replace(floor=max(held.floor, line.floor)))
        self._health(line, "outrun", now)

    def _belongs_before(self, owing: Owing, payload: bytes, channel: str) -> int | None:
        """Return the event before which a new one belongs, None where it belongs at the end of its channel.

        The line still owes events of the channel. Either the others have dropped this one, and it comes late; or this
        line has dropped those, and leads. The exchange's own times tell, as far as they differ; without them, late.
        """
        owed = list(islice(owing.owed_ordinary(channel), VALUE_SEARCH_EVENTS))
        time = self._dialect.identify(payload).time_ms
        for position in (*owed, self.window.ordinary[channel]):
            other = self._dialect.identify(self.window.payload(position)).time_ms
            if time is None or other is None or other >= time:
                return position
        return None

    def _displaced_behind(self, payload: bytes, channel: str) -> int | None:
        """Return the event of a channel that was released out of its order, if it is newer than this one."""
        displaced = self.window.displaced[channel]
        time, other = self._dialect.identify(payload).time_ms, self._time(displaced)
        return displaced if time is not None and other is not None and time < other else None

    def _same_value(self, line: Line, owing: Owing, payload: bytes, channel: str, now: float) -> bool:
        """Look for the event among what the line owes by its JSON value: other bytes, the same event (rule R1)."""
        if self.window.canonical:
            return False  # the look-up has compared values already
        value = canonical(payload)
        for position in islice(owing.owed_of(channel), VALUE_SEARCH_EVENTS):
            if canonical(self.window.payload(position)) == value:
                self.window.compare_values()
                self._note("values_compared", line=line.name)
                owing.take(position, now)
                self._delivered(line, owing, now)
                return True
        return False

    def _correct(self, line: Line, owing: Owing, position: int, now: float) -> None:
        """Put right what was taken for later copies: the line has brought an event that it had passed.

        Within a channel a line keeps the exchange's order. So what it brought before this event, and what was taken
        for events after it, are others: they belong before it, and nobody has released them yet. That is so only where
        none of the others has an identity.
        """
        window = self.window
        taken = owing.delivered_after(position)
        self._note("order_contradicted", line=line.name, position=position)
        if any(self._dialect.identify(window.payload(p)).distinct for p in taken):
            return
        for later in taken:
            owing.reopen(later)
            event = self._dialect.classify(window.payload(later))
            if isinstance(event, Event):
                self._release(
                    line, owing, window.payload(later), event, now, self._last_recv, before=position
                )
