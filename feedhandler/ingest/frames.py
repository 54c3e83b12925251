"""The frames of a WebSocket server, split into messages and control frames. Pure: bytes in, values out.

    bytes ──▶ text messages, whole and in order        for the feed
          ──▶ control frames (ping, pong, close),      for the WebSocket library, byte for byte
          ──▶ ``rejected``                             messages that are no text, by kind
          ──▶ ``failure``                              why nothing more comes out of this connection

Rules (RFC 6455, section 5, as a client reads it):

- A text message comes out when its last byte is in. Fragments are put together here, so that nothing
  overtakes; control frames may stand between them. Whether a payload is UTF-8 is not looked at.
- A message of more than ``max_message_bytes`` fails the connection, as soon as a header shows it and before
  its payload is kept. So what is kept is bounded by one message in assembly and one frame under way, each
  of that size.
- What the protocol forbids fails the connection: a masked frame, a reserved bit or opcode (no extension was
  offered), a continuation of nothing, a new message within a fragmented one, a control frame that is
  fragmented or long. A length in more bytes than it needs is let pass: it leaves no doubt about where the
  frame ends.
- What precedes a failure comes out; nothing after it does. Nor does anything after a close frame.
- Whole frames that others have been seen to bring may be left out (``known_bytes``); the rest of a frame that earlier
  bytes have begun is among them, or nothing is.

`FrameSplitter._usual` is the daemon's hottest loop: one unfragmented short text frame after the other out
of one piece of bytes. All else takes the way around through `FrameSplitter._unusual`, one frame a call.
"""

from collections.abc import Sequence
from struct import Struct
from typing import Final, NamedTuple

CONTINUATION: Final = 0x0
TEXT: Final = 0x1
BINARY: Final = 0x2
CLOSE: Final = 0x8
PING: Final = 0x9
PONG: Final = 0xA

FIN: Final = 0x80
RESERVED_BITS: Final = 0x70
OPCODE: Final = 0x0F
MASKED: Final = 0x80
CONTROL: Final = 0x8

WHOLE_TEXT: Final = FIN | TEXT
LENGTH_16: Final = 126
LENGTH_64: Final = 127
HEADER_BYTES: Final = 2
HEADER_16_BYTES: Final = 4
HEADER_64_BYTES: Final = 10
CONTROL_MAX_BYTES: Final = 125

_OPCODES: Final = frozenset({CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG})
_HEADER_BYTES: Final = {LENGTH_16: HEADER_16_BYTES, LENGTH_64: HEADER_64_BYTES}
_header_16 = Struct(">BBH").unpack_from

PROTOCOL: Final = "protocol"
OVERSIZE: Final = "oversize"
BINARY_MESSAGE: Final = "binary"


class _Header(NamedTuple):
    """The header of one frame; the payload goes from ``start`` to ``stop``."""

    first: int
    second: int
    start: int
    stop: int


