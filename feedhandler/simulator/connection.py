"""One WebSocket connection of the simulated exchange, after its handshake.

Two tasks: the reader hands requests on and answers control frames, the writer sends what the outbox gives.
What the client sends goes through wsproto; what it gets is made by hand. Only the writer sends, so frames
never mix.

An end that was ordered happens within `ENDING_DEADLINE_S`, also where the client does not read. Bounds: a
client's message has at most `REQUEST_MAX_BYTES` (else close 1009), `PINGS_MAX` pings wait for their pong
(the oldest is forgotten).
"""

import math
import struct
from collections.abc import Callable, Iterable

import trio
from wsproto import events as ws_events
from wsproto.connection import Connection as Protocol
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from feedhandler.simulator import frames, wire
from feedhandler.simulator.gate import Compliance
from feedhandler.simulator.outbox import Ending, Outbox

ENDING_DEADLINE_S = 1.0
REQUEST_MAX_BYTES = 64 * 1024
PINGS_MAX = 10_000
READ_BYTES = 64 * 1024
THROTTLE_PIECES_PER_S = 20

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Answerer = Callable[["Connection", bytes], None]


class Connection:
    """One client's connection to one market, or to all of them."""

    def __init__(
        self,
        stream: Stream,
        protocol: Protocol,
        *,
        market: str,
        index: int,
        subscriptions: Iterable[str],
        outbox: Outbox,
        compliance: Compliance,
        answer: Answerer,
    ) -> None:
        self.market = market
        self.index = index
        """The lowest number that was free among the market's connections: which line this is."""
        self.subscriptions = list(subscriptions)
        self.outbox = outbox
        self.opened_at = trio.current_time()
        self.settling_since = math.inf
        """When the random faults found that it had been sent as many events as they ask for."""
        self.touched_until = -math.inf
        """When the last fault ends that struck this connection."""
        self.end_reason = ""
        self._overdue = ""
        self._stream = stream
        self._protocol = protocol
        self._compliance = compliance
        self._answer = answer
        self._request = bytearray()
        self._pings: dict[bytes, tuple[float, trio.Event]] = {}
        self._ping_number = 0
        self._nursery: trio.Nursery | None = None
        self._peer_closed = trio.Event()

    def __repr__(self) -> str:
        return f"<connection {self.index} of {self.market}: {self.outbox.events} events>"

    @property
    def is_open(self) -> bool:
        """Tell whether the connection is being served."""
        return self._nursery is not None

    async def run(self, *, close_at: float, ping_every_s: float) -> None:
        """Serve the connection until it ends; ``close_at``: when the exchange closes it."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._write)
                if close_at < math.inf:
                    self._nursery.start_soon(self._close_at, close_at)
                if ping_every_s:
                    self._nursery.start_soon(self._keep_pinging, ping_every_s)
                await self._read()
        finally:
            if self._nursery is not None and trio.current_time() >= self._nursery.cancel_scope.deadline:
                wire.reset_at_close(self._stream)
                self.end_reason = self.end_reason or self._overdue
            self._nursery = None
            await trio.aclose_forcefully(self._stream)

    # Reading

    async def _read(self) -> None:
        try:
            self._consume()
            while not self._peer_closed.is_set():
                data = await self._stream.receive_some(READ_BYTES)
                if not data:
                    break
                self._protocol.receive_data(bytes(data))
                self._consume()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._cancel("lost")
            return
        except RemoteProtocolError:
            self.end(Ending("close", 1002, "protocol error"), at_once=True)
            return
        if not self._peer_closed.is_set():
            self._cancel("lost")

    def _consume(self) -> None:
        for event in self._protocol.events():
            match event:
                case ws_events.TextMessage() | ws_events.BytesMessage():
                    self._take_message(event)
                case ws_events.Ping():
                    self.outbox.put_urgent(self._protocol.send(event.response()))
                case ws_events.Pong():
                    self._take_pong(bytes(event.payload))
                case ws_events.CloseConnection():
                    self._take_close(event)
                case _:
                    continue

    def _take_message(self, event: ws_events.TextMessage | ws_events.BytesMessage) -> None:
        data = event.data.encode() if isinstance(event.data, str) else bytes(event.data)
        self._request += data
        if len(self._request) > REQUEST_MAX_BYTES:
            self._request.clear()
            self.end(Ending("close", 1009, "request too long"), at_once=True)
        elif event.message_finished:
            request = bytes(self._request)
            self._request.clear()
            self._answer(self, request)

    def _take_pong(self, payload: bytes) -> None:
        ping = self._pings.pop(payload, None)
        if ping is not None:
            sent_at, answered = ping
            answered.set()
            self._compliance.pongs_received += 1
            delay_s = trio.current_time() - sent_at
            self._compliance.slowest_pong_s = max(self._compliance.slowest_pong_s, delay_s)

    def _take_close(self, event: ws_events.CloseConnection) -> None:
        self._peer_closed.set()
        self.end_reason = self.end_reason or "closed by client"
        try:
            reply = self._protocol.send(event.response())
        except LocalProtocolError:
            reply = b""
        if reply:
            self.outbox.put_urgent(reply)
        self.end(Ending("drop"), at_once=True)

    # Writing

    async def _write(self) -> None:
        try:
            while True:
                now = trio.current_time()
                piece = self.outbox.take(now)
                if piece is None:
                    await self.outbox.wait(now)
                elif isinstance(piece, Ending):
                    await self._finish(piece)
                    break
                else:
                    await self._send(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.end_reason = self.end_reason or "lost"
        self._cancel("ended")

    async def _send(self, piece: bytes) -> None:
        rate = self.outbox.bytes_per_s
        if not rate:
            await self._stream.send_all(piece)
            return
        step = max(1, rate // THROTTLE_PIECES_PER_S)
        for at in range(0, len(piece), step):
            part = piece[at : at + step]
            await self._stream.send_all(part)
            await trio.sleep(len(part) / rate)

    async def _finish(self, ending: Ending) -> None:
        self.end_reason = self.end_reason or ending.reason or ending.how
        if ending.half_frame:
            frame = self.outbox.take_next_frame() or frames.text(b"{}")
            cut = ending.cut_bytes or len(frame) // 2
            await self._stream.send_all(frame[: max(1, min(cut, len(frame) - 1))])
        elif ending.how == "close":
            await self._stream.send_all(frames.close(ending.code, ending.reason))
            with trio.move_on_after(ENDING_DEADLINE_S):
                await self._peer_closed.wait()
        if ending.how == "reset":
            wire.reset_at_close(self._stream)

    # Ending and pinging

    def end(self, ending: Ending, *, at_once: bool = False) -> None:
        """End the connection: behind what is queued, or at once; within the deadline in any case."""
        if self._nursery is None:
            return
        if at_once:
            self.outbox.put_urgent(ending)
        else:
            self.outbox.put_ending(trio.current_time(), ending)
        patience_s = ENDING_DEADLINE_S * (2 if ending.how == "close" else 1)
        scope = self._nursery.cancel_scope  # a nursery that is just closing takes no new task, but a deadline
        scope.deadline = min(scope.deadline, trio.current_time() + patience_s)
        self._overdue = ending.reason or ending.how

    def _cancel(self, reason: str) -> None:
        self.end_reason = self.end_reason or reason
        if self._nursery is not None:
            self._nursery.cancel_scope.cancel()

    async def _close_at(self, moment: float) -> None:
        await trio.sleep_until(moment)
        self.end(Ending("close", 1008, "connection too old"), at_once=True)

    async def _keep_pinging(self, every_s: float) -> None:
        while True:
            await trio.sleep(every_s)
            self.ping(1)

    def ping(self, count: int) -> None:
        """Send WebSocket pings."""
        for _ in range(count):
            frame, _ = self._new_ping()
            self.outbox.put_urgent(frame)

    def probe(self) -> trio.Event:
        """Send a ping behind the events before it; the event is set when the client has read so far."""
        frame, answered = self._new_ping()
        self.outbox.put_reply(trio.current_time(), frame)
        return answered

    def _new_ping(self) -> tuple[bytes, trio.Event]:
        self._ping_number += 1
        payload = struct.pack("!Q", self._ping_number)
        if len(self._pings) >= PINGS_MAX:
            del self._pings[next(iter(self._pings))]
        answered = trio.Event()
        self._pings[payload] = trio.current_time(), answered
        self._compliance.pings_sent += 1
        return frames.frame(frames.PING, payload), answered
