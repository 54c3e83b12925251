"""A feed whose output another daemon publishes: that output is one more line, which happens to know the numbers.

A standby keeps lines of its own beside the **output** of the active daemon. The output is a line like any other, with
three differences: it is aligned from the beginning, it alone releases, and nobody judges it. So the window is the
sequence as the consumers of the active daemon have it.

The standby's own lines find their place in it by the ordinary rules, and owe what the output has released. What one of
them brings, and the output has not, is new; but it is not for this daemon to release. It is put **aside**, in order,
with all that the line brings from then on, until the output has reached it: mostly a millisecond later.

    follow ──▶ followed…, and what the own lines bring ──▶ take_over

**To take over is to lose a line.** The output is gone, and what its fellows have put aside is judged as if it came now.
The output delivered what each of them shares with it while it was up, so the sequence goes on without a seam (R8).
Where no own line had found its place, nothing proves that, and the next decree writes a gap. There is no rule here
that the merge does not have.

Exceptions
----------
- What the output has passed in a channel, since a line has brought it before what the output has released there, the
  active daemon has missed, or a snapshot or a backfilled row stands for it. It is kept apart for ``bounds.hold_s``,
  should it come late, and is not released here, not at a takeover either: what is published is not for us to correct.
  So is what a line that joins brings from before something that is out.
- What is put aside is bounded as what a witness holds is. A line beyond that is a witness again.
- A gap of the output that says that something may be missing is a gap in the window, for dead lines, too.
- A book that replaces another, or is the first, **stands for** deltas that nobody here knows to be released. So it is a
  gap in the window, too, and what a line brings from before what is out behind the book is in there. Likewise at the
  takeover, where a book is still to come: what the active daemon has kept for it is hidden (``take_over``).

Residue
-------
What is not proven, and may be wrong without a mark of its own:

- What the active daemon had read and not released when it was killed, and the own lines were not sent, goes with it.
- What it has missed without knowing is not mended here, although an own line has brought it: the output has passed it.
  So it is where one of its lines dies with an event unread, its other line was subscribed behind that event, and by
  channels in another order has shared one from before the death: the two are the first to interleave differently.
- Who has not been told that lines interleave channels differently, and whose own lines have not shown it, takes one
  order over all channels for proof, as every daemon does until it has seen the contrary (`arbiter`). The active daemon
  tells what it has seen.
- An event with a time that joins from within a gap, in a channel whose last event before the gap has none: nothing
  tells which of the two is older, and it goes out as the newer one.
- Where lines interleave channels differently and deltas have neither time nor identity, a delta that a line brings
  beside a book of the output may be in that book already, or not: its channel gets a gap (`pinning`), if it is not
  pinned there by an event from behind the book.
"""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from feedhandler.core.divergence import Divergences
from feedhandler.core.health import LineHealth
from feedhandler.core.holding import Held
from feedhandler.core.line import Line
from feedhandler.core.merge import UNPROVEN
from feedhandler.core.messages import Event, Gap
from feedhandler.core.owing import Owing
from feedhandler.core.streams import Streams
from feedhandler.core.trail import Frames

OUTPUT: Final = "active"
"""The name of the line that is another daemon's output; the own lines have letters."""

SILENCE_S: Final = 2.0
"""For so long a market says nothing to a line that has connected before that counts as all there is to hear."""

PATIENCE_S: Final = 10.0
"""Likewise to one that has no place yet because what was said proves none: the next event would tell."""


