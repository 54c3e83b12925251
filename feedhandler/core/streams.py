"""Streams that are added to the live lines of a feed, and dropped from them.

An added stream begins on each line at another moment: the lines subscribe one after the other, and one may lag behind
another. So it is merged as a feed of its own would be, by an arbiter of its own, the **joiner**: a line that subscribes
is connected there, and is aligned by proof or, where it is the first, by decree. The joiner and the arbiter of the feed
share the connections; each message goes to the one that its channel belongs to. That the joiner starts is no gap: what
a line brings from before its first event belongs to the time before the start, and is left out.

Routing costs a look at every message of every line, so it ends as soon as it can. When every connected line has its
place in both, the joiner is **absorbed**: the end of its window that a line may still owe is put behind the window of
the feed, each line owes there what it owed, and the feed goes on as one merge. Positions go on, too: in the channels
absorbed the feed's positions are shifted to follow the joiner's.

A **dropped** stream is owed by no line from that moment on. What still comes of it, until the last line has
unsubscribed, is a **straggler**: it is left out and counted.

    add ──▶ asked (each line) ──▶ subscribed, or its first event ──▶ absorbed
    drop ──▶ stragglers left out ──▶ dropped_everywhere
"""

from collections.abc import Iterable, Iterator, Sequence
from math import inf
from typing import Final

from feedhandler.config import Bounds
from feedhandler.config import Health as HealthLimits
from feedhandler.core.arbiter import Arbiter
from feedhandler.core.channels import split
from feedhandler.core.health import CONNECTING
from feedhandler.core.line import Line
from feedhandler.core.merge import LATE
from feedhandler.core.messages import Dialect, Event, Gap, Output, Release, Reply, Run, State
from feedhandler.core.owing import Owing
from feedhandler.core.trail import NO_FRAMES, Frames

FEED_NOTES: Final = frozenset({"feed_state_changed", "line_state_changed", "failed_over"})
"""Notes of a joiner that say nothing of the feed: its own arbiter makes them."""


