"""One feed: its lines, their arbiter, and what comes of it.

    feed ── line a ── line b ── line c        one task tree each (`ingest.line`)
      ├── the arbiter (`core.arbiter`)        pure; this module hands it the time and carries out what it says
      ├── recovery (`core.recovery`)          likewise: what is released goes through it to the consumers
      └── rotation (`ingest.rotation`)        replaces the lines, one at a time

What a line reads is judged, numbered and on its way to the consumers before the line's next read: `received` is
called from within the read, and nothing in it awaits. The ordinary events of a read stay together all the way, as one
run; books and trades follow them when the consumers have been sent to.

A feed's channels are opened when it starts, as far as they are known then; others with their first event, up to
`CHANNELS` of them. A channel belongs to the feed that opened it. What another feed brings of it is no news there: it
is counted and left out, or it would come out twice. Only `MARKET/other`, which promises nothing, may be shared; its
states are those of the feed that opened it. What a feed of the account says there is left out of one that everybody
may read.

**Streams may change** on live lines (`core.streams`, `exchange.subscribing`): an added one is subscribed to on each
line and merged apart until every line has its place in it; a dropped one is retired first, so that no line owes it, and
then unsubscribed from. Where a line cannot be brought to that, the lines are replaced one at a time: a new connection
has the present streams in its URL.

A feed that is given up retires its channels: `down`, then a word that nothing more comes of them. From that moment on
whatever its lines still bring is left out. A channel that has been there before in this session, with this feed or with
another, goes on with its seqs behind a gap: nothing proves what was said in between.

Of a standby a feed **follows**: another daemon publishes for it, and nothing comes of it here; its heir (`ingest.heir`)
takes what the other publishes, until it is to take over.
"""

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter
from typing import Protocol
from zlib import crc32

import trio

from feedhandler.config import ALL, Bounds, Health
from feedhandler.config import Recovery as RecoverySettings
from feedhandler.core.arbiter import DOWN, UNKNOWN, Quarantine, Restart
from feedhandler.core.channels import Channel, split
from feedhandler.core.following import Following
from feedhandler.core.health import GOOD, PROBATION
from feedhandler.core.histogram import LATENCY_S, Histogram
from feedhandler.core.messages import Gap, Output, Release, Reply, Run, Snapshot, State
from feedhandler.core.notes import Notify, note
from feedhandler.core.progress import Part
from feedhandler.core.recovery import Recovery
from feedhandler.core.trail import NO_FRAMES, Frames, Known
from feedhandler.errors import ConnectionFailed, LineNeeded, NoSuchLine
from feedhandler.exchange.desk import Desk
from feedhandler.exchange.messages import (
    ACCOUNT_STREAMS,
    OTHER,
    PUBLIC_BOOK,
    TRADES,
    Dialect,
    channel_name,
)
from feedhandler.exchange.requests import connection_url
from feedhandler.exchange.subscribing import SUBSCRIBE, Outcome, Subscriptions
from feedhandler.ingest.beat import BEAT_S
from feedhandler.ingest.handshake import Target
from feedhandler.ingest.heir import Heir
from feedhandler.ingest.line import Line, Means
from feedhandler.ingest.rotation import BY_HAND, STALLED, Rotation

TICK_S = BEAT_S
"""How often a feed in which something moves is told the time."""

RETRY_S = 1.0
"""What is due in a feed at rest and cannot be done yet is tried again after so long."""

REST_S = 10.0
"""The longest that a feed is not told the time; only old events in memory wait for that."""

SETTLED = frozenset({GOOD, PROBATION})
"""States of an aligned line that change by themselves, if at all, within seconds."""

CHANNELS = 10_000
"""Channels that a feed knows; events of further ones are counted and left out."""

SURPLUS_S = 30.0
"""The longest that a line too many is kept because the others have not proven yet that they can do without it."""

LINE_NAMES = "abcdefghijklmnop"
"""A line has the first letter that is free: those that are to be, a replacement, and who is about to leave."""


