"""WebSocket frames of a server, made by hand because the exchange must also be able to make bad ones.

Server frames are unmasked, so a frame is the same bytes on every connection: it is built once and shared.
"""

import struct

TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9

CONTINUATION = 0x0
FIN = 0x80

_SHORT_MAX = 125
_MEDIUM_MAX = 0xFFFF


def frame(opcode: int, payload: bytes, *, final: bool = True) -> bytes:
    """Return one frame."""
    first = opcode | FIN if final else opcode
    size = len(payload)
    if size <= _SHORT_MAX:
        return bytes((first, size)) + payload
    if size <= _MEDIUM_MAX:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def text(payload: bytes, fragment_bytes: int = 0) -> bytes:
    """Return a text message: one frame, or fragments if it is longer than ``fragment_bytes`` (0: never)."""
    if not fragment_bytes or len(payload) <= fragment_bytes:
        return frame(TEXT, payload)
    pieces = [payload[at : at + fragment_bytes] for at in range(0, len(payload), fragment_bytes)]
    last = len(pieces) - 1
    return b"".join(
        frame(CONTINUATION if number else TEXT, piece, final=number == last)
        for number, piece in enumerate(pieces)
    )


def close(code: int, reason: str = "") -> bytes:
    """Return a close frame."""
    return frame(CLOSE, struct.pack("!H", code) + reason.encode()[: _SHORT_MAX - 2])


def payload(data: bytes) -> bytes | None:
    """Return what an unfragmented text frame carries, None for anything else."""
    if data[0] != FIN | TEXT:
        return None
    return data[{126: 4, 127: 10}.get(data[1], 2) :]
