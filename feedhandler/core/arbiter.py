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

Most of what is read is either the next that a line owes, or new on a line that owes nothing. Both are taken by the
read: new events leave as one run, and a read of bytes that another line has brought is compared whole (`recognise`,
`trail`) before it is split into messages. What differs in any way goes the way of the single message.

Of what every line has delivered, and nobody who joins can ask for, the window keeps little (`window`).

Layers
------
Each is a class of its own module that knows only what stands below it: `merge` (the sequence and the way into it),
`pinning`, `admission` (each message), `joining`, `anchoring`, `supervision` (what time tells), and this face.

Residue
-------
What nobody can tell apart, and what is done then:

- Content without identity beside a gap may be from before it or from within it. It is left out, under the gap.
- Where nothing held has an identity, or nothing that was released since the last gap, a line is aligned by time alone
  after a gap; that may double an event, and is noted (``line_anchored_blindly``).
- Until lines are seen to interleave channels differently, one order over all channels is taken for proof. What a line
  had not read when it died, and its successor was subscribed too late for, is then missing without a mark if those
  two were the first to interleave differently.
- An event that every line dropped, or that was lost with the only line that had it, leaves no trace. Nor does one that
  the others dropped, where a hold was full and it went with the oldest quarter (``hold_overflowed``), or where the line
  that brings it is so far behind that the window has left its place: what comes from there was mostly released.
- Lines that cut the same rows into different messages bring different events: equality is of whole messages (R1). All
  of them come out, what the one has and the other has not is missed by that one, and R6 marks it.