class Outlet(Protocol):
    """Where a feed's output goes; nothing of it awaits or raises."""

    def channel(self, name: str, *, feed: str, account: bool) -> Channel | None:
        """Return a channel, opened for this feed unless it is open already; None where there are too many."""

    def give_up(self, channel: Channel, feed: str) -> bool:
        """Hear that a feed has no use for a channel any more; tell whether nobody has."""

    def retire(self, channel: Channel, since_ns: int) -> None:
        """Tell that nothing comes of a channel any more."""

    def publish(
        self, channel: Channel, line: str, recv_ns: int, payload: bytes, event_class: str = ""
    ) -> None:
        """Keep an event for the consumers, under its number."""

    def publish_run(
        self, channels: Sequence[Channel], line: str, recv_ns: int, payloads: Sequence[bytes]
    ) -> None:
        """Keep ordinary events for the consumers, each under the next number of its channel."""

    def gap(self, channel: Channel, reason: str, since_ns: int, until_ns: int) -> None:
        """Keep a gap, under its number."""

    def snapshot(self, channel: Channel, reason: str, message: bytes) -> None:
        """Keep a book, under its number."""

    def offer_book(self, channel: Channel, image: Callable[[], bytes | None]) -> None:
        """Hear how to get a channel's book after all that was published."""

    def state(self, channel: Channel, word: str, since_ns: int) -> None:
        """Tell a channel's state."""

    def flush(self) -> None:
        """Send what was kept."""


@dataclass(frozen=True)
class Surroundings:
    """What all feeds share."""

    outlet: Outlet
    means: Means
    notify: Notify
    wall_ns: Callable[[], int]
    incident: Callable[[dict[str, object]], None]
    recovery: RecoverySettings
    account_other: Callable[[], bool]
    """Whether messages of unknown type may be about the account: then only its readers get them."""
    latency: Histogram = field(default_factory=lambda: Histogram(LATENCY_S))
    """From the reading of an event's first byte to its sending (s). All records of one read are sent at once."""


