"""A world for the arbiter: a source of events, connections that deliver it, and what the arbiter makes of it.

Payloads are short words. The first letter is the channel (``b`` and ``t``), a number after it makes the event distinct and is
its time; anything else may recur. ``?`` starts an unknown message, ``>`` a reply, ``!`` garbage.
"""

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from feedhandler.config import Bounds, Health
from feedhandler.core.arbiter import Arbiter, Quarantine, Restart
from feedhandler.core.messages import Event, Gap, Garbage, Identity, Message, Release, Reply, Unknown


class Words:
    """The dialect of these tests."""

    def classify(self, payload: bytes) -> Message:
        """Read a word."""
        first = payload[:1]
        if first == b">":
            return Reply("pong", payload[1:].decode(), payload)
        if first == b"?":
            return Unknown("M/other", payload)
        if first == b"!":
            return Garbage("json")
        return Event(f"M/{first.decode()}", payload)

    def identify(self, payload: bytes) -> Identity:
        """A word with a number is distinct."""
        number = payload[1:].split(b".")[0]
        if number.isdigit():
            return Identity(distinct=b"." not in payload, time_ms=int(number))
        return Identity(distinct=False, time_ms=None)


@dataclass
class Connection:
    """One connection: what the exchange has sent on it and the line has not read yet."""

    start: int
    queue: deque[bytes] = field(default_factory=deque)
    held_back: dict[str, list[bytes]] = field(default_factory=dict)


class World:
    """A source, some lines, and an arbiter over them; time moves only by `wait`."""

    def __init__(self, lines: int, *, bounds: Bounds | None = None, health: Health | None = None) -> None:
        self.names = "abcdefgh"[:lines]
        self.source: list[bytes] = []
        self.now = 0.0
        self.connections: dict[str, Connection] = {}
        self.released: list[Release | Gap] = []
        self.orders: list[Restart | Quarantine] = []
        self.notes: list[str] = []
        self.replies: list[Reply] = []
        self.states: list[str] = []
        self.arbiter = Arbiter(
            "M", self.names, Words(), bounds=bounds or Bounds(), limits=health or Health(), now=self.now
        )

    @property
    def wall(self) -> int:
        """The wall clock, in ns."""
        return 1_000_000_000 + int(self.now * 1e9)

    def emit(self, *payloads: bytes, lost_on: str = "") -> None:
        """The exchange broadcasts."""
        for payload in payloads:
            self.source.append(payload)
            for name, connection in self.connections.items():
                if name not in lost_on:
                    connection.queue.append(payload)

    def connect(self, *names: str) -> None:
        """Lines connect."""
        for name in names:
            self.arbiter.connecting(name, self.now)
            self.connections[name] = Connection(len(self.source))
            self.arbiter.connected(name, self.now, self.wall)
            self._take()

    def deliver(self, name: str, count: int | None = None, *, each: bool = False) -> None:
        """A line reads what has been sent to it, in one batch or message by message."""
        queue = self.connections[name].queue
        batch = [queue.popleft() for _ in range(len(queue) if count is None else min(count, len(queue)))]
        for part in [[payload] for payload in batch] if each else [batch]:
            if part:
                self.receive(name, *part)

    def receive(self, name: str, *payloads: bytes) -> None:
        """A line reads exactly these messages."""
        self.replies += self.arbiter.receive(name, list(payloads), self.now, self.wall)
        self._take()

    def kill(self, name: str, *, reads: int = 0) -> None:
        """A connection dies after the line has read so many more messages."""
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
        """All lines read everything, and some more events show every hole."""
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
        """Every line reads everything."""
        for name in list(self.connections):
            self.deliver(name)

    def _take(self) -> None:
        for output in self.arbiter.outputs:
            if isinstance(output, Release | Gap):
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

    def segments(self) -> list[list[bytes]]:
        """The ordinary events between gaps."""
        result: list[list[bytes]] = [[]]
        for one in self.released:
            if isinstance(one, Gap):
                result.append([])
            elif one.kind == "":
                result[-1].append(one.payload)
        return result

    def assert_exact_or_marked(self) -> None:
        """The output is the source, or says where it is not: nothing doubled, nothing out of order, no silent hole."""
        blind = "line_anchored_blindly" in self.notes
        doubled = Counter(self.output) - Counter(self.source)
        assert blind or not doubled, f"doubled {doubled}: {self.output} of {self.source}"
        channels = [b"b", b"t"] if self.gaps or self.late else [b""]
        for channel in channels:
            self._assert_runs(channel, blind=blind)
        if self.released:
            assert self.source[-1] in self.output, f"the end is missing: {self.output} of {self.source}"

    def _assert_runs(self, channel: bytes, *, blind: bool) -> None:
        """Between two gaps a channel is one run of the source, and each run comes after the one before."""
        source = [payload for payload in self.source if payload.startswith(channel)]
        start = 0
        for segment in self.segments():
            run = [payload for payload in segment if payload.startswith(channel)]
            if run:
                where = _find(source, run, start)
                assert where is not None, f"{run} is no run of {source[start:]}; all: {self.released}"
                start = 0 if blind else where + len(run)


def _find(source: Sequence[bytes], run: Sequence[bytes], start: int) -> int | None:
    for at in range(start, len(source) - len(run) + 1):
        if source[at : at + len(run)] == run:
            return at
    return None
