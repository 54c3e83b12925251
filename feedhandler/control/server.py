"""The control socket: `control.sock` beside the feed's socket, for the daemon's own user and root.

    serve
    ├── the accepting loop
    └── a client each: a line, its answer, and again

Whoever connects is hostile until parsed. Bounds: `CLIENTS` at a time (one more is told ``busy`` and closed),
`REQUEST_BYTES` for a line, `PATIENCE_S` for each line to come and for each answer to be taken. Nobody but a client
itself ever waits for that client; an answer is written by its own task.

The socket file is that of `publish.endpoint`: one daemon at a path, what a killed one left behind is replaced. A daemon
that cannot have it goes on without it, and says so: what the socket is for can wait, the stream cannot. So of two
daemons with their sockets in one folder the first has it; a request that names the other's is refused.
"""

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import msgspec
import trio

from feedhandler.config import CONTROL, Publish
from feedhandler.control.requests import Answer, Refusal, Request, parse, render
from feedhandler.core.notes import Notify, note
from feedhandler.errors import OperationalError
from feedhandler.publish.endpoint import Peer, listening, peer_of
from feedhandler.publish.lock import Lock

CLIENTS: Final = 16
"""Connected at once; further ones are refused."""
REQUEST_BYTES: Final = 65_536
"""The longest line that a client may send; a longer one is refused, and the connection ends."""
PATIENCE_S: Final = 60.0
"""For a line to come, and for an answer to be taken; then the connection ends."""
READ_BYTES: Final = 16_384

LOOK_S: Final = 0.1
"""Between two attempts to have the socket that another daemon has."""
ACCEPT_PAUSE_S: Final = 0.1
"""After the system has run out of descriptors or memory."""

Execute = Callable[[Request], Awaitable[Answer]]


def control_path(feed_socket: Path) -> Path:
    """Return where the control socket of a daemon is."""
    return feed_socket.parent / CONTROL


async def serve(
    settings: Publish,
    execute: Execute,
    notify: Notify,
    *,
    patience_s: float = 0.0,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the control socket until cancelled; started when it listens, or clearly cannot.

    Another daemon that has it may be leaving: it is waited for, for ``patience_s``.
    """
    own = msgspec.structs.replace(settings, socket=control_path(settings.socket), mode="0600", group="")
    lock = Lock(own.socket)
    with suppress(OperationalError):
        for _ in range(round(patience_s / LOOK_S)):
            if lock.take():
                break
            await trio.sleep(LOOK_S)
    with ExitStack() as stack:
        stack.callback(lock.release)
        try:
            listener = stack.enter_context(listening(own, lock))
        except OperationalError as error:
            notify(note("control_unavailable", reason=str(error)))
            task_status.started()
            return
        task_status.started()
        async with trio.open_nursery() as nursery:
            await _Server(settings.socket.name, execute, notify).accept(listener, nursery)


class _Server:
    """The conversations with the clients."""

    def __init__(self, feed_socket: str, execute: Execute, notify: Notify) -> None:
        self._feed_socket = feed_socket
        self._execute = execute
        self._notify = notify
        self._clients = 0

    async def accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        """Let clients in."""
        while True:
            await trio.lowlevel.wait_readable(listener)
            try:
                sock, _ = listener.accept()
            except BlockingIOError:
                continue
            except OSError:
                await trio.sleep(ACCEPT_PAUSE_S)
                continue
            sock.setblocking(False)
            nursery.start_soon(self._attend, sock)

    async def _attend(self, sock: socket.socket) -> None:
        """Answer one client's requests until it leaves."""
        self._clients += 1
        try:
            async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
                await self._converse(stream, peer_of(sock))
        except (trio.BrokenResourceError, OSError):
            return
        finally:
            self._clients -= 1

    async def _converse(self, stream: trio.SocketStream, peer: Peer) -> None:
        refusal = self._refusal(peer)
        rest = b""
        while not refusal:
            with trio.move_on_after(PATIENCE_S):
                line, rest = await _receive_line(stream, rest)
                if not line:
                    return
                answer = await self._answer(line, peer)
                await stream.send_all(render(answer))
                continue
            return
        with trio.move_on_after(PATIENCE_S):
            await stream.send_all(render(refusal))

    def _refusal(self, peer: Peer) -> Refusal | None:
        """Say why a client is not heard at all."""
        if peer.uid not in {os.geteuid(), 0}:
            return Refusal("forbidden", "the control socket is for the daemon's own user and root")
        if self._clients > CLIENTS:
            return Refusal("busy", f"there are {CLIENTS} clients already")
        return None

    async def _answer(self, line: bytes, peer: Peer) -> Answer:
        """Carry out a request."""
        if len(line) > REQUEST_BYTES:
            return Refusal("bad_request", f"the line is longer than {REQUEST_BYTES} bytes")
        request = parse(line)
        if isinstance(request, Refusal):
            return request
        if request.socket not in {"", self._feed_socket}:
            return Refusal(
                "other_daemon", f"the daemon here serves {self._feed_socket}, not {request.socket}"
            )
        answer = await self._execute(request)
        outcome = answer.code if isinstance(answer, Refusal) else "done"
        named = " ".join(filter(None, (request.feed, request.line, request.stream, request.market)))
        self._notify(
            note("command_received", op=request.op, on=named, outcome=outcome, pid=peer.pid, uid=peer.uid)
        )
        return answer


async def _receive_line(stream: trio.SocketStream, buffer: bytes) -> tuple[bytes, bytes]:
    """Read a line, up to the end of the input; return also what follows it. What is too long comes cut."""
    while b"\n" not in buffer and len(buffer) <= REQUEST_BYTES:
        data = await stream.receive_some(READ_BYTES)
        if not data:
            return buffer, b""
        buffer += data
    line, _, rest = buffer.partition(b"\n")
    return line, rest
