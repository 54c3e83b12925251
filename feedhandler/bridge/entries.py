"""Records on their way into the stream: what identifies them, and the bytes that are stored.

A record is stored as it was on the socket, with two differences: `seq` counts within the stream (of each channel from
1, whichever host writes), and an event that stands behind its place says so (`"class":"late"`).

**The key of an event is a digest of its channel and of the exchange's message**, so it is the same on every host. With
the number of its occurrence behind it, it is the message's `Nats-Msg-Id`. The occurrence is counted by the stream (the
number of the newest event of this key there, and one, as far back as `window` says), so every host counts alike,
whenever it started. A gap or a snapshot is one host's own word: its key is a digest of where it stood on that host's
socket.
"""

import hashlib
from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from feedhandler.client import Event, Gap, Snapshot

KEY_BYTES: Final = 16
BOOK: Final = "publicOrderBook"
OTHER: Final = "other"

ORDINARY, LATE, BACKFILLED = "ordinary", "late", "backfilled"
GAP, SNAPSHOT = "gap", "snapshot"

TOO_LARGE: Final = "too_large"
"""The reason of a gap record in the place of an event that the server does not take."""

MISNUMBERED: Final = "misnumbered"
"""The reason of a gap record behind a message whose seq does not follow."""

ID: Final = "Nats-Msg-Id"
EXPECTED_ID: Final = "Nats-Expected-Last-Msg-Id"
EXPECTED_SEQUENCE: Final = "Nats-Expected-Last-Sequence"
EXPECTED_OF_SUBJECT: Final = "Nats-Expected-Last-Subject-Sequence"
KIND: Final = "Feed-Kind"
SEQ: Final = "Feed-Seq"
RECV: Final = "Feed-Recv"
ORIGIN: Final = "Feed-Origin"
BOOK_AT: Final = "Feed-Snapshot"
"""In a book's channel: the sequence of the newest snapshot in the stream, from where a consumer may begin."""
NEWEST: Final = "Feed-Newest"
"""Beside what is no ordinary event: the newest of the exchange's own times in the channel (ms)."""


class Entry(msgspec.Struct, gc=False, eq=False):
    """One record of the own socket; ``arrived`` is a monotonic time (s), ``recv`` a wall clock's (ns)."""

    channel: str
    kind: str
    record: Event | Gap | Snapshot
    key: str
    origin: str
    recv: int
    arrived: float
    index: int = 0
    """Its place in the ledger."""
    late_since: float = 0.0
    """When the stream went past its place (s); 0 while it has not."""
    unseen: bool = False
    """It is not in the stream, as far as this host has read it."""
    done: bool = False
    """It is in the stream, or need not get there."""

    @property
    def is_event(self) -> bool:
        """Whether it is an event of the exchange."""
        return isinstance(self.record, Event)

    @property
    def is_snapshot(self) -> bool:
        """Whether it is a book, which every host could give, and which is left out where another has given one."""
        return isinstance(self.record, Snapshot)

    @property
    def size(self) -> int:
        """About the bytes that it takes."""
        return OVERHEAD_BYTES + (0 if isinstance(self.record, Gap) else len(memoryview(self.record.msg)))


OVERHEAD_BYTES: Final = 400
"""What an entry takes beside its message."""


class _Event(msgspec.Struct, gc=False, omit_defaults=True):
    type: str
    channel: str
    seq: int
    line: str
    recv: int
    event_class: str = msgspec.field(name="class", default="")
    msg: msgspec.Raw = msgspec.Raw()


class _Gap(msgspec.Struct, gc=False):
    type: str
    channel: str
    seq: int
    reason: str
    since: int
    until: int


class _Snapshot(msgspec.Struct, gc=False):
    type: str
    channel: str
    seq: int
    reason: str
    msg: msgspec.Raw


class Stored(NamedTuple):
    """One message of the stream, as far as its headers tell."""

    sequence: int
    channel: str
    kind: str
    key: str
    occurrence: int
    seq: int
    recv: int
    origin: str
    data: bytes
    book_at: int = 0
    """The sequence of the channel's newest snapshot, this one included; 0 where there is none."""
    newest_ms: int | None = None
    """The newest of the exchange's own times in the channel; None beside an ordinary event, which has its own."""

    @property
    def is_event(self) -> bool:
        """Whether it is an event of the exchange."""
        return self.kind not in {GAP, SNAPSHOT}


