"""Opening and closing one connection: name, TCP, TLS, WebSocket handshake; and goodbye.

This is the only file that knows what the WebSocket library raises, and why a TLS handshake fails; it maps that
once, to `ConnectionFailed` and `HandshakeRefused`. Their texts are our own, since exceptions of the library can hold
what was sent; and they are raised outside of the handlers, so that nothing hangs on to them as a context.

    open_line ──▶ Connection ──pump──▶ the reason of its end ──▶ goodbye, at most GOODBYE_S

Whatever ends a connection, its other side is told with a close frame and given a moment to answer: the
exchange counts open connections, and a slot that it believes taken is missing at the next attempt. That
moment is shielded from cancellation and bounded; then the socket is closed in any case.

TCP goes to the address that is the line's turn, or to the next that answers (`tcp`), and does not delay small writes.
"""

import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import h11
import trio
import trio_websocket
from wsproto.utilities import LocalProtocolError, ProtocolError

from feedhandler.config import Bounds
from feedhandler.errors import ConfigError, ConnectionFailed
from feedhandler.exchange.token import Token
from feedhandler.ingest.dataplane import CLOSED, DataPlaneStream, Deliver, Recognise
from feedhandler.ingest.frames import OVERSIZE, PROTOCOL
from feedhandler.ingest.handshake import Target, check_answer, subprotocol
from feedhandler.ingest.tcp import TcpStream, Transport, dial
from feedhandler.ingest.tls import TlsStream

GOODBYE_S: Final = 1.0
"""The longest that the other side is given to answer a close frame and to close."""

CLOSE_CODES: Final = {PROTOCOL: 1002, OVERSIZE: 1009}
NORMAL_CLOSE: Final = 1000

_LIBRARY_ERRORS: Final = (
    h11.ProtocolError,
    ProtocolError,
    trio_websocket.HandshakeError,
    trio_websocket.ConnectionClosed,
)


class Connection:
    """One open connection of a line."""

    def __init__(
        self, library: trio_websocket.WebSocketConnection, plane: DataPlaneStream, peer: str
    ) -> None:
        self._library = library
        self._plane = plane
        self.peer = peer
        """The address at the other end."""
        self.answered = False
        """Whether the other side has answered the goodbye, so that it counts this connection no more."""

    def __repr__(self) -> str:
        return f"<Connection to {self.peer} {self._plane!r}>"

    @property
    def reads(self) -> int:
        """How often something has arrived, pongs included."""
        return self._plane.reads

    def waits(self) -> bool:
        """Tell whether something has come that has to be read now."""
        return self._plane.waits()

    @property
    def read_s(self) -> float:
        """When the first byte of what is being delivered was read (`time.perf_counter`)."""
        return self._plane.read_s

    async def pump(self) -> str:
        """Let the data flow and wait for the end; return its reason."""
        self._plane.open()
        return await self._plane.wait_ended()

    async def send(self, text: str) -> None:
        """Send a message; after the end it is dropped."""
        try:
            await self._library.send_message(text)
        except trio_websocket.ConnectionClosed:
            await trio.lowlevel.checkpoint()

    def end(self, reason: str) -> None:
        """End the connection: nothing is delivered from now on, and `pump` returns."""
        self._plane.end(reason)

    async def say_goodbye(self) -> None:
        """Send a close frame and wait for the answer; the caller bounds it."""
        began_s = trio.current_time()
        await self._library.aclose(CLOSE_CODES.get(self._plane.reason, NORMAL_CLOSE))
        self.answered = trio.current_time() < began_s + GOODBYE_S


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return what verifies the exchange: against ``ca_file``, else against the system's certificates."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([f"exchange.ca_file: {ca_file} holds no usable certificates ({error})"]) from error
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


@asynccontextmanager
async def open_line(
    target: Target,
    *,
    token: Token | None,
    deliver: Deliver,
    recognise: Recognise,
    rejected: Callable[[str], None],
    ssl_context: ssl.SSLContext,
    bounds: Bounds,
    path: int = 0,
) -> AsyncIterator[Connection]:
    """Open a connection, and say goodbye to it in the end; raise ``ConnectionFailed`` where it does not open.

    ``path`` says which of the host's addresses is tried first (`tcp`).
    ``deliver`` gets the messages of each read, except those that ``recognise`` knows already, and ``rejected`` the
    kind of each message that is no text, all between `Connection.pump` and its return only.
    """
    deadline_s = trio.current_time() + bounds.handshake_s
    transport, peer = await _transport(target, path, ssl_context, deadline_s)
    plane = DataPlaneStream(
        transport,
        check=partial(_check, token),
        deliver=deliver,
        recognise=recognise,
        rejected=rejected,
        read_bytes=bounds.read_bytes,
        max_message_bytes=bounds.message_bytes,
    )
    connection: Connection | None = None
    failure: ConnectionFailed | None = None
    leaving = trio.Event()
    reading = trio.CancelScope()
    try:
        async with trio.open_nursery() as nursery:
            reader_home = await nursery.start(_keep_reader, reading, leaving)
            reading.shield = True  # not before: a start that is cancelled takes the reader's home with it
            try:
                library = await _shake_hands(reader_home, plane, target, token, deadline_s)
                connection = Connection(library, plane, peer)
                yield connection
            finally:
                leaving.set()
                with trio.move_on_after(GOODBYE_S, shield=True):
                    await _leave(connection, reading)
    except BaseExceptionGroup as group:
        failure = None if connection else _handshake_failure(group)
        if failure is None:
            raise
    finally:
        await trio.aclose_forcefully(transport)
    if failure is not None:
        raise failure


