"""The socket's protocol from the consumer's side, without any I/O.

The contract of a `Reader`, in four verbs: `feed` takes the bytes that came, in whatever pieces; `next` gives
one record after the other, `None` when more bytes are needed; `request` then gives what has to be sent,
once for each connection; `restart` forgets the connection, and keeps where the stream was left, for the next
one. Each record comes with the line as it was received, and what this version does not know passes as
`Unknown`.

The reader counts. Of each channel it knows the seq that must come next, and **a record that is not the
expected one is a `ProtocolError`, never passed on**: a hole has its `gap`, `skipped` or `refused` record,
or it is a bug of the server. `position` is where a consumer can resume that has dealt with all the records
it was given so far.

**A position speaks for every channel that a pattern chooses.** One that it does not name has appeared since,
while nobody was connected, so the request asks for it from its first record on; that is why the request
waits for the greeting, which names the channels. A channel that appears between greeting and request and is
under way already makes the connection `torn`: nothing more is read from it, and the next one asks for that
channel, too. A channel given by its exact name and not in the position starts live.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec

from feedhandler.client.errors import ProtocolError
from feedhandler.client.lines import LINE_BYTES, Lines
from feedhandler.client.position import Position

PROTOCOL = 1  # a server that changes what stands raises the number; additions leave it

_SENT_TO_ONE = frozenset({"join", "conflated", "refused"})  # reasons of snapshots that take no seq
_BEFORE_ALL = 1  # the first seq of a channel that appears later


class Record(msgspec.Struct, frozen=True, tag_field="type"):
    """Base of the records of the stream."""


class Hello(Record, frozen=True, tag="hello"):
    """The greeting: the session and the channels there are."""

    protocol: int
    session: str
    server: str
    channels: list[str]


class Next(msgspec.Struct, frozen=True):
    """The first seq of a channel that will come."""

    next: int


class Subscribed(Record, frozen=True, tag="subscribed"):
    """The answer to the request."""

    channels: dict[str, Next]


class Event(Record, frozen=True, tag="event"):
    """One event; `msg` is the exchange's message as it came."""

    channel: str
    seq: int
    line: str
    recv: int
    msg: msgspec.Raw
    event_class: str = msgspec.field(default="", name="class")


class Gap(Record, frozen=True, tag="gap"):
    """A stretch for which nothing proves that all events were seen."""

    channel: str
    seq: int
    reason: str
    since: int
    until: int


class Snapshot(Record, frozen=True, tag="snapshot"):
    """The book after `seq`."""

    channel: str
    seq: int
    reason: str
    msg: msgspec.Raw


class Skipped(Record, frozen=True, tag="skipped"):
    """Seqs that a consumer that was too slow will not get."""

    channel: str
    first: Annotated[int, msgspec.Meta(ge=1)] = msgspec.field(name="from")
    last: Annotated[int, msgspec.Meta(ge=1)] = msgspec.field(name="to")


class Refused(Record, frozen=True, tag="refused"):
    """A channel that can't be resumed exactly, or was opened again, and goes on live, from `next`."""

    channel: str
    reason: str
    oldest: int
    next: int


class Heartbeat(Record, frozen=True, tag="heartbeat"):
    """The next seq of each channel."""

    now: int
    next: dict[str, int]


class State(Record, frozen=True, tag="state"):
    """A channel's state."""

    channel: str
    state: str
    since: int


class Retired(Record, frozen=True, tag="retired"):
    """Nothing from `next` on comes of a channel, unless it is opened again."""

    channel: str
    next: int
    since: int


class Error(Record, frozen=True, tag="error"):
    """What was wrong with the request; the connection ends."""

    code: str
    detail: str


class Bye(Record, frozen=True, tag="bye"):
    """Why the server ends the connection."""

    reason: str


class Unknown(Record, frozen=True, tag="unknown"):
    """A record of a type that this version does not know; its line tells the rest."""

    word: str


class Received(NamedTuple):
    """A record and the line it came as, the line's end included."""

    line: bytes
    record: Record


class _Wish(msgspec.Struct, frozen=True, omit_defaults=True):
    op: str
    channels: tuple[str, ...]
    snapshot: bool
    resume: Position | None = None
    slow: str = "disconnect"
    name: str = ""


class _Head(msgspec.Struct, frozen=True):
    type: str


_KNOWN = (
    Hello
    | Subscribed
    | Event
    | Gap
    | Snapshot
    | Skipped
    | Refused
    | Heartbeat
    | State
    | Retired
    | Error
    | Bye
)
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(_KNOWN)
_head_decoder = msgspec.json.Decoder(_Head)
_WORDS = frozenset(kind.__struct_config__.tag for kind in _KNOWN.__args__)


def decode(line: bytes) -> Record:
    """Read one line.

    >>> decode(b'{"type":"bye","reason":"shutdown"}')
    Bye(reason='shutdown')
    """
    try:
        return _decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        word = _word(line)
        if word and word not in _WORDS:
            return Unknown(word)
        raise ProtocolError(f"the server sent a line that is no record: {error}") from error


def _word(line: bytes) -> str:
    try:
        return _head_decoder.decode(line).type
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""


