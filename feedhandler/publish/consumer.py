"""One consumer: its connection, from the greeting to the last word.

Sending is synchronous and never waits: whoever has something for the consumer calls `flush`, which hands
the kernel what it takes at once. A consumer that has all there is, is **level**: it needs no looking after, and
gets what comes next as a piece that was put together for all who are level with it (`follow`).

What the kernel does not take marks the consumer as *behind*; from then on its own task sends, a chunk each time
the socket can be written to, until the consumer has all there is. A chunk is at most `send_kib` of the backlog,
joined, so that a consumer takes turns with all others. Beside its place in the backlog **a consumer holds what is
being sent to it and no more**: a chunk, or the answer to its request with the books that it asked for, or one book
that it is conflated to.

What goes out, in this order: records for this consumer alone (the greeting, the answer to its request, the
last word), then a heartbeat where one is due, then the stream. At most one heartbeat is due at a time, and
it is encoded when its turn comes: **it is true of its place in the stream**.

A daemon that follows is a consumer that is served first (`publish.precedence`); all others wait for it, as long as
that one lets them. It may fall as far behind as records are kept.

A consumer ends by closing its connection, by asking for something wrong (`error`), by falling further behind
than it may (`bye` with reason `slow`, unless it has asked to be taken to the head then, with `skipped`
records and the present books), or with the server (`bye` with reason `shutdown`). The last word
follows the record that was started, so no record is ever cut short for a consumer that reads on; how long
that may take is bounded by `drain_s`.
"""

import select
import socket
from collections.abc import Callable
from typing import NamedTuple

import trio

from feedhandler.core.motion import Part
from feedhandler.core.notes import Notify, note
from feedhandler.publish import records
from feedhandler.publish.endpoint import Peer
from feedhandler.publish.precedence import Precedence
from feedhandler.publish.request import BadRequest, Follow, parse, parse_readiness
from feedhandler.publish.subscription import Refusal, Shelf, Subscription, conflate, follow, subscribe

HEARTBEAT_S = 1.0
REQUEST_S = 30.0  # from the greeting to the request; people may type it by hand
READ_BYTES = 16_384
FOLLOWER = "standby"  # the name of a daemon that follows
_NEWLINE = 10


class ConsumerLimits(NamedTuple):
    """The bounds of one consumer."""

    request_bytes: int
    send_bytes: int
    drain_s: float


class ConsumerStatus(NamedTuple):
    """One consumer, for operators."""

    name: str
    pid: int
    uid: int
    subscribed: bool
    lag_events: int
    lag_bytes: int  # at most: records of channels that it does not read are counted, too
    since_ns: int


