"""The socket's protocol from the consumer's side, without any I/O.

The contract of a `Reader`, in four verbs: `subscribe` gives the line to send once connected; `feed` takes
the bytes that came, in whatever pieces; `next` gives one record after the other, `None` when more bytes are
needed; `restart` forgets the connection, and keeps where the stream was left, for the next one. Each record
comes with the line as it was received, and what this version does not know passes as `Unknown`.

The reader counts. Of each channel it knows the seq that must come next, and **a record that is not the
expected one is a `ProtocolError`, never passed on**: a hole has its `gap`, `skipped` or `refused` record,
or it is a bug of the server. `position` is where a consumer can resume that has dealt with all the records
it was given so far.

One line has a bound, `LINE_BYTES`; beyond it the connection is given up with a `ProtocolError`, too.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Annotated, NamedTuple

import msgspec

from feedhandler.errors import OperationalError

LINE_BYTES = 64 * 1024 * 1024

_IN_STREAM = frozenset({"start", "gap", "late", "audit"})  # reasons of snapshots that take a seq
_BEFORE_ALL = 1  # the first seq of a channel that appears later


class ProtocolError(OperationalError):
    """The server broke the protocol: a seq that is not the next, a line that is no record or too long."""


class ServerError(OperationalError):
    """The server answered with an `error` record."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


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
    """A channel that can't be resumed exactly and goes on live, from `next`."""

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


class Position(msgspec.Struct, frozen=True):
    """Where a consumer left off: of each channel the last seq that it received."""

    session: str
    seq: dict[str, Annotated[int, msgspec.Meta(ge=0)]]


class _Wish(msgspec.Struct, frozen=True, omit_defaults=True):
    op: str
    channels: tuple[str, ...]
    snapshot: bool
    resume: Position | None = None
    name: str = ""


class _Head(msgspec.Struct, frozen=True):
    type: str


_KNOWN = Hello | Subscribed | Event | Gap | Snapshot | Skipped | Refused | Heartbeat | State | Error | Bye
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(_KNOWN)
_head_decoder = msgspec.json.Decoder(_Head)
_position_decoder = msgspec.json.Decoder(Position)
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


def read_position(text: bytes) -> Position:
    """Read what `write_position` wrote."""
    try:
        return _position_decoder.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise OperationalError(f"not a position to resume from: {error}") from error


def write_position(position: Position) -> bytes:
    """Write a position as one line of JSON."""
    return msgspec.json.encode(position) + b"\n"


class Lines:
    """Bytes in whatever pieces, put together into lines; costs the same per byte however long a line is."""

    def __init__(self, line_bytes: int = LINE_BYTES) -> None:
        self._line_bytes = line_bytes
        self._whole: deque[bytes] = deque()
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        first, *rest = data.split(b"\n")
        self._pieces.append(first)
        self._pieces_bytes += len(first)
        if rest:
            self._whole.append(b"".join(self._pieces))
            self._whole.extend(rest[:-1])
            self._pieces = [rest[-1]]
            self._pieces_bytes = len(rest[-1])

    def next(self) -> bytes | None:
        """Return the next whole line, its end included."""
        if self._whole:
            return self._whole.popleft() + b"\n"
        if self._pieces_bytes > self._line_bytes:
            raise ProtocolError(f"the server sent a line of more than {self._line_bytes} bytes")
        return None


class Reader:
    """One consumer's side of the stream, across connections."""

    def __init__(
        self,
        channels: Sequence[str] = ("*",),
        *,
        snapshot: bool = True,
        name: str = "",
        resume: Position | None = None,
        line_bytes: int = LINE_BYTES,
    ) -> None:
        self._channels = tuple(channels)
        self._snapshot = snapshot
        self._name = name
        self._line_bytes = line_bytes
        self._lines = Lines(line_bytes)
        self._session = resume.session if resume else ""
        self._hello: Hello | None = None
        self._next = {channel: seq + 1 for channel, seq in resume.seq.items()} if resume else {}
        self._owed: set[str] = set()  # channels whose resume did not come true and that owe a `refused`
        self._before: Position | None = None  # our position before the answer that owes them
        self._subscribed = False

    @property
    def subscribed(self) -> bool:
        """Whether the server has confirmed the request on the present connection."""
        return self._subscribed

    def position(self) -> Position | None:
        """Return where a consumer can resume that has dealt with all it was given so far."""
        if self._owed:
            return self._before
        if not self._session:
            return None
        return Position(self._session, {channel: seq - 1 for channel, seq in self._next.items()})

    def subscribe(self) -> bytes:
        """Return the request to send once connected."""
        wish = _Wish("subscribe", self._channels, self._snapshot, self.position(), self._name)
        return msgspec.json.encode(wish) + b"\n"

    def restart(self) -> None:
        """Forget the connection, a started line included; the position stays."""
        self._go_back()
        self._lines = Lines(self._line_bytes)
        self._hello = None
        self._subscribed = False

    def feed(self, data: bytes) -> None:
        """Take the bytes that came."""
        self._lines.feed(data)

    def next(self) -> Received | None:
        """Return the next record, or nothing when more bytes are needed."""
        line = self._lines.next()
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
            case Snapshot() if record.reason in _IN_STREAM:
                self._advance(record.channel, record.seq, record.seq)
            case Snapshot():
                self._next[record.channel] = record.seq + 1
            case Skipped():
                self._advance(record.channel, record.first, record.last)
            case Heartbeat():
                self._compare(record.next.items())
            case Refused():
                self._owed.discard(record.channel)
                self._next[record.channel] = record.next
            case Subscribed():
                self._begin(record)
            case Hello():
                self._hello = record

    def _advance(self, channel: str, first: int, last: int) -> None:
        self._compare([(channel, first)])
        self._next[channel] = last + 1

    def _compare(self, seqs: Iterable[tuple[str, int]]) -> None:
        for channel, seq in seqs:
            expected = self._next.setdefault(channel, _BEFORE_ALL)
            if channel in self._owed:
                raise ProtocolError(f"{channel} was not resumed, and no record says why")
            if seq != expected:
                raise ProtocolError(f"{channel}: expected seq {expected}, got {seq}")

    def _begin(self, record: Subscribed) -> None:
        """Take the confirmed channels; those that do not go on from our position owe a `refused`."""
        if self._hello is None:
            raise ProtocolError("the server confirmed the request before it had greeted")
        first = {channel: confirmed.next for channel, confirmed in record.channels.items()}
        held, self._before = self._next, self.position()
        goes_on = self._hello.session == self._session
        self._owed = {
            name for name, seq in first.items() if name in held and not (goes_on and held[name] == seq)
        }
        self._next = held | first if goes_on else first
        self._session = self._hello.session
        self._subscribed = True

    def _go_back(self) -> None:
        """Return to the position before an answer that never became complete."""
        if self._owed and self._before is not None:
            self._session = self._before.session
            self._next = {channel: seq + 1 for channel, seq in self._before.seq.items()}
        self._owed = set()
