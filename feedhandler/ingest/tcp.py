"""The TCP socket of a line: a stream like trio's own, cheaper to read.

Rules:

- A read waits first and receives then: a line is idle nearly always when it is read, so trying first would cost a
  system call and an exception each time. The wait is also the checkpoint, so a busy line lets the others run.
- **No await between receiving and returning**: a read that is cancelled has taken nothing.
- The descriptor is asked for again after the wait. Whoever closes the stream meanwhile ends the read, and what is
  opened next under the same number is not touched.
- A read asks for little, and for all that it may take only after one that got as much as it had asked for: a large
  buffer, cut down to what came, leaves a hole in the heap, which the events that stay fill up, and memory grows for
  minutes.
"""

import os
import select
from abc import abstractmethod
from typing import Final

import trio
from trio.abc import Stream

LITTLE_BYTES: Final = 16 * 1024
"""Asked for by a read after one that did not get all that it had asked for."""


class Transport(Stream):
    """A stream that tells whether something has come, without taking it."""

    @abstractmethod
    def readable(self) -> bool:
        """Tell whether a read would return at once."""


class TcpStream(Transport):
    """A connected TCP socket."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._socket = stream.socket
        self._ask_bytes = LITTLE_BYTES

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait until something has come, and take it; ``b""`` at the end."""
        while True:
            await trio.lowlevel.wait_readable(self._descriptor())
            try:
                return self._receive(max_bytes or LITTLE_BYTES)
            except BlockingIOError:
                continue
            except OSError as error:
                raise trio.BrokenResourceError from error

    def readable(self) -> bool:
        """Tell whether a read would return at once."""
        descriptor = self._socket.fileno()
        if descriptor < 0:
            return False
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket takes data."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the socket; a read that waits for it ends."""
        await self._stream.aclose()

    def _descriptor(self) -> int:
        descriptor = self._socket.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError
        return descriptor

    def _receive(self, max_bytes: int) -> bytes:
        ask_bytes = min(self._ask_bytes, max_bytes)
        data = os.read(self._descriptor(), ask_bytes)
        self._ask_bytes = max_bytes if len(data) == ask_bytes else LITTLE_BYTES
        return data
