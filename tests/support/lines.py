"""A world for the arbiter: a source of events, connections that deliver it, and what the arbiter makes of it.

Payloads are short words. The first letter is the channel (``b`` and ``t``), a number after it makes the event
distinct and is its time; anything else may recur. ``?`` starts an unknown message, ``>`` a reply, ``!`` garbage.
``{"b": 1}`` is the word ``b1`` as JSON, for what concerns equal values in different bytes.
"""

import json
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from feedhandler.config import Bounds, Health
from feedhandler.core.arbiter import Arbiter, Quarantine, Restart
from feedhandler.core.messages import Event, Gap, Garbage, Identity, Message, Release, Reply, Run, Unknown

SETTLED = 4
"""Events that all lines have delivered, and that a world's window keeps: few, so that nothing may depend on them."""


class Words:
    """The dialect of these tests."""

    def classify(self, payload: bytes) -> Message:
        """Read a word."""
        first = _word(payload)[:1]
        if first == b">":
            return Reply("pong", payload[1:].decode(errors="replace"), payload)
        if first == b"?":
            return Unknown("M/other", payload)
        if first == b"!":
            return Garbage("json")
        return Event(f"M/{first.decode(errors='replace')}", payload)

    def ordinary(self, payloads: Sequence[bytes]) -> list[str] | None:
        """Return the channels of words that are all events."""
        events = [message for message in map(self.classify, payloads) if isinstance(message, Event)]
        return [event.channel for event in events] if len(events) == len(payloads) else None

    def identify(self, payload: bytes) -> Identity:
        """Take a word with a number for distinct."""
        number = _word(payload)[1:]
        if number.isdigit():
            return Identity(distinct=True, time_ms=int(number))
        return Identity(distinct=False, time_ms=None)


def _word(payload: bytes) -> bytes:
    """Return the word that a payload stands for."""
    if not payload.startswith(b"{"):
        return payload
    return b"".join(b"%s%d" % (key.encode(), value) for key, value in json.loads(payload).items())


@dataclass
class Connection:
    """One connection: what the exchange has sent on it and the line has not read yet."""

    queue: deque[bytes] = field(default_factory=deque)

    def send(self, payload: bytes, ahead: int = 0) -> None:
        """Send one more event, before up to so many of other channels that still wait to be read."""
        place = len(self.queue)
        while ahead and place and self.queue[place - 1][:1] != payload[:1]:
            place, ahead = place - 1, ahead - 1
        self.queue.insert(place, payload)


