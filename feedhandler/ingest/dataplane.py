"""The stream between the WebSocket library and the socket, which takes the data out of the library's way.

    socket ──▶ DataPlaneStream ──▶ control frames and the handshake ──▶ WebSocket library
                      ├──────────▶ all that a read begins with ──▶ ``recognise``: other lines have brought it
                      └──────────▶ text messages, a list for each read ──▶ ``deliver``
    socket ◀── DataPlaneStream ◀── all that the library sends

The library keeps the handshake, pings and pongs, closing and sending. It never sees a data frame, so its
message queue stays empty, nothing in it ever waits for a consumer, and it answers a ping at the read that
brought it.

Rules:

- Until the head of the answer to the handshake is complete (16 KiB at most) nothing passes; ``check``
  judges it and raises what ends the attempt. An exception of the handshake crosses the library on its way
  to `connect`.
- Then nothing is read until ``open``: who is told of the data is told of the connection first.
- **No await between a read and the end of its delivery.** One read is one call of ``deliver``, before the
  library gets the control frames of that read. What was recognised of it is not split; ``deliver`` hears of it in
  the same call.
- A read yields to the other tasks however much there is to read: the streams beneath have a checkpoint in every
  ``receive_some`` (`tcp`, `tls`).
- The end has one reason, the first that is seen: ``closed`` (a close frame), ``eof`` (without one),
  ``reset``, ``protocol``, ``oversize``, or what the caller of ``end`` says. After it nothing is delivered.
- After the end the library still gets the control frames, so that it can say goodbye; where frames can't be
  told apart any more, all that comes is read and dropped, so that the other side's end is seen.
- A write that fails is dropped: the read side holds what came before and then tells the end. So a broken
  connection loses nothing that has already arrived.
"""

from collections.abc import Callable
from time import perf_counter
from typing import Final

import trio
from trio.abc import Stream

from feedhandler.core.trail import NO_FRAMES, NONE_KNOWN, Frames, Known
from feedhandler.errors import ConnectionFailed
from feedhandler.ingest.frames import FrameSplitter
from feedhandler.ingest.tcp import Transport

HEAD_MAX_BYTES: Final = 16 * 1024
"""The longest head of an answer to a handshake; a longer one fails the attempt."""
HEAD_END: Final = b"\r\n\r\n"

COMPARED_BYTES: Final = 1024
"""From so many bytes on a read is compared with what other lines have brought; less is split at no higher cost."""

CLOSED: Final = "closed"
EOF: Final = "eof"
RESET: Final = "reset"

Deliver = Callable[[list[bytes], Frames], None]
"""Takes the messages of one read, and how they came."""

Recognise = Callable[[bytes | bytearray, bytes], Known]
"""Says, without any effect, what of a read needs no splitting: it is given the rest of earlier reads, and the data."""


class DataPlaneStream(Stream):
    """A stream that delivers text messages and passes on the rest."""

    def __init__(
        self,
        stream: Transport,
        *,
        check: Callable[[bytes], None],
        deliver: Deliver,
        recognise: Recognise,
        rejected: Callable[[str], None],
        read_bytes: int,
        max_message_bytes: int,
    ) -> None:
        self._stream = stream
        self._check = check
        self._deliver = deliver
        self._recognise = recognise
        self._rejected = rejected
        self._read_bytes = read_bytes
        self._splitter = FrameSplitter(max_message_bytes)
        self._opened = trio.Event()
        self._ended = trio.Event()
        self._early: bytes | None = None  # what came with the head of the answer, once that is complete
        self.reason = ""
        self.reads = 0
        self.read_s = 0.0  # when the first byte of what is delivered next was read

    def __repr__(self) -> str:
        return f"<DataPlaneStream {self.reason or 'up'}, {self.reads} reads>"

    def waits(self) -> bool:
        """Tell whether something has come that has to be read now."""
        return self._opened.is_set() and not self._ended.is_set() and self._stream.readable()

    def open(self) -> None:
        """Let the data flow."""
        self._opened.set()

    def end(self, reason: str) -> None:
        """Deliver nothing more; the first reason stays."""
        self.reason = self.reason or reason
        self._ended.set()
        self._opened.set()

    async def wait_ended(self) -> str:
        """Wait for the end; all that was read by then has been delivered."""
        await self._ended.wait()
        return self.reason

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 the library takes any amount
        """Deliver what comes until there is something for the library; ``b""`` at the end."""
        if self._early is None:
            return await self._receive_head()
        await self._opened.wait()
        while True:
            data, self._early = self._early or await self._read(), b""
            if not data:
                return data
            control = self._take(data)
            if control:
                return control

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, or drop what can't be sent any more."""
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket takes data."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the socket."""
        self.end(CLOSED)
        await self._stream.aclose()

    async def _receive_head(self) -> bytes:
        """Read the head of the answer, and judge it."""
        head = bytearray()
        while HEAD_END not in head:
            if len(head) > HEAD_MAX_BYTES:
                raise ConnectionFailed("protocol", "the head of the answer to the handshake is too long")
            try:
                data = await self._stream.receive_some(HEAD_MAX_BYTES)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                raise ConnectionFailed("handshake", "the connection ended before the handshake was answered")
            head += data
        size = head.index(HEAD_END) + len(HEAD_END)
        self._check(bytes(head[:size]))
        self._early = bytes(head[size:])
        self.read_s = perf_counter()
        return bytes(head[:size])

    async def _read(self) -> bytes:
        """Read once; the end of what can be read is the end of the connection."""
        try:
            data = await self._stream.receive_some(self._read_bytes)
        except trio.BrokenResourceError:
            self.end(RESET)
            raise
        if not self._splitter.midway:
            self.read_s = perf_counter()
        self.reads += 1
        if not data:
            self.end(EOF)
        return bytes(data)

    def _take(self, data: bytes) -> bytes:
        """Deliver the messages of one read; return its control frames. Must not await."""
        splitter = self._splitter
        known, frames = NONE_KNOWN, NO_FRAMES
        if len(data) >= COMPARED_BYTES and splitter.is_between and not self.reason:
            known = self._recognise(splitter.rest, data)
        payloads, control = splitter.feed(data, known.size)
        if not self.reason:
            if len(data) >= COMPARED_BYTES:
                frames = Frames(known.events, *splitter.frames())
            if payloads or known.events:
                self._deliver(payloads, frames)
            for kind in splitter.take_rejected():
                self._rejected(kind)
            if splitter.failure or splitter.closed:
                self.end(splitter.failure or CLOSED)
        return control
