"""The byte source: an exchange that is never the bottleneck if it can be helped, in a process of its own.

    python -m tests.benchmarks.source      commands on standard input, answers on standard output (`control`)

Every connection (WebSocket, plain or TLS) plays the events of the market that it asks for, prebuilt as frames and sent
in large pieces. A client's requests are answered between two pieces: pings, and snapshots that show the book as of
what was sent on that connection before.

| command | plays | answers |
| --- | --- | --- |
| `listen` | | `plain`, `tls`: the ports; `ca_file` |
| `prepare`: `markets`, `events`, `tape` | | `bytes` per event |
| `expect`: `lines` | | when every prepared market has so many connections |
| `flat`: `seconds` | each market's events over and over, as fast as its lines take them | `events`, `seconds` |
| `paced`: `seconds`, `rate` | one event after the other, over all markets in turn; the stamp is the time | likewise |
| `burst`: `events` | so many events at once; the stamp is their number | likewise |

With `cut_s` a flat or paced play breaks one connection of each market every so many seconds, one market after the
other, the oldest, as long as there are others; one that comes back joins where the foremost of its sisters is or was:
what was broadcast before a line connects, that line never gets.

Flat out the lines take turns, a piece each, and none is sent more than `LEAD_EVENTS` ahead of its slowest sister: a
real exchange broadcasts, and does not serve one connection after the other. Played is what the system has taken; the
answer comes then.
"""

import ctypes
import json
import selectors
import socket
import ssl
import tempfile
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from feedhandler.simulator import frames
from tests.benchmarks import events as played
from tests.benchmarks import wire
from tests.benchmarks.control import Commands

PIECE_BYTES = 256 * 1024
SEND_BUFFER_BYTES = 1024 * 1024
READ_BYTES = 64 * 1024
LEAD_EVENTS = 4096
HANDSHAKE_S = 5.0
PR_SET_TIMERSLACK = 29
PATIENCE_S = 60.0
"""The longest that a play may take beyond its own time."""
WAIT_S = 0.05
"""How long nothing is done where the system takes nothing."""
LEAST_WAIT_S = 20e-6
"""A shorter wait is none: an event may go out that much early. Nothing spins, since there are few cores to share."""


class Market:
    """What is played of one market, and how far."""

    def __init__(self, name: str, programme: played.Programme) -> None:
        self.name = name
        self.programme = programme
        self.frames = played.framed(programme)
        self.lines: list[Connection] = []
        self.play: Callable[[Connection], Iterator[bytes]] | None = None
        """What a line plays that joins now."""
        self._foremost = 0
        """Events of the play that were put out on any line, also one that is gone."""
        self._book = dict(programme.opening)
        self._rounds: dict[int, list[bytes]] = {}
        self._first_stamp = self._next_stamp = 0

    def pieces(self, number: int) -> list[bytes]:
        """Return all events as pieces, stamped with the number of the round; the rounds that all have had go."""
        if number not in self._rounds:
            oldest = min(line.round for line in self.lines)
            self._rounds = {known: pieces for known, pieces in self._rounds.items() if known >= oldest}
            first = next(iter(self._rounds.values()), None) or list(_joined(self.frames))
            old = (
                played.STAMP_KEY + first[0][len(self.frames[0]) + played.STAMP_START :][: played.STAMP_DIGITS]
            )
            new = played.STAMP_KEY + played.stamp(self._first_stamp + number)
            self._next_stamp = max(self._next_stamp, self._first_stamp + number + 1)
            self._rounds[number] = [piece.replace(old, new) for piece in first]
        return self._rounds[number]

    def start(self) -> None:
        """Begin a play: what has been played so far is the book to begin with."""
        self._book = self._after(self._advanced())
        self._rounds.clear()
        self._first_stamp = self._next_stamp
        self._foremost = 0
        for line in self.lines:
            line.sent = line.round = 0

    def join(self, line: "Connection") -> None:
        """Let a line go on where the foremost is or was."""
        if not self.lines:
            self.reset()
        line.market = self
        line.sent = self._advanced()
        line.round = line.sent // len(self.frames)
        line.play = None if self.play is None else self.play(line)
        self.lines.append(line)

    def leave(self, line: "Connection") -> None:
        """Let a line go."""
        self._advanced()
        self.lines.remove(line)

    def reset(self) -> None:
        """Begin with the opening book again."""
        self._foremost = 0
        self._book = dict(self.programme.opening)

    def reply(self, kind: str, request_id: str | None, sent: int) -> bytes:
        """Answer a request for a snapshot after so many events of the play."""
        now_ms = time.time_ns() // 1_000_000
        if kind == "emitPublicOrderBook":
            return played.book_reply(self.name, self._after(sent), request_id, now_ms)
        recent = islice(
            self._played(sent), max(0, min(sent, len(self.frames)) - 10 * played.TRADE_ROWS), None
        )
        return played.trades_reply(self.name, recent, request_id, now_ms)

    def _advanced(self) -> int:
        """Return how far the foremost line is or was."""
        self._foremost = max(self._foremost, *(line.sent for line in self.lines), 0)
        return self._foremost

    def _after(self, sent: int) -> dict[tuple[str, str], str]:
        book = dict(self._book)
        played.apply(book, self._played(sent))
        return book

    def _played(self, sent: int) -> Iterator[played.Event]:
        """Yield the last round of what was played; deltas are absolute, so nothing before it matters."""
        start = sent % len(self.frames) if sent > len(self.frames) else 0
        return islice(cycle(self.programme.events), start, start + min(sent, len(self.frames)))


