"""The WebSocket protocol as far as the benchmark's source speaks it: a server's handshake, a client's frames.

Pure: bytes in, values out. The server's own frames come from the simulator.
"""

import base64
import hashlib
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

HEAD_END = b"\r\n\r\n"
HEAD_MAX_BYTES = 16 * 1024
_ACCEPT_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

CLOSE = 0x8
PING = 0x9
PONG = 0xA
TEXT = 0x1
_MASK_BYTES = 4
_LENGTH_BYTES = {126: 2, 127: 8}


class Frame(NamedTuple):
    """One frame of a client, unmasked."""

    opcode: int
    payload: bytes


class Handshake(NamedTuple):
    """What a client's request asks for, and the answer that accepts it."""

    market: str
    answer: bytes


def accept(head: bytes) -> Handshake:
    """Read the head of a client's request; of the subprotocols that it offers the first is taken."""
    request, *lines = head.decode("latin-1").split("\r\n")
    headers = {
        name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    digest = hashlib.sha1(
        headers["sec-websocket-key"].encode() + _ACCEPT_GUID, usedforsecurity=False
    ).digest()
    answer = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}",
    ]
    offered = headers.get("sec-websocket-protocol", "").split(",")[0].strip()
    if offered:
        answer.append(f"Sec-WebSocket-Protocol: {offered}")
    query = parse_qs(urlsplit(request.split(" ")[1]).query)
    return Handshake(query.get("market", [""])[0], "\r\n".join([*answer, "", ""]).encode())


def take_frames(buffer: bytearray) -> list[Frame]:
    """Take the complete frames of a client from the front of a buffer."""
    found = []
    while (frame := _take_frame(buffer)) is not None:
        found.append(frame)
    return found


def _take_frame(buffer: bytearray) -> Frame | None:
    if len(buffer) < 2:
        return None
    size, start = buffer[1] & 0x7F, 2
    if size in _LENGTH_BYTES:
        start += _LENGTH_BYTES[size]
        size = int.from_bytes(buffer[2:start], "big")
    stop = start + _MASK_BYTES + size
    if len(buffer) < stop:
        return None
    mask, payload = buffer[start : start + _MASK_BYTES], buffer[start + _MASK_BYTES : stop]
    frame = Frame(buffer[0] & 0x0F, unmasked(payload, bytes(mask)))
    del buffer[:stop]
    return frame


def unmasked(payload: bytes | bytearray, mask: bytes) -> bytes:
    """Undo a client's masking."""
    size = len(payload)
    pattern = (mask * (size // _MASK_BYTES + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")).to_bytes(size, "big")