class Feed:
    """One set of identical lines, merged; the lines' hub."""

    def __init__(
        self,
        label: str,
        url: str,
        market: str,
        streams: Sequence[str],
        lines: int,
        around: Surroundings,
        *,
        follows: bool = False,
    ) -> None:
        self.label = label
        self.market = market
        self.streams = tuple(streams)
        self._around = around
        self._dialect = Dialect(market, self._is_own_request, hears_account=self._hears_account)
        bounds: Bounds = around.means.bounds
        health: Health = around.means.health
        names = LINE_NAMES[:lines]
        self.arbiter = Following(
            label,
            names,
            self._dialect,
            streams=streams,
            bounds=bounds,
            limits=health,
            now=trio.current_time(),
        )
        self._url = url
        self._health = health
        self._count = lines
        self._surplus_since = 0.0
        self._target = Target.from_url(connection_url(url, market, streams))
        self._streams_of = {self._target: self.streams}
        self._subscriptions = Subscriptions(streams, lambda: str(uuid.uuid4()))
        self._given_up: set[str] = set()
        path = crc32(label.encode())
        self._lines = {name: self._line(name, path + index) for index, name in enumerate(names)}
        self._nursery: trio.Nursery | None = None
        self.rotation = Rotation(self, around.notify)
        self.recovery = Recovery(
            label,
            Desk(market, self._dialect),
            settings=around.recovery,
            bounds=bounds,
            new_id=lambda: str(uuid.uuid4()),
            askable=self._askable,
            owns=self._owns,
            notify=around.notify,
            last_recv=self._last_recv,
        )
        self._attempting: set[str] = set()
        self._unproven: dict[str, int] = {}
        self._channels: dict[str, Channel | None] = {}
        self._moved = True
        self._retired = False
        self._ticks = 0
        self._due = 0.0
        self._head = self.arbiter.window.head
        self.heir = Heir(self.arbiter, self.recovery, lambda: self.streams, self._adopt)
        if follows:
            self.arbiter.follow(trio.current_time())
        else:
            self._open_channels()

    def _open_channels(self) -> None:
        """Open the channels that are known, unless they are open already."""
        for stream in self.streams:
            if stream == TRADES or self.market != ALL:
                name = channel_name(ALL if stream == TRADES else self.market, stream)
                if name not in self._channels:
                    self._publish(self.recovery.open(name, self._around.wall_ns()))
        if self.recovery.resumed:
            self.arbiter.go_on(max(self.recovery.resumed.values()))

    def _adopt(self, channel: Channel) -> None:
        """Take a channel over that another daemon has opened."""
        self._channels[channel.name] = channel
        if channel.stream == PUBLIC_BOOK:
            self._around.outlet.offer_book(channel, partial(self.recovery.image, channel.name))

    def take_over(self) -> None:
        """Publish from now on, where the other daemon's output has ended."""
        now, wall_ns = trio.current_time(), self._around.wall_ns()
        strange = [name for name in self._channels if split(name)[1] not in {*self.streams, OTHER}]
        self._close(strange)
        for name in strange:
            del self._channels[name]
        self._publish(self.recovery.take_over(self.arbiter.state, wall_ns))
        self._open_channels()
        self.arbiter.take_over(now, wall_ns)
        self._carry_out(now, wall_ns)

    def __repr__(self) -> str:
        return f"<Feed {self.label} {self.arbiter.state} {list(self.arbiter.lines.values())}>"

    def channels(self) -> list[Channel]:
        """Return the channels that this feed publishes in."""
        return [one for one in self._channels.values() if one is not None and one.feed == self.label]

    async def run(self) -> None:
        """Keep all lines up until cancelled."""
        gate = self._around.means.gate
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for line in self._lines.values():
                gate.claim(self.market)
                nursery.start_soon(self._keep, line)
            self._adjust()
            await self.rotation.run()

    def _line(self, name: str, path: int) -> Line:
        line = Line(
            name,
            self._target,
            self,
            self._around.means,
            priority=self._priority,
            market=self.market,
            path=path,
        )
        line.retune(self._health)
        return line

    async def _keep(self, line: Line) -> None:
        """Let a line live, and then see it off."""
        try:
            await line.run()
        finally:
            self._around.means.gate.unclaim(self.market)
        self._attempting.discard(line.name)
        self._unproven.pop(line.name, None)
        del self._lines[line.name]
        now, wall_ns = trio.current_time(), self._around.wall_ns()
        self.arbiter.remove_line(line.name, now, wall_ns)
        self._carry_out(now, wall_ns)
        self.rotation.look()

    # Lines that come and go

    @property
    def lines(self) -> Mapping[str, Line]:
        """The lines by their names; those that are about to leave are among them."""
        return self._lines

    def hire(self, old: str) -> str | None:
        """Add a line that is to replace another; None where the limits leave no place for it."""
        free = next((name for name in LINE_NAMES if name not in self._lines), None)
        if free is None or self._nursery is None or not self._around.means.gate.claim_spare(self.market):
            return None
        line = self._lines[free] = self._line(free, self._lines[old].path)
        self.arbiter.add_line(free, trio.current_time())
        self._nursery.start_soon(self._keep, line)
        return free

    def dismiss(self, line: str, reason: str) -> None:
        """Let a line go for good."""
        self._find(line).retire(reason)

    def restart(self, line: str, reason: str = BY_HAND) -> None:
        """Have a line replaced, or tried at once where it is not connected.

        Raise `NoSuchLine`, or `LineNeeded` where it is the last aligned one and the limits leave no place beside it.
        """
        one = self._find(line)
        if not one.is_open:
            one.restart(reason, at_once=True)
            return
        if self._is_last(line) and not self._around.means.gate.has_spare(self.market):
            raise LineNeeded(self.label, line)
        self.rotation.want(line, reason)

    def rotate(self) -> None:
        """Have all connected lines replaced, one at a time."""
        for name in self._lines:
            self.rotation.want(name, BY_HAND)

    def pause(self, line: str) -> None:
        """Let a line be without a connection until `resume`.

        Raise `NoSuchLine`, or `LineNeeded` where it is the last aligned one.
        """
        one = self._find(line)
        if self._is_last(line):
            raise LineNeeded(self.label, line)
        if not one.is_paused:
            one.pause("paused")
            self._around.notify(note("line_paused", feed=self.label, line=line))

    def resume(self, line: str) -> None:
        """Let a paused line connect again; raise `NoSuchLine`."""
        one = self._find(line)
        if one.is_paused:
            one.resume()
            self._around.notify(note("line_resumed", feed=self.label, line=line))

    def _find(self, line: str) -> Line:
        if line not in self._lines:
            raise NoSuchLine(self.label, line)
        return self._lines[line]

    def _is_last(self, line: str) -> bool:
        """Tell whether a line is aligned, and no other that could carry the feed."""
        lines = self.arbiter.lines
        others = any(other.up for name, other in lines.items() if name != line)
        return lines[line].owing is not None and not others

    def parts(self) -> Iterator[Part]:
        """Return what has to move of the feed: its ticks, and the reading of each line."""
        yield Part(self, f"feed {self.label}", self._ticks, lambda: self.is_due(trio.current_time()))
        for line in self._lines.values():
            yield from line.parts(self.label)

    def end(self) -> None:
        """Tell the consumers that nothing more will come of this feed for now."""
        if self.arbiter.follows:
            return
        wall_ns = self._around.wall_ns()
        self._publish([State(DOWN, wall_ns, name) for name in self._channels if self._owns(name)])

    def retire(self) -> None:
        """Publish nothing any more, and tell the consumers so; whoever runs the feed ends its lines."""
        if self._retired:
            return
        if not self.arbiter.follows:
            self._close(tuple(self._channels))
        self._retired = True

    def retune(self, health: Health, recovery: RecoverySettings) -> None:
        """Go by other settings from now on."""
        self._health = health
        self.arbiter.retune(health)
        self.recovery.retune(recovery)
        for line in self._lines.values():
            line.retune(health)

    # Lines and streams that change

    def change(self, streams: Sequence[str], lines: int) -> None:
        """Have other streams and so many lines from now on; what stays is not touched."""
        added = [stream for stream in streams if stream not in self.streams]
        dropped = [stream for stream in self.streams if stream not in streams]
        self._count = lines
        self._surplus_since = trio.current_time()
        self._moved = True
        self._adjust()
        if added or dropped:
            self.streams = tuple(streams)
            self._target = Target.from_url(connection_url(self._url, self.market, streams))
            used = {line.opened for line in self._lines.values()}
            self._streams_of = {target: had for target, had in self._streams_of.items() if target in used}
            self._streams_of[self._target] = self.streams
            for line in self._lines.values():
                line.retarget(self._target)
            for stream in dropped:
                self._drop(stream)
            for stream in added:
                self._add(stream)
            self._subscriptions.wanted = frozenset(streams)
            for name in self._lines:
                self._subscribe(name)

    def _add(self, stream: str) -> None:
        """Take up a stream: its channel is opened, and the lines may bring it from now on."""
        self._given_up.discard(stream)
        last_recv = None
        if stream == TRADES or self.market != ALL:
            name = channel_name(ALL if stream == TRADES else self.market, stream)
            self._publish(self.recovery.open(name, self._around.wall_ns()))
            last_recv = self.recovery.resumed.get(name)
        self.arbiter.add(stream, trio.current_time(), last_recv=last_recv)

    def _drop(self, stream: str) -> None:
        """Give a stream up: its channels are retired, and nothing of it is released or owed any more."""
        self._given_up.add(stream)
        self.arbiter.drop(stream, trio.current_time())
        self._carry_out(trio.current_time(), self._around.wall_ns())
        names = [name for name, channel in self._channels.items() if channel and split(name)[1] == stream]
        self._close(names)
        for name in names:
            del self._channels[name]

    def _close(self, names: Iterable[str]) -> None:
        """Retire channels of this feed; those that another feed uses, too, are left to it."""
        wall_ns, outlet = self._around.wall_ns(), self._around.outlet
        for name in names:
            self._publish(self.recovery.close(name, wall_ns))
            channel = self._channels[name]
            if channel is not None and outlet.give_up(channel, self.label):
                outlet.state(channel, DOWN, wall_ns)
                outlet.retire(channel, wall_ns)
        outlet.flush()

    def _subscribe(self, line: str) -> None:
        """Ask a line for what it lacks, and to leave what it has too much."""
        now = trio.current_time()
        for stream in self.arbiter.joining:
            if not self._subscriptions.has(line, stream) and self._lines[line].is_open:
                self.arbiter.asked(stream, line, now)
        for text in self._subscriptions.ask(line, now):
            self._lines[line].send(text)  # what is not sent is not answered, and so has failed

    def _take_subscription(self, line: str, reply: Reply) -> None:
        """Take a reply of a line that may be about its subscriptions."""
        outcome = self._subscriptions.answer(line, reply)
        if outcome is None:
            return
        if not outcome.done:
            self._fall_back(outcome, "refused")
        elif outcome.verb == SUBSCRIBE:
            for stream in outcome.streams:
                self.arbiter.subscribed(stream, line, trio.current_time(), self._around.wall_ns())
            self._carry_out(trio.current_time(), self._around.wall_ns())
        self._end_stragglers()

    def _end_stragglers(self) -> None:
        """Let a stream be gone that no line brings, nor one whose connection is still being opened with it."""
        lines = (line for name, line in self._lines.items() if not self.arbiter.lines[name].connected)
        coming = {stream for line in lines for stream in self._streams_of.get(line.opened, ())}
        for stream in self._given_up - coming:
            if not self._subscriptions.carries(stream):
                self.arbiter.dropped_everywhere(stream)

    def _fall_back(self, outcome: Outcome, reason: str) -> None:
        """Have a line replaced that could not be brought to change its subscriptions."""
        self._around.notify(note("subscribe_failed", feed=self.label, line=outcome.line, reason=reason))
        self.rotation.want(outcome.line, "streams")

    def _adjust(self) -> None:
        """Have as many lines as are wanted; while a replacement is under way, later."""
        if len(self._lines) == self._count or self._nursery is None or self.rotation.busy:
            return
        staying = [name for name, line in self._lines.items() if not line.is_leaving]
        for _ in range(self._count - len(staying)):
            self._hire_more()
        if len(staying) > self._count:
            leaving = self._superfluous(staying)
            if leaving is not None:
                self.dismiss(leaving, "superfluous")

    def _hire_more(self) -> None:
        """Add a line for good."""
        assert self._nursery is not None
        free = next((name for name in LINE_NAMES if name not in self._lines), None)
        if free is None:
            return  # too many are still saying goodbye
        self._around.means.gate.claim(self.market)
        line = self._lines[free] = self._line(free, crc32(self.label.encode()) + LINE_NAMES.index(free))
        self.arbiter.add_line(free, trio.current_time())
        self._nursery.start_soon(self._keep, line)

    def _superfluous(self, staying: Sequence[str]) -> str | None:
        """Choose a line that the feed can do without, the unconnected and the last ones first; None for none yet."""
        lines = self.arbiter.lines
        patient = trio.current_time() - self._surplus_since < SURPLUS_S
        for name in sorted(staying, key=lambda name: (not lines[name].connected, name), reverse=True):
            if not lines[name].connected or self.arbiter.can_spare(name):
                return name
            if not patient and not self._is_last(name):
                return name
        return None

    def is_due(self, now: float) -> bool:
        """Tell whether the feed has to be told the time: something has moved, or is due."""
        return self._moved or now >= self._due

    def tick(self) -> bool:
        """Let time pass for the arbiter and for recovery; the daemon calls this at every `TICK_S` that is due.

        Return whether anything was released since the last time.
        """
        self._ticks += 1
        if self._retired:
            return False
        self._adjust()
        now = trio.current_time()
        news = self._has_news()
        if self._moved:
            self._due = now if news else min(self._due, self._next_due(now))
        if now >= self._due:
            wall_ns = self._around.wall_ns()
            self.arbiter.tick(now, wall_ns)
            self._carry_out(now, wall_ns)
            for outcome in self._subscriptions.overdue(now):
                self._fall_back(outcome, "silence")
            if not self.arbiter.follows:
                self._recover(self.recovery.tick(now, wall_ns))
            self._due = self._next_due(now)
        self._moved = False
        return news

    def _has_news(self) -> bool:
        """Tell whether anything was released since the last time that this was asked."""
        before, self._head = self._head, self.arbiter.window.head
        return self._head != before

    def _next_due(self, now: float) -> float:
        """Return when the feed has to be told the time next, if nothing moves before."""
        if self.recovery.busy or not self._settled():
            return now
        due = min(self.arbiter.due(), self.recovery.due())
        was_due = due <= now - TICK_S  # what was due since then was asked for and could not be done
        return now + RETRY_S if was_due else min(due, now + REST_S)

    def _settled(self) -> bool:
        """Tell whether time changes nothing soon: no line is suspect, owes anything, or holds anything."""
        head = self.arbiter.window.head
        if self.arbiter.joining or self._subscriptions.busy or len(self._lines) != self._count:
            return False
        return all(
            (line.health.state in SETTLED and not line.owing.count)
            if line.owing is not None
            else not (line.waiting or (line.connected and head > line.head_at_start))
            for line in self.arbiter.lines.values()
        )

    def _priority(self) -> int:
        """Rank a connection of this feed: 0 for its first, 1 for its second, 2 for more (core.budget)."""
        connected = {name for name, line in self.arbiter.lines.items() if line.connected}
        return min(len(connected | self._attempting), 2)

    # The lines' hub

    def connecting(self, line: str) -> None:
        """Hear that a line tries to connect."""
        if self._retired:
            return
        self._attempting.add(line)
        now = trio.current_time()
        self.arbiter.connecting(line, now)
        self._carry_out(now, self._around.wall_ns())

    def connected(self, line: str) -> None:
        """Hear that a line is connected."""
        if self._retired:
            return
        self._attempting.discard(line)
        self._unproven[line] = self._judged(line)
        self.rotation.look()
        self._around.notify(note("line_connected", feed=self.label, line=line))
        now, wall_ns = trio.current_time(), self._around.wall_ns()
        self.arbiter.connected(line, now, wall_ns)
        streams = self._streams_of.get(self._lines[line].opened, ())
        self._subscriptions.opened(line, streams)
        for stream in self.arbiter.joining.intersection(streams):
            self.arbiter.subscribed(stream, line, now, wall_ns)
        self._carry_out(now, wall_ns)
        self._subscribe(line)
        self._end_stragglers()
        self.recovery.line_up(now)
        self._recover([])

    def recognise(self, line: str, rest: bytes | bytearray, data: bytes) -> Known:
        """Say what a read begins with that other lines have brought in the same bytes."""
        return self.arbiter.recognise(line, rest, data)

    def received(self, line: str, payloads: list[bytes], frames: Frames = NO_FRAMES) -> None:
        """Judge what one read of a line brought, and send what is new."""
        if self._retired:
            return
        self._moved = True
        now, wall_ns = trio.current_time(), self._around.wall_ns()
        replies = self.arbiter.receive(line, payloads, now, wall_ns, frames)
        self._carry_out(now, wall_ns, self._lines[line].read_s)
        for reply in replies:
            if self._subscriptions.busy:
                self._take_subscription(line, reply)
            self._recover(self.recovery.reply(line, reply, now, wall_ns))
        if line in self._unproven:
            self._prove(line)

    def _prove(self, line: str) -> None:
        """Let a connection that has brought events count as a success."""
        if self._judged(line) > self._unproven[line] or self.arbiter.lines[line].hold.events:
            del self._unproven[line]
            self._lines[line].reset_backoff()

    def _judged(self, line: str) -> int:
        state = self.arbiter.lines[line]
        return state.wins + state.duplicates

    def rejected(self, line: str, kind: str) -> None:
        """Count a message that is no text."""
        self._around.notify(note("garbage_received", feed=self.label, line=line, reason=kind))

    def lost(self, line: str, reason: str) -> None:
        """Hear that a connection has ended."""
        if self._retired:
            return
        self._around.notify(note("line_lost", feed=self.label, line=line, reason=reason))
        now, wall_ns = trio.current_time(), self._around.wall_ns()
        self.arbiter.lost(line, now, wall_ns)
        self._subscriptions.closed(line)
        self._end_stragglers()
        self._carry_out(now, wall_ns)
        self.recovery.line_lost(line, now)
        self._recover([])

    def failed(self, line: str, failure: ConnectionFailed, retry_s: float) -> None:
        """Hear that an attempt to connect has failed."""
        if self._retired:
            return
        self._attempting.discard(line)
        self._around.notify(
            note(
                "connect_failed",
                feed=self.label,
                line=line,
                reason=failure.reason,
                status=getattr(failure, "status", 0),
                detail=str(failure),
                retry_s=round(retry_s, 3),
            )
        )
        now, wall_ns = trio.current_time(), self._around.wall_ns()
        self.arbiter.lost(line, now, wall_ns)
        self._carry_out(now, wall_ns)

    def called_off(self, line: str) -> None:
        """Hear that an attempt was called off, since the line is to rest or to end."""
        if self._retired:
            return
        self._attempting.discard(line)
        now, wall_ns = trio.current_time(), self._around.wall_ns()
        self.arbiter.lost(line, now, wall_ns)
        self._carry_out(now, wall_ns)

    # What the arbiter says

    def _carry_out(self, now: float, wall_ns: int, read_s: float = 0.0) -> None:
        """Publish the arbiter's output, follow its orders, pass on its notes.

        What came with a read counts from the reading of its first byte, ``read_s`` (`time.perf_counter`).
        """
        self._moved = True  # whatever it was, it may be due sooner now
        arbiter = self.arbiter
        if arbiter.follows:
            arbiter.outputs.clear()
        if arbiter.outputs:
            outputs, arbiter.outputs = arbiter.outputs, []
            passed = self.recovery.process(outputs, now, wall_ns)
            self._publish(passed)
            if read_s:
                self._around.latency.observe(perf_counter() - read_s, _size(passed))
            self.recovery.catch_up()  # what is on its way to the consumers holds them up no more
        if arbiter.orders:
            orders, arbiter.orders = arbiter.orders, []
            for order in orders:
                self._obey(order)
        if arbiter.notes:
            notes, arbiter.notes = arbiter.notes, []
            for one in notes:
                self._around.notify(one)

    def _recover(self, outputs: Sequence[Output]) -> None:
        """Publish what recovery has to say, ask what it wants to know, replace lines that it found dead."""
        if outputs:
            self._publish(outputs)
        asks, self.recovery.asks = self.recovery.asks, []
        for line, text in asks:
            self._lines[line].send(text)  # what is not sent is asked again
        if self.recovery.replace:
            self.recovery.replace = False
            for line in self._lines:
                self._obey(Restart(line, "dead"))

    def _is_own_request(self, request_id: str) -> bool:
        return self.recovery.is_own(request_id) or self._subscriptions.is_own(request_id)

    def _askable(self) -> list[str]:
        """Return the lines that can be asked for a snapshot, the good ones if there are any.

        What a witness brings is not released yet: its snapshot would be ahead of the stream.
        """
        if self.arbiter.follows:
            return []
        lines = self.arbiter.lines
        placed = [name for name, line in self._lines.items() if line.is_open and lines[name].placed]
        return [name for name in placed if lines[name].up] or placed

    def _publish(self, outputs: Iterable[Output]) -> None:
        """Have everything on its way, in order."""
        for output in outputs:
            if type(output) is Run:
                self._publish_run(output)
            elif type(output) is Release:
                self._publish_release(output)
            elif isinstance(output, Gap | Snapshot | State):
                self._publish_mark(output)
        self._around.outlet.flush()

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
            self._around.outlet.publish(own[run.channels[0]], run.line, run.recv, run.payloads[0])
        else:
            channels = [own[name] for name in run.channels]
            self._around.outlet.publish_run(channels, run.line, run.recv, run.payloads)

    def _publish_release(self, release: Release) -> None:
        name = release.channel
        channel = self._channels[name] if name in self._channels else self._channel(name)
        if channel is None:
            self._leave_out(name)
            return
        if release.kind and self._is_leak(release, channel):
            return
        self._around.outlet.publish(channel, release.line, release.recv, release.payload, release.kind)
        if release.kind:
            self._around.notify(note("event_marked", feed=self.label, channel=name, kind=release.kind))

    def _publish_mark(self, mark: Gap | Snapshot | State) -> None:
        channel = self._channels[mark.channel]
        assert channel is not None
        if isinstance(mark, State):
            self._around.outlet.state(channel, mark.state, mark.since)
        elif isinstance(mark, Snapshot):
            self._around.outlet.snapshot(channel, mark.reason, mark.payload)
        else:
            self._around.outlet.gap(channel, mark.reason, mark.since, mark.until)
            self._around.notify(
                note("gap_published", feed=self.label, channel=channel.name, reason=mark.reason)
            )

    def _leave_out(self, name: str) -> None:
        """Count an event that is not for this feed to publish."""
        known = name in self._channels
        if split(name)[1] in self._given_up:
            self._around.notify(note("straggler_left_out", feed=self.label, channel=name))
            return
        self._around.notify(
            note("foreign_event" if known else "channel_left_out", feed=self.label, channel=name)
        )

    def _owns(self, name: str) -> bool:
        """Tell whether a channel is this feed's, opening it unless it is open."""
        channel = self._channels[name] if name in self._channels else self._channel(name)
        return channel is not None and channel.feed == self.label

    def _last_recv(self, name: str) -> int:
        """Return when the last record of a channel arrived that goes on; -1 for one that begins."""
        channel = self._channels.get(name)
        return channel.last_ns if channel is not None and channel.next > 1 else -1

    def _channel(self, name: str) -> Channel | None:
        """Return a channel that this feed may publish in, None for one that belongs to another or is too many."""
        stream = split(name)[1]
        if len(self._channels) >= CHANNELS or stream in self._given_up:
            return None
        secret = self._around.account_other() or self._hears_account()
        account = stream in ACCOUNT_STREAMS or (stream == OTHER and secret)
        channel = self._around.outlet.channel(name, feed=self.label, account=account)
        if channel is None:
            return None
        own = channel.feed == self.label
        self._channels[name] = channel if own or stream == OTHER else None
        if self._channels[name] is None:
            self._around.outlet.give_up(channel, self.label)  # it is not left to who makes nothing of it
        if own and stream == PUBLIC_BOOK:
            self._around.outlet.offer_book(channel, partial(self.recovery.image, name))
        return self._channels[name]

    def _hears_account(self) -> bool:
        """Tell whether the lines are subscribed to anything of the account: then unknown messages may be about it."""
        return not ACCOUNT_STREAMS.isdisjoint((*self.streams, *self._given_up))

    def _is_leak(self, release: Release, channel: Channel) -> bool:
        """Tell whether a message of unknown type may be about the account, and its channel is for everybody."""
        if release.kind != UNKNOWN or channel.account or not self._hears_account():
            return False
        self._around.notify(note("unknown_withheld", feed=self.label, channel=channel.name))
        return True

    def _obey(self, order: Restart | Quarantine) -> None:
        if isinstance(order, Quarantine):
            self._around.notify(note("line_quarantined", feed=self.label, line=order.line))
            self._around.incident(order.incident)
            self._lines[order.line].restart("quarantined", self._around.means.health.quarantine_s)
            return
        self._around.notify(note("line_restarted", feed=self.label, line=order.line, reason=order.reason))
        if order.reason == STALLED and not self.rotation.busy:
            self.rotation.want(order.line, STALLED)
        else:
            self._lines[order.line].restart(order.reason)


def _size(outputs: Sequence[Output]) -> int:
    """Return how many records are published."""
    return sum([len(output.payloads) if type(output) is Run else 1 for output in outputs])
