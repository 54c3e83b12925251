"""A small HTTP server over trio and h11 for those who look: it answers GET and HEAD and takes nothing in.

    accept ──▶ head, at most HEAD_BYTES within HEAD_S ──▶ handle ──▶ answer, within SEND_S ──┐
                 ▲                                                                            │
                 └────────────────────── the same connection, IDLE_S long ────────────────────┘

**Nobody outside can cost the daemon more than a connection.** Who is slow to ask or to read is disconnected in time,
who sends too much as well; there are at most `CONNECTIONS` of them, one more is told `503` and closed. Nothing here
holds up the event loop: an answer is made in slices by whoever makes it, and sent in pieces.

Every answer has the headers that keep a browser from reading more into it than it says: its type is its type, it is
not stored, and it loads nothing from anywhere, unless its handler says otherwise.
"""

import traceback
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import h11
import trio

from feedhandler import __version__
from feedhandler.core.notes import Notify, note
from feedhandler.errors import OperationalError

HEAD_BYTES: Final = 16 * 1024
"""The longest head of a request; a longer one is answered with 431."""
BODY_BYTES: Final = 16 * 1024
"""The longest body of a request, which is dropped; a longer one ends the connection."""
HEAD_S: Final = 10.0
"""The longest time from the first byte of a request to its end."""
IDLE_S: Final = 60.0
"""The longest time between two requests of one connection."""
SEND_S: Final = 10.0
"""The longest time to take an answer."""
CONNECTIONS: Final = 64
"""Connections at once; one more is told 503 and closed, and with twice as many just closed."""
PART_S: Final = 1.0
"""How long a connection is read from after its last answer."""
WAITING_CONNECTIONS: Final = 64
READ_BYTES: Final = 16 * 1024
QUERY_FIELDS: Final = 16
"""Fields of a query; a request with more is a bad one."""

PLAIN: Final = "text/plain; charset=utf-8"
JSON: Final = "application/json"
HTML: Final = "text/html; charset=utf-8"

CLOSED_POLICY: Final = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

_BUSY: Final = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
_READING: Final = frozenset({b"GET", b"HEAD"})


class Request(NamedTuple):
    """What is asked for: the path, decoded, the last value of each field of the query, and what is accepted."""

    path: str
    query: Mapping[str, str]
    accept: str


class Answer(NamedTuple):
    """What is answered; the body in chunks."""

    body: Sequence[bytes]
    content_type: str = PLAIN
    status: int = 200
    policy: str = CLOSED_POLICY


Handle = Callable[[Request], Awaitable[Answer]]


class _Refused(Exception):
    """A request that gets no answer of a handler."""

    def __init__(self, status: HTTPStatus) -> None:
        super().__init__(status.phrase)
        self.status = status