How to use it
-------------
``connecting``, ``connected``, ``receive``, ``lost`` say what happened; ``tick`` lets time pass, ten times a second or
so; ``add_line`` and ``remove_line`` change who takes part. Each says so at once, in order, with the time handed in
(``now``: monotonic, s; ``recv``: wall clock, ns, a label only). After any of them the caller takes away what came of
it: ``outputs`` to publish, ``orders`` to carry out, ``notes`` to count. Nothing here waits, reads a clock, or raises
on data.
"""

from collections.abc import Sequence
from math import inf
from typing import Final

from feedhandler.config import Health as HealthLimits
from feedhandler.core.health import GOOD, LineHealth
from feedhandler.core.joining import GHOSTS
from feedhandler.core.line import Line, Order, Quarantine, Restart
from feedhandler.core.merge import DIVERGENCE, DOWN, LATE, LIVE, OUTAGE, QUIET, SYNCING, UNKNOWN, UNPROVEN
from feedhandler.core.messages import Reply
from feedhandler.core.supervision import Supervision
from feedhandler.core.trail import NO_FRAMES, NONE_KNOWN, Frames, Known

SETTLE_SHARE: Final = 4
"""Settled events are dropped when the window has grown by one part in so many of their bound."""

__all__ = [
    "DIVERGENCE",
    "DOWN",
    "GHOSTS",
    "LATE",
    "LIVE",
    "OUTAGE",
    "QUIET",
    "SYNCING",
    "UNKNOWN",
    "UNPROVEN",
    "Arbiter",
    "Line",
    "Order",
    "Quarantine",
    "Restart",
]


class Arbiter(Supervision):
    """The merge of one feed's lines: say what happens, take away what comes of it."""

    def go_on(self, last_recv: int) -> None:
        """Go on behind what was released, up to ``last_recv``, before: the first decree writes a gap."""
        self._begun = True
        self._last_recv = last_recv

    def retune(self, limits: HealthLimits) -> None:
        """Judge lines by other limits from now on."""
        self._limits = limits
        self._divergences.bound = limits.quarantine_divergences
        for line in (*self.lines.values(), *self.ghosts):
            line.health.limits = limits

    def add_line(self, name: str, now: float) -> None:
        """Let one more line take part; its name is no other's at the time."""
        if name in self.lines:
            raise ValueError(name)
        line = self.lines[name] = Line(name, LineHealth(self._limits, now), self._new_hold())
        line.added_at = self.window.head

    def remove_line(self, name: str, now: float, recv: int) -> None:
        """Let a line go for good: what it brought stays, and nothing counts for or against its name any more."""
        if self.lines[name].connected:
            self.lost(name, now, recv)
        del self.lines[name]
        self._divergences.leave(name)
        self._unknowns.forget(name)

    def can_spare(self, name: str, *, settled: float = -inf) -> bool:
        """Tell whether the feed goes on without a line as if nothing had happened.

        For each channel in which the line has its place there is a good line that has, too, and keeps nothing aside.
        Where a channel is silent a line cannot show that: one that is good since before ``settled`` need not, as long
        as all lines keep one order over all channels.
        """
        line = self.lines[name]
        others = [other for other in self.lines.values() if other is not line and _is_reliable(other)]
        if not others or not line.up:
            return bool(others)
        if not self._interleaved and any(other.health.since <= settled for other in others):
            return True
        channels = self.window.newest if line.pinned is None else line.pinned
        return all(any(self._is_in(other, channel) for other in others) for channel in channels)

    def _is_in(self, line: Line, channel: str) -> bool:
        """Tell whether a line has its place in a channel, be it that nothing new has come there to show it."""
        if line.pinned is None or channel in line.pinned:
            return True
        return line.owing is not None and self._has_delivered(line, line.owing, channel)

    def connecting(self, name: str, now: float) -> None:
        """Note that a line tries to connect: whatever it will bring, nobody has released it so far."""
        self.lines[name].floor = self.window.head
        self._health(self.lines[name], "connecting", now)

    def connected(self, name: str, now: float, recv: int) -> None:
        """Note that a line is connected and subscribed: it is a witness now."""
        line = self.lines[name]
        self._subscriptions += 1
        line.subscribed = self._subscriptions
        line.connected = True
        line.connected_at = line.moved = now
        line.connected_recv = recv
        line.restarting, line.crossing = False, -1
        line.head_at_start = self.window.head
        line.hold = self._new_hold(line.floor)
        self._unknowns.forget(name)
        self._health(line, "connected", now)
        self._settle(now)
        self._change_state(recv, now)

    def recognise(self, name: str, rest: bytes | bytearray, data: bytes) -> Known:
        """Return what a read of a line begins with of what the line owes, as far as its bytes tell; changes nothing.

        ``rest`` is the beginning of a frame that earlier reads have left, ``data`` is read now. The caller passes on
        to ``receive``, before anything else happens, how many messages that were, and the messages behind them.
        """
        line = self.lines[name]
        owing = line.owing
        if not self._trail or owing is None or line.aside or owing.open or owing.early:
            return NONE_KNOWN
        end = self.window.head if owing.fence is None else owing.fence
        return self._trail.match(owing.position, end, rest, data)

    def receive(
        self, name: str, payloads: Sequence[bytes], now: float, recv: int, frames: Frames = NO_FRAMES
    ) -> list[Reply]:
        """Take what one read of a line brought, in order; return the replies among it.

        ``frames`` says how it came, and of how many messages before it that was recognised.
        """
        line = self.lines[name]
        line.messages += frames.known + len(payloads)
        head = self.window.head
        replies: list[Reply] = []
        taken = 0
        if line.owing is not None and not line.aside:
            taken = self._receive_aligned(line, line.owing, payloads, frames, now, recv, replies)
        for payload in payloads[taken:] if taken < len(payloads) else ():
            if line.owing is None and not line.hold.has_room(payload):
                self._settle(now)  # what it holds may be proof enough
            self._receive_one(line, payload, now, recv, replies)
        if self._unsettled(line, head):
            self._settle(now)
        if len(self.window.payloads) > self._settle_due:
            self._forget_settled()
        return replies

    def _unsettled(self, line: Line, head: int) -> bool:
        """Tell whether what a line brought, the head having been at ``head``, may settle anything that is kept."""
        if line.waiting or not line.up or (self.ghosts and self.window.head > head):
            return True
        if self.window.head > head:
            for (
                other
            ) in self.lines.values():  # a generator would cost a read of one event more than all else here
                if other.waiting:
                    return True
        return False

    def _forget_settled(self) -> None:
        """Drop what every line has delivered, and try again when there may be a batch of it."""
        window = self.window
        if window.settle(self._settled_before()):
            self._divergences.forget(window.base)
        settled_events = self._bounds.settled_events
        self._settle_due = max(settled_events, len(window.payloads)) + settled_events // SETTLE_SHARE

    def _passed_by_all(self) -> int:
        """Return the position before which no line is."""
        owings = [line.owing for line in self.lines.values()]
        return min([owing.position for owing in owings if owing is not None], default=self.window.head)

    def lost(self, name: str, now: float, recv: int) -> None:
        """Note that a line's connection has ended; all that it brought was received."""
        line = self.lines[name]
        if line.waiting:
            self._keep_ghost(line)
        if line.up:
            self._alone_since = now
        line.connected = False
        self._vacate(line)
        self._health(line, "lost", now)
        if not any(other.connected for other in self.lines.values()):
            self._outage = True
        self._settle(now)
        self._change_state(recv, now)

    def tick(self, now: float, recv: int) -> None:
        """Let time pass: judge stalls, give up on what was passed, trim the window, change the feed's state."""
        excess = self.window.excess(now)
        if excess:
            self._compare_before(self.window.base + excess)
            self.window.drop(excess)
            self._divergences.forget(self.window.base)
            for line in (*self.lines.values(), *self.ghosts):
                if line.owing is not None and line.owing.outrun():
                    self._let_go_aside(line, now)
                    if line.connected:
                        self._vacate(line)
                        self._health(line, "outrun", now)
        self._trail.forget(self._passed_by_all())
        for line in self.lines.values():
            if line.connected:
                self._judge_misses(line, now)
                self._judge_health(line, now)
        if self._divergences:
            self._give_verdicts(now, recv)
        self._settle(now)
        for ghost in [ghost for ghost in self.ghosts if self._is_behind(ghost, now)]:
            self._lay(ghost, now)
        self._change_state(recv, now)


def _is_reliable(line: Line) -> bool:
    """Tell whether a line has kept up for a while, and nothing of it waits to be judged."""
    return line.up and line.placed and line.health.state == GOOD