class Consumer:
    """One connection and its place in the stream; `run` is its life, everything else is synchronous."""

    def __init__(
        self,
        sock: socket.socket,
        peer: Peer,
        shelf: Shelf,
        *,
        account: bool,
        may_follow: bool,
        precedence: Precedence,
        limits: ConsumerLimits,
        clock: Callable[[], int],
        notify: Notify,
    ) -> None:
        self._sock = sock
        self._transmit = sock.send
        self._peer = peer
        self._shelf = shelf
        self._account = account
        self._may_follow = may_follow
        self._precedence = precedence
        self._follows = False
        self._limits = limits
        self._clock = clock
        self._notify = notify
        self._since_ns = clock()
        self._name = ""
        self._scope = trio.CancelScope()
        self._behind = trio.Event()  # set: the consumer's own task sends
        self._private = self._hello()  # records for this consumer alone, before anything of the stream
        self._chunk: bytes | memoryview = b""  # being sent
        self._midway = False  # the last byte sent did not end a record
        self._subscription: Subscription | None = None
        self._heartbeat_due = False
        self._farewell = b""  # the last word once all that is pending is sent
        self.level: Subscription | None = None
        """Its subscription while it has all there is and nothing is due to it alone."""
        self._leaving = ""  # the reason, once the last word is on its way: nothing of the stream follows

    def __repr__(self) -> str:
        return (
            f"<Consumer {self._name!r} pid={self._peer.pid} uid={self._peer.uid} leaving={self._leaving!r}>"
        )

    @property
    def subscription(self) -> Subscription | None:
        """Its channels and its place, once it has asked for them."""
        return self._subscription

    def status(self) -> ConsumerStatus:
        """Return what operators want to know."""
        stream = self._subscription
        lag_events, lag_bytes = (stream.lag_events(), stream.lag_bytes()) if stream else (0, 0)
        return ConsumerStatus(
            self._name, *self._peer, stream is not None, lag_events, lag_bytes, self._since_ns
        )

    def part(self) -> Part:
        """Return the sending to this consumer, whose place is what it has taken and what it is being sent."""
        stream = self._subscription
        place = (stream.cursor if stream else 0, len(self._chunk), len(self._private))
        return Part(self, f"consumer {self._name} {self._peer.pid}", place, self._waits)

    def _waits(self) -> bool:
        """Tell whether there is something to send and the socket takes it."""
        return bool(self._chunk or self._pending()) and self._takes()

    def _takes(self) -> bool:
        if self._sock.fileno() < 0:
            return False
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        return bool(poll.poll(0))

    # Sending: nothing here waits.

    def flush(self) -> None:
        """Send at once what the kernel takes; the consumer's own task sends the rest."""
        if not self._behind.is_set():
            self._send()
        elif self._is_lost() and not self._leaving:
            self._drop()

    def _is_lost(self) -> bool:
        """Tell whether the consumer is too far behind and did not ask to be taken to the head then."""
        stream = self._subscription
        return stream is not None and not stream.conflates and stream.overrun()

    def finish(self, farewell: bytes) -> None:
        """Let the consumer go with that last word as soon as it has all that is pending."""
        self._farewell = farewell
        self.flush()

    def close(self) -> None:
        """Let the consumer go at once."""
        self._end(self._leaving or "shutdown")

    def follow(self, stream: Subscription, piece: bytes) -> None:
        """Send what has come since the consumer was level, up to the head."""
        stream.advance()
        if piece and not self._put(piece):
            self._arrange()

    # What a daemon that follows is asked for (`publish.precedence`)

    @property
    def is_level(self) -> bool:
        """Whether the kernel has taken all that there is for it."""
        stream = self.level
        return stream is not None and not stream.behind

    def flush_all(self) -> None:
        """Send at once all that the kernel takes."""
        self.flush()
        while not (self._behind.is_set() and self._chunk) and self._pending() and not self._leaving:
            self._send()

    def retry(self) -> None:
        """Likewise, with what the kernel did not take before."""
        self._send()
        self.flush_all()

    def tell(self, record: bytes) -> None:
        """Send a record for this consumer alone, behind all that was taken for it before."""
        if self._leaving:
            return
        self._private += record
        self.level = None
        self.flush_all()

    def note_behind(self) -> None:
        """Note that nobody waits for it any more."""
        self._note("follower_behind")

    def note_caught_up(self) -> None:
        """Note that it is served first again."""
        self._note("follower_caught_up")

    def start_over(self) -> None:
        """Be disconnected: whoever follows begins anew."""
        self._note("follower_lost")
        self._end("slow")

    def _send(self) -> None:
        """Send one chunk, and arrange for what is left."""
        if self._precedence.waits and not self._follows:
            self.level = None
            self._behind.set()
            return
        chunk = self._chunk or self._next_chunk()
        if chunk:
            self._put(chunk)
        self._arrange()

    def _put(self, chunk: bytes | memoryview) -> bool:
        """Hand the kernel what it takes of a chunk, and keep the rest; tell whether all of it went."""
        try:
            sent = self._transmit(chunk)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._end("closed")
            return True
        if sent == len(chunk):
            self._chunk, self._midway = b"", False
            return True
        if sent:
            self._midway = chunk[sent - 1] != _NEWLINE
        self._chunk = memoryview(chunk)[sent:]
        return False

    def _arrange(self) -> None:
        """Let the consumer's own task go on, or stop, or end all."""
        self.level = None
        if self._chunk or self._pending():
            self._behind.set()
            return
        if self._behind.is_set():
            self._behind = trio.Event()
        if self._leaving:
            self._end(self._leaving)
        elif self._farewell:
            self._leave(self._farewell, "shutdown")
        else:
            self.level = self._subscription
            if self._follows:
                self._precedence.is_level(self)

    def _pending(self) -> bool:
        """Tell whether there is anything to take up after the present chunk."""
        if self._private:
            return True
        stream = self._subscription
        return stream is not None and not self._leaving and (stream.behind or self._heartbeat_due)

    def _next_chunk(self) -> bytes:
        stream = self._subscription
        if stream and not self._leaving and stream.overrun():
            if stream.conflates:
                stream.jump()
                self._note("consumer_conflated")
            else:
                self._give_up()
        if self._private or not stream or self._leaving:
            chunk, self._private = self._private, b""
            return chunk
        if stream.skipping:
            return conflate(self._shelf, stream, self._limits.send_bytes)
        return self._heartbeat(stream) + stream.take(self._limits.send_bytes)

    def _heartbeat(self, stream: Subscription) -> bytes:
        if not self._heartbeat_due:
            return b""
        self._heartbeat_due = False
        return records.heartbeat(self._clock(), stream.next_seqs())

    # Leaving.

    def _drop(self) -> None:
        """Let go of a consumer that is too far behind: the started record is completed, then the last word."""
        self._give_up()
        self._send()

    def _give_up(self) -> None:
        if self._follows:
            self._note("follower_lost")
        else:
            self._note("consumer_dropped", reason="slow")
        rest = bytes(self._chunk) if self._midway else b""
        self._chunk = rest[: rest.find(b"\n") + 1]
        self._private = b""
        self._say(records.bye("slow"), "slow")

    def _leave(self, last_word: bytes, reason: str) -> None:
        self._say(last_word, reason)
        self._send()

    def _say(self, last_word: bytes, reason: str) -> None:
        self._private += last_word
        self._leaving = reason
        self._scope.deadline = trio.current_time() + self._limits.drain_s

    def _refuse(self, code: str, detail: str) -> None:
        """Let go of a consumer that asked for something wrong; the last word, once said, stays the last."""
        if self._leaving:
            return
        self._note("request_refused", code=code)
        self._leave(records.error(code, detail), "refused")

    def _end(self, reason: str) -> None:
        self.level = None
        self._leaving = reason
        self._scope.cancel()

    # The life of the connection.

    async def run(self) -> None:
        """Serve the connection to its end."""
        self._note("consumer_connected")
        try:
            with self._sock, self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send_rest)
                    await self._serve(nursery)
        finally:
            self._note("consumer_left", reason=self._leaving or "shutdown")

    def _hello(self) -> bytes:
        readable = (
            channel
            for channel in self._shelf.channels
            if not channel.retired and (self._account or not channel.account)
        )
        return records.hello(self._shelf.session, readable)

    async def _send_rest(self) -> None:
        """Send what `flush` could not, a chunk at a time."""
        while True:
            await self._behind.wait()
            if not self._follows:
                await self._precedence.turn()
            await trio.lowlevel.wait_writable(self._sock)
            self._send()

    async def _serve(self, nursery: trio.Nursery) -> None:
        self.flush()
        line = b""
        with trio.move_on_after(REQUEST_S) as patience:
            line, rest = await self._receive_line()
        if patience.cancelled_caught:
            self._refuse("bad_request", f"no request within {REQUEST_S:g} s")
        elif not line:
            self._end("closed")
        elif len(line) > self._limits.request_bytes:
            self._refuse("bad_request", f"the line is longer than {self._limits.request_bytes} bytes")
        elif not self._leaving and self._subscribe(line):
            nursery.start_soon(self._beat)
            await (self._listen(rest) if self._follows else self._watch(rest))

    async def _receive_line(self) -> tuple[bytes, bytes]:
        """Read a line, up to the end of the input or of patience; return also what follows it."""
        buffer = bytearray()
        while b"\n" not in buffer and len(buffer) <= self._limits.request_bytes:
            data = await self._receive()
            if not data:
                break
            buffer += data
        line, newline, rest = buffer.partition(b"\n")
        return bytes(line + newline), bytes(rest)

    async def _receive(self) -> bytes:
        """Read what there is, nothing at the end of the input."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                return self._sock.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except OSError:
                return b""

    def _subscribe(self, line: bytes) -> bool:
        request = parse(line)
        if isinstance(request, BadRequest):
            self._refuse("bad_request", request.detail)
            return False
        if isinstance(request, Follow):
            return self._follow(request)
        self._name = request.name
        stream = subscribe(self._shelf, request, account=self._account)
        if isinstance(stream, Refusal):
            self._refuse(stream.code, stream.detail)
            return False
        self._subscription = stream.subscription
        self._private += stream.preamble
        self._note("consumer_subscribed", channels=len(stream.subscription.channels))
        for reason, channels in stream.refusals.items():
            self._note("resume_refused", reason=reason, channels=channels)
        self.flush()
        return True

    def _follow(self, request: Follow) -> bool:
        """Serve another daemon, or refuse it; tell which."""
        versions = (records.PROTOCOL, records.FOLLOW)
        self._name = FOLLOWER
        if not self._may_follow:
            self._refuse("forbidden", "only a daemon of the same user, or of root, may follow")
        elif (request.protocol, request.follow) != versions:
            self._refuse("protocol", f"this daemon speaks protocol {versions[0]}, follow {versions[1]}")
        elif not self._precedence.take(self, request.token):
            self._refuse("busy", "another daemon follows already")
        else:
            stream = follow(self._shelf)
            self._follows = True
            self._subscription = stream.subscription
            self._private += stream.preamble
            self._note("follower_came", channels=len(stream.subscription.channels))
            self.flush()
        return self._follows

    async def _listen(self, data: bytes) -> None:
        """Hear whether a daemon that follows is ready, up to the end of the input."""
        while len(data) <= self._limits.request_bytes:
            *lines, data = data.split(b"\n")
            for said in map(parse_readiness, lines):
                if said is not None:
                    self._precedence.hear(self, ready=said.ready)
            more = await self._receive()
            if not more:
                break
            data += more
        self._end("closed")

    async def _beat(self) -> None:
        while True:
            await trio.sleep(HEARTBEAT_S)
            self._heartbeat_due = True
            self.flush()

    async def _watch(self, data: bytes) -> None:
        """Watch for a second request, up to the end of the input; a half-closed consumer still receives."""
        while not data.strip():
            data = await self._receive()
            if not data and self._hung_up():
                self._end("closed")
            if not data:
                return
        self._refuse("bad_request", "one request for each connection")

    def _hung_up(self) -> bool:
        """Tell, at the end of the input, whether the other direction is closed, too."""
        poll = select.poll()
        poll.register(self._sock, 0)  # a hang-up is reported unasked
        return bool(poll.poll(0))

    def _note(self, name: str, **fields: str | int) -> None:
        self._notify(note(name, consumer=self._name, pid=self._peer.pid, uid=self._peer.uid, **fields))
