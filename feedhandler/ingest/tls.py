"""TLS over a line's socket: one read of the network is one read of the plain text.

    TcpStream ──▶ incoming ──▶ ssl ──▶ the plain text of all records that came whole
    TcpStream ◀── outgoing ◀── ssl ◀── what is sent, and what TLS itself has to say

trio's own stream gives each record by itself, and a server that sends message by message makes a record of each.

Rules:

- A read decrypts until ssl wants more or ``max_bytes`` are reached; what is left then comes with the next read, which
  looks there before it looks at the network. Either way it has a checkpoint.
- **No await between decrypting and returning**: a read that is cancelled has taken nothing. A fault behind good records
  waits for the next read.
- What TLS has to say by itself goes out before the network is waited for: after the text that came with its cause has
  been returned.
- Encrypting and sending are one step under a lock: records leave in the order of their numbers.
- A send that was cut off, like a record that can't be read, leaves a state in which nothing more can be sent. Reading
  goes on after the former: what arrived before a failing write is delivered.
- The end of TCP counts as the end with or without a goodbye of TLS, and we say none, as in HTTPS: the goodbye that
  counts is the one of WebSocket.
- Renegotiation, which TLS 1.3 has not, is refused (`connect.tls_context`): no send ever has to wait for a read.
"""

import ssl
from typing import Final

import trio

from feedhandler.ingest.tcp import Transport

RECORD_BYTES: Final = 16 * 1024
"""The most plain text in one record, and that ssl gives at once."""


class TlsStream(Transport):
    """The client's side of TLS; first of all it has to shake hands."""

    def __init__(self, stream: Transport, context: ssl.SSLContext, host: str) -> None:
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._sending = trio.Lock()
        self._mute = False  # nothing more can be sent
        self._drained = False  # ssl gives nothing until the network has given something
        self._over = False  # the end was read
        self._fault: ssl.SSLError | None = None  # of a record that can't be read

    async def do_handshake(self) -> None:
        """Agree on keys and verify the other side; ``BrokenResourceError`` has the reason as its cause."""
        while not self._shake_hands():
            await self._send_outgoing()
            data = await self._stream.receive_some(RECORD_BYTES)
            if not data:
                raise trio.BrokenResourceError
            self._incoming.write(data)
        await self._send_outgoing()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return the plain text of what has come, and wait for some; ``b""`` at the end."""
        most_bytes = max_bytes or RECORD_BYTES
        if self._over or not self._drained:
            await trio.lowlevel.checkpoint()
        while True:
            data = self._decrypt(most_bytes)
            if data or self._over:
                return data
            if self._fault:
                raise trio.BrokenResourceError from self._fault
            if self._outgoing.pending:
                await self._speak_up()
            await self._fetch(most_bytes)

    def readable(self) -> bool:
        """Tell whether the network has brought something."""
        return self._stream.readable()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt it and send all of it."""
        async with self._sending:
            self._encrypt(data)
            await self._send_outgoing()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket takes data."""
        async with self._sending:
            await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the socket; a read that waits for it ends."""
        await self._stream.aclose()

    def _shake_hands(self) -> bool:
        """Go on with the handshake; say whether it is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            raise trio.BrokenResourceError from error
        return True

    def _decrypt(self, most_bytes: int) -> bytes:
        """Return what ssl has to give. Must not await."""
        records: list[bytes] = []
        try:
            while most_bytes and not (self._drained or self._over or self._fault):
                records.append(self._tls.read(min(most_bytes, RECORD_BYTES)))
                most_bytes -= len(records[-1])
                self._over = not records[-1]
                self._drained = not (self._incoming.pending or self._tls.pending())
        except ssl.SSLWantReadError:
            self._drained = True
        except ssl.SSLError as error:
            self._fault = error
        return b"".join(records)

    async def _fetch(self, most_bytes: int) -> None:
        """Wait for the network."""
        data = await self._stream.receive_some(most_bytes)
        self._incoming.write(data)
        self._over = not data
        self._drained = False

    def _encrypt(self, data: bytes | bytearray | memoryview) -> None:
        """Make records of it; where they could not be sent there are none."""
        if self._mute or self._fault:
            raise trio.BrokenResourceError from self._fault
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise trio.BrokenResourceError from error

    async def _speak_up(self) -> None:
        """Send what TLS has to say; the other side's end is for the read to tell."""
        async with self._sending:
            try:
                await self._send_outgoing()
            except trio.BrokenResourceError:
                await trio.lowlevel.checkpoint()

    async def _send_outgoing(self) -> None:
        """Send the records that are ready; where that is cut off, nothing can be sent any more."""
        if self._mute:
            raise trio.BrokenResourceError
        self._mute = True  # until all of it is on its way
        await self._stream.send_all(self._outgoing.read())
        self._mute = False