class FrameSplitter:
    """Splits what one server sends after its handshake."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_bytes = max_message_bytes
        self._rest = bytearray()  # the beginning of a frame that is not complete yet,
        self._need_bytes = 0  # and the length that it must reach before another look is worth it
        self._opcode = CONTINUATION  # of the fragmented message under way, if there is one
        self._message = bytearray()
        self._message_bytes = 0
        self._payloads: list[bytes] = []  # of the call under way, like the next three
        self._control = bytearray()
        self._ends: list[int] = []
        self._wire = b""
        self._rejected: list[str] = []
        self.failure = ""
        self.closed = False

    @property
    def midway(self) -> bool:
        """Whether the beginning of a message, or of any frame, waits for its rest."""
        return bool(self._rest) or self._opcode != CONTINUATION

    @property
    def rest(self) -> bytearray:
        """The beginning of a frame that is not complete yet: what comes next follows it."""
        return self._rest

    @property
    def is_between(self) -> bool:
        """Whether what comes, the rest included, begins with a frame that may be a whole message."""
        return self._opcode == CONTINUATION and not self.closed and not self.failure

    def feed(self, data: bytes, known_bytes: int = 0) -> tuple[list[bytes], bytes]:
        """Take the next bytes; return the text messages that are complete now, and the control frames.

        Of the rest and what follows it the first ``known_bytes`` are whole frames that need no look any more.
        """
        self._payloads, self._ends, self._wire = [], [], b""
        if self.failure or self.closed:
            return [], b""
        if known_bytes:
            data = data[known_bytes - len(self._rest) :]
            self._rest = bytearray()
        if self._rest:
            if len(self._rest) + len(data) < self._need_bytes:
                self._rest += data
                return [], b""
            data = b"".join((self._rest, data))
            self._rest = bytearray()
        self._wire = data
        position = self._usual(data, 0) if self._opcode == CONTINUATION else 0
        if position < len(data):
            self._split(data, position)
        return self._payloads, self._take_control() if self._control else b""

    def frames(self) -> tuple[bytes, Sequence[int]]:
        """Return bytes that begin with the frames of the messages that came last, and where each of these ends.

        Both are empty where anything else stood among them.
        """
        return (self._wire, self._ends) if self._wire else (b"", ())

    def _take_control(self) -> bytes:
        control, self._control = self._control, bytearray()
        return bytes(control)

    def take_rejected(self) -> list[str]:
        """Return the kinds of the messages rejected since the last call, one entry for each."""
        if not self._rejected:
            return self._rejected
        rejected, self._rejected = self._rejected, []
        return rejected

    def _split(self, data: bytes, position: int) -> None:
        """Take all frames from one on that `_usual` does not take; keep the beginning of one that is not complete."""
        while position < len(data):
            following = self._unusual(data, position)
            if following == position or self.closed:
                break
            position = following
            if self._opcode == CONTINUATION:
                position = self._usual(data, position)
        if not self.failure and not self.closed:
            self._rest += data[position:]

    def _usual(self, data: bytes, position: int) -> int:
        """Take whole text frames of up to 64 KiB; return where the first other or incomplete one begins."""
        take, ends = self._payloads.append, self._ends.append
        max_bytes = self._max_bytes
        end = len(data)
        last = end - HEADER_16_BYTES
        while position <= last:
            first, size, size_16 = _header_16(data, position)
            if first != WHOLE_TEXT or size > LENGTH_16:
                break
            start = position + HEADER_BYTES
            if size == LENGTH_16:
                start = position + HEADER_16_BYTES
                size = size_16
            stop = start + size
            if stop > end or size > max_bytes:
                break
            take(data[start:stop])
            ends(stop)
            position = stop
        return position

    def _unusual(self, data: bytes, position: int) -> int:
        """Take one frame of any kind; return where the next begins, or ``position`` where there is none."""
        header = self._header(data, position)
        if header is None:
            return position
        self.failure = self._fault(header)
        if self.failure:
            return position
        if header.stop > len(data):
            self._need_bytes = header.stop - position
            return position
        self._wire, self._ends = b"", []
        if header.first & CONTROL:
            self._control += data[position : header.stop]
            self.closed = header.first & OPCODE == CLOSE
        else:
            self._add(header.first, data[header.start : header.stop])
        return header.stop

    def _header(self, data: bytes, position: int) -> _Header | None:
        """Read a frame's header; None where it is not complete."""
        have_bytes = len(data) - position
        self._need_bytes = HEADER_BYTES
        if have_bytes < HEADER_BYTES:
            return None
        first, second = data[position], data[position + 1]
        size = second & ~MASKED
        start = position + _HEADER_BYTES.get(size, HEADER_BYTES)
        self._need_bytes = start - position
        if have_bytes < self._need_bytes:
            return None
        if size in _HEADER_BYTES:
            size = int.from_bytes(data[position + HEADER_BYTES : start], "big")
        return _Header(first, second, start, start + size)

    def _fault(self, header: _Header) -> str:
        """Say why a frame ends the connection; "" where it does not."""
        opcode = header.first & OPCODE
        if header.first & RESERVED_BITS or header.second & MASKED or opcode not in _OPCODES:
            return PROTOCOL
        if opcode & CONTROL:
            return "" if header.first & FIN and header.second <= CONTROL_MAX_BYTES else PROTOCOL
        if (opcode == CONTINUATION) != (self._opcode != CONTINUATION):
            return PROTOCOL
        too_large = self._message_bytes + header.stop - header.start > self._max_bytes
        return OVERSIZE if too_large else ""

    def _add(self, first: int, payload: bytes) -> None:
        """Add a data frame to its message, and let the message go where that was its last."""
        self._opcode = first & OPCODE or self._opcode
        self._message_bytes += len(payload)
        if self._opcode == TEXT:
            self._message += payload
        if not first & FIN:
            return
        if self._opcode == TEXT:
            self._payloads.append(bytes(self._message))
        else:
            self._rejected.append(BINARY_MESSAGE)
        self._opcode, self._message, self._message_bytes = CONTINUATION, bytearray(), 0
