"""Channels and their numbers: what consumers see of the merge.

A channel is one market's stream, written `MARKET/STREAM` and split at the last `/` (a market may hold any
character, a stream holds no `/`). The channels of one session are numbered in the order of their opening,
and each counts its own records: **a channel's seqs start at 1 and have no hole**, because only the methods
here that make a numbered record take a seq, and each of them takes exactly one.

Records are encoded once, here, into the very bytes that every consumer gets: compact JSON, keys in the
order of the contract, the exchange's message last and untouched, one line. What does not change from one
event to the next is encoded in advance: the channel's head of the line once, the middle (line letter, time,
class) once for each read, since all events of one read share it.

A channel that its feed has given up is **retired**: nothing comes of it, and it is listed no more. Its numbering is
that of the session all the same: opened again it goes on with the next seq, and one that was the account's stays so as
long as anything of it may be kept. Its number may be given to another channel
once nothing of it is kept anywhere; then its name, its next seq and the time of its last event are all that is
remembered, of `NAMES` channels at most, those that are open included. A session has no more than that.

Patterns choose channels: `*` stands for a whole part (`*/publicTrades`, `BTC-USD/*`), `*` alone for
everything. Choosing costs the same however many patterns there are.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import msgspec

_json = msgspec.json.encode
_digits = b"%d".__mod__
END = b"}\n"
"""What stands behind an event's message."""

NAMES = 100_000
"""Channels that a session numbers, open, retired and forgotten ones; further ones are not opened."""


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
        "interleaved",
        "market",
        "marks",
        "name",
        "name_json",
        "next",
        "number",
        "retired",
        "stream",
    )

    def __init__(
        self, name: str, *, number: int, feed: str, account: bool, first: int = 1, last_ns: int = -1
    ) -> None:
        self.name = name
        self.number = number
        self.feed = feed
        self.account = account
        self.retired = False
        self.interleaved = False  # whether lines of its feed were seen to interleave channels differently
        self.market, self.stream = split(name)
        self.next = first
        self.marks = (
            first - 1
        )  # of its records so far, the gaps and snapshots; what was forgotten counts as such
        self.name_json = _json(name)
        self._event_head = b'{"type":"event","channel":%b,"seq":' % self.name_json
        self._middle = b""
        self._middle_line = self._middle_class = ""
        self._middle_ns = last_ns

    def __repr__(self) -> str:
        return f"<Channel {self.name} next={self.next}{' retired' if self.retired else ''}>"

    @property
    def last_ns(self) -> int:
        """When its last event arrived (wall clock, ns); -1 where none has come yet."""
        return self._middle_ns

    def end(self, since_ns: int) -> None:
        """Be retired; where no event has ever come, what is proven ends at that moment."""
        self.retired = True
        if self._middle_ns < 0:
            self._middle_ns = since_ns

    @property
    def published(self) -> int:
        """How many events were published."""
        return self.next - 1 - self.marks

    def event(self, line: str, recv_ns: int, payload: bytes, event_class: str = "") -> bytes:
        """Take the next seq for an event and encode it; `event_class` is empty for an ordinary one."""
        if recv_ns != self._middle_ns or line != self._middle_line or event_class != self._middle_class:
            self._set_middle(line, recv_ns, event_class)
        seq = self.next
        self.next = seq + 1
        return b"%b%d%b%b}\n" % (self._event_head, seq, self._middle, payload)

    def heads(self, line: str, recv_ns: int, count: int) -> Iterator[bytes]:
        """Take the next ``count`` seqs for ordinary events that came at once; return what stands before each message.

        `END` stands behind it.
        """
        if recv_ns != self._middle_ns or line != self._middle_line or self._middle_class:
            self._set_middle(line, recv_ns, "")
        seqs = range(self.next, self.next + count)
        self.next = seqs.stop
        head = self._event_head.replace(b"%", b"%%") + b"%d" + self._middle.replace(b"%", b"%%")
        return map(head.__mod__, seqs)

    def take_over(self, count: int, recv_ns: int, marks: int) -> None:
        """Take the next seqs for records that another daemon has encoded, of which so many are gaps and snapshots.

        ``recv_ns`` is the arrival of the last event among them; -1 for none.
        """
        self.next += count
        self.marks += marks
        if recv_ns >= 0:
            self._set_middle("", recv_ns, "")

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


class Forgotten(NamedTuple):
    """What is remembered of a channel whose number another one has."""

    next: int
    last_ns: int
    account: bool = False


class Channels:
    """All channels of one session, the retired ones included, in the order of their numbers."""

    def __init__(self, most: int = NAMES) -> None:
        self._most = most
        self._by_name: dict[str, Channel] = {}
        self._slots: list[Channel] = []
        self._retired: deque[Channel] = deque()
        self._forgotten: dict[str, Forgotten] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def __iter__(self) -> Iterator[Channel]:
        return iter(self._slots)

    def get(self, name: str) -> Channel | None:
        """Return the channel of that name if it is open, or retired and not forgotten."""
        return self._by_name.get(name)

    def forgotten_names(self) -> Iterator[tuple[str, Forgotten]]:
        """Return what is remembered of all channels whose numbers others have."""
        return iter(self._forgotten.items())

    def remember(self, name: str, gone: Forgotten) -> None:
        """Take over the numbering of a channel that is not here: opened, it goes on with that."""
        self._forgotten[name] = gone

    def forgotten(self, name: str) -> Forgotten | None:
        """Return what is remembered of a channel that is retired, and whose number another one has."""
        return self._forgotten.get(name)

    def has_room(self, name: str) -> bool:
        """Tell whether a channel can be opened: it has been there, or there are not too many yet."""
        known = name in self._by_name or name in self._forgotten
        return known or len(self._by_name) + len(self._forgotten) < self._most

    def open(
        self, name: str, *, feed: str, account: bool, is_gone: Callable[[Channel], bool] = lambda _: False
    ) -> Channel:
        """Open a channel that is not open; a retired one goes on where it ended.

        A new one gets the number of the channel retired longest ago if that ``is_gone``: nothing of it is kept.
        """
        channel = self._by_name.get(name)
        if channel is None:
            return self._new(name, feed, account=account, is_gone=is_gone)
        if not channel.retired:
            message = f"the channel {name!r} is open already"
            raise ValueError(message)
        self._retired.remove(channel)
        channel.retired, channel.feed = False, feed
        channel.account = channel.account or account  # what was said for few stays for few: it is kept still
        return channel

    def _new(self, name: str, feed: str, *, account: bool, is_gone: Callable[[Channel], bool]) -> Channel:
        number = len(self._slots)
        if self._retired and is_gone(self._retired[0]):
            number = self._forget(self._retired.popleft())
        first, last_ns, _ = self._forgotten.pop(name, Forgotten(1, -1))
        channel = Channel(name, number=number, feed=feed, account=account, first=first, last_ns=last_ns)
        self._slots[number : number + 1] = [channel]
        self._by_name[name] = channel
        return channel

    def _forget(self, channel: Channel) -> int:
        del self._by_name[channel.name]
        if channel.next > 1:
            self._forgotten[channel.name] = Forgotten(channel.next, channel.last_ns, channel.account)
        return channel.number

    def retire(self, channel: Channel, since_ns: int) -> None:
        """Let a channel be listed no more."""
        channel.end(since_ns)
        self._retired.append(channel)


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
