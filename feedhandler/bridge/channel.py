"""One channel: the stream's side of it and this host's, and what the one has that the other lacks.

**The stream is the merged sequence, and this host is one line of it**: the rules are those of the lines of a feed. A
host is *aligned* in a channel when it knows its place there. Then what the stream has and the host has not brought yet
is *owed*; what the host has and the stream has not is *pending*. Both are counted by occurrence, so real repeats come
out as often as they came in. An event of ours that the stream has gone past is *late*.

A host is a *witness* where its place is not known: at its start, behind a gap of its own daemon, and where messages of
the stream were deleted before it has read them. It holds what it gets, and joins with the first event that stands once
on both sides and whose content can't recur by accident, or with a record that is the very one that is in the stream
already. What it held before that has been dealt with by the stream: it is dropped, a gap of its own included, since the
stream went on without. An event that came late proves no place.

Where no join comes, and the stream of the channel stands still (`decree`), the host begins by decree: in an empty
channel at once, otherwise behind a gap record, which is its daemon's own if there is one, and with what arrived later
than all that the stream has: a backlog begins with what is there already. A book begins with a snapshot. **Whoever
else writes to the channel before the decree has reached the stream makes it void**, and the host is a witness again.

A message of unknown type has no content that proves a place; on such a channel a host is always aligned, and promises
nothing.

Residue: what arrived later is told by the hosts' wall clocks. Where they differ, a decree may leave out what is newer,
under its gap, or double contents that have no identity, or that the stream had before this host has read it. A book
that one host gives is no fence for another: an ordinary event may be in it already. What a witness has held before its
join, and the writer's daemon has missed without knowing it, is not made good. Where limits have deleted all that the
stream had of a channel, its seqs begin anew.
"""

from collections import Counter, deque
from collections.abc import Callable
from itertools import dropwhile
from typing import Final

import msgspec

from feedhandler.bridge.entries import (
    BACKFILLED,
    BOOK,
    GAP,
    LATE,
    OTHER,
    SNAPSHOT,
    Entry,
    Stored,
    gap_entry,
)
from feedhandler.bridge.ledger import Ledger
from feedhandler.bridge.window import WINDOW_EVENTS, Place, Window
from feedhandler.client import Event, Gap
from feedhandler.exchange.messages import Dialect
from feedhandler.exchange.trades import RowKey, read_trades

