"""The consumer of all contenders, in a process of its own: it counts, and reads the stamps of, what it is sent.

    python -m tests.benchmarks.consumer      commands on standard input, answers on standard output (`control`)

It finds events by their stamp and knows nothing else of what it reads, so that it is never the bottleneck and serves
every contender alike. The time of an event's arrival is taken right after the read that brought it.

| command | does | answers |
| --- | --- | --- |
| `open`: `path`, `count`, `dead` | connects and subscribes; `dead` more of them never read | the number of the group |
| `begin`: `mode` | forgets what it knows; `count`, `delays` (the stamp is a time) or `numbers` | |
| `until`: `events`, `patience_s` | waits for so many on each connection of a group | `events`, `last_ns`, `ended` |
| `delays` | | nanoseconds from stamp to read: `p50`, `p99`, `p999`, `max` |
| `numbers` | | whether all stamps came in order, from 0 on |

Delays and numbers are those of the first connection of the first group; the others only count.
"""

import re
import selectors
import socket
import time

from tests.benchmarks.control import Commands
from tests.benchmarks.events import STAMP_DIGITS, STAMP_KEY

READ_BYTES = 1024 * 1024
SUBSCRIBE = b'{"op":"subscribe","channels":["*"],"name":"benchmark"}\n'
DEAD = b'{"op":"subscribe","channels":["*"],"name":"dead","slow":"conflate"}\n'
SHARES = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
CONNECT_S = 30.0
CONNECT_PAUSE_S = 0.02

_stamps = re.compile(STAMP_KEY + b"([0-9]{%d})" % STAMP_DIGITS).finditer
_TAIL = len(STAMP_KEY) + STAMP_DIGITS - 1
_KEY_TAIL = len(STAMP_KEY) - 1


class Stream:
    """One connection to a contender's socket."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.events = 0
        self.last_ns = 0
        self.ended = False
        self.reads_stamps = False
        self.stamps: list[tuple[int, int]] = []
        """Of each event its stamp and when it was read."""
        self._tail = b""

    def begin(self) -> None:
        """Count anew."""
        self.events = self.last_ns = 0
        self.stamps = []

    def read(self) -> None:
        """Read once."""
        try:
            data = self.sock.recv(READ_BYTES)
        except OSError:
            data = b""
        now = time.monotonic_ns()
        if not data:
            self.ended = True
        before = self.events
        if self.reads_stamps:
            self._read_stamps(self._tail + data, now)
        else:
            tail = self._tail[-_KEY_TAIL:]
            self.events += data.count(STAMP_KEY) + (tail + data[:_KEY_TAIL]).count(STAMP_KEY)
            self._tail = data[-_TAIL:] if len(data) >= _TAIL else (self._tail + data)[-_TAIL:]
        if self.events > before:
            self.last_ns = now

    def _read_stamps(self, text: bytes, now: int) -> None:
        end = 0
        for match in _stamps(text):
            self.stamps.append((int(match[1]), now))
            end = match.end()
        self.events = len(self.stamps)
        self._tail = text[max(end, len(text) - _TAIL) :]


class Consumer:
    """All connections, and the command under way."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._commands = Commands()
        self._groups: list[list[Stream]] = []
        self._dead: list[socket.socket] = []
        self._wanted: list[int] | None = None
        self._deadline = 0.0
        self._over = False

    def run(self) -> None:
        """Read, and obey commands, until the input ends."""
        self._selector.register(self._commands, selectors.EVENT_READ, None)
        while not self._over:
            for key, _ in self._selector.select(0.05 if self._wanted else None):
                if key.data is None:
                    self._obey()
                else:
                    key.data.read()
                    if key.data.ended:
                        self._selector.unregister(key.data.sock)
            if self._wanted:
                self._check_wanted(self._wanted)

    def _obey(self) -> None:
        commands = self._commands.read()
        if commands is None:
            self._over = True
            return
        for command in commands:
            getattr(self, f"_do_{command.pop('do')}")(**command)

    def _do_open(self, path: str, count: int = 1, dead: int = 0) -> None:
        streams = [Stream(_connected(path, SUBSCRIBE)) for _ in range(count)]
        for stream in streams:
            self._selector.register(stream.sock, selectors.EVENT_READ, stream)
        self._dead += [_connected(path, DEAD) for _ in range(dead)]
        self._groups.append(streams)
        self._commands.answer(group=len(self._groups) - 1)

    def _do_close(self) -> None:
        for stream in self._streams():
            if not stream.ended:
                self._selector.unregister(stream.sock)
            stream.sock.close()
        for sock in self._dead:
            sock.close()
        self._groups, self._dead = [], []
        self._commands.answer()

    def _do_begin(self, mode: str) -> None:
        for stream in self._streams():
            stream.begin()
            stream.reads_stamps = mode != "count" and stream is self._groups[0][0]
        self._commands.answer()

    def _do_until(self, events: list[int], patience_s: float) -> None:
        self._wanted = events
        self._deadline = time.monotonic() + patience_s

    def _check_wanted(self, wanted: list[int]) -> None:
        pairs = list(zip(self._groups, wanted, strict=True))
        missing = any(stream.events < count for streams, count in pairs for stream in streams)
        ended = any(stream.ended for stream in self._streams())
        if missing and not ended and time.monotonic() < self._deadline:
            return
        self._wanted = None
        self._commands.answer(
            events=[min(stream.events for stream in streams) for streams in self._groups],
            last_ns=max(stream.last_ns for stream in self._streams()),
            ended=ended,
        )

    def _do_delays(self) -> None:
        delays = sorted(now - stamp for stamp, now in self._groups[0][0].stamps)
        shares = {name: delays[int(len(delays) * share)] for name, share in SHARES.items()} if delays else {}
        self._commands.answer(**shares, max=max(delays, default=0))

    def _do_numbers(self) -> None:
        stamps = self._groups[0][0].stamps
        self._commands.answer(in_order=all(stamp == index for index, (stamp, _) in enumerate(stamps)))

    def _streams(self) -> list[Stream]:
        return [stream for streams in self._groups for stream in streams]


def _connected(path: str, request: bytes) -> socket.socket:
    """Connect as soon as somebody listens."""
    deadline = time.monotonic() + CONNECT_S
    while True:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(path)
        except OSError:
            sock.close()
            if time.monotonic() > deadline:
                raise
            time.sleep(CONNECT_PAUSE_S)
            continue
        sock.sendall(request)
        return sock


def main() -> None:
    """Serve."""
    Consumer().run()


if __name__ == "__main__":
    main()
