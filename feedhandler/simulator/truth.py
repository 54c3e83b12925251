"""The truth: every broadcast once, in order, for comparing what consumers received.

One JSON object a line, ``{"market":…,"stream":…,"msg":…}``, the message verbatim. Lines are written whole
into a buffered file, which is flushed now and then and closed, complete, at the end whatever ends the
exchange.
"""

import json
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

BUFFER_BYTES = 1024 * 1024
FLUSH_S = 0.5


class Truth:
    """The file of all broadcasts; without a path it keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self._file = path.open("wb", buffering=BUFFER_BYTES) if path else None
        self._heads: dict[tuple[str, str], bytes] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file:
            self._file.close()

    def write(self, market: str, stream: str, message: bytes) -> None:
        """Write one broadcast down."""
        if self._file is None:
            return
        head = self._heads.get((market, stream))
        if head is None:
            head = f'{{"market":{json.dumps(market)},"stream":{json.dumps(stream)},"msg":'.encode()
            self._heads[market, stream] = head
        self._file.write(b"%b%b}\n" % (head, message))

    def flush(self) -> None:
        """Bring what was written into the file."""
        if self._file:
            self._file.flush()

    async def keep_flushed(self) -> None:
        """Flush now and then."""
        while self._file:
            await trio.sleep(FLUSH_S)
            self.flush()