class World:
    """A source, some lines, and an arbiter over them; time moves only by `wait`."""

    def __init__(self, lines: int, *, bounds: Bounds | None = None, health: Health | None = None) -> None:
        self.names = "abcdefgh"[:lines]
        self.source: list[bytes] = []
        self.read: set[bytes] = set()
        self.now = 0.0
        self.wall_ns = 1_000_000_000
        self.connections: dict[str, Connection] = {}
        self.released: list[Release | Gap] = []
        self.orders: list[Restart | Quarantine] = []
        self.notes: list[str] = []
        self.replies: list[Reply] = []
        self.states: list[str] = []
        self.arbiter = Arbiter(
            "M",
            self.names,
            Words(),
            bounds=bounds or Bounds(settled_events=SETTLED),
            limits=health or Health(),
            now=self.now,
        )

    @property
    def wall(self) -> int:
        """Return the wall clock, in ns."""
        return self.wall_ns + round(self.now * 1e9)

    def emit(self, *payloads: bytes, lost_on: str = "", ahead: Sequence[int] = ()) -> None:
        """Broadcast; ``ahead`` says for each line how many events of other channels each one overtakes."""
        for payload in payloads:
            self.source.append(payload)
            for name, connection in self.connections.items():
                if name not in lost_on:
                    index = self.names.index(name)
                    connection.send(payload, ahead[index] if index < len(ahead) else 0)

    def connect(self, *names: str) -> None:
        """Connect lines."""
        for name in names:
            self.arbiter.connecting(name, self.now)
            self.connections[name] = Connection()
            self.arbiter.connected(name, self.now, self.wall)
            self._take()

    def add(self) -> str:
        """Let a new line take part under the first letter that is free; return it."""
        name = next(letter for letter in "abcdefghij" if letter not in self.arbiter.lines)
        self.arbiter.add_line(name, self.now)
        self.names += name
        return name

    def remove(self, name: str, *, reads: int = 0) -> None:
        """Let a line go for good after it has read so many more messages."""
        if name in self.connections:
            self.deliver(name, reads)
            del self.connections[name]
        self.names = self.names.replace(name, "")
        self.arbiter.remove_line(name, self.now, self.wall)
        self._take()

    def deliver(self, name: str, count: int | None = None, *, each: bool = False) -> None:
        """Let a line read what has been sent to it, in one batch or message by message."""
        queue = self.connections[name].queue
        batch = [queue.popleft() for _ in range(len(queue) if count is None else min(count, len(queue)))]
        for part in [[payload] for payload in batch] if each else [batch]:
            if part:
                self.receive(name, *part)

    def receive(self, name: str, *payloads: bytes) -> None:
        """Let a line read exactly these messages."""
        self.read.update(payloads)
        self.replies += self.arbiter.receive(name, list(payloads), self.now, self.wall)
        self._take()

    def kill(self, name: str, *, reads: int = 0) -> None:
        """End a connection after the line has read so many more messages."""
        self.deliver(name, reads)
        del self.connections[name]
        self.arbiter.lost(name, self.now, self.wall)
        self._take()

    def wait(self, seconds: float, *, step: float = 0.1) -> None:
        """Let time pass."""
        for _ in range(max(1, round(seconds / step))):
            self.now += step
            self.arbiter.tick(self.now, self.wall)
            self._take()

    def settle(self) -> None:
        """Let all lines read everything, and some more events that show every hole."""
        for name in self.names:
            if name not in self.connections:
                self.connect(name)
        self.deliver_all()
        base = 10**9 + len(self.source)
        for number in range(base, base + 4):
            self.emit(b"b%d" % number, b"t%d" % number)
            self.deliver_all()
        self.wait(12)
        self.deliver_all()

    def deliver_all(self) -> None:
        """Let every line read everything."""
        for name in list(self.connections):
            self.deliver(name)

    def _take(self) -> None:
        for output in self.arbiter.outputs:
            if isinstance(output, Run):
                self.released += output.releases()
            elif isinstance(output, Release | Gap):
                self.released.append(output)
            else:
                self.states.append(output.state)
        self.orders += self.arbiter.orders
        self.notes += [note.name for note in self.arbiter.notes]
        for taken in (self.arbiter.outputs, self.arbiter.orders, self.arbiter.notes):
            taken.clear()

    # What came of it

    @property
    def output(self) -> list[bytes]:
        """What was released, in order, without marks."""
        return [one.payload for one in self.released if isinstance(one, Release)]

    @property
    def gaps(self) -> list[Gap]:
        """The gap records."""
        return [one for one in self.released if isinstance(one, Gap)]

    @property
    def late(self) -> list[bytes]:
        """What was released as late."""
        return [one.payload for one in self.released if isinstance(one, Release) and one.kind == "late"]

    @property
    def blind(self) -> bool:
        """Whether a line was aligned by time alone, since nothing had an identity: the one doubling left."""
        return "line_anchored_blindly" in self.notes

    def assert_exact(self) -> None:
        """Check that the output is the source: nothing is missing, doubled, late, or marked."""
        assert self.output == self.source
        assert self.released == [one for one in self.released if isinstance(one, Release) and one.kind == ""]

    def assert_exact_per_channel(self) -> None:
        """Check the same within each channel; lines may interleave channels as they like."""
        assert Counter(self.output) == Counter(self.source)
        for channel in {payload[:1] for payload in self.source}:
            assert [p for p in self.output if p[:1] == channel] == [
                p for p in self.source if p[:1] == channel
            ]
        assert not self.gaps
        assert not self.late

    def assert_exact_or_marked(self, channels: Sequence[bytes] = ()) -> None:
        """Check that the output is the source or says where it is not, where all lines keep one common order.

        Nothing is doubled, out of order, or silently missing; with ``channels`` within each of them.
        """
        doubled = Counter(self.output) - Counter(self.source)
        if self.blind:
            doubled = Counter({p: n for p, n in doubled.items() if Words().identify(p).distinct})
        assert not doubled, f"doubled {doubled}: {self.output} of {self.source}"
        if not self.blind:
            for channel in channels or ([b"b", b"t"] if self.gaps or self.late else [b""]):
                self._assert_runs(channel)
        if self.released:
            assert self.source[-1] in self.output, f"the end is missing: {self.output} of {self.source}"

    def _assert_runs(self, channel: bytes) -> None:
        """Between two gaps a channel is one run of the source, and each run comes after the one before."""
        late = {payload for payload in self.late if Words().identify(payload).distinct}
        source = [one for one in self.source if one.startswith(channel) and one not in late]
        start = 0
        for segment in self._segments():
            run = [payload for payload in segment if payload.startswith(channel)]
            if run:
                where = _find(source, run, start)
                assert where is not None, f"{run} is no run of {source[start:]}; all: {self.released}"
                start = where + len(run)

    def _segments(self) -> list[list[bytes]]:
        """Return the ordinary events between gaps."""
        result: list[list[bytes]] = [[]]
        for one in self.released:
            if isinstance(one, Gap):
                result.append([])
            elif one.kind == "":
                result[-1].append(one.payload)
        return result

    def assert_complete_and_marked(self) -> None:
        """Check what distinct events allow to check: whatever was read came out once, and late exactly where it was.

        An event that is missing lies in a marked gap, or no line ever read it.
        """
        doubled = Counter(self.output) - Counter(self.source)
        assert not doubled, f"doubled {doubled}"
        for channel in (b"b", b"t"):
            self._assert_marks(channel)

    def _assert_marks(self, channel: bytes) -> None:
        place = {payload: index for index, payload in enumerate(self.source)}
        newest, found, order = -1, set(), []
        for one in self.released:
            if isinstance(one, Gap):
                order += [None] if one.channel.encode() in (b"", b"M/" + channel) else []
            elif one.payload.startswith(channel):
                index = place[one.payload]
                assert (one.kind == "late") == (index < newest), f"{one.payload} is marked {one.kind!r}"
                newest = max(newest, index)
                found.add(index)
                order += [] if one.kind == "late" else [index]
        for payload in self.read:
            index = place[payload]
            if found and payload.startswith(channel) and min(found) < index and index not in found:
                assert _in_gap(order, index), f"{payload} is missing"


def _in_gap(order: Sequence[int | None], index: int) -> bool:
    """Tell whether a source index lies between the ordinary events that a gap record stands between."""
    for at, one in enumerate(order):
        if one is None:
            before = max((i for i in order[:at] if i is not None), default=-1)
            after = [i for i in order[at:] if i is not None and i > before]
            if before < index < min(after, default=index + 1):
                return True
    return False


def _find(source: Sequence[bytes], run: Sequence[bytes], start: int) -> int | None:
    for at in range(start, len(source) - len(run) + 1):
        if source[at : at + len(run)] == run:
            return at
    return None
