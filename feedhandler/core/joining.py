"""Joins, ghosts, and what was put aside (rules R4, R5 and R8).

That an event is shared proves continuity: the older line delivered the younger one's first event, or a later one, while
it was up. A witness that has the proof is aligned, and what it held is judged in its order.

A line that dies leaves what it held behind as a **ghost**, which is joined like any witness. One that shares nothing
is let go once the sequence, by the events' own times, has passed it: what has an identity comes out late.

What is kept is compared with the window as long as the window has it: what is about to be dropped there is taken from
what is kept (`compared`), and of what is left nobody has released it up to there. A line that begins to bring what is
older than the window cannot tell; the last event of the channel that has gone tells for what is younger than that.
"""

from collections.abc import Iterable, Sequence
from itertools import islice

from feedhandler.core.admission import Admission
from feedhandler.core.health import LineHealth
from feedhandler.core.holding import MISSING, OPEN, Held, compared, place
from feedhandler.core.line import Line
from feedhandler.core.owing import Owing

PROOF_EVENTS = 64
"""How many of the events of a channel that a line has put aside are looked up for a proof of its place."""

GHOSTS = 16
"""How many holds of dead lines are kept; the oldest goes first."""


class Joining(Admission):
    """The merge, with lines that find their place."""

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
        held, line.cut = line.hold.events, line.hold.cut
        places = place(held, window, index, position, line.floor)
        line.hold = self._new_hold(line.floor)
        in_order = [i for i, p in enumerate(places) if p >= 0 and p not in window.late]
        first = {held[i].event.channel: places[i] for i in reversed(in_order)}
        line.first = dict(first)
        line.owing = self._owing_at(position, {p for p in places if p >= 0}, first, now)
        line.joined_at = position + 1
        line.pinned, line.guessed, line.left_out = set(first), set(), {}
        line.moved = now
        self._health(line, "joined", now)
        self._note("line_joined", line=line.name, held=len(held), position=position)
        self._take_common_order(line, held[:index], places)
        self._catch_up(line, line.owing, held, places, first, now, index)

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
            if p in matched:
                continue
            if owing.owes(before):
                owing.reopen(p)
            else:
                owing.skip(p)
                if self._dialect.identify(window.payload(p)).distinct:
                    owing.passed[p] = now
        return owing

    def _take_common_order(self, line: Line, before: Sequence[Held], places: list[int]) -> None:
        """Place what was held before the proof in channels without one, where no other line can bring a better one.

        As long as all lines are seen to keep one order over all channels, it stands before the proof.
        """
        if self._interleaved:
            return
        for i, one in enumerate(before):
            channel = one.event.channel
            if places[i] == OPEN and not self.window.find(one.payload):
                places[i] = OPEN if self._others_in(line, channel) else MISSING

    def _catch_up(
        self,
        line: Line,
        owing: Owing,
        held: Sequence[Held],
        places: list[int],
        first: dict[str, int],
        now: float,
        index: int,
    ) -> None:
        """Judge what a joining line held and the window does not hold, in the line's order; ``index`` is the proof.

        Behind a gap, what has no identity may be from before it and released already. From the first event with an
        identity on it surely is not. What is left out so is a gap of its channel: what is out by now may be behind it.
        """
        window = self.window
        start = window.proven_from(line.joined_at - 1)
        known = start in {window.base, line.crossing} or line.floor >= start
        line.crossing = -1
        waiting: set[str] = set()
        left_out: dict[str, int] = {}
        for i, (one, place_) in enumerate(zip(held, places, strict=True)):
            if i == index:
                line.aside = [kept._replace(early=True) for kept in line.aside]
            found = window.find_from(one.payload, line.floor) if one.identity.distinct else ()
            is_new = one.identity.distinct and not found
            known = known or (bool(found) and found[0] >= start) or (is_new and self._is_past(one, start))
            if place_ == OPEN or (place_ == MISSING and one.event.channel in waiting):
                self._rejudge(line, [one], now)
                if line.aside:
                    waiting.add(one.event.channel)
            elif place_ == MISSING and (known or is_new):
                self._before_join(line, owing, one, first, now)
            elif place_ == MISSING:
                self._leave_out(one, left_out)
            else:
                line.duplicates += 1

    def _rejudge(self, line: Line, held: Iterable[Held], now: float) -> None:
        """Judge what was held as if it came now, and what was early where it stands."""
        for one in held:
            if line.owing is None:
                super()._rejudge(line, [one._replace(early=False)], now)
            elif not line.aside and self._is_before_join(line, one):
                self._judge_early(line, line.owing, one, now)
            else:
                was_empty = not line.aside
                super()._rejudge(line, [one], now)
                if was_empty and one.early:
                    line.aside = [kept._replace(early=True) for kept in line.aside]

    def _is_before_join(self, line: Line, held: Held) -> bool:
        """Tell whether an event's place is before the line's first proof, since nobody can bring a better one.

        As long as all lines are seen to keep one order over all channels.
        """
        channel = held.event.channel
        if not held.early or self._interleaved or line.pinned is None or channel in line.pinned:
            return False
        if held.identity.distinct and self.window.find_from(held.payload, line.floor):
            return False
        return channel in line.guessed or not self._others_in(line, channel)

    def _judge_early(self, line: Line, owing: Owing, held: Held, now: float) -> None:
        """Judge an event that stands before the join of its line, and that the window does not hold there."""
        start = self.window.proven_from(line.joined_at - 1)
        if held.identity.distinct or line.floor >= start:
            self._before_join(line, owing, held, {held.event.channel: line.joined_at - 1}, now)
        else:
            self._leave_out(held, line.left_out)

    def _compare_before(self, end: int) -> None:
        """Compare what is kept of lines with what the window is about to drop before ``end``."""
        for line in (*self.lines.values(), *self.ghosts):
            line.hold.compare_before(end)
            line.aside = compared(line.aside, self.window, end)

    def _let_go_aside(self, line: Line, now: float) -> None:
        """Release what a line has put aside that the window has left behind; what may be out is left to a gap."""
        aside, line.aside = line.aside, []
        owing = Owing(self.window, self.window.head)
        for one in aside:
            channel = one.event.channel
            before = self._first_newer(channel, one.identity.time_ms)
            if one.identity.distinct and self.window.find_from(one.payload, line.floor):
                line.duplicates += 1
                continue
            if not one.identity.distinct or not self._is_unreleased(one):
                self._leave_out(one, line.left_out)
                continue
            if before is None and line.pinned is not None and channel not in line.pinned | line.guessed:
                self._guess(line, channel, one.recv)
            self._release(line, owing, one.payload, one.event, now, one.recv, before=before)

    def _is_past(self, held: Held, start: int) -> bool:
        """Tell whether an event that nobody has released is newer than what was before the gap at ``start``."""
        newest, time = self._newest_before(start), held.identity.time_ms
        return newest is not None and time is not None and time > newest

    def _before_join(self, line: Line, owing: Owing, held: Held, first: dict[str, int], now: float) -> None:
        """Judge an event from before the first that a joining line shares, which the window does not hold."""
        window = self.window
        channel = held.event.channel
        end = first.get(channel, line.joined_at)
        if not self._is_unreleased(held):
            if any(window.channel(p) == channel for p in range(window.base, end)):
                self._leave_out(held, line.left_out)
            else:
                line.duplicates += 1  # from before the window: released, or under a gap written since
        else:
            if channel in line.cut and channel not in first and channel not in line.guessed:
                self._guess(line, channel, held.recv)
            before = first[channel] if channel in first else next(owing.owed_ordinary(channel), None)
            self._release_late(line, owing, held, line.joined_at - 1 if before is None else before, now)

    # What was put aside

    def _resolve(self, now: float) -> bool:
        return any(
            self._resolve_aside(line, now) for line in (*self.lines.values(), *self.ghosts) if line.aside
        )

    def _resolve_aside(self, line: Line, now: float) -> bool:
        """Judge what a line has put aside as soon as its first event can be judged; tell whether it could."""
        first = line.aside[0]
        channel = first.event.channel
        own = islice((i for i, one in enumerate(line.aside) if one.event.channel == channel), PROOF_EVENTS)
        proof = next((i for i in own if self._proves(line, line.aside[i])), None)
        in_time = now - first.at < self._bounds.hold_s and len(line.aside) <= self._bounds.hold_events
        if proof is None and in_time and self._others_in(line, channel):
            return False
        owing, aside = line.owing, line.aside
        assert owing is not None
        line.aside = []
        if proof is None:
            self._guess(line, channel, first.recv)
        else:
            known, rest = aside[: proof + 1], aside[proof + 1 :]
            self._pin_at(line, owing, [one for one in known if one.event.channel == channel], now)
            aside = [one for one in known if one.event.channel != channel] + rest
        self._rejudge(line, aside, now)
        return True

    def _proves(self, line: Line, held: Held) -> bool:
        positions = self.window.find_from(held.payload, line.floor) if held.identity.distinct else ()
        return len(positions) == 1 and positions[0] not in self.window.late

    def _pin_at(self, line: Line, owing: Owing, own: list[Held], now: float) -> None:
        """Pin a line in a channel whose events it had put aside; the last of them stands in the window."""
        position = self.window.find_from(own[-1].payload, line.floor)[0]
        places = place(own, self.window, len(own) - 1, position, line.floor)
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
                self._before_join(line, owing, one, {one.event.channel: in_order}, now)

    # Ghosts

    def _keep_ghost(self, line: Line) -> None:
        """Keep what a dying line held: the sequence may still need it (rule R5)."""
        ghost = Line(line.name, LineHealth(self._limits, line.moved), line.hold)
        ghost.subscribed, ghost.connected_at, ghost.moved = line.subscribed, line.connected_at, line.moved
        ghost.crossing, ghost.floor = line.crossing, line.floor
        ghost.owing, ghost.joined_at, ghost.aside = line.owing, line.joined_at, line.aside
        ghost.pinned, ghost.guessed, ghost.cut, ghost.left_out = (
            line.pinned,
            line.guessed,
            line.cut,
            line.left_out,
        )
        self.ghosts.append(ghost)
        if len(self.ghosts) > GHOSTS:
            gone = self.ghosts.pop(0)
            self._note("ghost_forgotten", line=gone.name, events=len(gone.hold.events))

    def _is_behind(self, ghost: Line, now: float) -> bool:
        """Tell whether the sequence has left behind, by the events' own times, what a ghost holds."""
        if ghost.owing is not None or now - ghost.moved < self._bounds.hold_s:
            return False
        return all(
            not held.identity.distinct
            or self._first_newer(held.event.channel, held.identity.time_ms) is not None
            for held in reversed(ghost.hold.events)
        )

    def _lay(self, ghost: Line, now: float) -> None:
        """Let a ghost go that shares nothing with the window."""
        self.ghosts.remove(ghost)
        self._come_late(ghost, ghost.hold.events, now)
        self._note("ghost_forgotten", line=ghost.name, events=len(ghost.hold.events))

    def _come_late(self, line: Line, events: Sequence[Held], now: float) -> None:
        """Release what is older than what is out, and has an identity that nobody has brought (rule R5).

        What the window has left behind since may have been released: that is a gap.
        """
        window = self.window
        owing = Owing(window, window.head)
        left_out: dict[str, int] = {}
        for held in events:
            channel = held.event.channel
            before = self._first_newer(channel, held.identity.time_ms)
            if not held.identity.distinct or before is None or window.find_from(held.payload, line.floor):
                continue
            if self._is_unreleased(held):
                self._release(line, owing, held.payload, held.event, now, held.recv, before=before)
            else:
                self._leave_out(held, left_out)


def _by_subscription(line: Line) -> int:
    return line.subscribed
