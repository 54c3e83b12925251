"""HTTP on the exchange's one port: the token endpoint, the list of markets, and the WebSocket handshake.

h11 parses requests, wsproto judges and accepts handshakes. A request's body is read and not kept; one of
more than `BODY_MAX_BYTES` ends the connection, as does a client that is no HTTP client or is silent for
`IDLE_S`.
"""

import json
import socket
import struct
from typing import NamedTuple
from urllib.parse import parse_qs

import h11
import trio
from wsproto import ConnectionType
from wsproto.connection import Connection as Protocol
from wsproto.events import AcceptConnection, Request
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError

from feedhandler.errors import OperationalError

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]

BODY_MAX_BYTES = 64 * 1024
IDLE_S = 60.0
READ_BYTES = 64 * 1024
PROTOCOL_PREFIX = "authorization#"


class ClientGoneError(OperationalError):
    """The client left or does not speak HTTP: the end of its connection, and nothing to report."""


def reset_at_close(stream: Stream) -> None:
    """Have the end of a connection be a TCP reset."""
    raw = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Asked(NamedTuple):
    """One HTTP request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    raw: h11.Request


class HttpPeer:
    """One client before it has a WebSocket: reads requests, writes answers."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.SERVER)
        self._is_head = False

    async def receive(self) -> Asked:
        """Return the next request."""
        try:
            with trio.fail_after(IDLE_S):
                return await self._receive()
        except (
            trio.TooSlowError,
            trio.BrokenResourceError,
            trio.ClosedResourceError,
            h11.RemoteProtocolError,
        ) as error:
            raise ClientGoneError from error

    async def _receive(self) -> Asked:
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            raise ClientGoneError
        self._is_head = event.method == b"HEAD"
        await self._skip_body()
        path, _, query = event.target.decode("ascii", "replace").partition("?")
        return Asked(
            method=event.method.decode(),
            path=path,
            query={key: values[0] for key, values in parse_qs(query).items()},
            headers={name.decode(): value.decode("latin-1") for name, value in event.headers},
            raw=event,
        )

    async def _next_event(self) -> h11.Event:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(bytes(await self.stream.receive_some(READ_BYTES)))
            elif isinstance(event, h11.Event):
                return event
            else:
                raise ClientGoneError

    async def _skip_body(self) -> None:
        size = 0
        while isinstance(event := await self._next_event(), h11.Data):
            size += len(event.data)
            if size > BODY_MAX_BYTES:
                raise ClientGoneError

    async def answer(self, status: int, body: object, retry_after: str = "") -> None:
        """Answer the request with a JSON body."""
        data = json.dumps(body, separators=(",", ":")).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
        if retry_after:
            headers.append(("Retry-After", retry_after))
        head = self._http.send(h11.Response(status_code=status, headers=headers))
        rest = (h11.EndOfMessage(),) if self._is_head else (h11.Data(data=data), h11.EndOfMessage())
        tail = [self._http.send(event) for event in rest]
        await self.send(b"".join(piece for piece in (head, *tail) if piece))
        if self._http.our_state is not h11.DONE:
            raise ClientGoneError

    async def send(self, data: bytes) -> None:
        """Send bytes."""
        try:
            await self.stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ClientGoneError from error

    def upgrade(self, asked: Asked) -> "Upgrade | None":
        """Return the handshake that a request asks for, None where it asks for none that is right."""
        handshake = H11Handshake(ConnectionType.SERVER)
        try:
            handshake.initiate_upgrade_connection(list(asked.raw.headers), asked.raw.target)
        except RemoteProtocolError:
            return None
        request = next(iter(handshake.events()), None)
        return Upgrade(self, handshake, request) if isinstance(request, Request) else None

    def trailing_data(self) -> bytes:
        """Return what came behind the request."""
        return self._http.trailing_data[0]


class Upgrade:
    """A handshake that can be accepted."""

    def __init__(self, peer: HttpPeer, handshake: H11Handshake, request: Request) -> None:
        self._peer = peer
        self._handshake = handshake
        self._offer = next((name for name in request.subprotocols if name.startswith(PROTOCOL_PREFIX)), "")

    @property
    def token(self) -> str:
        """The token that the client brings, empty if none."""
        return self._offer.removeprefix(PROTOCOL_PREFIX)

    async def accept(self, *, echo: bool) -> Protocol:
        """Accept; return the protocol that reads what the client sends from now on."""
        answer = AcceptConnection(subprotocol=self._offer if echo and self._offer else None)
        await self._peer.send(self._handshake.send(answer))
        return Protocol(ConnectionType.SERVER, trailing_data=self._peer.trailing_data())
