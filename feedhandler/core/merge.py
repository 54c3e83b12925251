"""The merged sequence of a feed, and how an event enters it.

This is the lowest layer of the arbiter: the state that all layers share, and `_release`, through which everything goes
that is published. The layers above it, each knowing only what is below: `pinning`, `admission`, `joining`,
`anchoring`, `supervision`, `arbiter`.

What is released has a place in the sequence. Mostly that is the head. An event that belongs before another one is
kept with its true place (`Window.late`). It is of class ``late`` only if something that comes after it in its *own*
channel is out already; the exchange's own times tell, as far as they differ, and the place where they do not.
A line that has joined after that place does not owe it.
"""

from collections.abc import Iterable

from feedhandler.config import Bounds
from feedhandler.config import Health as HealthLimits
from feedhandler.core import health as states
from feedhandler.core.divergence import Divergences
from feedhandler.core.health import LineHealth
from feedhandler.core.holding import Held, Hold
from feedhandler.core.line import Line, Order
from feedhandler.core.messages import Dialect, Event, Output, Release, Run
from feedhandler.core.notes import Note, note
from feedhandler.core.owing import Owing
from feedhandler.core.trail import Trail
from feedhandler.core.unknown import Unknowns
from feedhandler.core.window import Window

LATE = "late"
UNKNOWN = "unknown"
OUTAGE = "outage"
UNPROVEN = "unproven"
DIVERGENCE = "divergence"

LIVE, QUIET, SYNCING, DOWN = "live", "quiet", "syncing", "down"

VALUE_SEARCH_EVENTS = 64
"""How many events are looked at where content alone does not tell: by JSON value (rule R1), or by time."""


