"""Bytes in whatever pieces, put together into lines.

One line has a bound, `LINE_BYTES`; beyond it the connection is given up with a `ProtocolError`.
"""

from collections import deque

from feedhandler.client.errors import ProtocolError

LINE_BYTES = 64 * 1024 * 1024


class Lines:
    """The lines of one connection; they cost the same per byte however long they are."""

    def __init__(self, line_bytes: int = LINE_BYTES) -> None:
        self._line_bytes = line_bytes
        self._whole: deque[bytes] = deque()
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        first, *rest = data.split(b"\n")
        self._pieces.append(first)
        self._pieces_bytes += len(first)
        if rest:
            self._whole.append(b"".join(self._pieces))
            self._whole.extend(rest[:-1])
            self._pieces = [rest[-1]]
            self._pieces_bytes = len(rest[-1])

    def next(self) -> bytes | None:
        """Return the next whole line, its end included."""
        if self._whole:
            return self._whole.popleft() + b"\n"
        if self._pieces_bytes > self._line_bytes:
            raise ProtocolError(f"the server sent a line of more than {self._line_bytes} bytes")
        return None