class Connection:
    """One client."""

    def __init__(self, sock: socket.socket, source: "Source") -> None:
        self.market: Market | None = None
        self.sent = 0
        """Events of the play that were put out for sending."""
        self.round = 0
        self.play: Iterator[bytes] | None = None
        """What comes next of the play; an empty piece while others have to catch up."""
        self._sock = sock
        self._source = source
        self._received = bytearray()
        self._outbox: deque[bytes] = deque()
        self._part: memoryview | None = None
        self._requests: list[bytes] = []

    def fileno(self) -> int:
        """Return what a selector waits for."""
        return self._sock.fileno()

    @property
    def idle(self) -> bool:
        """Whether all that is to be sent is with the system."""
        return self._part is None and not self._outbox and self.play is None

    def put(self, data: bytes) -> None:
        """Put something out for sending."""
        self._outbox.append(data)

    def advance(self) -> bool:
        """Put out the next piece of the play; tell whether there was one."""
        if self.play is None:
            return False
        piece = next(self.play, None)
        if piece is None:
            self.play = None
        elif piece:
            self._outbox.append(piece)
        return bool(piece)

    def pump(self) -> bool:
        """Send what was put out, as far as the system takes it; tell whether something is left."""
        while self._part is not None or self._take_up():
            assert self._part is not None
            try:
                count = self._sock.send(self._part)
            except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return True
            except OSError:
                self._source.drop(self)
                return False
            self._part = self._part[count:] if count < len(self._part) else None
        return False

    def _take_up(self) -> bool:
        """Begin with the next thing to send, if there is one; requests are answered in between."""
        if self._requests:
            self._answer()
        if self._outbox:
            self._part = memoryview(self._outbox.popleft())
        return self._part is not None

    def read(self) -> None:
        """Take what the client says."""
        while True:
            try:
                data = self._sock.recv(READ_BYTES)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                break
            except OSError:
                data = b""
            if not data:
                self._source.drop(self)
                return
            self._received += data
        if self.market is None:
            self._shake_hands()
        for frame in wire.take_frames(self._received) if self.market else ():
            self._take(frame)
        self._source.pump(self)

    def _shake_hands(self) -> None:
        end = self._received.find(wire.HEAD_END)
        if end < 0:
            return
        handshake = wire.accept(bytes(self._received[:end]))
        del self._received[: end + len(wire.HEAD_END)]
        self._source.join(self, handshake.market)
        self.put(handshake.answer)

    def _take(self, frame: wire.Frame) -> None:
        if frame.opcode == wire.TEXT:
            self._requests.append(frame.payload)
        elif frame.opcode == wire.PING:
            self.put(frames.frame(wire.PONG, frame.payload))
        elif frame.opcode == wire.CLOSE:
            self.put(frames.frame(wire.CLOSE, frame.payload[:2]))

    def _answer(self) -> None:
        assert self.market is not None
        requests, self._requests = self._requests, []
        for raw in requests:
            request = json.loads(raw)
            request_id = request.get("content", {}).get("clientRequestId")
            kind = request["message"]
            reply = (
                played.pong(request_id) if kind == "ping" else self.market.reply(kind, request_id, self.sent)
            )
            self.put(frames.text(reply))

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()


