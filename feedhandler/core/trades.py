"""The trades of one market: live, and behind a gap recovered from a trade snapshot, once each (rules R8 and R9).

    live ──gap──▶ repairing ──snapshot──▶ live      [gap] backfilled… held… live…
                      └──time-out, a full hold──▶ live      gap held… live…

While a repair is under way, what comes is held: events, and the gaps between them. The snapshot lists recent
executions as rows with identities. What it holds between the last row that was released before a gap and the first
one that was held behind it is missing, and is published row by row as ``backfilled``, with the line and the arrival
of the reply. What it holds beyond the held rows is yet to come.

**A gap vanishes only on proof**: the snapshot holds a row from before it and a row from behind it, and all between
have an identity, so it is whole where the gap was. A snapshot that reaches back, and shows nothing from behind, may
come from a source that lags. Late events are of no side: what is missing before and behind them is looked for.

Which way round a snapshot stands is told by its times, by those of earlier ones, or by its rows of both sides. One
that cannot be told is of no use.

A snapshot may also be newer than its place on the line, so a backfilled row may come again in a live event. Rows
tell: such an event is left out, or reduced to the rows that are new. If the snapshot is shorter than what is on its
way on the line, what it no longer holds comes behind younger rows that went out already: that is ``late``.

Where nothing was released yet, there is no row from before a gap. So a snapshot is asked for when the channel is
opened, and its rows are remembered as older than the stream, the **baseline**. It proves nothing, since what stands in
it may still be on its way.

Where all lines are silent a snapshot is asked for as well. If two show trades that nobody brought, the lines are
**behind**.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import Final, NamedTuple, Protocol

from feedhandler.config import Bounds, Recovery
from feedhandler.core.audit import Pulse
from feedhandler.core.messages import Gap, Output, Release, Run
from feedhandler.core.notes import Notify, note

BACKFILLED: Final = "backfilled"
BEHIND: Final = "behind"
LATE: Final = "late"
TRADES: Final = "trades"

RECENT_EVENTS: Final = 2048
"""Released events whose rows are remembered as such; a snapshot that reaches back beyond them proves nothing."""

BACKFILLED_ROWS: Final = 10_000
"""Backfilled rows that are remembered, should they come live as well; the oldest are forgotten."""

WATCHED_EVENTS: Final = 2048
"""Live events behind a repair that are looked through for rows that were backfilled."""

ATTEMPTS: Final = 3
"""Requests for a trade snapshot before a gap stays without backfill."""

Hold = list[Release | Gap]


class Row(NamedTuple):
    """One execution: its identity (None where it has none), its bytes as received, its time (ms) if it has one."""

    key: Hashable
    raw: bytes
    time_ms: int | None


class Rows(NamedTuple):
    """The rows of a message in its order, and whether that is newest first; None where that can't be told."""

    rows: list[Row]
    newest_first: bool | None


class TradeDesk(Protocol):
    """How the exchange writes trades."""

    def rows(self, payload: bytes) -> Rows | None:
        """Return the rows of a live event or of a snapshot; None where it cannot be read."""

    def backfill(self, raw: bytes) -> bytes:
        """Return a live event around one row."""


class _Segment(NamedTuple):
    """A gap, what was held behind it, and the rows of that; those of late events apart."""

    gap: Gap
    events: list[Release]
    rows: list[Row]
    late: set[Hashable]