class Streams(Arbiter):
    """The merge of one feed's lines, whose streams may change."""

    def __init__(
        self,
        feed: str,
        lines: Iterable[str],
        dialect: Dialect,
        *,
        streams: Iterable[str],
        bounds: Bounds,
        limits: HealthLimits,
        now: float = 0.0,
    ) -> None:
        super().__init__(feed, lines, dialect, bounds=bounds, limits=limits, now=now)
        self._own = set(streams)
        self._joiners: dict[str, Arbiter] = {}
        self._dropped: set[str] = set()
        self._stale: dict[str, set[str]] = {}
        self._shifts: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._ended: dict[str, int] = {}
        """Channels of dropped streams, and before which position nobody who joins owes anything of them."""

    @property
    def joining(self) -> frozenset[str]:
        """The streams that were added and are not absorbed yet."""
        return frozenset(self._joiners)

    # What changes

    def add(self, stream: str, now: float, *, last_recv: int | None = None) -> None:
        """Take up a stream; ``last_recv`` where it goes on behind what was released before, and so behind a gap."""
        joiner = Arbiter(
            self.feed, self.lines, self._dialect, bounds=self._bounds, limits=self._limits, now=now
        )
        if last_recv is not None:
            joiner.go_on(last_recv)
        if stream in self._dropped:
            self._dropped.discard(stream)
            self._stale[stream] = {name for name, line in self.lines.items() if line.connected}
        self._first = {name: first for name, first in self._first.items() if split(name)[1] != stream}
        self._joiners[stream] = joiner

    def asked(self, stream: str, name: str, now: float) -> None:
        """Hear that a line asks for an added stream: whatever it will bring of it, nobody has released it so far."""
        joiner = self._joiners.get(stream)
        if joiner is None:
            return
        line = joiner.lines[name]
        if not line.connected and line.health.state != CONNECTING:
            joiner.connecting(name, now)

    def subscribed(self, stream: str, name: str, now: float, recv: int) -> None:
        """Hear that a line brings an added stream from now on."""
        joiner = self._joiners.get(stream)
        self._stale.get(stream, set()).discard(name)
        if joiner is not None and not joiner.lines[name].connected:
            joiner.connected(name, now, recv)
            self._collect(stream, joiner)

    def drop(self, stream: str, now: float) -> None:
        """Give a stream up: nothing of it is released any more, and no line owes it."""
        start = len(self.outputs)
        self._dropped.add(stream)
        self._stale.pop(stream, None)
        self._own.discard(stream)
        self._joiners.pop(stream, None)
        lines = (*self.lines.values(), *self.ghosts)
        kept = (held.event.channel for line in lines for held in (*line.hold.events, *line.aside))
        known = (*self.window.newest, *self._shifts, *kept)
        channels = {channel for channel in known if split(channel)[1] == stream}
        self._ended = {name: end for name, end in self._ended.items() if end > self.window.base}
        self._ended.update(dict.fromkeys(channels, self.window.head))
        for channel in channels:
            self._shifts.pop(channel, None)
        for line in lines:
            self._forget(line, channels, now)
        window = self.window
        self._divergences.drop(
            [p for p in self._divergences.disputed() if p >= window.base and window.channel(p) in channels]
        )
        self._settle(now)
        self._shift(start)

    def _forget(self, line: Line, channels: set[str], now: float) -> None:
        """Let a line owe nothing of some channels, and keep nothing of them."""
        line.hold.forget(channels)
        aside, line.aside = line.aside, []
        if line.owing is not None:
            for channel in channels:
                line.owing.forget(channel, self.window.head)
        self._rejudge(line, [held for held in aside if held.event.channel not in channels], now)

    def _owing_at(self, position: int, matched: set[int], first: dict[str, int], now: float) -> Owing:
        """Return what a line owes that joins: nothing of what was dropped."""
        owing = super()._owing_at(position, matched, first, now)
        for channel, end in self._ended.items():
            owing.forget(channel, end)
        return owing

    def dropped_everywhere(self, stream: str) -> None:
        """Hear that no line brings a dropped stream any more: there will be no stragglers."""
        self._dropped.discard(stream)

    # Lines that come and go

    def add_line(self, name: str, now: float) -> None:
        """Let one more line take part."""
        super().add_line(name, now)
        for joiner in self._joiners.values():
            joiner.add_line(name, now)

    def remove_line(self, name: str, now: float, recv: int) -> None:
        """Let a line go for good."""
        super().remove_line(name, now, recv)  # and `lost` before, where it is connected
        for stream, joiner in self._joiners.items():
            joiner.remove_line(name, now, recv)
            self._collect(stream, joiner)

    def can_spare(self, name: str, *, settled: float = -inf) -> bool:
        """Tell whether the feed goes on without a line as if nothing had happened."""
        joiners = [joiner for joiner in self._joiners.values() if joiner.lines[name].connected]
        return super().can_spare(name, settled=settled) and all(
            joiner.can_spare(name, settled=settled) for joiner in joiners
        )

    def retune(self, limits: HealthLimits) -> None:
        """Judge lines by other limits from now on."""
        super().retune(limits)
        for joiner in self._joiners.values():
            joiner.retune(limits)

    # What happens

    def connecting(self, name: str, now: float) -> None:
        """Note that a line tries to connect."""
        super().connecting(name, now)
        for joiner in self._joiners.values():
            joiner.connecting(name, now)

    def connected(self, name: str, now: float, recv: int) -> None:
        """Note that a line is connected; which added streams it brings is heard apart."""
        start = len(self.outputs)
        super().connected(name, now, recv)
        self._shift(start)

    def receive(
        self, name: str, payloads: Sequence[bytes], now: float, recv: int, frames: Frames = NO_FRAMES
    ) -> list[Reply]:
        """Take what one read of a line brought, in order; return the replies among it.

        What was recognised is the feed's own; what is divided has no frames in a row any more.
        """
        if not self._joiners and not self._dropped and not self._shifts:
            return super().receive(name, payloads, now, recv, frames)
        start = len(self.outputs)
        if self._joiners or self._dropped:
            own, added = self._route(name, payloads)
            replies = super().receive(name, own, now, recv, Frames(frames.known))
        else:
            added = {}
            replies = super().receive(name, payloads, now, recv, frames)
        self._shift(start)
        for stream, some in added.items():
            joiner = self._joiners[stream]
            self.subscribed(stream, name, now, recv)
            joiner.receive(name, some, now, recv)
            self._collect(stream, joiner)
        return replies

    def _route(self, name: str, payloads: Sequence[bytes]) -> tuple[list[bytes], dict[str, list[bytes]]]:
        """Divide messages: what is merged here, and what by joiners; stragglers are left out."""
        own: list[bytes] = []
        added: dict[str, list[bytes]] = {}
        for payload in payloads:
            message = self._dialect.classify(payload)
            stream = split(message.channel)[1] if isinstance(message, Event) else ""
            is_stale = stream in self._dropped or name in self._stale.get(stream, ())
            if stream in self._joiners and not is_stale:
                added.setdefault(stream, []).append(payload)
            elif isinstance(message, Event) and is_stale:
                self._note("straggler_left_out", channel=message.channel)
            else:
                own.append(payload)
        return own, added

    def lost(self, name: str, now: float, recv: int) -> None:
        """Note that a line's connection has ended."""
        start = len(self.outputs)
        super().lost(name, now, recv)
        for lines in self._stale.values():
            lines.discard(name)
        self._shift(start)
        for stream, joiner in self._joiners.items():
            joiner.lost(name, now, recv)
            self._collect(stream, joiner)

    def tick(self, now: float, recv: int) -> None:
        """Let time pass; absorb what can be."""
        start = len(self.outputs)
        super().tick(now, recv)
        self._shift(start)
        for stream, joiner in list(self._joiners.items()):
            joiner.tick(now, recv)
            self._collect(stream, joiner)
            self._try_to_absorb(stream, joiner, now)

    # What comes of it

    def _collect(self, stream: str, joiner: Arbiter) -> None:
        """Make what a joiner says the feed's."""
        outputs, joiner.outputs = joiner.outputs, []
        self.outputs += self._translate(stream, joiner, outputs)
        self.orders += joiner.orders
        self.notes += [one for one in joiner.notes if one.name not in FEED_NOTES]
        joiner.orders, joiner.notes = [], []

    def _translate(self, stream: str, joiner: Arbiter, outputs: Iterable[Output]) -> Iterator[Output]:
        """Leave out what belongs to the time before the start; let a gap be one of this stream only."""
        for output in outputs:
            if isinstance(output, Run):
                for position, channel in enumerate(output.channels, output.position):
                    self._first.setdefault(channel, position)
                yield output
            elif isinstance(output, Release):
                first = self._first.setdefault(output.channel, output.position)
                if output.kind == LATE and output.before <= first:
                    self._note("straggler_left_out", channel=output.channel)
                    for line in joiner.lines.values():
                        if line.owing is not None:
                            line.owing.passed.pop(output.position, None)
                else:
                    yield output
            elif isinstance(output, Gap) and not output.channel:
                yield Gap("", output.reason, output.since, output.until, stream)
            elif not isinstance(output, State):
                yield output

    def _shift(self, start: int) -> None:
        """Let this arbiter's own outputs from ``start`` on be true of the feed."""
        if self._shifts or self._joiners:
            self.outputs[start:] = [own for one in self.outputs[start:] for own in self._as_own(one)]

    def _as_own(self, output: Output) -> Iterator[Output]:
        if isinstance(output, Run):
            if self._shifts.keys().isdisjoint(output.channels):
                yield output
            else:
                for release in output.releases():
                    yield from self._as_own(release)
        elif isinstance(output, Release) and output.channel in self._shifts:
            by = self._shifts[output.channel]
            yield Release(
                output.channel,
                output.payload,
                output.line,
                output.recv,
                output.kind,
                output.position + by,
                output.before + by if output.before >= 0 else -1,
            )
        elif isinstance(output, Gap) and not output.channel and self._joiners:
            for stream in sorted(self._own):
                yield Gap("", output.reason, output.since, output.until, stream)
        else:
            yield output

    # Absorbing

    def _try_to_absorb(self, stream: str, joiner: Arbiter, now: float) -> None:
        """Go on as one merge, as soon as every line has its place in both."""
        first = self._first_owed(joiner)
        if first is None:
            return
        window, added = self.window, joiner.window
        shift = first - window.head
        for position in range(first, added.head):
            payload, channel = added.payload(position), added.channel(position)
            own = window.append(payload, channel, added.line(position), now)
            for name, line in self.lines.items():
                other = joiner.lines[name].owing
                if line.owing is not None and other is not None and not other.owes(position):
                    line.owing.skip(own)
                    if position in other.passed:
                        line.owing.passed[own] = other.passed[position]
        for name, line in self.lines.items():
            _take_over(line, joiner.lines[name], added.newest)
        for channel in added.newest:
            window.newest.setdefault(channel, -1)  # it has begun, be it that nothing of it is owed any more
        self._interleaved |= joiner._interleaved
        self._last_recv = max(self._last_recv, joiner._last_recv)
        self._shifts.update(dict.fromkeys(added.newest, shift))
        self._own.add(stream)
        self._stale.pop(stream, None)
        del self._joiners[stream]
        self._note("stream_joined", stream=stream)

    def _first_owed(self, joiner: Arbiter) -> int | None:
        """Return from where on the joiner's window is still needed; None where it cannot be absorbed yet.

        Every connected line has its place in both, and owes something in one of them at most, so that none can seem to
        interleave the two; nobody is about to connect; and nothing that is needed stands out of its order.
        """
        added = joiner.window
        if joiner.ghosts or not added.head:
            return None
        first = added.head
        for name, line in self.lines.items():
            other = joiner.lines[name]
            if not line.connected and not other.connected and line.health.state != CONNECTING:
                continue
            if line.owing is None or other.owing is None or not (_is_settled(line) and _is_settled(other)):
                return None
            if line.owing.count and other.owing.count:
                return None
            if other.pinned is not None and not other.pinned.issuperset(added.newest):
                return None
            owed = other.owing.first()
            first = min(first, *other.owing.passed, other.owing.position, first if owed is None else owed)
        is_kept = first >= added.base and not any(late >= first for late in added.late)
        return first if is_kept else None


def _is_settled(line: Line) -> bool:
    return line.connected and line.placed and line.owing is not None and line.owing.fence is None


def _take_over(line: Line, other: Line, channels: Iterable[str]) -> None:
    """Let a line go on as it was in the joiner."""
    line.messages += other.messages
    line.wins += other.wins
    line.duplicates += other.duplicates
    line.moved = max(line.moved, other.moved)
    if line.pinned is not None:
        line.pinned.update(channels)
