"""The arbiter of one feed: it admits every event exactly once (rules R1 to R6, R8, R10 and R11).

Theory of operation
-------------------
The **window** is the recent part of the merged sequence. An **aligned** line has a place in it: what it delivers is
either owed, and then a duplicate, or new, and then released at once (`owing`). A **witness** has no place yet: what it
delivers is held until one event with identity proves where it stands (`holding`), or until nobody is left who could
carry the sequence on: then the witness subscribed longest is aligned by decree, behind a **gap**.

That an event is shared proves continuity: the older line delivered the younger one's first event, or a later one,
while it was up (R8). Nothing else does; so a decree after the first release always writes a gap.

A line that has joined is **pinned** in the channels in which it shared an event. In another channel its first message
proves nothing yet, since lines may interleave channels differently: another line that is up may still bring older
events of that channel. Such a message is put **aside**, and with it all that follows on the line, until the other
line has reached it.

A line that dies leaves what it held behind as a **ghost**, which is joined like any witness.

How to use it
-------------
``connecting``, ``connected``, ``receive``, ``lost`` say what happened; ``tick`` lets time pass, ten times a second or
so. Each says so at once, in order, with the time handed in (``now``: monotonic, s; ``recv``: wall clock, ns, a label
only). After any of them the caller takes away what came of it: ``outputs`` to publish, ``orders`` to carry out,
``notes`` to count. Nothing here waits, reads a clock, or raises on data.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

import msgspec

from feedhandler.config import Bounds
from feedhandler.config import Health as HealthLimits
from feedhandler.core import health as states
from feedhandler.core.canonical import canonical
from feedhandler.core.divergence import Divergences
from feedhandler.core.health import LineHealth
from feedhandler.core.holding import MISSING, OPEN, Held, Hold, place
from feedhandler.core.messages import Dialect, Event, Gap, Garbage, Output, Release, Reply, State, Unknown
from feedhandler.core.notes import Note, note
from feedhandler.core.owing import Owing
from feedhandler.core.unknown import Unknowns
from feedhandler.core.window import Window

LATE = "late"
UNKNOWN = "unknown"
OUTAGE = "outage"
UNPROVEN = "unproven"
DIVERGENCE = "divergence"

LIVE, QUIET, SYNCING, DOWN = "live", "quiet", "syncing", "down"

VALUE_SEARCH_EVENTS = 64
"""How many owed events of a channel are compared by JSON value before an event counts as new (rule R1)."""

NEWEST_SEARCH_EVENTS = 16
"""How many of the newest events are read for the newest released time when a line is to be aligned by decree."""

GHOSTS = 16
"""How many holds of dead lines are kept; the oldest goes first."""


class Restart(msgspec.Struct, frozen=True):
    """An order to end a line's connection and to open it anew."""

    line: str
    reason: str


class Quarantine(msgspec.Struct, frozen=True):
    """An order to disconnect a line that disagreed, to write its incident, and to keep it away for a while."""

    line: str
    incident: dict[str, object]


Order = Restart | Quarantine


class Line:
    """One line as the arbiter sees it."""

    def __init__(self, name: str, health: LineHealth, hold: Hold) -> None:
        self.name = name
        self.health = health
        self.hold = hold
        self.connected = False
        self.subscribed = 0
        self.connected_at = 0.0
        self.head_at_start = 0
        self.owing: Owing | None = None
        self.joined_at = 0
        self.pinned: set[str] | None = None
        self.decreed = False
        self.aside: list[Held] = []
        self.moved = 0.0
        self.restarting = False
        self.crossing = False
        self.messages = self.wins = self.duplicates = self.garbage = 0

    def __repr__(self) -> str:
        place_ = self.owing if self.owing else f"witness holding {len(self.hold.events)}"
        return f"<Line {self.name} {self.health.state} {place_}>"

    @property
    def up(self) -> bool:
        """Whether the line is aligned and others may rely on it."""
        return self.connected and self.owing is not None and self.health.up

    @property
    def waiting(self) -> bool:
        """Whether the line keeps anything that has not been judged yet."""
        return bool(self.aside) or (self.owing is None and bool(self.hold.events))


