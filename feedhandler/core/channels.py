"""Channels and their numbers: what consumers see of the merge.

A channel is one market's stream, written `MARKET/STREAM` and split at the last `/` (a market may hold any
character, a stream holds no `/`). The channels of one session are numbered in the order of their opening,
and each counts its own records: **a channel's seqs start at 1 and have no hole**, because only the methods
here that make a numbered record take a seq, and each of them takes exactly one.

Records are encoded once, here, into the very bytes that every consumer gets: compact JSON, keys in the
order of the contract, the exchange's message last and untouched, one line. What does not change from one
event to the next is encoded in advance: the channel's head of the line once, the middle (line letter, time,
class) once for each read, since all events of one read share it.

Patterns choose channels: `*` stands for a whole part (`*/publicTrades`, `BTC-USD/*`), `*` alone for
everything. Choosing costs the same however many patterns there are.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import repeat

import msgspec

_json = msgspec.json.encode
_digits = b"%d".__mod__
_END = b"}\n"


def split(name: str) -> tuple[str, str]:
    """Split a channel's name into market and stream.

    >>> split("BTC/USD/publicTrades")
    ('BTC/USD', 'publicTrades')
    """
    market, _, stream = name.rpartition("/")
    return market, stream


class Channel:
    """One channel: its names and its numbering; `next` is the seq that its next record will take."""

    __slots__ = (
        "_event_head",
        "_middle",
        "_middle_class",
        "_middle_line",
        "_middle_ns",
        "account",
        "feed",
        "market",
        "marks",
        "name",
        "name_json",
        "next",
        "number",
        "stream",
    )

    def __init__(self, name: str, *, number: int, feed: str, account: bool) -> None:
        self.name = name
        self.number = number
        self.feed = feed
        self.account = account
        self.market, self.stream = split(name)
        self.next = 1
        self.marks = 0  # of its records so far, the gaps and snapshots
        self.name_json = _json(name)
        self._event_head = b'{"type":"event","channel":%b,"seq":' % self.name_json
        self._middle = b""
        self._middle_line = self._middle_class = ""
        self._middle_ns = -1

    def __repr__(self) -> str:
        return f"<Channel {self.name} next={self.next}>"

    @property
    def published(self) -> int:
        """How many events were published."""
        return self.next - 1 - self.marks

    @property
    def last_ns(self) -> int:
        """When its last event arrived (wall clock, ns); -1 where none has come yet."""
        return self._middle_ns

    def event(self, line: str, recv_ns: int, payload: bytes, event_class: str = "") -> bytes:
        """Take the next seq for an event and encode it; `event_class` is empty for an ordinary one."""
        if recv_ns != self._middle_ns or line != self._middle_line or event_class != self._middle_class:
            self._set_middle(line, recv_ns, event_class)
        seq = self.next
        self.next = seq + 1
        return b"%b%d%b%b}\n" % (self._event_head, seq, self._middle, payload)

    def events(self, line: str, recv_ns: int, payloads: Sequence[bytes]) -> Iterator[bytes]:
        """Take the next seqs for ordinary events that came at once and encode them, whoever takes them all."""
        if recv_ns != self._middle_ns or line != self._middle_line or self._middle_class:
            self._set_middle(line, recv_ns, "")
        seqs = range(self.next, self.next + len(payloads))
        self.next = seqs.stop
        heads = map(self._event_head.__add__, map(_digits, seqs))
        return map(b"".join, zip(heads, repeat(self._middle), payloads, repeat(_END), strict=False))

    def gap(self, reason: str, since_ns: int, until_ns: int) -> bytes:
        """Take the next seq for a gap and encode it."""
        seq = self.next
        self.next = seq + 1
        self.marks += 1
        return b'{"type":"gap","channel":%b,"seq":%d,"reason":%b,"since":%d,"until":%d}\n' % (
            self.name_json,
            seq,
            _json(reason),
            since_ns,
            until_ns,
        )

    def snapshot(self, reason: str, message: bytes) -> bytes:
        """Take the next seq for a snapshot in the stream and encode it."""
        seq = self.next
        self.next = seq + 1
        self.marks += 1
        return self.snapshot_at(seq, reason, message)

    def snapshot_at(self, seq: int, reason: str, message: bytes) -> bytes:
        """Encode a snapshot for one consumer: the book after `seq`, which takes no seq of its own."""
        head = b'{"type":"snapshot","channel":%b,"seq":%d,"reason":%b,"msg":'
        return head % (self.name_json, seq, _json(reason)) + message + b"}\n"

    def _set_middle(self, line: str, recv_ns: int, event_class: str) -> None:
        self._middle_line, self._middle_ns, self._middle_class = line, recv_ns, event_class
        marked = b',"class":%b' % _json(event_class) if event_class else b""
        self._middle = b',"line":%b,"recv":%d%b,"msg":' % (_json(line), recv_ns, marked)


class Channels:
    """All channels of one session, in the order of their opening."""

    def __init__(self) -> None:
        self._by_name: dict[str, Channel] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._by_name.values())

    def get(self, name: str) -> Channel | None:
        """Return the channel of that name if it is open."""
        return self._by_name.get(name)

    def open(self, name: str, *, feed: str, account: bool) -> Channel:
        """Open a channel; its name must be new in this session."""
        if name in self._by_name:
            message = f"the channel {name!r} is open already"
            raise ValueError(message)
        channel = Channel(name, number=len(self._by_name), feed=feed, account=account)
        self._by_name[name] = channel
        return channel


class Patterns:
    """A consumer's choice of channels: exact names and patterns."""

    def __init__(self, patterns: Collection[str]) -> None:
        self.exact: list[str] = []
        self._names: set[str] = set()
        self._markets: set[str] = set()
        self._streams: set[str] = set()
        self._everything = False
        for pattern in patterns:
            self._add(pattern)
        self.selection = "*" if self._everything else _json(sorted(set(patterns))).decode()
        """The choice in one string, the same for the same patterns in any order."""

    def _add(self, pattern: str) -> None:
        market, stream = split(pattern)
        if pattern in ("*", "*/*"):
            self._everything = True
        elif market == "*":
            self._streams.add(stream)
        elif stream == "*" and market:
            self._markets.add(market)
        elif pattern not in self._names:
            self._names.add(pattern)
            self.exact.append(pattern)

    def match(self, name: str) -> bool:
        """Tell whether a channel of that name is chosen."""
        if self._everything or name in self._names:
            return True
        market, stream = split(name)
        return stream in self._streams or market in self._markets