def entry_of(record: Event | Gap | Snapshot, session: str, arrived: float) -> Entry:
    """Return a record of the socket as an entry."""
    origin = f"{session}/{record.seq}"
    match record:
        case Event():
            key = _digest(record.channel, bytes(record.msg))
            return Entry(
                record.channel, record.event_class or ORDINARY, record, key, origin, record.recv, arrived
            )
        case Gap():
            key = _digest(record.channel, f"gap {origin}".encode())
            return Entry(record.channel, GAP, record, key, origin, record.until, arrived)
        case Snapshot():
            key = _digest(record.channel, f"snapshot {origin}".encode())
            return Entry(record.channel, SNAPSHOT, record, key, origin, 0, arrived)


def gap_entry(first: Entry, reason: str, since: int, until: int) -> Entry:
    """Return a gap record of our own before an entry (ns)."""
    record = Gap(first.channel, 0, reason, since, until)
    key = _digest(first.channel, f"{reason} {first.origin}".encode())
    return Entry(first.channel, GAP, record, key, "", until, first.arrived)


def misnumbered_entry(stored: Stored, since: int, arrived: float) -> Entry:
    """Return the gap record for a message whose seq does not follow (ns); every host's is the same."""
    until = max(since, stored.recv)
    record = Gap(stored.channel, 0, MISNUMBERED, since, until)
    key = _digest(stored.channel, f"{MISNUMBERED} {stored.sequence}".encode())
    return Entry(stored.channel, GAP, record, key, "", until, arrived)


def encode(entry: Entry, seq: int) -> bytes:
    """Return the bytes of an entry with its number in the stream."""
    match entry.record:
        case Event() as event:
            kind = "" if entry.kind == ORDINARY else entry.kind
            return msgspec.json.encode(
                _Event("event", event.channel, seq, event.line, event.recv, kind, event.msg)
            )
        case Gap() as gap:
            return msgspec.json.encode(_Gap("gap", gap.channel, seq, gap.reason, gap.since, gap.until))
        case Snapshot() as book:
            reason = "start" if book.reason in {"join", "refused"} else book.reason
            return msgspec.json.encode(_Snapshot("snapshot", book.channel, seq, reason, book.msg))


def headers_of(
    entry: Entry, seq: int, occurrence: int, book_at: int = 0, newest_ms: int | None = None
) -> dict[str, str]:
    """Return what tells a stored entry without its being read."""
    headers = {
        ID: f"{entry.key}-{occurrence}",
        KIND: entry.kind,
        SEQ: str(seq),
        RECV: str(entry.recv),
        ORIGIN: entry.origin,
    }
    if book_at:
        headers[BOOK_AT] = str(book_at)
    if newest_ms is not None and newest_ms >= 0:
        headers[NEWEST] = str(newest_ms)
    return headers


def read_stored(
    sequence: int, channel: str | None, headers: Mapping[str, str] | None, data: bytes
) -> Stored | None:
    """Return what a message of the stream is; None where no bridge wrote it."""
    headers = headers or {}
    key, _, occurrence = headers.get(ID, "").rpartition("-")
    numbers = occurrence, headers.get(SEQ, ""), headers.get(RECV, ""), headers.get(BOOK_AT, "0")
    if not key or KIND not in headers or not all(one.isascii() and one.isdigit() for one in numbers):
        return None
    if channel is None:
        channel = _channel_in(data)
    count, seq, recv, book_at = map(int, numbers)
    kind, origin = headers[KIND], headers.get(ORIGIN, "")
    newest_ms = _time_in(headers[NEWEST]) if NEWEST in headers else None
    return Stored(sequence, channel, kind, key, count, seq, recv, origin, data, book_at, newest_ms)


def _time_in(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


class _Named(msgspec.Struct, gc=False):
    channel: str = ""


def _channel_in(data: bytes) -> str:
    """Return the channel that a record names; its subject was too long to tell."""
    try:
        return msgspec.json.decode(data, type=_Named).channel
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


def _digest(channel: str, content: bytes) -> str:
    return hashlib.blake2b(content, key=_short(channel), digest_size=KEY_BYTES).hexdigest()


def _short(channel: str) -> bytes:
    """Return a channel's name, or what stands for a long one, as a key of the digest."""
    name = channel.encode()
    return name if len(name) <= hashlib.blake2b.MAX_KEY_SIZE else hashlib.sha256(name).digest()
