"""One channel: the stream's side of it and this host's, and what the one has that the other lacks.

**The stream is the merged sequence, and this host is one line of it**: the rules are those of the lines of a feed. A
host is *aligned* in a channel when it knows its place there. Then what the stream has and the host has not brought yet
is *owed*; what the host has and the stream has not is *pending*. Both are counted by occurrence, so real repeats come
out as often as they came in. An event of ours that the stream has gone past is *late*. Where the stream has something
that this host has not brought, and this host something that the stream has not, either may have missed the other's: the
exchange's own times tell which, as far as they differ, else the stream counts as ahead.

A host is a *witness* where its place is not known: at its start, behind a gap of its own daemon or of another host, and
where messages of the stream were deleted before it has read them. It holds what it gets, and joins with the first event
that stands once on both sides and whose content can't recur by accident, or with a record that is the very one that is
in the stream already. An event that came late proves no place, nor does one that stands before the newest gap. What
the host held before that has been dealt with by the stream, and is dropped, a gap of its own included; but **what can't
be in the stream is late** (`_is_missed`): it is newer than where the window begins, and not in the window; or this host
had seen that the stream did not have it. What is too much to hold goes, the oldest first; if it might have been late, a
gap record behind the join has its bounds, since nobody can say then what of it the stream has got.

Where no join comes, and the stream of the channel stands still (`decree`), the host begins by decree: in an empty
channel at once, otherwise behind a gap record, which is its daemon's own if there is one, and with what is newer than
all that the stream has: a backlog begins with what is there already. A book begins with a snapshot; where there is none
behind what is there already, one is asked for. **Whoever else writes to the channel before the decree has reached the
stream makes it void**, and the host is a witness again.

A message of unknown type has no content that proves a place; on such a channel a host is always aligned, and promises
nothing.

**What is proven**, as long as the exchange's own times do not go back within a channel: a content that can't recur is
in the stream once; what a host that lives has brought is there, called late where it stands behind its place, or lies
in a gap; nothing else is out of order; a book's delta that is not called late is not in the book before it.

**What nobody can know**, and is left out or doubled without a mark:

- What a host has from before the oldest record of the channel that it could read (limits have deleted what stood
  there, or the reading at its start does not reach so far back: `window`) may have stood there. It is left out, unless
  this host has seen the stream without it: then it is sent, and is doubled if another host's was deleted unread and
  longer ago than the server knows ids (`--duplicate-window-s`). The ids that the server knows could tell of what is
  younger than that; to ask for it would need the hosts' clocks.
- A content without identity or time that was held before a join; in a decree it is new if the hosts' wall clocks say
  so.
- What a host has of a channel from before the first event there in its place: the stream begins with that, also where
  something older is there, called late by a daemon.
- Rows that one daemon has recovered behind a gap of its own, and the writer missed without knowing it.
- Where limits have deleted all that the stream had of a channel, its seqs begin anew.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import dropwhile, islice
from typing import Final

import msgspec

from feedhandler.bridge.entries import (
    BACKFILLED,
    BOOK,
    GAP,
    LATE,
    ORDINARY,
    OTHER,
    SNAPSHOT,
    TOO_LARGE,
    Entry,
    Stored,
    gap_entry,
    misnumbered_entry,
)
from feedhandler.bridge.ledger import Ledger
from feedhandler.bridge.window import WINDOW_EVENTS, Place, Window
from feedhandler.client import Event, Gap
from feedhandler.core.messages import Identity
from feedhandler.exchange.messages import Dialect
from feedhandler.exchange.trades import RowKey, read_trades

HELD_EVENTS: Final = 65_536
"""What a witness holds at most; beyond it the oldest goes, and a gap record tells of it if it is not in the stream."""

HELD_BYTES: Final = 32 * 1024 * 1024

QUIET_TIMES: Final = 60
"""A book in which nothing has changed is given again so many times more rarely."""

RECOVERED_ROWS: Final = 65_536
"""Rows of trades that the stream has as backfilled; beyond it the oldest are forgotten."""

UNFORWARDED: Final = "unforwarded"
"""The reason of a gap record that a bridge makes: it could not prove that it forwarded everything."""


class Channel:
    """One channel; what it returns as pending is to be sent in this order."""

    def __init__(self, name: str, send: Callable[[Entry], None]) -> None:
        self.name = name
        self._send = send
        market, _, stream = name.rpartition("/")
        self.is_book = stream == BOOK
        self._promises = stream != OTHER
        self._identify = Dialect(market).identify
        self._market = market
        self.window = Window()
        self.pending: Ledger[Entry] = Ledger()
        self.pending_bytes = 0
        self.owed: Ledger[Place] = Ledger()
        self.aligned = not self._promises
        self.seq = 0  # the highest in the stream
        self._is_numbered = False  # what comes next should have the seq behind it
        self._marks: dict[str, Entry] = {}  # gap records of their own, which say nothing of places
        self.misnumbered = 0
        self._misnumbered = ""
        self.sequence = 0  # where the newest of it stands in the stream
        self.recv = 0
        self.sent_recv = 0
        self.begun = False
        self.progressed = float("-inf")
        self.needs_book = False
        self.book_at = 0  # the sequence of its newest snapshot
        self._book_seq = 0
        self._book_given = float("-inf")
        self.dropped = 0
        self._lost: Gap | None = None  # the bounds of what was dropped, and may be in nobody's hands
        self.declared = 0
        self._held: deque[Entry] = deque()
        self._held_keys: Counter[str] = Counter()
        self._held_bytes = 0
        self._outdated = 0  # how many of the held, from the first on, are no news
        self._newest_origin = ""
        self._newest = b""  # the record of the newest ordinary event
        self._told_ms: int | None = None  # the newest of the exchange's times, as a record has told
        self._overtaken = False  # the stream has gone on beside what is pending, while this host is a witness
        self._fence = 0  # what stands in the window before another's gap proves no place
        self._joined = -1
        self._is_torn = False  # what comes next does not follow what is held
        self._unconfirmed = False  # we began by decree, and nothing of that is in the stream yet
        self._recovered: dict[RowKey, None] = {}

    @property
    def held(self) -> int:
        """How many records are held while the place is not known."""
        return len(self._held)

    # What the host brings.

    def bring(self, entry: Entry, now: float) -> None:
        """Take a record of the own socket."""
        if self._is_torn:
            self._is_torn = False
            if entry.kind != GAP:
                last = self._held[-1].recv if self._held else self.recv
                self.bring(gap_entry(entry, UNFORWARDED, last, max(entry.recv, last)), now)
        if self.aligned and entry.kind == GAP and self._promises:
            self._step_back()
        if self.aligned:
            self._offer(entry, now)
        else:
            self._hold(entry)
            self._join_with(entry, now)

    def lose_place(self) -> None:
        """Be a witness from the next record on, which does not follow what was brought before."""
        if self._promises:
            self._is_torn = bool(self._held or len(self.pending))
            self._step_back()

    def _step_back(self) -> None:
        self.aligned = False
        self._overtaken = self._overtaken or (self.owed.goes_on and len(self.pending) > 0)
        self.owed = Ledger()

    def _offer(self, entry: Entry, now: float) -> None:
        """Strike an entry out where it is owed, else let it be sent."""
        if entry.is_event and self._is_from_before(entry):
            return
        if entry.is_event and self.owed.take(entry.key):
            self._pass(self.pending.pass_all(), now)  # the stream is past what this host has brought before
            return
        if entry.is_snapshot and self.owed.goes_on:
            return  # the stream is ahead of this book
        if self.owed.goes_on and self._is_behind(entry):
            entry.late_since = now
        self._append(entry)

    def _is_behind(self, entry: Entry) -> bool:
        """Tell whether the stream may be past an event's place, since there is what this host has not brought yet.

        Either the stream's writers have missed the event, or this host has missed what it owes. The exchange's own
        times tell which, as far as they differ; without them the stream counts as ahead.
        """
        if not entry.is_event:
            return False
        time = self._identity(entry).time_ms
        newest = None if time is None else self.newest_ms()
        if time is None or newest is None or time <= newest:
            return True
        self.owed.pass_all()
        return False

    def _is_from_before(self, entry: Entry) -> bool:
        """Tell whether a late event is one that the stream had before this host joined it."""
        number = self.window.find(entry.key) if entry.kind == LATE else None
        return number is not None and number <= self._joined and self.is_distinct(entry)

    def is_distinct(self, entry: Entry) -> bool:
        """Tell whether it is an event whose content can't recur by accident."""
        return isinstance(entry.record, Event) and self._identity(entry).distinct

    def _identity(self, entry: Entry) -> Identity:
        assert isinstance(entry.record, Event)
        return self._identify(bytes(entry.record.msg))

    def _time_ms(self, data: bytes) -> int | None:
        """Return the exchange's own time of a record of the stream; None where it has none."""
        try:
            return self._identify(bytes(_message(data).msg)).time_ms
        except _BROKEN:
            return None

    def newest_ms(self, *flying: bytes) -> int | None:
        """Return the newest of the exchange's own times in the stream, and in what is on its way there."""
        times = (self._told_ms, *(self._time_ms(one) for one in (self._newest, *flying)))
        return max((time for time in times if time is not None), default=None)

    def _append(self, entry: Entry) -> None:
        self.pending.add(entry)
        self.pending_bytes += entry.size
        self._send(entry)

    # What the stream brings.

    def take(self, stored: Stored, now: float, *, own: bool = False) -> None:
        """Take what has come to stand in the stream, from whichever host; ``own`` is what was on its way from here."""
        self._count(stored, now)
        self.begun, self.progressed = True, now
        is_in_place = stored.is_event or _is_too_large(stored)
        self._note_record(stored, now, is_in_place=is_in_place)
        if self._is_mark(stored):
            return
        if self._unconfirmed:
            self._end_decree(is_void=not own and not self._is_first(stored))
        if self._strike(stored, now):
            return
        if not is_in_place:
            if stored.kind == GAP and self._promises:
                self._stop_at_gap()
        elif self.aligned:
            self._owe(Place(stored.key))
        else:
            self._overtaken = self._overtaken or len(self.pending) > 0
            self._join_at(stored, now)

    def _count(self, stored: Stored, now: float) -> None:
        """Keep the highest seq; where one does not follow, let a gap record say so, which every host sends alike."""
        if self._is_numbered and stored.seq != self.seq + 1 and stored.sequence > self.sequence:
            self.misnumbered += 1
            if self._misnumbered not in self._marks:
                mark = misnumbered_entry(stored, self.recv, now)
                self._misnumbered = mark.key
                self._add_mark(mark)
        self.seq = max(self.seq, stored.seq) if self._is_numbered else stored.seq
        self._is_numbered = True
        self.sequence = max(self.sequence, stored.sequence)

    def _add_mark(self, mark: Entry) -> None:
        self._marks[mark.key] = mark
        self._send(mark)

    def _is_mark(self, stored: Stored) -> bool:
        """Tell whether it is a gap record that this host would have sent, too, and that tells nothing of places."""
        mark = self._marks.pop(stored.key, None)
        if mark is None:
            return False
        mark.done = True
        self.needs_book = self.is_book
        return True

    def _note_record(self, stored: Stored, now: float, *, is_in_place: bool) -> None:
        """Keep what a record tells of the stream."""
        kind = stored.kind
        self._newest_origin = stored.origin if kind != LATE else ""
        self.recv = max(self.recv, stored.recv - (kind == GAP))  # a gap ends with what is not there yet
        if is_in_place:
            self.window.add(stored)
        if kind == ORDINARY:
            self._newest = stored.data
        else:
            self._note_other(stored)
        if stored.book_at > self.book_at:
            self.book_at, self._book_given = stored.book_at, now

    def _note_other(self, stored: Stored) -> None:
        """Keep what a record tells that is no ordinary event."""
        if stored.newest_ms is not None:
            self._told_ms = stored.newest_ms
        if self.window.oldest is None:
            self.window.mark(stored)
        if stored.kind == SNAPSHOT:
            self.needs_book, self._book_seq = False, stored.seq
        elif stored.kind == BACKFILLED:
            self._recover(stored.data)

    def _stop_at_gap(self) -> None:
        """Be a witness behind another host's gap: what this one has may be from the gap, or from behind it."""
        self._fence = self.window.last + 1
        if self.aligned or len(self.pending):
            self.revoke()

    def _end_decree(self, *, is_void: bool) -> None:
        if is_void:
            self.revoke()
        else:
            self._lost = None  # the gap of the decree tells of it
        self._unconfirmed = False

    def _is_first(self, stored: Stored) -> bool:
        """Tell whether this is the first record of our own that is pending."""
        first = next(iter(self.pending), None)
        return first is not None and (first.key, first.origin) == (stored.key, stored.origin)

    def _strike(self, stored: Stored, now: float) -> bool:
        """Strike out what the stream has now; tell whether it was pending here."""
        struck = self.pending.take(stored.key)
        if struck is None:
            return False
        self._finish(struck.item)
        self._pass(struck.passed, now)
        return True

    def _pass(self, passed: list[Entry], now: float) -> None:
        """Take note that the stream went on without: events are late, what is one host's own word is needless."""
        for entry in passed:
            if entry.is_event:
                entry.late_since = entry.late_since or now
            else:
                self.leave_out(entry)

    def _owe(self, place: Place) -> None:
        self.owed.add(place)
        if len(self.owed) <= WINDOW_EVENTS:
            return
        if self.owed.passed or not self._promises:
            self.owed.drop(next(iter(self.owed)))
        else:
            self._step_back()

    # What is sent.

    def leave_out(self, entry: Entry) -> None:
        """Send an entry no more."""
        self.pending.drop(entry)
        self._finish(entry)

    def _finish(self, entry: Entry) -> None:
        entry.done = True
        self.pending_bytes -= entry.size

    def is_late(self, entry: Entry) -> bool:
        """Tell whether an event stands behind its place."""
        if entry.late_since:
            return entry.is_event
        return (self.owed.goes_on or self._overtaken) and self._is_behind(entry)

    def is_needless(self, entry: Entry) -> bool:
        """Tell whether an entry need not be sent: a book that the stream is ahead of, trades that it has recovered."""
        if entry.is_snapshot:
            return self.owed.goes_on or self._overtaken
        return self.is_late(entry) and self._has_recovered(entry)

    def due_at(self, takeover_s: float) -> float:
        """Return when somebody should have sent what is pending (s); infinity where nothing is."""
        marked = min((mark.arrived for mark in self._marks.values()), default=float("inf"))
        for entry in self.pending:
            if not entry.is_snapshot:
                return min(marked, entry.late_since or max(entry.arrived, self.progressed)) + takeover_s
        return marked + takeover_s

    def is_stale(self, now: float, every_s: float) -> bool:
        """Tell whether the book should be given again, for those who begin later, and this host's is the stream's."""
        if not (self.is_book and self.begun and self.aligned) or len(self.owed):
            return False
        every_s *= 1 if self.seq != self._book_seq else QUIET_TIMES
        return now - self._book_given >= every_s

    @property
    def has_book(self) -> bool:
        """Whether a snapshot of this host is on its way into the stream, or may get there."""
        waiting = self.pending if self.aligned else self._news()
        return any(entry.is_snapshot for entry in waiting)

    # Holding, joining, and beginning by decree.

    def _hold(self, entry: Entry) -> None:
        self._held.append(entry)
        self._held_keys[entry.key] += 1
        self._held_bytes += entry.size
        while len(self._held) > HELD_EVENTS or self._held_bytes > HELD_BYTES:
            dropped = self._unhold()
            self.dropped += dropped.is_event
            self.needs_book = self.needs_book or dropped.is_snapshot
            self._lose(dropped)

    def _lose(self, entry: Entry) -> None:
        """Keep the bounds of what is dropped from the hold though a join might have let it be sent."""
        if not self._may_be_missed(entry):
            return
        since = self._lost.since if self._lost else entry.recv
        self._lost = Gap(self.name, 0, UNFORWARDED, since, max(since, entry.recv))

    def _may_be_missed(self, entry: Entry) -> bool:
        oldest_ms = self._oldest_ms()
        if oldest_ms is not None or not entry.is_event:
            return self._is_missed(entry, oldest_ms)
        return entry.key not in self.window and self.is_distinct(entry)

    def _unhold(self) -> Entry:
        entry = self._held.popleft()
        self._outdated = max(self._outdated - 1, 0)
        self._held_bytes -= entry.size
        self._held_keys[entry.key] -= 1
        if not self._held_keys[entry.key]:
            del self._held_keys[entry.key]
        return entry

    def _join_with(self, entry: Entry, now: float) -> None:
        """Join if what the host has just brought proves its place."""
        number = self._proof(entry)
        if number is not None:
            self._join(entry, number, now)
        elif entry.origin and entry.origin == self._newest_origin:
            self._join(entry, None, now)

    def _join_at(self, stored: Stored, now: float) -> None:
        """Join if what has just come to the stream proves this host's place."""
        if stored.key in self._held_keys:
            entry = next(one for one in self._held if one.key == stored.key)
            self._join_with(entry, now)

    def _proof(self, entry: Entry) -> int | None:
        """Return the place that an entry proves."""
        if not entry.is_event:
            return None
        number = self.window.find_origin(entry.origin)
        if number is not None and number >= self._fence and not self.window.is_late(number):
            return number
        number = self.window.find(entry.key)
        if (
            number is None
            or number < self._fence
            or self._held_keys[entry.key] > 1
            or entry.kind == LATE
            or self.window.is_late(number)
        ):
            return None
        return number if self.is_distinct(entry) else None

    def _join(self, entry: Entry, number: int | None, now: float) -> None:
        """Be aligned: an entry is the one at a place of the window; None for the stream's newest record."""
        before = []
        while (one := self._unhold()) is not entry:
            before.append(one)
        self.aligned, self._overtaken = True, False
        self._joined = self.window.last if number is None else number
        self.owed = Ledger()
        for place in () if number is None else self.window.after(number):
            self.owed.add(place)
        self._pass(self.pending.pass_all(), now)
        self._append_missed(before, now)
        self._declare_lost(entry, now)
        rest = [self._unhold() for _ in range(len(self._held))]
        for one in rest:
            self.bring(one, now)

    def _append_missed(self, entries: Iterable[Entry], now: float) -> None:
        """Let those be sent, called late, that the stream has gone past without."""
        oldest_ms = self._oldest_ms()
        for entry in entries:
            if self._is_missed(entry, oldest_ms):
                entry.late_since = now
                self._append(entry)

    def _declare_lost(self, entry: Entry, now: float) -> None:
        """Let a gap record tell of what was dropped from the hold before a join; the stream may have it, or not."""
        if self._lost is None:
            return
        mark = gap_entry(entry, UNFORWARDED, self._lost.since, self._lost.until)
        mark.arrived, self._lost = now, None
        self.declared += 1
        self._add_mark(mark)

    def _oldest_ms(self) -> int | None:
        """Return how new the stream was where the window begins (the exchange's time)."""
        oldest = self.window.oldest
        return self._time_ms(oldest) if isinstance(oldest, bytes) else oldest

    def _is_missed(self, entry: Entry, oldest_ms: int | None) -> bool:
        """Tell whether an event can't be in the stream: it is newer than where the window begins, and not there.

        Nor is, once it is not in the window, what this host has seen the stream without before.
        """
        if entry.kind not in {ORDINARY, LATE} or entry.key in self.window or entry.key in self.pending:
            return False
        identity = self._identity(entry)
        if not identity.distinct:
            return False
        time = identity.time_ms
        return entry.unseen or (time is not None and oldest_ms is not None and time > oldest_ms)

    def decree(self, now: float, patience_s: float) -> str:
        """Begin without a proof where none will come; return the reason of the gap, "" where there is none."""
        if self.aligned or not self._held or not self._may_begin(self._held[0], now, patience_s):
            return ""
        news = self._news()
        if not news or not self._may_begin(news[0], now, patience_s):
            return ""
        has_own = news[0].kind == GAP and self._lost is None
        own, entries = (news[0], news[1:]) if has_own else (None, news)
        if self.is_book:
            entries = list(dropwhile(lambda one: not one.is_snapshot, entries))
            self.needs_book = self.needs_book or (self.begun and not entries)
        if all(one.kind == GAP for one in entries):
            return ""
        self._begin([own or self._gap_before(entries)] if self.begun else [], entries, now)
        gap = next(iter(self.pending)).record
        return gap.reason if isinstance(gap, Gap) else ""

    def _begin(self, gap: list[Entry], entries: list[Entry], now: float) -> None:
        """Begin by decree behind a gap, and with what the stream has gone past without."""
        newest_ms = self.newest_ms()
        held = [self._unhold() for _ in range(len(self._held))]
        older = [one for one in held if one.is_event and not self._is_new(one, newest_ms)]
        self.aligned, self.owed, self._unconfirmed = True, Ledger(), True
        self._joined, self._overtaken = self.window.last, False
        for entry in gap:
            self._append(entry)
        self._append_missed(older, now)
        for entry in entries:
            self._append(entry)

    def _may_begin(self, first: Entry, now: float, patience_s: float) -> bool:
        """Tell whether nobody else will go on here."""
        if len(self.pending):
            return False
        return not self.begun or now - max(first.arrived, self.progressed) >= patience_s

    def _news(self) -> list[Entry]:
        """Return what is held and not in the stream: from the first event on that is newer than all there is.

        What is older may be in the stream, gaps and books before that are about what is.
        """
        if not self.begun:
            return list(dropwhile(lambda one: one.kind == LATE, self._held))
        newest_ms = self.newest_ms()
        for entry in islice(self._held, self._outdated, None):
            if entry.is_event and self._is_new(entry, newest_ms):
                break
            self._outdated += 1
        held, first = list(self._held), self._outdated
        if first == len(held):
            if not (held and held[0].kind == GAP and held[0].recv > self.recv):
                return []
            first = 0
        told = [not one.is_event or self._is_new(one, newest_ms) for one in held[first:]]
        if self.is_book and False in told:  # a snapshot before an event that is there already would undo it
            last = len(told) - told[::-1].index(False)
            first, told = first + last, told[last:]
        while first and not held[first - 1].is_event:
            first -= 1
            told.insert(0, True)
        return [one for one, is_new in zip(held[first:], told, strict=True) if is_new]

    def _is_new(self, entry: Entry, newest_ms: int | None) -> bool:
        """Tell whether an event is newer than all that the stream has, by the exchange's times, else by the hosts'."""
        identity = self._identity(entry)
        if identity.distinct and entry.key in self.window:
            return False
        if identity.time_ms is not None and newest_ms is not None and identity.time_ms != newest_ms:
            return identity.time_ms > newest_ms
        return entry.recv > self.recv

    def _gap_before(self, entries: list[Entry]) -> Entry:
        """Return the gap record that a beginning needs, unless it is the beginning of all or has one of its own."""
        until = next((one.recv for one in entries if one.recv > self.recv), self.recv)
        return gap_entry(entries[0], UNFORWARDED, self.recv, until)

    def tear(self) -> None:
        """Be a witness: messages of the stream are gone, and nobody knows which."""
        self.revoke()
        self.window = Window()
        self._fence, self._joined = 0, -1
        self._is_numbered = False

    def revoke(self) -> None:
        """Be a witness again, with all that is pending: another host was there before our decree, or may have been."""
        if not self._promises:
            return
        unseen, self._unconfirmed = not self._unconfirmed, False
        self._step_back()
        later = [self._unhold() for _ in range(len(self._held))]
        entries = list(self.pending)
        for number, entry in enumerate(entries):
            self.leave_out(entry)
            if entry.origin or number:  # the gap of a decree stands first
                self._hold(msgspec.structs.replace(entry, done=False, late_since=0.0, unseen=unseen))
        for entry in later:
            self._hold(entry)

    # Trades that the stream has as backfilled rows.

    def _recover(self, data: bytes) -> None:
        try:
            record = _message(data)
        except _BROKEN:
            return
        for key in self._rows(bytes(record.msg)):
            if key is not None:
                self._recovered[key] = None
        while len(self._recovered) > RECOVERED_ROWS:
            del self._recovered[next(iter(self._recovered))]

    def _has_recovered(self, entry: Entry) -> bool:
        """Tell whether the stream has all rows of an event as backfilled ones."""
        if not self._recovered or not isinstance(entry.record, Event):
            return False
        keys = self._rows(bytes(entry.record.msg))
        return bool(keys) and all(key in self._recovered for key in keys)

    def _rows(self, payload: bytes) -> list[RowKey | None]:
        reply = read_trades(payload, self._market)
        return [row.key for row in getattr(reply, "rows", ())]


class _Message(msgspec.Struct, gc=False):
    msg: msgspec.Raw = msgspec.Raw()
    reason: str = ""


_message = msgspec.json.Decoder(_Message).decode
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def _is_too_large(stored: Stored) -> bool:
    """Tell whether a record is a gap in the place of an event that was too large."""
    if stored.kind != GAP:
        return False
    try:
        return _message(stored.data).reason == TOO_LARGE
    except _BROKEN:
        return False
