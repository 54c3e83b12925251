"""Alignment by decree, where nothing can prove continuity any more (rules R4 and R9).

At the start of a feed the line subscribed longest leads. Every later decree writes a gap, also where nothing was
released yet: that nothing came was true until then, and a book may be out. After the first release only a witness that
is past the released sequence is chosen: one that is behind is waited for, since it will reach the window. One that
holds nothing, and has connected since the last release, will bring only what is new; so a quiet market gets its gap,
and the repair behind it, without waiting for its next event.
"""

from collections.abc import Iterable

from feedhandler.core.holding import Held
from feedhandler.core.joining import Joining
from feedhandler.core.line import Line
from feedhandler.core.merge import OUTAGE, UNPROVEN
from feedhandler.core.messages import Gap
from feedhandler.core.owing import Owing

NEWEST_SEARCH_EVENTS = 16
"""How many of the newest events are read for the newest released time when a line is to be aligned by decree."""


class Anchoring(Joining):
    """The merge, with a way on where no line is aligned."""

    def _settle(self, now: float) -> None:
        """Carry on until nothing that is kept can be judged."""
        while self._resolve(now) or self._join_one(now) or self._anchor(now):
            pass
        if self.ghosts:
            self.ghosts = [ghost for ghost in self.ghosts if ghost.waiting]

    def _anchor(self, now: float) -> bool:
        """Align a witness by decree where nobody can carry the sequence on (rule R4)."""
        aligned = [line for line in self.lines.values() if line.owing is not None]
        if any(line.up for line in aligned):
            self._alone_since = now
            return False
        witnesses = self._witnesses()
        if not self.window.head:
            chosen = next((line for line in witnesses if line.hold.events or not aligned), None)
            if chosen is None:
                return False
            if self._begun:
                self._open_gap(chosen, aligned)
            self._decree(chosen, now)
            return True
        patience_s = self._bounds.hold_s if aligned else 0.0
        quiet = not aligned and not any(line.hold.events for line in witnesses)
        for line in witnesses:
            if self._is_ahead(line, now, patience_s=patience_s, quiet=quiet):
                self._open_gap(line, aligned)
                self._decree(line, now)
                return True
            if line.connected:
                patience_s = max(
                    patience_s, self._limits.stall_min_s
                )  # it is subscribed longer: it may bring more
        return False

    def _open_gap(self, line: Line, aligned: Iterable[Line]) -> None:
        """Write the gap before what a witness holds; who is aligned has to prove its place behind it anew."""
        reason = OUTAGE if self._outage else UNPROVEN
        until = line.hold.events[0].recv if line.hold.events else line.connected_recv
        since = min(self._last_recv, until)  # the last may be known as no more than before now
        self.outputs.append(Gap("", reason, since, until))
        self._note("gap_declared", reason=reason)
        self.window.gaps.append(self.window.head)
        for other in aligned:
            if other.owing is not None and other.owing.fence is None:
                other.owing.fence = self.window.head

    def _is_ahead(self, line: Line, now: float, *, patience_s: float, quiet: bool) -> bool:
        """Tell whether a witness is past the released sequence, dropping what it may hold from before that.

        One that holds nothing is, where nothing was released since it began to connect; it has its chance in a feed
        that is ``quiet``: nobody holds anything. Unless all lines were gone it waits a moment: the others may be
        about to come back, or it to go as well.

        The first event that is known to be new proves it for all that follow. What came before it may have been
        released already: it falls into the gap, for a gap says that something may be missing, and nothing ever says
        that something may be doubled. Where nothing held has an identity, or nothing that was released since the last
        gap, time has to do.
        """
        held = line.hold.events
        if not held and not quiet:
            return False
        age = now - max(held[0].at if held else line.connected_at, self._alone_since)
        if not held and not self._outage:
            patience_s = max(patience_s, self._limits.stall_min_s)
        if line.floor == self.window.head:
            return age >= patience_s  # nothing was released since it began to connect: all of it is new
        if not held:
            return False
        newest, dated = self._newest_ms(), self._is_dated()
        start = next((i for i, one in enumerate(held) if dated and self._is_new(one, newest)), None)
        if start is None:
            blind_s = self._bounds.hold_s if newest is not None else self._limits.stall_min_s
            older = dated and any(one.identity.distinct for one in held)
            if older or age < max(blind_s, patience_s):
                return False
            start = len(held) - 1
            self._note("line_anchored_blindly", line=line.name)
        elif age < patience_s:
            return False
        if start:
            self._note("hold_outdated", line=line.name, events=start)
            self._come_late(line, held[:start], now)
            line.hold.drop(start)
        return True

    def _is_new(self, held: Held, newest: int | None) -> bool:
        """Tell whether a held event surely comes after everything released."""
        time = held.identity.time_ms
        if not held.identity.distinct or time is None:
            return False
        return newest is None or time > newest

    def _is_dated(self) -> bool:
        """Tell whether any of the newest released events since the last gap carries a time, or there was no gap."""
        head = self.window.head
        return self.window.proven_from(head - 1) == 0 or self._newest_before(head) is not None

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
        line.hold = self._new_hold(line.floor)
        line.owing = Owing(self.window, self.window.head)
        line.first = {}
        line.joined_at = self.window.head
        line.pinned = None if line.floor == self.window.head else set()
        line.guessed, line.cut, line.left_out = set(self.window.newest), set(), {}
        line.moved = now
        self._outage = False
        self._begun = True
        self._last_recv = self._last_recv or line.connected_recv
        self._last_release = now  # a feed that has just begun to listen is not quiet yet
        self._health(line, "joined", now)
        self._note("line_anchored", line=line.name, held=len(held))
        self._rejudge(line, held, now)