class TradeKeeper:
    """One market's trade channel; gives back what is to be published, in order."""

    kind = TRADES

    def __init__(
        self,
        feed: str,
        channel: str,
        desk: TradeDesk,
        *,
        settings: Recovery,
        bounds: Bounds,
        notify: Notify,
        pulse: Pulse,
    ) -> None:
        self.channel = channel
        self.passing = True
        """Whether an ordinary event goes out as it is (`follow`)."""
        self.asked_at = 0.0
        self.failed = ""
        """`BEHIND`, for whoever asks on this keeper's behalf to hear and reset, where the lines are."""
        self.attempts = 0
        self._pulse = pulse
        self._feed = feed
        self._desk = desk
        self.settings = settings
        self._bounds = bounds
        self._notify = notify
        self._due = 0.0
        self._check_due = float("inf")
        self._unseen: set[Hashable] = set()
        self._newest_first: bool | None = None
        self._gap_at = 0.0
        self._recent: deque[bytes] = deque(maxlen=RECENT_EVENTS)
        self._baseline: frozenset[Hashable] | None = None
        self._held: Hold = []
        self._held_at = 0.0
        self._held_bytes = 0
        self._backfilled: OrderedDict[Hashable, None] = OrderedDict()
        self._newest_backfilled_ms: int | None = None
        self._watched = 0

    def __repr__(self) -> str:
        return (
            f"<TradeKeeper {self.channel} {'repairing' if self.syncing else 'live'} held {len(self._held)}>"
        )

    @property
    def syncing(self) -> bool:
        """Whether a repair is under way."""
        return bool(self._held)

    @property
    def held(self) -> tuple[int, int]:
        """What is held of a repair: events and bytes."""
        return len(self._held), self._held_bytes

    @property
    def auditing(self) -> bool:
        """Whether it is looked into that nobody brings anything."""
        return bool(self._unseen)

    # Events

    def follow(self, passing: Release | Run) -> None:
        """Take an ordinary event that goes out as it is, or those of the channel in a run."""
        if isinstance(passing, Run):
            self._recent.extend(passing.of(self.channel)[1])
        else:
            self._recent.append(passing.payload)

    def take(self, release: Release, now: float) -> Iterable[Output]:
        """Take any event; return what goes out."""
        if not self._held:
            return self._pass(release)
        if isinstance(self._held[-1], Gap) and len(self._held) == 1:
            self._held_at = now
        self._held.append(release)
        self._held_bytes += len(release.payload)
        if len(self._held) > self._bounds.repair_events or self._held_bytes > self._bounds.repair_bytes:
            self._notify(
                note("repair_overflowed", feed=self._feed, channel=self.channel, events=len(self._held))
            )
            return self._give_up()
        return ()

    def open_gap(self, gap: Gap, now: float) -> Iterable[Output]:
        """Begin a repair, or add a gap to the one under way."""
        last = self._held[-1] if self._held else None
        if isinstance(last, Gap):
            self._held[-1] = Gap(gap.channel, last.reason, last.since, gap.until)
        else:
            self._gap_at = self._gap_at if self._held else now
            self._held.append(gap)
        self.passing = False
        self.attempts = 0
        self._due = now
        self._unseen = set()
        return ()

    def flush(self) -> list[Output]:
        """Return what is owed behind what came together: nothing."""
        return []

    # What another daemon has published

    def inherit(self, passing: Release | Run, now: float) -> None:  # noqa: ARG002 - what others need
        """Follow events that another daemon has published; backfilled rows may come live as well."""
        if isinstance(passing, Release) and passing.kind == BACKFILLED:
            for row in self._rows(passing.payload):
                self._backfill(row, passing.line, passing.recv)
        elif self.passing:
            self.follow(passing)
        elif isinstance(passing, Release):
            self._pass(passing)
        else:
            for release in passing.releases():
                if release.channel == self.channel:
                    self._pass(release)

    # What is asked for

    def wants(self, now: float) -> bool:
        """Tell whether a snapshot is to be asked for now: for a repair, or for the baseline."""
        if now < self._due:
            return False
        return self.syncing or self._wants_baseline or (now >= self._check_due and self._pulse.quiet)

    @property
    def _wants_baseline(self) -> bool:
        return self._baseline is None and not self._recent and self.attempts < ATTEMPTS

    def due(self) -> float:
        """Return when time matters next where no repair is under way."""
        if self._wants_baseline:
            return self._due
        return max(self._due, self._check_due) if self._pulse.quiet else inf

    def asked(self, now: float) -> None:
        """Hear that a snapshot was asked for."""
        self._due = self.asked_at = now

    def audit_soon(self, now: float) -> None:
        """Want to know whether it is true that nobody trades."""
        self._check_due = now

    def in_vain(self, reason: str, now: float) -> list[Output]:
        """Note a request without a usable answer; after `ATTEMPTS` of them the trades go on without."""
        self.attempts += 1
        self._due = now + self.settings.retry_s
        if not self.syncing:
            self._check_due = now + self._interval_s()
        self._notify(note("snapshot_missed", feed=self._feed, channel=self.channel, reason=reason))
        return self._give_up() if self._held and self.attempts >= ATTEMPTS else []

    def _give_up(self) -> list[Output]:
        """End the repair with nothing recovered."""
        held = self._end_hold()
        return [
            output for one in held for output in (self._pass(one) if isinstance(one, Release) else (one,))
        ]

    def _end_hold(self) -> Hold:
        held, self._held, self._held_bytes = self._held, [], 0
        self.attempts = 0
        self.passing = not self._backfilled
        return held

    def end(self, recv: int) -> list[Output]:  # noqa: ARG002 - what others need
        """Return what is owed of a channel that is given up: what is held, unrepaired."""
        return self._give_up() if self._held else []

    def tick(self, now: float, recv: int) -> list[Output]:  # noqa: ARG002 - what others need
        """Let time pass: a repair that keeps trades waiting for too long ends without a snapshot."""
        longest_s = ATTEMPTS * (self.settings.reply_s + self.settings.retry_s)
        waits = len(self._held) > 1 and now - max(self._gap_at, self._held_at) >= longest_s
        return self._give_up() if waits else []

    def _interval_s(self) -> float:
        return self.settings.audit_s or 60.0

    # What is answered

    def answer(self, payload: bytes, line: str, asked_at: float, now: float, recv: int) -> list[Output]:
        """Take the reply of ``line`` to a request that was made at ``asked_at``; it arrived at ``recv``."""
        listed = self._desk.rows(payload)
        if listed is None:
            return self.in_vain("unreadable", now)
        self._newest_first = self._newest_first if listed.newest_first is None else listed.newest_first
        segments = list(self._segments())
        rows = self._oldest_first(_once(listed.rows), listed.newest_first, segments)
        if rows is None:
            return self.in_vain("undirected", now)
        if not self._held:
            self._look_into(rows, now)
            return []
        if self._lags(rows, segments, asked_at) and self.attempts + 1 < ATTEMPTS:
            return self.in_vain("too_old", now)
        self._end_hold()
        outputs = self._repair(rows, segments, line, recv)
        backfilled = sum(isinstance(one, Release) and one.kind == BACKFILLED for one in outputs)
        self._notify(note("trades_repaired", feed=self._feed, channel=self.channel, rows=backfilled))
        return outputs

    def _oldest_first(
        self, rows: list[Row], newest_first: bool | None, segments: Sequence[_Segment]
    ) -> list[Row] | None:
        """Return the rows in the order in which they happened, None where nothing tells that."""
        if newest_first is None and len(rows) > 1:
            newest_first = self._newest_first
            before = [i for i, row in enumerate(rows) if row.key in self._released()]
            held = {row.key for segment in segments for row in segment.rows}
            behind = [i for i, row in enumerate(rows) if row.key in held]
            if before and behind:
                newest_first = before[0] > behind[0]
            if newest_first is None:
                return None
        return rows[::-1] if newest_first else rows

    def _look_into(self, rows: Sequence[Row], now: float) -> None:
        """Take a snapshot with no gap open: as the baseline, or to see whether nobody trades indeed."""
        self._check_due = now + self._interval_s()
        if self._baseline is None and not self._recent:
            self._baseline = frozenset(row.key for row in rows)
            return
        start, known = self._start(rows)
        unseen = {row.key for row in rows[start:]} if known or not self._recent else set()
        if self._unseen & unseen and self._pulse.quiet:
            self.failed = BEHIND
        elif unseen and self._pulse.quiet:
            self._check_due = now
        self._unseen = set() if self.failed else unseen

    def _released(self) -> set[Hashable]:
        """Return the identities of the rows that were released, as far as they are remembered."""
        released = {row.key for payload in self._recent for row in self._rows(payload)}
        return (released | self._backfilled.keys()) - {None}

    def _segments(self) -> Iterator[_Segment]:
        """Divide what is held at its gaps, of which the first stands at its beginning."""
        starts = [index for index, one in enumerate(self._held) if isinstance(one, Gap)]
        for start, end in pairwise([*starts, len(self._held)]):
            gap, events = self._held[start], self._held[start + 1 : end]
            assert isinstance(gap, Gap)
            releases = [one for one in events if isinstance(one, Release)]
            rows = [row for one in releases if one.kind != LATE for row in self._rows(one.payload)]
            late = {row.key for one in releases if one.kind == LATE for row in self._rows(one.payload)}
            yield _Segment(gap, releases, rows, late)

    def _rows(self, payload: bytes) -> Sequence[Row]:
        listed = self._desk.rows(payload)
        return () if listed is None else listed.rows

    def _lags(self, rows: Sequence[Row], segments: Sequence[_Segment], asked_at: float) -> bool:
        """Tell whether a snapshot does not know of a trade that had come before it was asked for."""
        held = [row for segment in segments for row in segment.rows]
        if not held or self._held_at >= asked_at:
            return False
        newest = max((row.time_ms for row in rows if row.time_ms is not None), default=None)
        known = {row.key for row in rows}
        return not any(row.key in known for row in held) and not _is_after(newest, held[0].time_ms)

    def _repair(
        self, rows: Sequence[Row], segments: Sequence[_Segment], line: str, recv: int
    ) -> list[Output]:
        """Lay the snapshot over what was held."""
        place = {row.key: index for index, row in enumerate(rows) if row.key is not None}
        late = set().union(*(segment.late for segment in segments))
        cursor, proven = self._start(rows)
        outputs: list[Output] = []
        for number, segment in enumerate(segments):
            own = [place[row.key] for row in segment.rows if row.key in place]
            stop = max(cursor, self._stop(rows, place, segments[number:]))
            hidden = rows[cursor:stop]
            if not (proven and own and all(row.key is not None for row in hidden)):
                outputs.append(segment.gap)
            outputs += [self._backfill(row, line, recv) for row in hidden if row.key not in {None, *late}]
            for release in segment.events:
                outputs += self._pass(release)
            proven, cursor = bool(own), max(own, default=stop - 1) + 1
        return outputs

    def _start(self, rows: Sequence[Row]) -> tuple[int, bool]:
        """Return where in the snapshot begins what nobody released, and whether that is proven."""
        released = {row.key for payload in self._recent for row in self._rows(payload)}
        known = [
            index for index, row in enumerate(rows) if row.key in released or row.key in self._backfilled
        ]
        if known:
            return known[-1] + 1, True
        if not self._recent:
            return self._behind_baseline(rows), False
        newest = self._newest_ms()
        if newest is None:
            return len(rows), False
        new = (i for i, row in enumerate(rows) if row.time_ms is not None and row.time_ms >= newest)
        return next(new, len(rows)), False

    def _behind_baseline(self, rows: Sequence[Row]) -> int:
        if self._baseline is None:
            return len(rows)
        return max((index + 1 for index, row in enumerate(rows) if row.key in self._baseline), default=0)

    def _stop(self, rows: Sequence[Row], place: dict[Hashable, int], segments: Sequence[_Segment]) -> int:
        """Return where in the snapshot begins what was held behind the first of some gaps, or comes after that.

        Where none of that is in the snapshot, times have to do; the gap stays then.
        """
        first, *later = segments
        own = min((place[row.key] for row in first.rows if row.key in place), default=None)
        if own is not None:
            return own
        behind = [place[row.key] for segment in later for row in segment.rows if row.key in place]
        if first.rows:
            began_ms = first.rows[0].time_ms
            behind += [index for index, row in enumerate(rows) if _is_after(row.time_ms, began_ms)]
        return min(behind, default=len(rows))

    def _newest_ms(self) -> int | None:
        """Return the newest time among the last released rows."""
        last = self._rows(self._recent[-1])
        return max((row.time_ms for row in last if row.time_ms is not None), default=None)

    def _backfill(self, row: Row, line: str, recv: int) -> Release:
        self._backfilled[row.key] = None
        if len(self._backfilled) > BACKFILLED_ROWS:
            self._backfilled.popitem(last=False)
        if _is_after(row.time_ms, self._newest_backfilled_ms or 0):
            self._newest_backfilled_ms = row.time_ms
        self._watched = 0
        self.passing = False
        payload = self._desk.backfill(row.raw)
        self._recent.append(payload)
        return Release(self.channel, payload, line, recv, BACKFILLED)

    def _pass(self, release: Release) -> list[Output]:
        """Let a live event out, without the rows that were backfilled before."""
        self._recent.append(release.payload)
        if not self._backfilled:
            return [release]
        rows = self._rows(release.payload)
        again = [row.key for row in rows if row.key in self._backfilled]
        self._watch()
        if not again:
            return [self._in_place(release, rows)]
        new = [row for row in rows if row.key not in self._backfilled]
        for key in again:
            self._backfilled.pop(key, None)  # a row may stand in the event twice
        self.passing = not self._backfilled and not self._held
        return [
            Release(self.channel, self._desk.backfill(row.raw), release.line, release.recv, BACKFILLED)
            for row in new
        ]

    def _watch(self) -> None:
        """Look out no longer for backfilled rows that do not come."""
        self._watched += 1
        if self._watched >= WATCHED_EVENTS:
            self._backfilled.clear()
            self.passing = not self._held

    def _in_place(self, release: Release, rows: Sequence[Row]) -> Release:
        """Mark an event as late that is older than a row that was backfilled."""
        newest = max((row.time_ms for row in rows if row.time_ms is not None), default=None)
        if release.kind or not _is_after(self._newest_backfilled_ms, newest):
            return release
        return Release(release.channel, release.payload, release.line, release.recv, LATE, release.position)


def _once(rows: Sequence[Row]) -> list[Row]:
    """Return the rows without repetitions of one identity."""
    seen: set[Hashable] = set()
    return [row for row in rows if row.key is None or not (row.key in seen or seen.add(row.key))]  # type: ignore[func-returns-value]


def _is_after(time_ms: int | None, other_ms: int | None) -> bool:
    return time_ms is not None and other_ms is not None and time_ms > other_ms