class Reader:
    """One consumer's side of the stream, across connections."""

    def __init__(
        self,
        channels: Sequence[str] = ("*",),
        *,
        snapshot: bool = True,
        name: str = "",
        resume: Position | None = None,
        slow: Literal["disconnect", "conflate"] = "disconnect",
        line_bytes: int = LINE_BYTES,
    ) -> None:
        self._channels = tuple(channels)
        self._snapshot = snapshot
        self._name = name
        self._slow = slow
        self._line_bytes = line_bytes
        self._lines = Lines(line_bytes)
        self._session = resume.session if resume else ""
        self._hello: Hello | None = None
        self._next = {channel: seq + 1 for channel, seq in resume.seq.items()} if resume else {}
        self._owed: set[str] = set()  # channels whose resume did not come true and that owe a `refused`
        self._before: Position | None = None  # our position before the answer that owes them
        self._asked = self._subscribed = self._torn = False

    @property
    def subscribed(self) -> bool:
        """Whether the server has confirmed the request on the present connection."""
        return self._subscribed

    @property
    def torn(self) -> bool:
        """Whether the present connection can't be read any further, and another one can."""
        return self._torn

    def position(self) -> Position | None:
        """Return where a consumer can resume that has dealt with all it was given so far."""
        if self._owed:
            return self._before
        if not self._session:
            return None
        return Position(self._session, {channel: seq - 1 for channel, seq in self._next.items()})

    def request(self) -> bytes:
        """Return what has to be sent now: the request, once the server has greeted."""
        if self._hello is None or self._asked:
            return b""
        self._asked = True
        self._next |= dict.fromkeys(self._appeared(self._hello.channels), _BEFORE_ALL)
        wish = _Wish("subscribe", self._channels, self._snapshot, self.position(), self._slow, self._name)
        return msgspec.json.encode(wish) + b"\n"

    def restart(self) -> None:
        """Forget the connection, a started line included; the position stays."""
        self._go_back()
        self._lines = Lines(self._line_bytes)
        self._hello = None
        self._asked = self._subscribed = self._torn = False

    def feed(self, data: bytes) -> None:
        """Take the bytes that came."""
        self._lines.feed(data)

    def next(self) -> Received | None:
        """Return the next record, or nothing when more bytes are needed."""
        line = None if self._torn else self._lines.next()
        if line is None:
            return None
        record = decode(line)
        self._follow(record)
        return Received(line, record)

    def _follow(self, record: Record) -> None:
        """Check a record against what must come next, and move on."""
        match record:
            case Event() | Gap():
                self._advance(record.channel, record.seq, record.seq)
            case Snapshot() if record.reason in _SENT_TO_ONE:
                self._check_answered(self._owed & {record.channel})
                self._compare([(record.channel, record.seq + 1)])
            case Snapshot():
                self._advance(record.channel, record.seq, record.seq)
            case Skipped():
                self._advance(record.channel, record.first, record.last)
            case Heartbeat():
                self._check_answered(self._owed)
                self._compare(record.next.items())
            case Refused():
                self._owed.discard(record.channel)
                self._next[record.channel] = record.next
            case Subscribed():
                self._begin(record)
            case Hello():
                self._greet(record)

    def _advance(self, channel: str, first: int, last: int) -> None:
        self._check_answered(self._owed)
        self._compare([(channel, first)])
        if last < first:
            raise ProtocolError(f"{channel}: a record from seq {first} to {last}")
        self._next[channel] = last + 1

    def _check_answered(self, owed: set[str]) -> None:
        """Check that nothing comes before the answer to the request is complete."""
        if not self._subscribed:
            raise ProtocolError("a record of the stream came before the request was confirmed")
        if owed:
            raise ProtocolError(f"{min(owed)} was not resumed, and no record says why")

    def _compare(self, seqs: Iterable[tuple[str, int]]) -> None:
        for channel, seq in seqs:
            expected = self._next.setdefault(channel, _BEFORE_ALL)
            if seq != expected:
                raise ProtocolError(f"{channel}: expected seq {expected}, got {seq}")

    def _greet(self, record: Hello) -> None:
        if record.protocol != PROTOCOL:
            raise ProtocolError(
                f"the server speaks version {record.protocol} of the protocol, not {PROTOCOL}"
            )
        self._hello = record

    def _begin(self, record: Subscribed) -> None:
        """Take the confirmed channels; those that do not go on from our position owe a `refused`."""
        if self._hello is None or not self._asked:
            raise ProtocolError("the server confirmed a request that was not sent yet")
        first = {channel: confirmed.next for channel, confirmed in record.channels.items()}
        missed = [channel for channel in self._appeared(first) if first[channel] != _BEFORE_ALL]
        if missed:
            self._next |= dict.fromkeys(missed, _BEFORE_ALL)
            self._torn = True
            return
        held, self._before = self._next, self.position()
        goes_on = self._hello.session == self._session
        self._owed = {
            name
            for name, seq in held.items()
            if self._choose(name) and not (goes_on and first.get(name, _BEFORE_ALL) == seq)
        }
        self._next = held | first if goes_on else first
        self._session = self._hello.session
        self._subscribed = True

    def _appeared(self, channels: Iterable[str]) -> list[str]:
        """Return those that a pattern chooses, and that our position, where we have one, does not name."""
        if not self._session:
            return []
        return [name for name in channels if name not in self._next and self._match(name)]

    def _choose(self, name: str) -> bool:
        """Tell whether a channel is subscribed to, be it by name or by a pattern."""
        return name in self._channels or self._match(name)

    def _match(self, name: str) -> bool:
        """Tell whether a pattern, and not merely its exact name, chooses a channel."""
        market, _, stream = name.rpartition("/")
        patterns = {"*", "*/*", f"*/{stream}", f"{market}/*"}
        return name not in self._channels and not patterns.isdisjoint(self._channels)

    def _go_back(self) -> None:
        """Return to the position before an answer that never became complete."""
        if self._owed and self._before is not None:
            self._session = self._before.session
            self._next = {channel: seq + 1 for channel, seq in self._before.seq.items()}
        self._owed = set()