HELD_EVENTS: Final = 65_536
"""What a witness holds at most; beyond it the oldest goes."""

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
        self.seq = 0
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
        self._held: deque[Entry] = deque()
        self._held_keys: Counter[str] = Counter()
        self._held_bytes = 0
        self._newest_origin = ""
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
        self.owed = Ledger()

    def _offer(self, entry: Entry, now: float) -> None:
        """Strike an entry out where it is owed, else let it be sent."""
        if entry.is_event and self._is_from_before(entry):
            return
        if entry.is_event and self.owed.take(entry.key):
            self._pass(self.pending.pass_all(), now)  # the stream is past what this host has brought before
            return
        if self.owed.goes_on:
            if entry.is_snapshot:
                return  # the stream is ahead of this book
            entry.late_since = now
        self._append(entry)

    def _is_from_before(self, entry: Entry) -> bool:
        """Tell whether a late event is one that the stream had before this host joined it."""
        number = self.window.find(entry.key) if entry.kind == LATE else None
        return number is not None and number <= self._joined and self._is_distinct(entry)

    def _is_distinct(self, entry: Entry) -> bool:
        return isinstance(entry.record, Event) and self._identify(bytes(entry.record.msg)).distinct

    def _append(self, entry: Entry) -> None:
        self.pending.add(entry)
        self.pending_bytes += entry.size
        self._send(entry)

    # What the stream brings.

    def take(self, stored: Stored, now: float, *, own: bool = False) -> None:
        """Take what has come to stand in the stream, from whichever host; ``own`` is what was on its way from here."""
        self.seq, self.sequence, self.begun, self.progressed = stored.seq, stored.sequence, True, now
        self._newest_origin = stored.origin
        self.recv = max(
            self.recv, stored.recv - (stored.kind == GAP)
        )  # a gap ends with what is not there yet
        if stored.is_event:
            self.window.add(stored)
            if stored.kind == BACKFILLED:
                self._recover(stored.data)
        elif stored.kind == SNAPSHOT:
            self.needs_book, self._book_seq = False, stored.seq
        if stored.book_at > self.book_at:
            self.book_at, self._book_given = stored.book_at, now
        if self._unconfirmed and not own and not self._is_first(stored):
            self.revoke()
        self._unconfirmed = False
        if self._strike(stored, now) or not stored.is_event:
            return
        if self.aligned:
            self._owe(Place(stored.key))
        else:
            self._join_at(stored, now)

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
        return entry.is_event and entry.late_since > 0

    def is_needless(self, entry: Entry) -> bool:
        """Tell whether an entry need not be sent: a book that the stream is ahead of, trades that it has recovered."""
        if entry.is_snapshot:
            return self.owed.goes_on
        return self.is_late(entry) and self._has_recovered(entry)

    def due_at(self, takeover_s: float) -> float:
        """Return when somebody should have sent what is pending (s); infinity where nothing is."""
        for entry in self.pending:
            if not entry.is_snapshot:
                return (entry.late_since or max(entry.arrived, self.progressed)) + takeover_s
        return float("inf")

    def is_stale(self, now: float, every_s: float) -> bool:
        """Tell whether the book should be given again, for those who begin later, and this host's is the stream's."""
        if not (self.is_book and self.begun and self.aligned) or len(self.owed):
            return False
        every_s *= 1 if self.seq != self._book_seq else QUIET_TIMES
        return now - self._book_given >= every_s

    # Holding, joining, and beginning by decree.

    def _hold(self, entry: Entry) -> None:
        self._held.append(entry)
        self._held_keys[entry.key] += 1
        self._held_bytes += entry.size
        while len(self._held) > HELD_EVENTS or self._held_bytes > HELD_BYTES:
            dropped = self._unhold()
            self.dropped += dropped.is_event
            self.needs_book = self.needs_book or dropped.is_snapshot

    def _unhold(self) -> Entry:
        entry = self._held.popleft()
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
        if number is not None:
            return number
        number = self.window.find(entry.key)
        if (
            number is None
            or self._held_keys[entry.key] > 1
            or entry.kind == LATE
            or self.window.is_late(number)
        ):
            return None
        return number if self._is_distinct(entry) else None

    def _join(self, entry: Entry, number: int | None, now: float) -> None:
        """Be aligned: an entry is the one at a place of the window; None for the stream's newest record."""
        while self._unhold() is not entry:
            pass
        self.aligned = True
        self._joined = self.window.last if number is None else number
        self.owed = Ledger()
        for place in () if number is None else self.window.after(number):
            self.owed.add(place)
        self._pass(self.pending.pass_all(), now)
        rest = [self._unhold() for _ in range(len(self._held))]
        for one in rest:
            self.bring(one, now)

    def decree(self, now: float, patience_s: float) -> str:
        """Begin without a proof where none will come; return the reason of the gap, "" where there is none."""
        news = [] if self.aligned else self._news()
        if not news or not self._may_begin(news[0], now, patience_s):
            return ""
        own, entries = (news[0], news[1:]) if news[0].kind == GAP else (None, news)
        if self.is_book:
            entries = list(dropwhile(lambda one: not one.is_snapshot, entries))
        if all(one.kind == GAP for one in entries):
            return ""
        gap = (own or self._gap_before(entries)) if self.begun else None
        for _ in range(len(self._held)):
            self._unhold()
        self.aligned, self.owed, self._unconfirmed = True, Ledger(), True
        for entry in [gap, *entries] if gap else entries:
            self._append(entry)
        return gap.record.reason if gap and isinstance(gap.record, Gap) else ""

    def _may_begin(self, first: Entry, now: float, patience_s: float) -> bool:
        """Tell whether nobody else will go on here."""
        if len(self.pending):
            return False
        return not self.begun or now - max(first.arrived, self.progressed) >= patience_s

    def _news(self) -> list[Entry]:
        """Return what is held and not in the stream: from the first event on that is newer than all there is.

        What is older may be in the stream, gaps and books before that are about what is.
        """
        held = [one for one in self._held if self.is_book or not self._is_there(one)]
        if not held or not self.begun or (held[0].kind == GAP and held[0].recv > self.recv):
            return held
        first = next((i for i, one in enumerate(held) if one.is_event and one.recv > self.recv), len(held))
        if first == len(held):
            return []
        while first and not held[first - 1].is_event:
            first -= 1
        return [one for one in held[first:] if one.recv > self.recv or not one.is_event]

    def _is_there(self, entry: Entry) -> bool:
        """Tell whether the stream has an event, whatever the clocks say."""
        return self.window.find(entry.key) is not None and self._is_distinct(entry)

    def _gap_before(self, entries: list[Entry]) -> Entry:
        """Return the gap record that a beginning needs, unless it is the beginning of all or has one of its own."""
        until = next((one.recv for one in entries if one.recv > self.recv), self.recv)
        return gap_entry(entries[0], UNFORWARDED, self.recv, until)

    def revoke(self) -> None:
        """Be a witness again, with all that is pending: another host was there before our decree, or may have been."""
        if not self._promises:
            return
        self._unconfirmed = False
        self._step_back()
        later = [self._unhold() for _ in range(len(self._held))]
        entries = list(self.pending)
        for number, entry in enumerate(entries):
            self.leave_out(entry)
            if entry.origin or number:  # the gap of a decree stands first
                self._hold(msgspec.structs.replace(entry, done=False, late_since=0.0))
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
    msg: msgspec.Raw


_message = msgspec.json.Decoder(_Message).decode
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
