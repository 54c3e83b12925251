"""All channels of a bridge: what is sent next, under which condition, and what has come to stand in the stream.

**One host writes at a time, and the stream itself says which.** Each message is sent under the condition that it stands
directly behind what this host has read: `Nats-Expected-Last-Sequence` is the number of the message before it. While
some are on their way (many are, none waits for the one before), each names the id of the one before it, too
(`Nats-Expected-Last-Msg-Id`), so that it can't slip in behind another's message that happens to make the number fit.
Ids tell the event and not the writer, so there are two conditions more: each but the first names the number of the one
before it in its channel (`Nats-Expected-Last-Subject-Sequence`), and the first flies alone until it is confirmed. So
whatever the server refuses or loses, nothing that follows it gets in before it (but for the residue), and nothing is
stored twice. So who leads need not even read the stream: a condition that fails says that
somebody else is there. This needs neither a lock nor a clock, nor the server's memory of ids. Where the server
remembers an id all the same, of a message that this host could not read any more, a content that can't recur is the
same event, and need not be sent; another one gets the next id (`repeat`).

Who reads a message of another host **follows**: what stands there is struck out here. Who has had something pending
for a while, with nobody else going on with that channel, **leads** (`due`). Two who both want to lead cost each other a
round trip, no more.

What a record of the stream tells of those before it, for hosts that can't read them any more: in a book's channel where
its newest snapshot is, and beside all that is no ordinary event the newest of the exchange's own times (`Feed-Newest`).

Proven of any number of hosts, whatever is lost or refused: no id is in the stream twice; a channel's seqs follow each
other, or a gap record (`misnumbered`) behind says that one did not, once a host that has read it writes. What of the
order and of losses is proven, and what can't be known, is `channel`'s.

Residue: where one host's messages take longer to the server than another host needs to lead, one of them may still get
in: **the other host has the same event at the same place of the stream, but something else before it**, so the place,
the id and the channel's number are those that were expected. The content is right, and what was to stand before it
comes later, called late; but its seq counts what was never stored: it skips a number, or stands there twice (so may
`Feed-Snapshot` name what is no snapshot). A server of 2.9 compares no more than these three before it stores, and ids
tell the event. Each host that reads it sees it, and sends the same gap record, numbered behind the highest; behind that
a book is given again. It is missing if no host lives, or starts again before the messages are out of its reach, to send
it. A host that began to read behind it takes the gap record for one of another's, and is a witness.

Pure: the messages of the stream come in by `take` in their order, the records of the own socket by `bring`.
"""

from collections import Counter, deque
from collections.abc import Iterable
from itertools import islice
from math import ceil
from typing import Final, NamedTuple

from feedhandler.bridge.channel import UNFORWARDED, Channel
from feedhandler.bridge.entries import (
    BACKFILLED,
    EXPECTED_ID,
    EXPECTED_OF_SUBJECT,
    EXPECTED_SEQUENCE,
    GAP,
    ID,
    LATE,
    ORDINARY,
    SNAPSHOT,
    TOO_LARGE,
    Entry,
    Stored,
    encode,
    headers_of,
    read_stored,
)
from feedhandler.bridge.settings import MIB
from feedhandler.client import Gap
from feedhandler.core.notes import Note, Notify, Value

CHANNELS: Final = 10_000
"""Channels that are known; one more is left out, since something is wrong with the names."""

TELLING: Final = frozenset({LATE, BACKFILLED, GAP, SNAPSHOT})
"""The kinds beside which the newest time of the channel is told."""

HEADER_BYTES: Final = 1024
"""Room that is left for the headers of a message."""


class Flight(NamedTuple):
    """One message on its way: the sequence that it has in the stream if it gets there."""

    sequence: int
    entry: Entry
    headers: dict[str, str]
    data: bytes
    stored: Stored


