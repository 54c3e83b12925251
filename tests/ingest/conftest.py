"""Peers for the tests of ingest: scripted servers on loopback, and a hub that writes down what it hears."""

import base64
import hashlib
import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trustme

from feedhandler.core.trail import NONE_KNOWN, Frames, Known
from feedhandler.errors import ConnectionFailed


class Peer:
    """One accepted connection of a scripted server."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.head = ""
        self.received = bytearray()

    async def send(self, data: bytes) -> None:
        """Send raw bytes."""
        await self.stream.send_all(data)

    async def read_request(self) -> str:
        """Read the head of the client's request."""
        while b"\r\n\r\n" not in self.received:
            self.received += await self.stream.receive_some()
        head, _, rest = bytes(self.received).partition(b"\r\n\r\n")
        self.received = bytearray(rest)
        self.head = head.decode()
        return self.head

    def header(self, name: str) -> str | None:
        """Return one header of the request."""
        for line in self.head.split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name:
                return value.strip()
        return None

    def answer(self, *extra: str) -> bytes:
        """Return an answer that accepts the handshake."""
        key = self.header("sec-websocket-key") or ""
        digest = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()  # noqa: S324
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Accept: {base64.b64encode(digest).decode()}",
            *extra,
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def accept(self, *extra: str) -> None:
        """Read the request and accept it."""
        await self.read_request()
        await self.send(self.answer(*extra))

    async def frame(self) -> tuple[int, bytes]:
        """Read one short masked frame of the client; (-1, b"") at the end of the stream."""
        while len(self.received) < 2 or len(self.received) < 6 + (self.received[1] & 0x7F):
            data = await self.stream.receive_some()
            if not data:
                return -1, b""
            self.received += data
        size = self.received[1] & 0x7F
        opcode, mask, body = self.received[0] & 15, self.received[2:6], self.received[6 : 6 + size]
        del self.received[: 6 + size]
        return opcode, bytes(byte ^ mask[i % 4] for i, byte in enumerate(body))

    async def reset(self) -> None:
        """End the connection with a TCP reset."""
        assert isinstance(self.stream, trio.SocketStream)
        self.stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await trio.aclose_forcefully(self.stream)


Script = Callable[[Peer], Awaitable[None]]


@pytest.fixture
async def serve(nursery: trio.Nursery) -> Callable[..., Awaitable[int]]:
    """Start a server whose every connection plays a script; return its port."""

    async def start(script: Script, ssl_context: ssl.SSLContext | None = None) -> int:
        async def play(stream: trio.abc.Stream) -> None:
            peer = Peer(stream)
            try:
                await script(peer)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                await trio.lowlevel.checkpoint()
            finally:
                await trio.aclose_forcefully(stream)

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port: int = listeners[0].socket.getsockname()[1]
        wrapped = [
            trio.SSLListener(one, ssl_context, https_compatible=True) if ssl_context else one
            for one in listeners
        ]
        nursery.start_soon(trio.serve_listeners, play, wrapped)
        return port

    return start


class Journal:
    """A hub that writes down what it hears."""

    def __init__(self) -> None:
        self.entries: list[tuple[object, ...]] = []
        self.payloads: list[bytes] = []
        self.failures: list[tuple[ConnectionFailed, float]] = []
        self.on_received: Callable[[], None] = lambda: None
        self._changed = trio.Event()

    def _write(self, *entry: object) -> None:
        self.entries.append(entry)
        self._changed.set()
        self._changed = trio.Event()

    def connecting(self, line: str) -> None:
        """Hear that an attempt begins."""
        self._write("connecting", line)

    def connected(self, line: str) -> None:
        """Hear that the connection is open."""
        self._write("connected", line)

    def recognise(self, line: str, rest: bytes | bytearray, data: bytes) -> Known:  # noqa: ARG002 - as any hub
        """Know nothing of what a read begins with."""
        return NONE_KNOWN

    def received(self, line: str, payloads: list[bytes], frames: Frames) -> None:  # noqa: ARG002 - likewise
        """Take the messages of one read."""
        self.payloads += payloads
        self._write("received", line, tuple(payloads))
        self.on_received()

    def rejected(self, line: str, kind: str) -> None:
        """Hear of a message that is no text."""
        self._write("rejected", line, kind)

    def lost(self, line: str, reason: str) -> None:
        """Hear that the connection has ended."""
        self._write("lost", line, reason)

    def failed(self, line: str, failure: ConnectionFailed, retry_s: float) -> None:
        """Hear that an attempt failed."""
        self.failures.append((failure, retry_s))
        self._write("failed", line, failure.reason)

    async def wait_for(self, *entry: object, times: int = 1) -> None:
        """Wait until something has been written down as often as this."""
        while self.entries.count(entry) < times:
            await self._changed.wait()

    async def wait_payloads(self, count: int) -> None:
        """Wait until so many messages have come."""
        while len(self.payloads) < count:
            await self._changed.wait()


@pytest.fixture
def journal() -> Journal:
    """Return a fresh journal."""
    return Journal()


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Return a certificate authority of our own."""
    return trustme.CA()