class Following(Streams):
    """The merge of one feed's lines, which another daemon may publish meanwhile."""

    _output: Line | None = None
    _missed: dict[Line, list[tuple[Held, float]]]
    _replaced: Mapping[str, int] = MappingProxyType({})
    """From where on what is released of a channel stands behind a book of the output."""

    @property
    def follows(self) -> bool:
        """Whether another daemon publishes."""
        return self._output is not None

    def in_step(self, now: float) -> bool:
        """Tell whether a line of its own has its place beside the output, or would have it at a takeover now.

        Where nothing is said that could be shared, it counts so after `SILENCE_S`; where something was said that proves
        nothing, after `PATIENCE_S`: a takeover then has its gap, as a kill has. Without any line of its own there is
        nothing to find.
        """
        own = [line for line in self.lines.values() if line is not self._output]
        return not own or any(
            line.up or self._would_go_on(line) or self._is_silent(line, now) for line in own
        )

    def _would_go_on(self, line: Line) -> bool:
        """Tell whether a witness has the proof that is enough as soon as the output is gone."""
        is_witness = line.connected and line.owing is None
        return is_witness and line.waiting and line.hold.shared(newest_too=True) is not None

    def _is_silent(self, line: Line, now: float) -> bool:
        """Tell whether nothing was said since a line began to connect, or nothing any more, and that for a while."""
        if not line.connected or line.owing is not None:
            return False
        if not line.waiting and line.floor == self.window.head:
            return now - line.connected_at >= SILENCE_S
        held = line.hold.events
        last = max(line.connected_at, self._last_release, held[-1].at if held else line.connected_at)
        return now - last >= PATIENCE_S and self._goes_on_by_time(line)

    def _goes_on_by_time(self, line: Line) -> bool:
        """Tell whether a takeover would double nothing that a witness holds: by its own time it is released or not."""
        held = line.hold.events
        return not held or (self._is_dated() and any(one.identity.distinct for one in held))

    def follow(self, now: float) -> None:
        """Begin to follow, before anything has happened."""
        assert not self.window.head
        self._missed = {}
        line = Line(OUTPUT, LineHealth(self._limits, now), self._new_hold())
        self.lines[OUTPUT] = self._output = line
        line.connected = True
        line.connected_at = line.moved = now
        line.owing = Owing(self.window, 0)
        for event in ("connecting", "connected", "joined", "kept_up"):
            line.health.on(event, now)

    # What the other daemon publishes

    def followed(self, channels: Sequence[str], payloads: Sequence[bytes], now: float, recv: int) -> int:
        """Take ordinary events that the output brings; return the position of the first."""
        position = self.window.extend(payloads, channels, OUTPUT, now)
        self._come_to_head(len(payloads), now, recv)
        return position

    def followed_late(self, channel: str, payload: bytes, now: float, recv: int) -> tuple[int, int]:
        """Take a late event that the output brings; return its position, and before which it belongs.

        Nobody tells its true place: it belongs before the first that is newer by the exchange's times, else before the
        newest.
        """
        window = self.window
        before = self._first_newer(channel, self._dialect.identify(payload).time_ms)
        if before is None:
            before = window.ordinary.get(channel, -1)
        if before < window.base:
            return self.followed((channel,), (payload,), now, recv), -1
        position = window.append(payload, channel, OUTPUT, now, before=before)
        output = self.lines[OUTPUT]
        self._skip_where_past(output, position, before, now)
        self._come_to_head(1, now, recv)
        return position, before

    def followed_interleaving(self) -> None:
        """Hear that the other daemon has seen lines interleave channels differently."""
        self._interleaved = True

    def followed_unknown(self, payload: bytes) -> None:
        """Take a message of unknown type that the output brings."""
        self._unknowns.admit(OUTPUT, payload)

    def followed_gap(self, now: float) -> None:
        """Take a gap that the output brings: whatever is aligned has to prove its place behind it anew."""
        window = self.window
        if not window.head:
            return
        if window.head not in window.gaps[-1:]:
            window.gaps.append(window.head)
        for line in (*self.lines.values(), *self.ghosts):
            if line.name != OUTPUT and line.owing is not None and line.owing.fence is None:
                line.owing.fence = window.head
        self._settle(now)

    def followed_book(self, channel: str, now: float) -> None:
        """Take a book that the output brings and that does not follow from what it has brought before.

        It stands for what nobody here knows to be released, and a line may be about to bring that.
        """
        self._begun = True
        self._replaced = {**self._replaced, channel: self.window.head}
        self.followed_gap(now)

    def _come_to_head(self, count: int, now: float, recv: int) -> None:
        output = self.lines[OUTPUT]
        assert output.owing is not None
        output.owing.position = self.window.head
        self._begun = True
        self._led(output, count, now, recv)
        output.messages += count
        if self._unsettled(output, self.window.head - count):
            self._settle(now)
        if len(self.window.payloads) > self._settle_due:
            self._forget_settled()

    # What the own lines bring

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
        """Release a run of events, unless that is another daemon's to do."""
        return 0 if self.follows else super()._lead_on(line, owing, payloads, start, frames, now, recv)

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
        """Admit a new event; one that is another daemon's to release is put aside, unless the output has passed it."""
        if before is not None and self._is_replaced(event.channel, before):
            line.duplicates += 1
            line.moved = now
            return
        if not self.follows:
            super()._release(line, owing, payload, event, now, recv, before=before)
            return
        held = self._held(payload, event, now, recv, line.floor)
        if before is not None and self._has_passed(held, before):
            self._missed.setdefault(line, []).append((held, now))
        else:
            line.aside.append(held)
        line.moved = now

    def _has_passed(self, held: Held, before: int) -> bool:
        """Tell whether the output will not bring any more, unless late, what belongs before a position that is out.

        In one order over all channels that is so in any channel. What has an identity may wait for its own channel to
        tell: it is not taken for another event meanwhile.
        """
        channel = held.event.channel
        if not self._interleaved and not held.identity.distinct:
            return True
        return self._is_late(channel, held.payload, before)

    def _is_replaced(self, channel: str, before: int) -> bool:
        """Tell whether a book of the output stands for what belongs before a position.

        That is so up to the first event that the output has brought behind the book. Where lines interleave channels
        differently, an event of another channel says nothing of it.
        """
        window, start = self.window, self._replaced.get(channel)
        if start is None or window.gone.get(channel, -1) >= start or before < window.base:
            return False
        if self._interleaved and window.channel(before) != channel:
            return False
        stretch = range(max(start, window.base), min(before, window.head))
        return not any(window.channel(p) == channel and p not in window.late for p in stretch)

    def _has_begun(self, channel: str) -> bool:
        return channel in self._replaced or super()._has_begun(channel)

    def _resolve_aside(self, line: Line, now: float) -> bool:
        """Judge what a line has put aside as far as the output has reached it; tell whether that was anything."""
        owing = line.owing
        if not self.follows or owing is None or not self._has_place(line, line.aside[0]):
            return super()._resolve_aside(line, now)
        count = 0
        for held in line.aside:
            if owing.deliver(held.payload, now) is None:
                break
            self._delivered(line, owing, now)
            count += 1
        line.aside = line.aside[count:]
        if owing.fence is not None and line.aside:
            self._step_back(line, now)
            return True
        return count > 0

    def _has_place(self, line: Line, held: Held) -> bool:
        channel = held.event.channel
        return line.pinned is None or channel in line.pinned or channel in line.guessed

    def _step_back(self, line: Line, now: float) -> None:
        """Make a line a witness that holds what it has put aside, as far as there is room."""
        aside, line.aside = line.aside, []
        self._missed.pop(line, None)
        if line.owing is not None and line.owing.fence is not None:
            self._rejudge(line, aside, now)
            return
        self._vacate(line)
        self._health(line, "outrun", now)
        self._rejudge(line, aside, now)

    def _sift(self, line: Line, now: float) -> None:
        """Look for what the output has released beyond what it has not."""
        owing = line.owing
        if owing is None or not line.aside or not self._has_place(line, line.aside[0]):
            return
        if self._is_full(line):
            self._note("hold_overflowed", line=line.name, events=len(line.aside))
            self._step_back(line, now)
            return
        kept: list[Held] = []
        reached: dict[str, int] = {}
        for held in line.aside:
            if self._is_out(owing, held, now):
                self._delivered(line, owing, now)
                reached[held.event.channel] = len(kept)
            else:
                kept.append(held)
        passed = [index for index, held in enumerate(kept) if index < reached.get(held.event.channel, 0)]
        self._missed.setdefault(line, []).extend((kept[index], now) for index in passed)
        line.aside = [held for index, held in enumerate(kept) if index not in set(passed)]

    def _is_out(self, owing: Owing, held: Held, now: float) -> bool:
        """Tell whether the output has released an event by now, be it late."""
        if owing.deliver(held.payload, now) is not None:
            return True
        return bool(owing.passed) and held.identity.distinct and owing.take_passed(held.payload) is not None

    def _is_out_late(self, owing: Owing, held: Held, now: float) -> bool:
        """Tell whether the output has released what it had passed; a later copy without identity is another event."""
        return (
            self._is_out(owing, held, now)
            if held.identity.distinct
            else owing.deliver_late(held.payload, now)
        )

    def _is_full(self, line: Line) -> bool:
        bounds = self._bounds
        size = sum(len(held.payload) for held in line.aside)
        return len(line.aside) > bounds.hold_events or size > bounds.hold_mib * 2**20

    def _leave_missed(self, line: Line, now: float) -> None:
        """Leave out what the active daemon has missed, and will not publish any more."""
        owing, missed = line.owing, self._missed.pop(line)
        if owing is None:
            return
        left = [(held, since) for held, since in missed if not self._is_out_late(owing, held, now)]
        kept = [(held, since) for held, since in left if now - since < self._bounds.hold_s]
        if len(kept) < len(left):
            self._note("output_lacked", line=line.name, events=len(left) - len(kept))
        if kept:
            self._missed[line] = kept

    # Time

    def tick(self, now: float, recv: int) -> None:
        """Let time pass; see what the output has passed."""
        if self.follows:
            for line in (*self.lines.values(), *self.ghosts):
                self._sift(line, now)
            present = {*self.lines.values(), *self.ghosts}
            for line in list(self._missed):
                if line in present:
                    self._leave_missed(line, now)
                else:
                    del self._missed[line]
        super().tick(now, recv)

    def _judge_misses(self, line: Line, now: float) -> None:
        """Count what a line has missed, unless the output is another daemon's: that one judges."""
        if not self.follows:
            super()._judge_misses(line, now)
        elif line.owing is not None:
            line.owing.missed(now, events=self._bounds.passed_events, seconds=self._bounds.passed_s)

    def _judge_health(self, line: Line, now: float) -> None:
        """Judge a line by its fellows; nobody judges the output."""
        if line is not self._output:
            super()._judge_health(line, now)

    # The end

    def take_over(self, now: float, recv: int, hidden: Iterable[str] = ()) -> None:
        """Go on alone, from where the output has ended: what it would have released next is released now.

        Of channels that are ``hidden`` the other daemon has kept what it released, behind a book that it has not got.
        """
        assert self._output is not None
        lines = [line for line in (*self.lines.values(), *self.ghosts) if line.aside]
        for line in lines:
            self._sift(line, now)
        self._hide(hidden)
        self._output = None
        self._missed = {}
        self._divergences = Divergences(self._limits.quarantine_divergences)
        self._leader_gone = self.leader == OUTPUT
        self._mark_guesses(recv)
        for line in sorted(lines, key=lambda line: len(line.aside), reverse=True):
            aside, line.aside = line.aside, []
            self._rejudge(line, aside, now)
        self.remove_line(OUTPUT, now, recv)

    def _mark_guesses(self, recv: int) -> None:
        """Write the gap of each channel in which a line has guessed its place, and the output has not shown it since.

        A guess is marked where it is made; but there nothing was for this daemon to publish.
        """
        guessed = {
            channel
            for line in (*self.lines.values(), *self.ghosts)
            if line.owing is not None
            for channel in line.guessed
            if not self._has_delivered(line, line.owing, channel) and self._is_guess_marked(line, channel)
        }
        for channel in sorted(guessed):
            self.outputs.append(Gap(channel, UNPROVEN, self._last_recv, recv))

    def _hide(self, channels: Iterable[str]) -> None:
        """Let a stretch begin at the head: of these channels it is not known what was released before.

        A line that has brought all up to there goes on; any other has to prove its place behind it.
        """
        head, hidden = self.window.head, dict.fromkeys(channels, self.window.head)
        self._replaced = {**self._replaced, **hidden}
        if not hidden or not head:
            return
        if head not in self.window.gaps[-1:]:
            self.window.gaps.append(head)
        for line in (*self.lines.values(), *self.ghosts):
            if line.owing is not None and line.owing.fence is None and line.owing.position < head:
                line.owing.fence = head