class Merge:
    """The channels of a bridge."""

    def __init__(
        self, notify: Notify, *, max_bytes: int = 1024 * 1024, pending_bytes: int = 64 * MIB
    ) -> None:
        self.max_bytes = max_bytes
        self.pending_limit_bytes = pending_bytes
        """Beyond it the socket is not read, and the backlog is the reserve."""
        self.channels: dict[str, Channel] = {}
        self.sequence = 0
        self.leads = False
        self.stored: Counter[str] = Counter()  # messages of our own, by their kind
        self.read = 0
        self.flying_bytes = 0
        self._notify = notify
        self._queue: deque[Entry] = deque()
        self._flights: deque[Flight] = deque()
        self._flying: Counter[str] = Counter()
        self._flying_keys: dict[tuple[str, str], deque[int]] = {}  # of each key: the numbers on their way
        self._flying_books: dict[str, int] = {}  # of each channel: the newest snapshot that is on its way
        self._is_ours = False  # what stands before all that is on its way was on its way with it
        self._lasts: dict[str, int] = {}  # of each channel: the newest message that is on its way
        self._known: dict[
            tuple[str, str], int
        ] = {}  # numbers that the server knows, and nobody counts any more

    @property
    def pending_bytes(self) -> int:
        """What waits to be sent, or is on its way."""
        return sum(channel.pending_bytes for channel in self.channels.values())

    @property
    def is_full(self) -> bool:
        """Whether no more records should be brought for now."""
        return self.pending_bytes > self.pending_limit_bytes

    @property
    def sent(self) -> int:
        """How many messages of our own are in the stream."""
        return self.stored.total()

    @property
    def flights(self) -> int:
        """How many messages are on their way."""
        return len(self._flights)

    @property
    def waiting(self) -> int:
        """How many entries wait to be sent; some of them are in the stream already."""
        return len(self._queue)

    def lag_s(self, now: float) -> float:
        """Return how long the oldest record waits that should be in the stream; 0 where none does (s)."""
        firsts = (next(iter(channel.pending), None) for channel in self.channels.values())
        return max((now - one.arrived for one in firsts if one is not None), default=0.0)

    # The two sides.

    def bring(self, entry: Entry, now: float) -> None:
        """Take a record of the own socket."""
        channel = self._channel(entry.channel)
        if channel is not None:
            channel.bring(entry, now)

    def lose_place(self, name: str) -> None:
        """Take note that the own socket could not go on exactly with a channel."""
        channel = self._channel(name)
        if channel is not None:
            channel.lose_place()

    def take(self, sequence: int, stored: Stored | None, now: float) -> None:
        """Take the next message of the stream; None where no bridge wrote it."""
        if sequence <= self.sequence:
            return  # our own, and confirmed before it came back
        own = bool(self._flights) and _is_flight(self._flights[0], sequence, stored)
        if not own and (self.leads or self._flights):
            self.follow("another host writes" if stored else "somebody else writes")
        if (
            self.sequence and sequence > self.sequence + 1
        ):  # limits, or somebody, have deleted what stood between
            for channel in self.channels.values():
                channel.tear()
        self._settle(sequence, stored, now, own=own)

    def recall(self, stored: Stored, now: float) -> None:
        """Take an older message, which is the newest of its channel."""
        channel = self._channel(stored.channel)
        if channel is not None and not channel.begun:
            channel.take(stored, now)

    def confirm(self, sequence: int, now: float) -> None:
        """Take note that the server has stored our messages up to this one."""
        while self._flights and self._flights[0].sequence <= sequence:
            flight = self._flights[0]
            self._settle(flight.sequence, flight.stored, now, own=True)

    def _settle(self, sequence: int, stored: Stored | None, now: float, *, own: bool) -> None:
        self.sequence = sequence
        if own:
            self._land()
        self.read += 1
        channel = self._channel(stored.channel) if stored else None
        if channel is None or stored is None:
            return
        channel.take(stored, now, own=own)
        if own and stored.kind == LATE and channel.is_book:
            channel.needs_book = True

    def _land(self) -> None:
        flight = self._flights.popleft()
        entry = flight.entry
        self.flying_bytes -= len(flight.data)
        self._flying[entry.channel] -= 1
        key = entry.channel, entry.key
        self._flying_keys[key].popleft()
        if not self._flying_keys[key]:
            del self._flying_keys[key]
        self._known.pop(key, None)
        self.stored[flight.stored.kind] += 1
        self._is_ours = True

    # Leading and following.

    def due(self, now: float, takeover_s: float, patience_s: float) -> bool:
        """Begin channels by decree where it is time; tell whether this host should lead."""
        soonest = float("inf")
        for channel in self.channels.values():
            reason = channel.decree(now, patience_s)
            if reason:
                self._note("bridge_gap_declared", channel=channel.name, reason=reason)
            if channel.declared:
                self._note("bridge_gap_declared", channel=channel.name, reason=UNFORWARDED)
                channel.declared = 0
            wait_s = takeover_s if channel.begun else 0.0
            soonest = min(soonest, channel.due_at(wait_s))
            if channel.dropped:
                self._note("bridge_hold_overflowed", channel=channel.name, events=channel.dropped)
                channel.dropped = 0
            if channel.misnumbered:
                self._note("bridge_misnumbered", channel=channel.name, records=channel.misnumbered)
                channel.misnumbered = 0
        return soonest <= now

    def lead(self) -> None:
        """Send what is pending, from now on."""
        if not self.leads:
            self.leads = True
            self._note("bridge_led", sequence=self.sequence)

    def follow(self, reason: str) -> None:
        """Send no more; what was on its way is pending again, until it shows in the stream."""
        if self.leads:
            self._note("bridge_followed", reason=reason, sequence=self.sequence)
        self.leads = self._is_ours = False
        self._queue.extendleft(flight.entry for flight in reversed(self._flights))
        self._flights.clear()
        self.flying_bytes = 0
        self._flying.clear()
        self._flying_keys.clear()
        self._flying_books.clear()
        self._lasts.clear()
        self._known.clear()

    def repeat(self, flight_sequence: int, sequence: int) -> bool:
        """Take note that the server knows the id of the first on its way, from the message at ``sequence``.

        An answer of another one comes too late: that has been read in the stream already. Return whether the message
        there is an older one: the same event, which need not be sent, or one of the same content whose number is not
        counted any more. What was on its way may then be sent again at once, and gets a number behind it.
        """
        if not self._flights or self._flights[0].sequence != flight_sequence:
            return False
        flight = self._flights[0]
        is_older = sequence <= self.sequence
        known = dict(self._known)
        self.follow("an id was known to the server")
        channel = self.channels[flight.entry.channel]
        if is_older and channel.is_distinct(
            flight.entry
        ):  # it is the same event, which this host has not read
            channel.leave_out(flight.entry)
        elif is_older:
            known[flight.entry.channel, flight.entry.key] = flight.stored.occurrence
            self._known = known
        return is_older

    # What is sent.

    def next(self) -> Flight | None:
        """Return the next message to send, or None where there is nothing, or the first on its way flies alone."""
        while self._queue and (self._is_ours or not self._flights):
            entry = self._queue.popleft()
            if entry.done:
                continue
            channel = self.channels[entry.channel]
            if channel.is_needless(entry):
                channel.leave_out(entry)
                continue
            flight = self._prepare(channel, entry)
            if flight is not None:
                return flight
        self._is_ours = self._is_ours and bool(self._flights)
        return None

    def _prepare(self, channel: Channel, entry: Entry) -> Flight | None:
        if channel.is_late(entry) and entry.kind in {ORDINARY, LATE}:
            entry.kind = LATE
        if entry.is_snapshot:
            entry.recv = max(channel.recv, channel.sent_recv)
        channel.sent_recv = max(channel.sent_recv, entry.recv - (entry.kind == GAP))
        seq = channel.seq + self._flying[channel.name] + 1
        data = encode(entry, seq)
        if len(data) + HEADER_BYTES > self.max_bytes:
            self._note("bridge_record_too_large", channel=channel.name, size_bytes=len(data))
            channel.needs_book = entry.is_event and channel.is_book
            if entry.is_snapshot:
                channel.leave_out(entry)
                return None
            entry.record = Gap(channel.name, seq, TOO_LARGE, entry.recv, entry.recv)
            entry.kind = GAP
            data = encode(entry, seq)
        return self._fly(channel, entry, seq, data)

    def _fly(self, channel: Channel, entry: Entry, seq: int, data: bytes) -> Flight:
        name = channel.name
        last = self._flights[-1] if self._flights else None
        before = last.sequence if last else self.sequence
        occurrence = self._occurrences(channel, entry.key, before + 1, seq) + 1
        if entry.is_snapshot:
            self._flying_books[name] = before + 1
        book_at = self._flying_books.get(name, channel.book_at)
        newest_ms = self._newest_ms(channel, entry, data) if entry.kind in TELLING else None
        headers = headers_of(entry, seq, occurrence, book_at, newest_ms)
        stored = read_stored(before + 1, name, headers, data)
        assert stored is not None
        headers[EXPECTED_SEQUENCE] = str(before)
        if last:
            headers[EXPECTED_ID] = last.headers[ID]
            headers[EXPECTED_OF_SUBJECT] = str(self._lasts.get(name, channel.sequence))
        self._lasts[name] = before + 1
        flight = Flight(before + 1, entry, headers, data, stored)
        self._flights.append(flight)
        self.flying_bytes += len(data)
        self._flying[name] += 1
        self._flying_keys.setdefault((name, entry.key), deque()).append(occurrence)
        return flight

    def _newest_ms(self, channel: Channel, entry: Entry, data: bytes) -> int | None:
        """Return the newest time in a channel, of what is on its way, too, for what does not tell it by itself."""
        flying = (one for one in reversed(self._flights) if one.entry.channel == channel.name)
        before = next((one.data for one in flying if one.entry.kind == ORDINARY), b"")
        return channel.newest_ms(before, data if entry.is_event else b"")

    def _occurrences(self, channel: Channel, key: str, sequence: int, seq: int) -> int:
        """Return how often a key has come when what is on its way is there; that is less than a window holds."""
        flying = self._flying_keys.get((channel.name, key))
        if flying:
            return flying[-1]
        return max(channel.window.occurrences(key, sequence, seq), self._known.get((channel.name, key), 0))

    def wanted_books(self) -> Iterable[str]:
        """Return the channels that need a snapshot of their book, and none is on its way."""
        for channel in self.channels.values():
            if channel.needs_book and not channel.has_book:
                yield channel.name

    def stale_books(self, now: float, every_s: float, tick_s: float) -> list[str]:
        """Return some channels whose book is to be given again for consumers that begin later; only who leads does.

        A few in each tick, so that they are spread over the time; else all that began together would stay together.
        """
        if not self.leads:
            return []
        books = [channel for channel in self.channels.values() if channel.is_book]
        stale = (one.name for one in books if one.is_stale(now, every_s) and not one.has_book)
        return list(islice(stale, ceil(len(books) * tick_s / every_s)))

    def _channel(self, name: str) -> Channel | None:
        channel = self.channels.get(name)
        if channel is None and len(self.channels) < CHANNELS:
            channel = self.channels[name] = Channel(name, self._queue.append)
        if channel is None:
            self._note("bridge_channel_left_out", channel=name)
        return channel

    def _note(self, name: str, **fields: Value) -> None:
        self._notify(Note(name, fields))


def _is_flight(flight: Flight, sequence: int, stored: Stored | None) -> bool:
    """Tell whether a message of the stream is the one on its way."""
    mine = flight.stored
    return (
        stored is not None
        and flight.sequence == sequence
        and (stored.key, stored.occurrence, stored.origin) == (mine.key, mine.occurrence, mine.origin)
    )