class Arbiter:
    """The merge of one feed's lines."""

    def __init__(
        self,
        feed: str,
        lines: Iterable[str],
        dialect: Dialect,
        *,
        bounds: Bounds,
        limits: HealthLimits,
        now: float = 0.0,
    ) -> None:
        self.feed = feed
        self.window = Window(bounds)
        self.outputs: list[Output] = []
        self.orders: list[Order] = []
        self.notes: list[Note] = []
        self.ghosts: list[Line] = []
        self.leader = ""
        self._dialect = dialect
        self._bounds = bounds
        self._limits = limits
        self._unknowns = Unknowns(bounds.unknown_events)
        self._divergences = Divergences(limits.quarantine_divergences)
        self._subscriptions = 0
        self._last_recv = 0
        self._last_release = now
        self.state = DOWN
        self._outage = False
        self._interleaved = False
        self._leader_gone = False
        self.failovers = 0
        self.lines = {name: Line(name, LineHealth(limits, now), self._new_hold()) for name in lines}

    def _new_hold(self) -> Hold:
        return Hold(self._bounds, self.window)

    def _note(self, name: str, **fields: str | float) -> None:
        self.notes.append(note(name, feed=self.feed, **fields))

    # What happens to a line

    def connecting(self, name: str, now: float) -> None:
        """A line tries to connect."""
        self._health(self.lines[name], "connecting", now)

    def connected(self, name: str, now: float, recv: int) -> None:
        """A line is connected and subscribed: a witness."""
        line = self.lines[name]
        self._subscriptions += 1
        line.subscribed = self._subscriptions
        line.connected = True
        line.connected_at = line.moved = now
        line.restarting = line.crossing = False
        line.head_at_start = self.window.head
        self._unknowns.forget(name)
        self._health(line, "connected", now)
        self._settle(now, recv)

    def receive(self, name: str, payloads: Sequence[bytes], now: float, recv: int) -> list[Reply]:
        """Take what one read of a line brought, in order; return the replies among it."""
        line = self.lines[name]
        line.messages += len(payloads)
        head = self.window.head
        replies: list[Reply] = []
        if line.owing is not None and not line.aside:
            self._receive_aligned(line, line.owing, payloads, now, recv, replies)
        else:
            for payload in payloads:
                self._receive_one(line, payload, now, recv, replies)
        if self.window.head > head or line.waiting:
            self._settle(now, recv)
        return replies

    def lost(self, name: str, now: float, recv: int) -> None:
        """A line's connection has ended, and all that it brought was received."""
        line = self.lines[name]
        if line.waiting:
            self._keep_ghost(line)
        line.connected = False
        self._vacate(line)
        self._health(line, "lost", now)
        if not any(other.connected for other in self.lines.values()):
            self._outage = True
        self._settle(now, recv)

    def _keep_ghost(self, line: Line) -> None:
        """Keep what a dying line held: the sequence may still need it (rule R5)."""
        ghost = Line(line.name, LineHealth(self._limits, line.moved), line.hold)
        ghost.subscribed, ghost.connected_at, ghost.moved = line.subscribed, line.connected_at, line.moved
        ghost.crossing = line.crossing
        ghost.owing, ghost.joined_at, ghost.pinned, ghost.aside = (
            line.owing,
            line.joined_at,
            line.pinned,
            line.aside,
        )
        self.ghosts.append(ghost)
        if len(self.ghosts) > GHOSTS:
            gone = self.ghosts.pop(0)
            self._note("ghost_forgotten", line=gone.name, events=len(gone.hold.events))

    def _vacate(self, line: Line) -> None:
        """Take a line's place from it: it holds nothing and owes nothing."""
        line.owing = None
        line.pinned = None
        line.aside = []
        line.hold = self._new_hold()
        if self.leader == line.name:
            self._leader_gone = True

    def _health(self, line: Line, event: str, now: float) -> None:
        before = line.health.state
        if line.health.on(event, now):
            self._note("line_state_changed", line=line.name, state=line.health.state, was=before, cause=event)
            if line.health.state == states.SUSPECT and self.leader == line.name:
                self._leader_gone = True

    # Messages of an aligned line (rule R3)

    def _receive_aligned(
        self, line: Line, owing: Owing, payloads: Sequence[bytes], now: float, recv: int, replies: list[Reply]
    ) -> None:
        """Take one read of an aligned line; runs that continue the window are compared whole."""
        window = self.window
        index, count, first = 0, len(payloads), owing.position
        while index < count:
            if owing.position < window.head and line.owing is not None:
                run = owing.deliver_run(payloads, index)
                if run:
                    line.duplicates += run
                    index += run
                    continue
            if line.aside or line.owing is None or owing.deliver(payloads[index], now) is None:
                self._receive_one(line, payloads[index], now, recv, replies)
            else:
                self._delivered(line, owing, now)
            index += 1
        if owing.position > first:
            line.moved = now
            last = owing.position - 1
            if last >= window.base and window.line(last) != line.name:
                line.health.lagged(now - window.released_at(last))

    def _delivered(self, line: Line, owing: Owing, now: float) -> None:
        line.duplicates += 1
        line.moved = now
        self._interleaved |= owing.interleaves

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

    def _receive_one(self, line: Line, payload: bytes, now: float, recv: int, replies: list[Reply]) -> None:
        """Read one message that is not owed as it stands, or whose line cannot tell yet."""
        message = self._dialect.classify(payload)
        if isinstance(message, Event):
            self._take(line, payload, message, now, recv)
        elif isinstance(message, Reply):
            replies.append(message)
        elif isinstance(message, Unknown):
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
            dropped = line.hold.add(Held(payload, event, self._dialect.identify(payload), recv, now))
            if dropped:
                self._note("hold_overflowed", line=line.name, events=dropped)
        elif line.aside:
            line.aside.append(Held(payload, event, self._dialect.identify(payload), recv, now))
            line.moved = now
        else:
            self._judge(line, owing, payload, event, now, recv)

    def _judge(self, line: Line, owing: Owing, payload: bytes, event: Event, now: float, recv: int) -> None:
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
            self._stop_at_fence(line, Held(payload, event, self._dialect.identify(payload), recv, now), now)
            return
        if line.pinned is not None and event.channel not in line.pinned:
            if self._unpinned(line, owing, payload, event, now, recv):
                return
        before = None
        if owing.count and owing.owes(self.window.ordinary.get(event.channel, -1)):
            if self._same_value(line, owing, payload, event.channel, now):
                return
            before = self._belongs_before(owing, payload, event.channel)
        self._release(line, owing, payload, event, now, recv, before=before)

    def _stop_at_fence(self, line: Line, held: Held, now: float) -> None:
        """Make a line a witness again that has come to a gap: what it brings may be from the gap or from behind it."""
        self._vacate(line)
        line.hold.add(held)
        line.crossing = True
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

    def _release(
        self,
        line: Line,
        owing: Owing,
        payload: bytes,
        event: Event,
        now: float,
        recv: int,
        *,
        before: int | None = None,
    ) -> None:
        """Admit a new event: it goes out, and every other aligned line owes it, unless it is late and they are past it."""
        late = before is not None and self.window.ordinary.get(event.channel, -1) >= before
        position = self.window.append(payload, event.channel, line.name, now, before=before)
        if owing.position == position:
            owing.position += 1
            if owing.open and before is None:
                owing.pass_before(event.channel, position, now)
        else:
            owing.take(position, now)
        if before is not None:
            self._skip_where_past(line, position, before, now)
        line.wins += 1
        line.moved = now
        self._last_recv = recv
        self._last_release = now
        self._lead(line.name)
        self.outputs.append(
            Release(event.channel, event.payload, line.name, recv, LATE if late else "")
        )

    def _skip_where_past(self, bringer: Line, position: int, before: int, now: float) -> None:
        """Let the lines that have joined after the place of a late event not owe it."""
        distinct = self._dialect.identify(self.window.payload(position)).distinct
        for other in self.lines.values():
            if other.owing is not None and other is not bringer and self._never_owed(other, other.owing, position, before):
                other.owing.skip(position)
                if distinct:
                    other.owing.passed[position] = now  # should it come after all, it is no news

    def _never_owed(self, line: Line, owing: Owing, position: int, before: int) -> bool:
        """Tell whether a late event's place is before a line's time.

        That is so where the line's first event of the channel is the one at ``before`` or a later one; or where that
        one is of another channel, and the line has brought it.
        """
        window = self.window
        channel = window.channel(before)
        if channel != window.channel(position):
            return not owing.owes(before)
        start = max(line.joined_at, window.base)
        return not any(window.channel(p) == channel and p not in window.late for p in range(start, before))

    def _lead(self, name: str) -> None:
        if name == self.leader:
            return
        if self._leader_gone:
            self.failovers += 1
            self._note("failed_over", line=name, was=self.leader)
            self._leader_gone = False
        self.leader = name

    # Channels in which a joined line has no proven place yet

    def _unpinned(
        self, line: Line, owing: Owing, payload: bytes, event: Event, now: float, recv: int
    ) -> bool:
        """Judge a first message of a channel in which the line is not pinned; tell whether that settled it."""
        channel = event.channel
        assert line.pinned is not None
        if not line.decreed and self._has_delivered(line, owing, channel):
            line.pinned.add(channel)
            return False
        identity = self._dialect.identify(payload)
        if identity.distinct:
            positions = self.window.find(payload)
            if len(positions) == 1:
                if positions[0] not in self.window.late:
                    self._pin_from(line, owing, channel, positions[0])
                self._delivered(line, owing, now)
                return True
            if line.decreed:
                line.pinned.add(channel)
        if line.decreed:
            return False
        if (identity.distinct or self._interleaved) and self._others_in(line, channel):
            line.aside = [Held(payload, event, identity, recv, now)]
            return True
        self._pin_unproven(line, channel, recv)
        return False

    def _has_delivered(self, line: Line, owing: Owing, channel: str) -> bool:
        """Tell whether the line has brought an event of a channel since it joined."""
        last = self.window.ordinary.get(channel, -1)
        if last < line.joined_at or last in owing.open:
            return False
        return last < owing.position or last in owing.early

    def _others_in(self, line: Line, channel: str) -> bool:
        """Tell whether another line that is up has its place in a channel."""
        return any(
            other.up and other is not line and (other.pinned is None or channel in other.pinned)
            for other in self.lines.values()
        )

    def _pin_from(self, line: Line, owing: Owing, channel: str, position: int) -> None:
        """Pin a line that has brought an event from before it joined: it owes what follows in that channel."""
        assert line.pinned is not None
        line.pinned.add(channel)
        for later in range(position + 1, min(line.joined_at, owing.position)):
            if self.window.channel(later) == channel and later not in self.window.late:
                owing.reopen(later)

    def _pin_unproven(self, line: Line, channel: str, recv: int) -> None:
        """Pin a line where no other line can prove its place any more.

        Where all lines have kept one order over all channels, its place in one is its place in all. Where they have
        not, nothing proves that the channel is complete.
        """
        assert line.pinned is not None
        line.pinned.add(channel)
        if self._interleaved and channel in self.window.newest:
            self.outputs.append(Gap(channel, UNPROVEN, self._last_recv, recv))

    def _resolve_aside(self, line: Line, now: float) -> bool:
        """Judge what a line has put aside as soon as its first event can be judged; tell whether it could."""
        first = line.aside[0]
        channel = first.event.channel
        proof = next(
            (i for i, one in enumerate(line.aside) if one.event.channel == channel and self._proves(one)),
            None,
        )
        if proof is None and self._others_in(line, channel) and now - first.at < self._bounds.hold_s:
            if len(line.aside) <= self._bounds.hold_events:
                return False
        owing, aside = line.owing, line.aside
        assert owing is not None
        line.aside = []
        if proof is None:
            self._pin_unproven(line, channel, first.recv)
        else:
            own = [one for one in aside[: proof + 1] if one.event.channel == channel]
            self._pin_at(line, owing, own, now)
            aside = [one for one in aside if one not in own]
        self._rejudge(line, aside, now)
        return True

    def _proves(self, held: Held) -> bool:
        positions = self.window.find(held.payload) if held.identity.distinct else ()
        return len(positions) == 1 and positions[0] not in self.window.late

    def _pin_at(self, line: Line, owing: Owing, own: list[Held], now: float) -> None:
        """Pin a line in a channel whose events it had put aside; the last of them stands in the window."""
        position = self.window.find(own[-1].payload)[0]
        places = place(own, self.window, len(own) - 1, position)
        matched = [p for p in places if p >= 0]
        in_order = min(p for p in matched if p not in self.window.late)
        if in_order < line.joined_at:
            self._pin_from(line, owing, own[-1].event.channel, in_order)
        assert line.pinned is not None
        line.pinned.add(own[-1].event.channel)
        for p in sorted(matched):
            if owing.owes(p):
                owing.take(p, now)
            self._delivered(line, owing, now)
        for one, place_ in zip(own, places, strict=True):
            if place_ == MISSING:
                self._release_late(line, owing, one, in_order, now)

    # Joins, ghosts and decrees (rules R4, R5 and R8)

    def _settle(self, now: float, recv: int) -> None:
        """Carry on until nothing that is kept can be judged."""
        while self._resolve(now) or self._join_one(now) or self._anchor(now, recv):
            pass
        if self.ghosts:
            self.ghosts = [ghost for ghost in self.ghosts if ghost.waiting]

    def _resolve(self, now: float) -> bool:
        return any(
            self._resolve_aside(line, now) for line in (*self.lines.values(), *self.ghosts) if line.aside
        )

    def _witnesses(self) -> list[Line]:
        """Return who is not aligned, ghosts among them, the longest subscribed first."""
        lines = [line for line in (*self.ghosts, *self.lines.values()) if line.owing is None]
        return sorted((line for line in lines if line.connected or line.hold.events), key=_by_subscription)

    def _join_one(self, now: float) -> bool:
        """Join a witness that has the proof."""
        for line in self._witnesses():
            if line.hold.events:
                others_up = any(other.up for other in self.lines.values())
                proof = line.hold.shared(newest_too=not others_up)
                if proof is not None:
                    self._join(line, *proof, now)
                    return True
        return False

    def _join(self, line: Line, index: int, position: int, now: float) -> None:
        """Align a witness: its held event ``index`` is the one at ``position``."""
        window = self.window
        held = line.hold.events
        places = place(held, window, index, position)
        line.hold = self._new_hold()
        in_order = [i for i, p in enumerate(places) if p >= 0 and p not in window.late]
        first = {held[i].event.channel: places[i] for i in reversed(in_order)}
        line.owing = self._owing_at(position, {p for p in places if p >= 0}, first, now)
        line.joined_at = position + 1
        line.decreed = False
        line.pinned = set(first)
        line.moved = now
        self._health(line, "joined", now)
        self._note("line_joined", line=line.name, held=len(held), position=position)
        self._catch_up(line, line.owing, held, places, first, now)

    def _owing_at(self, position: int, matched: set[int], first: dict[str, int], now: float) -> Owing:
        """Return what a line owes that has brought ``matched`` and stands right after ``position``.

        In each channel it owes what follows the ``first`` event that it shares.
        """
        window = self.window
        owing = Owing(window, position + 1, window.gap_from(position + 1))
        owing.early = {p for p in matched if p > position}
        last = {window.channel(p): p for p in sorted(matched) if p not in window.late}
        for p in range(min(first.values()), position):
            channel = window.channel(p)
            if p not in matched and p not in window.late and p > first.get(channel, position):
                if p < last[channel]:
                    owing.passed[p] = now
                else:
                    owing.reopen(p)
        for p, before in window.late.items():
            if p not in matched and not owing.owes(before):
                owing.skip(p)
                if self._dialect.identify(window.payload(p)).distinct:
                    owing.passed[p] = now
        return owing

    def _catch_up(
        self,
        line: Line,
        owing: Owing,
        held: Sequence[Held],
        places: list[int],
        first: dict[str, int],
        now: float,
    ) -> None:
        """Judge what a joining line held and the window does not hold, in the line's order.

        Behind a gap, what has no identity may be from before it and released already. From the first event with an
        identity on it surely is not. What is left out so falls into the gap.
        """
        window = self.window
        known = line.crossing or window.proven_from(line.joined_at) == window.base
        line.crossing = False
        for one, place_ in zip(held, places, strict=True):
            known = known or one.identity.distinct
            if place_ == OPEN or any(aside.event.channel == one.event.channel for aside in line.aside):
                self._rejudge(line, [one], now)
            elif place_ == MISSING and known:
                self._before_join(line, owing, one, first, now)
            elif place_ == MISSING:
                self._note("hold_outdated", line=line.name, events=1)
            else:
                line.duplicates += 1

    def _before_join(self, line: Line, owing: Owing, held: Held, first: dict[str, int], now: float) -> None:
        """Judge an event from before the first that a joining line shares, which the window does not hold."""
        window = self.window
        channel = held.event.channel
        end = first.get(channel, line.joined_at)
        start = window.proven_from(end)
        older = any(window.channel(p) == channel for p in range(start, end))
        if start and start == window.base and not older:
            line.duplicates += 1  # from before the window: released long ago
        else:
            before = first[channel] if channel in first else next(owing.owed_ordinary(channel), None)
            self._release_late(line, owing, held, line.joined_at - 1 if before is None else before, now)

    def _release_late(self, line: Line, owing: Owing, held: Held, before: int, now: float) -> None:
        """Release an event that belongs before another, unless it is the copy of one that came late already.

        That other event may be of another channel: then nothing of its own channel stands behind it yet, and it goes
        out as an ordinary event.
        """
        if owing.deliver_late(held.payload, now):
            self._delivered(line, owing, now)
        else:
            self._release(line, owing, held.payload, held.event, now, held.recv, before=before)

    def _rejudge(self, line: Line, held: Iterable[Held], now: float) -> None:
        """Judge what was held as if it came now; its arrival stays what it was."""
        for one in held:
            if line.owing is None:
                line.hold.add(one)
            elif line.aside:
                line.aside.append(one)
            else:
                self._judge(line, line.owing, one.payload, one.event, now, one.recv)

    def _anchor(self, now: float, recv: int) -> bool:
        """Align a witness by decree where nobody can carry the sequence on (rule R4)."""
        aligned = [line for line in self.lines.values() if line.owing is not None]
        if any(line.up for line in aligned):
            return False
        witnesses = self._witnesses()
        if not self.window.head:
            chosen = next((line for line in witnesses if line.hold.events or not aligned), None)
            if chosen is None:
                return False
            self._decree(chosen, now)
            return True
        for line in witnesses:
            if line.hold.events and self._is_ahead(
                line, now, patience_s=self._bounds.hold_s if aligned else 0.0
            ):
                held = line.hold.events[0]
                self.outputs.append(Gap("", OUTAGE if self._outage else UNPROVEN, self._last_recv, held.recv))
                self._note("gap_declared", reason=OUTAGE if self._outage else UNPROVEN)
                self._fence(aligned)
                self._decree(line, now)
                return True
        return False

    def _fence(self, aligned: Iterable[Line]) -> None:
        """Note a gap at the head: who is aligned before it has to prove its place behind it anew."""
        self.window.gaps.append(self.window.head)
        for line in aligned:
            if line.owing is not None and line.owing.fence is None:
                line.owing.fence = self.window.head

    def _is_ahead(self, line: Line, now: float, *, patience_s: float) -> bool:
        """Tell whether a witness is past the released sequence, dropping what it may hold from before that.

        The first event that is known to be new proves it for all that follow. What came before it may have been
        released already: it falls into the gap, for a gap says that something may be missing, and nothing ever says
        that something may be doubled. Where nothing held has an identity, time has to do.
        """
        held = line.hold.events
        age = now - held[0].at
        newest = self._newest_ms()
        start = next((i for i, one in enumerate(held) if self._is_new(one, newest)), None)
        if start is None:
            blind_s = self._bounds.hold_s if newest is not None else self._limits.stall_min_s
            if any(one.identity.distinct for one in held) or age < max(blind_s, patience_s):
                return False
            start = len(held) - 1
            self._note("line_anchored_blindly", line=line.name)
        elif age < patience_s:
            return False
        if start:
            self._note("hold_outdated", line=line.name, events=start)
            line.hold.drop(start)
        return True

    def _is_new(self, held: Held, newest: int | None) -> bool:
        """Tell whether a held event surely comes after everything released."""
        time = held.identity.time_ms
        if not held.identity.distinct or time is None:
            return False
        return newest is None or time > newest

    def _newest_ms(self) -> int | None:
        """Return the newest of the released events' own times, as far as the newest few tell."""
        times = [
            self._dialect.identify(payload).time_ms
            for payload in self.window.payloads[-NEWEST_SEARCH_EVENTS:]
        ]
        return max((time for time in times if time is not None), default=None)

    def _decree(self, line: Line, now: float) -> None:
        """Align a witness at the head."""
        held = line.hold.events
        line.hold = self._new_hold()
        line.owing = Owing(self.window, self.window.head)
        line.joined_at = self.window.head
        line.decreed = bool(self.window.head)
        line.pinned = set() if line.decreed else None
        line.moved = now
        self._outage = False
        self._health(line, "joined", now)
        self._note("line_anchored", line=line.name, held=len(held))
        self._rejudge(line, held, now)

    # Time

    def tick(self, now: float, recv: int) -> None:
        """Let time pass: judge stalls, give up on what was passed, trim the window, change the feed's state."""
        if self.window.trim(now):
            self._divergences.forget(self.window.base)
            for line in self.lines.values():
                if line.owing is not None and line.owing.outrun():
                    self._vacate(line)
                    self._health(line, "outrun", now)
        for line in self.lines.values():
            if line.connected:
                self._judge_misses(line, now)
                self._judge_health(line, now)
        if self._divergences:
            self._give_verdicts(now, recv)
        self._settle(now, recv)
        self._change_state(recv, now)

    def _judge_misses(self, line: Line, now: float) -> None:
        if line.owing is not None and line.owing.passed:
            bounds = self._bounds
            for position in line.owing.missed(now, events=bounds.passed_events, seconds=bounds.passed_s):
                if line.joined_at <= self.window.late.get(position, position):
                    self._divergences.missed(line.name, position)
                    self._note("event_missed", line=line.name, position=position)

    def _judge_health(self, line: Line, now: float) -> None:
        health = line.health
        since = self._standing_since(line)
        stalled = since is not None and now - since >= health.patience()
        if health.state == states.SUSPECT:
            if since is None or (line.owing is not None and line.moved > health.since and not stalled):
                self._health(line, "caught_up", now)
            elif (
                now - health.since >= self._limits.replace_s
                and not line.restarting
                and self._has_company(line)
            ):
                line.restarting = True
                self.orders.append(Restart(line.name, "stalled"))
        elif stalled:
            self._health(line, "stalled", now)
        elif health.state == states.PROBATION and now - health.since >= self._limits.probation_s:
            self._health(line, "kept_up", now)
        if (
            line.owing is None
            and line.hold.events
            and now - line.hold.events[0].at >= self._limits.stall_min_s
        ):
            self._try_values(line)

    def _has_company(self, line: Line) -> bool:
        """Tell whether another line can carry the feed: the last one goes on as best it can."""
        return any(other.connected and other is not line for other in self.lines.values())

    def _standing_since(self, line: Line) -> float | None:
        """Return since when a line stands still while its peers deliver (monotonic, s), None where it does not."""
        k = self._limits.stall_events
        if line.owing is None:
            first = max(line.head_at_start, self.window.base)
            if line.hold.events or self.window.head - first < k:
                return None
            return max(line.connected_at, self.window.released_at(first))
        first_owed = line.owing.first()
        if first_owed is not None and line.owing.count >= k:
            return max(line.moved, self.window.released_at(first_owed))
        ahead = self._arrived_elsewhere(line)
        return ahead[0] if len(ahead) >= k else None

    def _arrived_elsewhere(self, line: Line) -> list[float]:
        """Return when witnesses received what nobody has released since this line last moved."""
        return [
            held.at
            for other in self.lines.values()
            if other is not line
            for held in (other.aside if other.owing else other.hold.events)[
                -self._limits.stall_events - VALUE_SEARCH_EVENTS :
            ]
            if held.at > line.moved and not self.window.find(held.payload)
        ]

    def _try_values(self, line: Line) -> None:
        """See whether a witness that cannot join brings the same values in other bytes (rule R1)."""
        if self.window.canonical:
            return
        values = {
            canonical(held.payload)
            for held in line.hold.events[:VALUE_SEARCH_EVENTS]
            if held.identity.distinct
        }
        newest = self.window.payloads[-VALUE_SEARCH_EVENTS:]
        if not values.isdisjoint(map(canonical, newest)) and not any(
            map(self.window.find, newest_held(line))
        ):
            self.window.compare_values()
            self._note("values_compared", line=line.name)

    def _give_verdicts(self, now: float, recv: int) -> None:
        for position in list(self._divergences.disputed()):
            bringer = self.window.line(position)
            others = [
                line for line in self.lines.values() if line.name != bringer and _had_to_bring(line, position)
            ]
            if any(_may_still_bring(line, position) for line in others):
                continue
            verdict = self._divergences.judge(position, bringer, [line.name for line in others])
            if verdict is not None:
                self._blame(verdict.line, position, now, recv, invented=verdict.invented)

    def _blame(self, name: str, position: int, now: float, recv: int, *, invented: bool) -> None:
        self._note("line_diverged", line=name, invented=invented)
        if invented:
            self.outputs.append(Gap(self.window.channel(position), DIVERGENCE, self._last_recv, recv))
        self._divergences.blame(name, now)
        off = self._divergences.switched_off
        if self._divergences.to_quarantine(name, list(self.lines), now):
            line = self.lines[name]
            if line.connected:
                self.orders.append(Quarantine(name, self._incident(line, position)))
                self._health(line, "quarantined", now)
        elif self._divergences.switched_off and not off:
            self._note("divergence_check_switched_off")

    def _incident(self, line: Line, position: int) -> dict[str, object]:
        """Describe a disagreement: the disputed event, its neighbourhood, and every line."""
        window, reach = self.window, self._bounds.incident_events // 2
        around = range(max(window.base, position - reach), min(window.head, position + reach + 1))
        return {
            "feed": self.feed,
            "line": line.name,
            "position": position,
            "neighbourhood": [
                {
                    "position": p,
                    "line": window.line(p),
                    "channel": window.channel(p),
                    "payload": window.payload(p),
                }
                for p in around
            ],
            "lines": [
                {
                    "line": one.name,
                    "state": one.health.state,
                    "messages": one.messages,
                    "place": repr(one.owing),
                }
                for one in self.lines.values()
            ],
        }

    def _change_state(self, recv: int, now: float) -> None:
        """Announce the feed's state where it has changed."""
        if not any(line.connected for line in self.lines.values()):
            state = DOWN
        elif not any(line.owing is not None for line in self.lines.values()):
            state = SYNCING
        else:
            state = QUIET if now - self._last_release >= self._limits.quiet_s else LIVE
        if state != self.state:
            self.state = state
            self.outputs.append(State(state, recv))
            self._note("feed_state_changed", state=state)


def _by_subscription(line: Line) -> int:
    return line.subscribed


def _had_to_bring(line: Line, position: int) -> bool:
    return line.owing is not None and line.joined_at <= position


def _may_still_bring(line: Line, position: int) -> bool:
    owing = line.owing
    if owing is None:
        return False
    return (
        (position >= owing.position and position not in owing.early)
        or position in owing.open
        or position in owing.passed
    )


def newest_held(line: Line) -> list[bytes]:
    """Return the newest few payloads that a witness holds."""
    return [held.payload for held in line.hold.events[-VALUE_SEARCH_EVENTS:]]
