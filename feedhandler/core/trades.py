"""The trades of one market behind a gap: recovered from a trade snapshot, once each (rules R8 and R9).

    live ──gap──▶ repairing ──snapshot──▶ live      [gap] backfilled… held… live…
                      │
                      └──time-out, a full hold, another gap──▶ live      gap held… live…

While a repair is under way, live events are held. The snapshot lists recent executions as rows with identities, and
says three things. If it reaches back to a row that was released before the gap, nothing is missing that it does not
hold, and there is no gap: that is proof. What it holds between that row and the first held one, and nobody released,
is missing, and is published row by row as `backfilled`. What it holds beyond is yet to come.

A snapshot may be newer than its place on the line, so a backfilled row may come again in a live event. Rows tell:
such an event is left out, or reduced to the rows that are new.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Sequence
from itertools import chain
from typing import Final, NamedTuple, Protocol

from feedhandler.core.messages import Gap, Output, Release

BACKFILLED: Final = "backfilled"

RECENT_EVENTS: Final = 2048
"""Released events whose rows are remembered as such; a snapshot that reaches back beyond them proves nothing."""

BACKFILLED_ROWS: Final = 10_000
"""Backfilled rows that are remembered, should they come live as well; the oldest are forgotten."""


class Row(NamedTuple):
    """One execution: its identity, its bytes as received, its time (ms) if it has one."""

    key: Hashable
    raw: bytes
    time_ms: int | None


class TradeDesk(Protocol):
    """How the exchange writes trades."""

    def rows(self, payload: bytes) -> Sequence[Row]:
        """Return the rows of a live event or of a snapshot, oldest first; none where it cannot be read."""

    def backfill(self, raw: bytes) -> bytes:
        """Return a live event around one row."""


class Trades:
    """One market's trades, live or in repair; gives back what is to be published, in order."""

    def __init__(self, channel: str, desk: TradeDesk, *, hold_events: int, hold_bytes: int) -> None:
        self.channel = channel
        self.gap: Gap | None = None
        self.suppressed = 0
        self._desk = desk
        self._hold_events = hold_events
        self._hold_bytes = hold_bytes
        self._recent: deque[bytes] = deque(maxlen=RECENT_EVENTS)
        self._held: list[Release] = []
        self._held_bytes = 0
        self._backfilled: OrderedDict[Hashable, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Trades {self.channel} {f'repairing {self.gap}' if self.gap else 'live'} held {len(self._held)}>"

    @property
    def repairing(self) -> bool:
        """Whether events are held for a snapshot."""
        return self.gap is not None

    def take(self, release: Release) -> Iterable[Output]:
        """Take a live event."""
        if self.gap is None:
            return self._pass(release)
        self._held.append(release)
        self._held_bytes += len(release.payload)
        if len(self._held) > self._hold_events or self._held_bytes > self._hold_bytes:
            return self.give_up()
        return ()

    def open_gap(self, gap: Gap) -> Iterable[Output]:
        """Begin a repair; one that is under way ends without its snapshot."""
        before = list(self.give_up())
        self.gap = gap
        return before

    def give_up(self) -> Iterable[Output]:
        """End the repair with nothing recovered."""
        return self._finish([])

    def repair(self, snapshot: bytes, recv: int) -> list[Output] | None:
        """End the repair with what a snapshot holds, which arrived at ``recv`` (wall clock, ns).

        None where there is nothing to repair, or the snapshot cannot be read.
        """
        rows = self._desk.rows(snapshot)
        if not rows or self.gap is None:
            return None
        line = self._held[0].line if self._held else ""
        missing, proven = self._missing(rows)
        return self._finish([self._backfill(row, line, recv) for row in missing], proven=proven)

    def _finish(self, missing: list[Output], *, proven: bool = False) -> list[Output]:
        gap, held = self.gap, self._held
        self.gap, self._held, self._held_bytes = None, [], 0
        if gap is None:
            return []
        marks: list[Output] = [] if proven else [gap]
        return [*marks, *missing, *chain.from_iterable(map(self._pass, held))]

    def _missing(self, rows: Sequence[Row]) -> tuple[list[Row], bool]:
        """Return the rows that nobody released, oldest first, and whether they are all that is missing."""
        released = {row.key for payload in self._recent for row in self._desk.rows(payload)}
        released.update(self._backfilled)
        held = [row for release in self._held for row in self._desk.rows(release.payload)]
        start = max((i + 1 for i, row in enumerate(rows) if row.key in released), default=0)
        keys = {row.key for row in held}
        first_ms = held[0].time_ms if held else None
        live = (i for i, row in enumerate(rows) if row.key in keys or _is_after(row.time_ms, first_ms))
        missing = rows[start : next(live, len(rows))]
        if not start:
            newest = self._newest_ms()
            missing = [row for row in missing if _is_after(row.time_ms, newest) or row.time_ms == newest]
        return [row for row in missing if row.time_ms is not None or start], bool(start)

    def _newest_ms(self) -> int | None:
        """Return the newest time among the last released rows; None where nothing was released."""
        last = self._desk.rows(self._recent[-1]) if self._recent else ()
        return max((row.time_ms for row in last if row.time_ms is not None), default=None)

    def _backfill(self, row: Row, line: str, recv: int) -> Release:
        self._backfilled[row.key] = None
        if len(self._backfilled) > BACKFILLED_ROWS:
            self._backfilled.popitem(last=False)
        payload = self._desk.backfill(row.raw)
        self._recent.append(payload)
        return Release(self.channel, payload, line, recv, BACKFILLED)

    def _pass(self, release: Release) -> list[Output]:
        """Let a live event out, without the rows that were backfilled before."""
        self._recent.append(release.payload)
        if not self._backfilled:
            return [release]
        rows = self._desk.rows(release.payload)
        again = [row.key for row in rows if row.key in self._backfilled]
        if not again:
            return [release]
        self.suppressed += len(again)
        new = [row for row in rows if row.key not in self._backfilled]
        for key in again:
            del self._backfilled[key]
        return [self._alone(row, release) for row in new]

    def _alone(self, row: Row, release: Release) -> Release:
        payload = self._desk.backfill(row.raw)
        return Release(self.channel, payload, release.line, release.recv, BACKFILLED)


def _is_after(time_ms: int | None, other_ms: int | None) -> bool:
    return time_ms is not None and other_ms is not None and time_ms > other_ms