class HttpServer:
    """Serves one address."""

    def __init__(
        self, host: str, port: int, handle: Handle, notify: Notify, *, key: str = "observe.http"
    ) -> None:
        self._key = key  # what the address is called where it was given
        self._notify = notify
        self._host = host
        self._port = port
        self._handle = handle
        self.addresses: list[tuple[str, int]] = []
        """Where it listens, once it does: the port is a free one where 0 was asked for."""
        self.connections = 0

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; raise ``OperationalError`` where the address cannot be had."""
        try:
            listeners = await trio.open_tcp_listeners(
                self._port, host=self._host, backlog=WAITING_CONNECTIONS
            )
        except OSError as error:
            why = error.strerror or str(error)
            raise OperationalError(f"{self._key}: {self._host}:{self._port}: {why}") from error
        self.addresses = [listener.socket.getsockname()[:2] for listener in listeners]
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._attend, listeners)
            task_status.started()

    async def _attend(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end; whatever comes, the end is a closed socket and nothing else."""
        self.connections += 1
        try:
            if self.connections > 2 * CONNECTIONS:
                return
            if self.connections > CONNECTIONS:
                await stream.send_all(_BUSY)
            else:
                await _Conversation(stream, self._handle, self._notify).run()
            await _part(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self.connections -= 1
            await trio.aclose_forcefully(stream)


async def _part(stream: trio.SocketStream) -> None:
    """Say that nothing more comes, and read on for a moment: closing what is not read would take the last word back."""
    await stream.send_eof()
    with trio.move_on_after(PART_S):
        while await stream.receive_some(READ_BYTES):
            pass


class _Conversation:
    """One connection: requests and answers, one after the other."""

    def __init__(self, stream: trio.SocketStream, handle: Handle, notify: Notify) -> None:
        self._stream = stream
        self._handle = handle
        self._notify = notify
        self._state = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._served = False

    async def run(self) -> None:
        """Converse until one side has had enough."""
        try:
            while await self._wait_for_request() and await self._serve_one():
                self._state.start_next_cycle()
        except h11.RemoteProtocolError as error:
            await self._refuse(_status(error.error_status_hint))
        except _Refused as refused:
            await self._refuse(refused.status)

    async def _wait_for_request(self) -> bool:
        """Wait for the first byte of a request; False where none comes."""
        if self._state.trailing_data[0]:
            return True
        with trio.move_on_after(IDLE_S if self._served else HEAD_S):
            data = await self._stream.receive_some(READ_BYTES)
            self._state.receive_data(data)
            return bool(data)
        return False

    async def _serve_one(self) -> bool:
        """Serve one request; tell whether the connection goes on."""
        head: h11.Request | None = None
        with trio.move_on_after(HEAD_S) as patience:
            head = await self._receive()
        if patience.cancelled_caught:
            raise _Refused(HTTPStatus.REQUEST_TIMEOUT)
        if head is None:
            return False
        answer = await self._answer(head)
        self._served = True
        return await self._send(answer, with_body=head.method != b"HEAD")

    async def _receive(self) -> h11.Request | None:
        """Receive one request, and drop its body; None at the end of the connection."""
        head: h11.Request | None = None
        body_bytes = 0
        while True:
            event = self._state.next_event()
            if event is h11.NEED_DATA:
                self._state.receive_data(await self._stream.receive_some(READ_BYTES))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body_bytes += len(event.data)
                if body_bytes > BODY_BYTES:
                    raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            elif isinstance(event, h11.EndOfMessage):
                return head
            else:
                return None

    async def _answer(self, head: h11.Request) -> Answer:
        if head.method not in _READING:
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED)
        request = _read(head)
        if request is None:
            return _plain(HTTPStatus.BAD_REQUEST)
        try:
            return await self._handle(request)
        except Exception as error:  # a bug in a page costs the page, and no line of a feed
            self._notify(note("answer_failed", error=_where(error)))
            return _plain(HTTPStatus.INTERNAL_SERVER_ERROR)

    async def _refuse(self, status: HTTPStatus) -> None:
        """Say what is wrong, as far as there is still something to be said, and end."""
        if self._state.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            await self._send(_plain(status), with_body=True, last=True)

    async def _send(self, answer: Answer, *, with_body: bool, last: bool = False) -> bool:
        """Send an answer; tell whether the connection goes on."""
        with trio.move_on_after(SEND_S):
            head = self._state.send(
                h11.Response(
                    status_code=answer.status,
                    headers=_headers(answer, last=last),
                    reason=HTTPStatus(answer.status).phrase,
                )
            )
            await self._stream.send_all(head or b"")
            for chunk in answer.body if with_body else ():
                await self._stream.send_all(self._state.send(h11.Data(data=chunk)) or b"")
            await self._stream.send_all(self._state.send(h11.EndOfMessage()) or b"")
            return bool(self._state.our_state is h11.DONE and self._state.their_state is h11.DONE)
        return False


def _headers(answer: Answer, *, last: bool) -> list[tuple[str, str]]:
    headers = [
        ("Date", formatdate(usegmt=True)),
        ("Server", f"feedhandler/{__version__}"),
        ("Content-Type", answer.content_type),
        ("Content-Length", str(sum(map(len, answer.body)))),
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", answer.policy),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ]
    if answer.status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", "GET, HEAD"))
    if last:
        headers.append(("Connection", "close"))
    return headers


def _plain(status: HTTPStatus) -> Answer:
    return Answer([f"{status.value} {status.phrase}\n".encode()], status=status.value)


def not_found() -> Answer:
    """Return the answer to what is asked for in vain."""
    return _plain(HTTPStatus.NOT_FOUND)


def bad_request() -> Answer:
    """Return the answer to a question that makes no sense."""
    return _plain(HTTPStatus.BAD_REQUEST)


def _where(error: Exception) -> str:
    """Return what went wrong in which line of the program, without what it went wrong with."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"


def _status(hint: int) -> HTTPStatus:
    """Return what h11 suggests to answer, an error in any case."""
    return HTTPStatus(hint) if hint in {400, 413, 414, 417, 431, 501} else HTTPStatus.BAD_REQUEST


def _read(head: h11.Request) -> Request | None:
    """Read path and query; None where they are not what a URL may hold."""
    try:
        parts = urlsplit(head.target.decode("ascii"))
        path = unquote(parts.path, errors="strict")
        fields = parse_qs(parts.query, keep_blank_values=True, errors="strict", max_num_fields=QUERY_FIELDS)
    except ValueError:
        return None
    accept = ", ".join(value.decode("latin-1") for name, value in head.headers if name == b"accept")
    return Request(path, {name: values[-1] for name, values in fields.items()}, accept)