async def _keep_reader(
    reading: trio.CancelScope, leaving: trio.Event, task_status: trio.TaskStatus[trio.Nursery]
) -> None:
    """Hold the library's reader, which outlives a cancelled line until the goodbye is over.

    The reader answers every ping, and fails where our close frame has gone out before: the goodbye is over.
    """
    with reading:
        try:
            async with trio.open_nursery() as nursery:
                task_status.started(nursery)
                await leaving.wait()
        except* LocalProtocolError:
            if not leaving.is_set():
                raise


async def _leave(connection: Connection | None, reading: trio.CancelScope) -> None:
    """Say goodbye; what is not over by its bound is cut off."""
    if connection is None:
        reading.cancel()
        return
    connection.end(CLOSED)
    reading.deadline = trio.current_time() + GOODBYE_S
    await connection.say_goodbye()


def _check(token: Token | None, head: bytes) -> None:
    check_answer(head, None if token is None else subprotocol(token.text), time.time())


async def _transport(
    target: Target, path: int, ssl_context: ssl.SSLContext, deadline_s: float
) -> tuple[Transport, str]:
    """Connect to the exchange, with TLS where the target asks for it; return the address, too."""
    with trio.CancelScope(deadline=deadline_s):
        stream = await _dial(target, path)
        peer = stream.peer
        return (await _secure(stream, target, ssl_context) if target.tls else stream), peer
    raise ConnectionFailed("timeout", f"no connection to {target.authority} in time")


async def _dial(target: Target, path: int) -> TcpStream:
    try:
        return await dial(target.host, target.port, path)
    except (OSError, UnicodeError) as error:
        failure = _dial_failure(target, error)
    raise failure


async def _secure(stream: TcpStream, target: Target, ssl_context: ssl.SSLContext) -> TlsStream:
    secured = TlsStream(stream, ssl_context, target.host)
    failure = ConnectionFailed("tls", f"the TLS handshake with {target.authority} was not completed")
    done = False
    try:
        await secured.do_handshake()
        done = True
    except trio.BrokenResourceError as error:
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            text = f"the certificate of {target.authority} is not accepted: {error.__cause__.verify_message}"
            failure = ConnectionFailed("tls", text)
    finally:
        if not done:
            await trio.aclose_forcefully(stream)
    if not done:
        raise failure
    return secured


async def _shake_hands(
    nursery: trio.Nursery, plane: DataPlaneStream, target: Target, token: Token | None, deadline_s: float
) -> trio_websocket.WebSocketConnection:
    """Start the library and wait until its handshake is done."""
    with trio.CancelScope(deadline=deadline_s):
        return await trio_websocket.wrap_client_stream(
            nursery,
            plane,  # type: ignore[arg-type] # any stream will do
            target.authority,
            target.resource,
            subprotocols=[] if token is None else [subprotocol(token.text)],
        )
    raise ConnectionFailed("timeout", f"{target.authority} did not answer the handshake in time")


def _dial_failure(target: Target, error: OSError | UnicodeError) -> ConnectionFailed:
    """Tell apart why there is no TCP connection."""
    if isinstance(error, socket.gaierror | UnicodeError):
        return ConnectionFailed("dns", f"the name {target.host} does not resolve")
    attempts = error.__cause__.exceptions if isinstance(error.__cause__, ExceptionGroup) else ()
    if any(isinstance(attempt, ConnectionRefusedError) for attempt in attempts):
        return ConnectionFailed("refused", f"{target.authority} refused the connection")
    return ConnectionFailed("unreachable", f"{target.authority} can't be reached")


def _handshake_failure(group: BaseExceptionGroup[BaseException]) -> ConnectionFailed | None:
    """Map what ended a handshake; None where it holds anything that is not the exchange's doing."""
    known, rest = group.split((ConnectionFailed, *_LIBRARY_ERRORS))
    if known is None or (rest and rest.split(trio.Cancelled)[1]):
        return None
    error: BaseException = known
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ConnectionFailed):
        return error.with_traceback(None)
    return ConnectionFailed("protocol", "the answer to the handshake breaks the WebSocket protocol")