class Source:
    """The listeners, the connections, and the play under way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._selector = selectors.DefaultSelector()
        self._commands = Commands()
        self._markets: dict[str, Market] = {}
        self._connections: set[Connection] = set()
        self._programmes: dict[tuple[str, int], tuple[str, played.Programme]] = {}
        self._blocked: set[Connection] = set()
        self._expected: int | None = None
        self._cut_s = self._cut_at = 0.0
        self._cut_turns: Iterator[Market] = iter(())
        self._over = False

    def run(self) -> None:
        """Obey commands until the input ends."""
        self._selector.register(self._commands, selectors.EVENT_READ, self._obey)
        while not self._over:
            self._look(None)

    def _look(self, patience_s: float | None) -> None:
        """Take what has come, and send on where the system takes more."""
        for key, mask in self._selector.select(patience_s):
            if not isinstance(key.data, Connection):
                key.data()
                continue
            if mask & selectors.EVENT_READ:
                key.data.read()
            if mask & selectors.EVENT_WRITE and key.data in self._blocked:
                self.pump(key.data)
        self._cut()

    def _cut(self) -> None:
        """Break the oldest line of the market whose turn it is, if it has others, where that is due."""
        if not self._cut_s or time.monotonic() < self._cut_at:
            return
        self._cut_at += self._cut_s / len(self._markets)
        market = next(self._cut_turns)
        if len(market.lines) > 1:
            self.drop(market.lines[0])

    # Connections

    def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        if context is not None:
            sock.settimeout(HANDSHAKE_S)
            try:
                sock = context.wrap_socket(sock, server_side=True)
            except OSError:
                sock.close()
                return
        sock.setblocking(False)
        connection = Connection(sock, self)
        self._connections.add(connection)
        self._selector.register(sock, selectors.EVENT_READ, connection)

    def join(self, connection: Connection, market: str) -> None:
        """Take a client up as a line of its market."""
        known = self._markets.get(market)
        if known is None:
            self.drop(connection)
            return
        known.join(connection)
        self._check_expected()

    def drop(self, connection: Connection) -> None:
        """Let a client go."""
        if connection not in self._connections:
            return
        self._connections.discard(connection)
        self._blocked.discard(connection)
        if connection.market is not None:
            connection.market.leave(connection)
        self._selector.unregister(connection)
        connection.play = None
        connection.close()

    def pump(self, connection: Connection) -> None:
        """Send on one connection, and have the selector tell when the rest can go."""
        if connection not in self._connections:
            return
        blocked = connection.pump()
        if connection in self._connections and blocked != (connection in self._blocked):
            mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if blocked else 0)
            self._selector.modify(connection, mask, connection)
            (self._blocked.add if blocked else self._blocked.discard)(connection)

    # Commands

    def _obey(self) -> None:
        commands = self._commands.read()
        if commands is None:
            self._over = True
            return
        for command in commands:
            getattr(self, f"_do_{command.pop('do')}")(**command)

    def _do_listen(self) -> None:
        import trustme  # noqa: PLC0415 - a slow import that a test of the protocol does without

        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
        ca_file = self._folder / "ca.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        ports = [self._listen(None), self._listen(context)]
        self._commands.answer(plain=ports[0], tls=ports[1], ca_file=str(ca_file))

    def _listen(self, context: ssl.SSLContext | None) -> int:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._selector.register(listener, selectors.EVENT_READ, lambda: self._accept(listener, context))
        return int(listener.getsockname()[1])

    def _do_prepare(self, markets: list[str], events: int, tape: str = "") -> None:
        if (tape, events) not in self._programmes:
            self._programmes[tape, events] = (
                played.recorded(Path(tape), events) if tape else (played.MARKET, played.generated(events))
            )
        market, programme = self._programmes[tape, events]
        self._markets = {name: Market(name, played.renamed(programme, market, name)) for name in markets}
        size = sum(len(event.message) for event in programme.events) / len(programme.events)
        self._commands.answer(bytes=size)

    def _do_expect(self, lines: int) -> None:
        self._expected = lines
        self._check_expected()

    def _check_expected(self) -> None:
        if self._expected is not None and all(
            len(market.lines) >= self._expected for market in self._markets.values()
        ):
            self._expected = None
            self._commands.answer(lines=len(self._lines()))

    def _lines(self) -> list[Connection]:
        return [line for market in self._markets.values() for line in market.lines]

    def _begin(self, cut_s: float) -> int:
        """Begin a play in which connections break; return when that was (ns)."""
        self._cut_s, self._cut_at = cut_s, time.monotonic() + cut_s
        self._cut_turns = cycle(self._markets.values())
        for market in self._markets.values():
            market.start()
        return time.monotonic_ns()

    def _do_flat(self, seconds: float, cut_s: float = 0.0) -> None:
        start = self._begin(cut_s)
        end = start + int(seconds * 1e9)
        rounds: dict[Market, int] = {}
        for market in self._markets.values():
            market.play = partial(_flat, market, end_ns=end, rounds=rounds)
            for line in market.lines:
                line.play = market.play(line)
        self._finish(start, seconds, lambda: {m.name: rounds[m] * len(m.frames) for m in rounds})

    def _do_burst(self, events: int) -> None:
        frames_of = {
            market: [
                played.stamped(frame, number) for number, frame in enumerate(_repeated(market.frames, events))
            ]
            for market in self._markets.values()
        }
        pieces = {market: list(_joined(all_frames)) for market, all_frames in frames_of.items()}
        start = self._begin(0.0)
        for market, all_pieces in pieces.items():
            for line in market.lines:
                line.sent = events
                line.play = iter(all_pieces)
        self._finish(start, 0.0, lambda: {market.name: events for market in pieces})

    def _do_paced(self, seconds: float, rate: float, cut_s: float = 0.0) -> None:
        counts: dict[str, int] = dict.fromkeys(self._markets, 0)
        start = self._begin(cut_s)
        step_ns = int(1e9 / rate)
        turns = cycle(self._markets.values())
        for number, market in enumerate(islice(turns, int(rate * seconds))):
            self._wait_until(start + number * step_ns)
            frame = market.frames[counts[market.name] % len(market.frames)]
            counts[market.name] += 1
            data = played.stamped(frame, time.monotonic_ns())
            first = number % max(
                len(market.lines), 1
            )  # the winner changes all the time, as in the recordings
            for line in market.lines[first:] + market.lines[:first]:
                line.put(data)
                line.sent += 1
                self.pump(line)
        self._finish(start, 0.0, lambda: counts)

    def _wait_until(self, moment_ns: int) -> None:
        """Wait, and take what comes meanwhile; late is late."""
        self._look(0)
        left_s = (moment_ns - time.monotonic_ns()) / 1e9
        if left_s > LEAST_WAIT_S:
            time.sleep(left_s)
            self._look(0)

    def _finish(self, start: int, seconds: float, counts: Callable[[], dict[str, int]]) -> None:
        """Send until everything is with the system, and answer."""
        deadline = start + int((seconds + PATIENCE_S) * 1e9)
        while any(not line.idle for line in self._lines()):
            moved = False
            for line in self._lines():
                if line not in self._blocked:
                    moved |= line.advance()
                    self.pump(line)
            self._look(0 if moved else WAIT_S)
            if self._over or time.monotonic_ns() > deadline:
                break
        self._cut_s = 0.0
        for market in self._markets.values():
            market.play = None
        self._commands.answer(events=counts(), start_ns=start, seconds=(time.monotonic_ns() - start) / 1e9)


def _flat(market: Market, line: Connection, end_ns: int, rounds: dict[Market, int]) -> Iterator[bytes]:
    """Yield pieces for one line, from where it is, round after round until the time is up, but one round at least.

    An empty piece says that the line has to wait for the others.
    """
    ends = list(_ends(market.frames))
    number, into = divmod(line.sent, len(market.frames))
    first = bisect_right(ends, into)
    while number == 0 or number < rounds.get(market, 0) or time.monotonic_ns() < end_ns:
        rounds[market] = max(rounds.get(market, 0), number + 1)
        base = number * len(market.frames)
        for piece, last in list(zip(market.pieces(number), ends, strict=True))[first:]:
            while line.sent > min(other.sent for other in market.lines) + LEAD_EVENTS:
                yield b""
            line.sent = base + last
            yield piece
        number, first = number + 1, 0
        line.round = number


def _joined(all_frames: Iterable[bytes]) -> Iterator[bytes]:
    """Join frames to pieces."""
    piece: list[bytes] = []
    size = 0
    for frame in all_frames:
        if piece and size + len(frame) > PIECE_BYTES:
            yield b"".join(piece)
            piece, size = [], 0
        piece.append(frame)
        size += len(frame)
    yield b"".join(piece)


def _ends(all_frames: list[bytes]) -> Iterator[int]:
    """Yield how many frames there are up to the end of each piece."""
    size = 0
    for index, frame in enumerate(all_frames):
        if index and size + len(frame) > PIECE_BYTES:
            yield index
            size = 0
        size += len(frame)
    yield len(all_frames)


def _repeated(all_frames: list[bytes], count: int) -> Iterator[bytes]:
    return islice(cycle(all_frames), count)


def _sleep_exactly() -> None:
    """Have the system wake this process when it asks for it, and not up to 50 us later."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)


def main() -> None:
    """Serve in a folder of its own."""
    _sleep_exactly()
    with tempfile.TemporaryDirectory() as folder:
        Source(Path(folder)).run()


if __name__ == "__main__":
    main()