class Merge:
    """The merge of one feed's lines: its state, and the way into its sequence."""

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
        self._trail = Trail(bounds.trail_bytes)
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
        self._settle_due = 0
        self._outage = False
        self._begun = False
        self._alone_since = now
        self._interleaved = False
        self._leader_gone = False
        self.failovers = 0
        self.lines = {name: Line(name, LineHealth(limits, now), self._new_hold()) for name in lines}

    @property
    def trail_bytes(self) -> int:
        """Bytes of the reads that are kept for comparison."""
        return self._trail.bytes

    @property
    def interleaves(self) -> bool:
        """Whether lines were seen to interleave channels differently; once seen it stays so."""
        return self._interleaved

    @property
    def disputed(self) -> int:
        """How many events wait for a verdict (rule R6)."""
        return len(self._divergences.disputed())

    @property
    def unknown(self) -> int:
        """How many messages of unknown type are remembered."""
        return len(self._unknowns)

    def clock_offset_s(self) -> float | None:
        """Return the exchange's time of the newest event minus that of its arrival (s); None where it tells none."""
        if not self.window.payloads:
            return None
        time_ms = self._dialect.identify(self.window.payloads[-1]).time_ms
        return None if time_ms is None else time_ms / 1e3 - self._last_recv / 1e9

    def _new_hold(self, floor: int = 0) -> Hold:
        return Hold(self._bounds, self.window, floor)

    def _note(self, name: str, **fields: str | float) -> None:
        self.notes.append(note(name, feed=self.feed, **fields))

    def _vacate(self, line: Line) -> None:
        """Take a line's place from it: it holds nothing and owes nothing."""
        line.owing = None
        line.pinned = None
        line.aside = []
        line.hold = self._new_hold(line.floor)
        if self.leader == line.name:
            self._leader_gone = True

    def _health(self, line: Line, event: str, now: float) -> None:
        before = line.health.state
        if line.health.on(event, now):
            self._note("line_state_changed", line=line.name, state=line.health.state, was=before, cause=event)
            if line.health.state == states.SUSPECT and self.leader == line.name:
                self._leader_gone = True

    def _delivered(self, line: Line, owing: Owing, now: float) -> None:
        line.duplicates += 1
        line.moved = now
        self._interleaved |= owing.interleaves

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
        """Admit a new event: it goes out, and every other aligned line owes it, unless that is past its place."""
        late = before is not None and self._is_late(event.channel, payload, before)
        position = self.window.append(payload, event.channel, line.name, now, before=before)
        if owing.position == position:
            owing.position += 1
            if owing.open and before is None:
                owing.pass_before(event.channel, position, now)
        else:
            owing.take(position, now)
        if before is not None:
            if not late:
                self.window.displaced[event.channel] = position
            self._skip_where_past(line, position, before, now)
        self._led(line, 1, now, recv)
        if before is None:
            self.outputs.append(Run((event.channel,), (event.payload,), line.name, recv, position))
        else:
            kind = LATE if late else ""
            self.outputs.append(
                Release(event.channel, event.payload, line.name, recv, kind, position, before)
            )

    def _led(self, line: Line, count: int, now: float, recv: int) -> None:
        """Note that a line was the first with so many events."""
        line.wins += count
        line.moved = now
        self._last_recv = recv
        self._last_release = now
        if line.connected:
            self._lead(line.name)

    def _lead(self, name: str) -> None:
        if name == self.leader:
            return
        if self._leader_gone:
            self.failovers += 1
            self._note("failed_over", line=name, was=self.leader)
            self._leader_gone = False
        self.leader = name

    # Events that come out of their order

    def _is_late(self, channel: str, payload: bytes, before: int) -> bool:
        """Tell whether anything of an event's own channel has been released that comes after it."""
        last = self.window.ordinary.get(channel, -1)
        time, in_order = self._dialect.identify(payload).time_ms, self._time(last)
        displaced = self._time(self.window.displaced.get(channel, -1))
        if time is not None and displaced is not None and time < displaced:
            return True
        if time is None or in_order is None or time == in_order:
            return last >= before
        return time < in_order

    def _time(self, position: int) -> int | None:
        """Return an event's own time (ms), where the window still has it."""
        if position < self.window.base:
            return None
        return self._dialect.identify(self.window.payload(position)).time_ms

    def _newest_before(self, end: int) -> int | None:
        """Return the newest time (ms) among the last events before a position, back to the gap before them."""
        window = self.window
        start = max(window.proven_from(end - 1), end - VALUE_SEARCH_EVENTS)
        times = [self._time(position) for position in range(start, end)]
        return max((time for time in times if time is not None), default=None)

    def _first_newer(self, channel: str, time: int | None) -> int | None:
        """Return the first of the newest ordinary events of a channel that is newer by its own time."""
        window = self.window
        position, first = window.ordinary.get(channel, -1), None
        for _ in range(VALUE_SEARCH_EVENTS):
            while position >= window.base and (
                window.channel(position) != channel or position in window.late
            ):
                position -= 1
            if time is None or position < window.base:
                break
            other = self._dialect.identify(window.payload(position)).time_ms
            if other is not None and other <= time:
                break
            first = position if other is not None else first
            position -= 1
        return first

    def _skip_where_past(self, bringer: Line, position: int, before: int, now: float) -> None:
        """Let the lines that have joined after the place of a late event not owe it."""
        distinct = self._dialect.identify(self.window.payload(position)).distinct
        for other in self.lines.values():
            if (
                other.owing is not None
                and other is not bringer
                and self._never_owed(other, other.owing, position, before)
            ):
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
        if self._is_kept_early(line, owing, position):
            return False
        if channel != window.channel(position):
            return not owing.owes(before)
        if window.gone.get(channel, -1) >= line.joined_at or line.first.get(channel, before) < before:
            return False
        start = max(line.joined_at, window.base)
        return not any(window.channel(p) == channel and p not in window.late for p in range(start, before))

    def _is_kept_early(self, line: Line, owing: Owing, position: int) -> bool:
        """Tell whether a line has brought a late event already, and keeps it from before the proof of its place.

        Such a one may be without identity: it is one of as many copies as are kept.
        """
        window = self.window
        payload = window.payload(position)
        kept = sum(held.early and window.key(held.payload) == window.key(payload) for held in line.aside)
        return kept > 0 and kept >= sum(p in window.late and owing.owes(p) for p in window.find(payload))

    def _release_late(self, line: Line, owing: Owing, held: Held, before: int, now: float) -> None:
        """Release an event that belongs before another, unless it is the copy of one that came late already.

        That other event may be of another channel: then nothing of its own channel stands behind it yet, and it goes
        out as an ordinary event.
        """
        if owing.deliver_late(held.payload, now):
            self._delivered(line, owing, now)
        else:
            self._release(line, owing, held.payload, held.event, now, held.recv, before=before)

    def _others_in(self, line: Line, channel: str) -> bool:
        """Tell whether another line that is up has its place in a channel."""
        return any(
            other.up and other is not line and (other.pinned is None or channel in other.pinned)
            for other in self.lines.values()
        )
