"""A stream and its server in memory, hosts that read one truth, and links between them that break.

The server does what JetStream does with a message: it looks for its id among those of the last messages, then for its
conditions, then for room. A link is three pipes in order: what is sent, what is answered, what is read of the stream.
When it breaks, what is in its pipes may or may not have arrived.
"""

from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import NamedTuple

import msgspec

from feedhandler.bridge.entries import (
    EXPECTED_ID,
    EXPECTED_OF_SUBJECT,
    EXPECTED_SEQUENCE,
    ID,
    Stored,
    entry_of,
    read_stored,
)
from feedhandler.bridge.merge import Flight, Merge
from feedhandler.client import Event, Gap, Snapshot
from feedhandler.core.notes import Note

WINDOW = 100
TAKEOVER_S = 1.0
PATIENCE_S = 2.5
STEP_S = 0.02


class Message(NamedTuple):
    """What the stream holds."""

    channel: str
    headers: dict[str, str]
    data: bytes


class Answer(NamedTuple):
    """What the server says: 0 is stored, 1 is known already, 2 is another condition, 3 is full."""

    code: int
    sequence: int


class Server:
    """A stream."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.full = False

    def store(self, flight: Flight) -> Answer:
        """Store a message, or say why not."""
        ids = [message.headers[ID] for message in self.messages[-WINDOW:]]
        headers = dict(flight.headers)
        if headers[ID] in ids:
            return Answer(1, len(self.messages) - len(ids) + ids.index(headers[ID]) + 1)
        if int(headers[EXPECTED_SEQUENCE]) != len(self.messages):
            return Answer(2, 0)
        if EXPECTED_ID in headers and headers[EXPECTED_ID] != (ids[-1] if ids else ""):
            return Answer(2, 0)
        if EXPECTED_OF_SUBJECT in headers and int(headers[EXPECTED_OF_SUBJECT]) != self.last_of(
            flight.entry.channel
        ):
            return Answer(2, 0)
        if self.full:
            return Answer(3, 0)
        self.messages.append(Message(flight.entry.channel, headers, flight.data))
        return Answer(0, len(self.messages))

    def last_of(self, channel: str) -> int:
        """Return where the newest message of a channel stands; 0 where there is none."""
        return next(
            (at for at in range(len(self.messages), 0, -1) if self.messages[at - 1].channel == channel), 0
        )

    def read(self, sequence: int) -> Stored | None:
        """Return a message as a host reads it."""
        channel, headers, data = self.messages[sequence - 1]
        return read_stored(sequence, channel, headers, data)

    def records(self, channel: str) -> list[dict]:
        """Return the records of a channel."""
        return [msgspec.json.decode(one.data) for one in self.messages if one.channel == channel]

    def messages_of(self, channel: str) -> list[bytes]:
        """Return the exchange's messages in a channel."""
        return [
            payload_of(one.data)
            for one in self.messages
            if one.channel == channel and msgspec.json.decode(one.data, type=_Record).type == "event"
        ]


class _Record(msgspec.Struct):
    type: str
    msg: msgspec.Raw = msgspec.Raw(b"")


def payload_of(data: bytes) -> bytes:
    """Return the exchange's message in a record."""
    return bytes(msgspec.json.decode(data, type=_Record).msg)


class Host:
    """A daemon's socket and a bridge."""

    def __init__(
        self, name: str, server: Server, random: Random, read_back: int = 1_000_000, **bounds: int
    ) -> None:
        self.name = name
        self._read_back = read_back
        self.notes: list[Note] = []
        self.merge = Merge(self.notes.append, **bounds)
        self.linked = False
        self._server = server
        self._random = random
        self._seqs: dict[str, int] = {}
        self._sent: deque[tuple[int, Flight]] = deque()
        self._answers: deque[tuple[int, int, Answer]] = deque()
        self._read = 0
        self._batch = 0

    # The socket.

    def bring(self, record: Event | Gap | Snapshot, now: float) -> None:
        """Bring a record, numbered as on this host."""
        seq = self._seqs[record.channel] = self._seqs.get(record.channel, 0) + 1
        self.merge.bring(entry_of(msgspec.structs.replace(record, seq=seq), self.name, now), now)

    # The link.

    def link(self, now: float) -> None:
        """Connect: read what the stream has and we do not know; at first some way back, of each channel the newest."""
        self.linked = True
        last = len(self._server.messages)
        self._read = self.merge.sequence or max(last - self._read_back, 0)
        if not self.merge.sequence:
            newest = {self._server.messages[at - 1].channel: at for at in range(1, self._read + 1)}
            for sequence in sorted(newest.values()):
                stored = self._server.read(sequence)
                assert stored is not None
                self.merge.recall(stored, now)
        while self._read < len(self._server.messages):
            self.read(now)

    def unlink(self) -> None:
        """Lose the connection; some of what was sent still arrives."""
        for _ in range(self._random.randint(0, len(self._sent))):
            self._server.store(self._sent.popleft()[1])
        self._sent.clear()
        self._answers.clear()
        self.linked = False
        self.merge.follow("lost")

    def tick(self, now: float) -> None:
        """Send what is to be sent."""
        if not self.linked:
            return
        if self.merge.due(now, TAKEOVER_S, PATIENCE_S) and not self.merge.leads:
            self._lead()
        while self.merge.leads and self.merge.flights < 8 and (flight := self.merge.next()):
            self._sent.append((self._batch, flight))

    def _lead(self) -> None:
        self._batch += 1
        self.merge.lead()

    def _repeat(self, flight_sequence: int, sequence: int) -> None:
        if self.merge.repeat(flight_sequence, sequence):
            self._lead()

    def deliver(self) -> None:
        """Let a message arrive at the server."""
        if self._sent:
            batch, flight = self._sent.popleft()
            self._answers.append((batch, flight.sequence, self._server.store(flight)))

    def answer(self, now: float) -> None:
        """Let an answer arrive here."""
        if not self._answers:
            return
        batch, flight_sequence, answer = self._answers.popleft()
        if batch != self._batch or not self.merge.leads:
            return
        actions: Sequence[Callable[[], None]] = (
            lambda: self.merge.confirm(answer.sequence, now),
            lambda: self._repeat(flight_sequence, answer.sequence),
            lambda: self.merge.follow("first"),
            lambda: self.merge.follow("full"),
        )
        actions[answer.code]()

    def read(self, now: float) -> None:
        """Let a message of the stream arrive here."""
        if self.linked and self._read < len(self._server.messages):
            self._read += 1
            self.merge.take(self._read, self._server.read(self._read), now)


def event(channel: str, number: int, ts: int, recv: int | None = None) -> Event:
    """Make a delta with an identity by its time."""
    msg = b'{"resultType":"publicOrderBookDelta","market":"M","data":{"ts":%d,"n":%d}}' % (ts, number)
    return Event(channel, 0, "a", recv or 1000 + ts, msgspec.Raw(msg))


def timeless(channel: str, number: int, recv: int) -> Event:
    """Make a message whose content may come again at any time."""
    msg = b'{"resultType":"publicOrderBookDelta","market":"M","data":{"n":%d}}' % number
    return Event(channel, 0, "a", 1000 + recv, msgspec.Raw(msg))


def book(channel: str, reason: str = "start") -> Snapshot:
    """Make a snapshot."""
    return Snapshot(channel, 0, reason, msgspec.Raw(b'{"resultType":"publicOrderBook","data":{"orders":[]}}'))
