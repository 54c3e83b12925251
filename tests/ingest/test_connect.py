# ruff: noqa: ARG001 - the clock works by being asked for
"""Opening connections: every way to fail has one name, tells no secret, and every end has one reason."""

import ssl
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from email.utils import formatdate
from functools import partial
from pathlib import Path
from time import time
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket
import trustme

from feedhandler.config import Bounds
from feedhandler.core.trail import NONE_KNOWN, Frames
from feedhandler.errors import ConfigError, ConnectionFailed, HandshakeRefused
from feedhandler.exchange.token import Token
from feedhandler.ingest import connect
from feedhandler.ingest.connect import GOODBYE_S, Connection, open_line, tls_context
from feedhandler.ingest.handshake import Target
from feedhandler.simulator.server import serve
from feedhandler.simulator.settings import Settings

Serve = Callable[..., Awaitable[int]]
TOKEN = "eyJhbGciOiJIUzI1NiJ9.c2VjcmV0.c2lnbmF0dXJl"
BOUNDS = Bounds(handshake_s=10.0, message_mib=1)


class Inbox:
    """What was delivered and rejected."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.batches = 0
        self.rejected: list[str] = []

    def deliver(self, payloads: list[bytes], _frames: Frames) -> None:
        """Take a read's worth."""
        self.payloads += payloads
        self.batches += 1


@pytest.fixture
def inbox() -> Inbox:
    """Return an empty inbox."""
    return Inbox()


def opened(
    port: int,
    inbox: Inbox,
    *,
    token: str | None = TOKEN,
    url: str = "ws://127.0.0.1:{port}/?market=BTC-USD&subscriptions=publicTrades",
    context: ssl.SSLContext | None = None,
    bounds: Bounds = BOUNDS,
) -> AbstractAsyncContextManager[Connection]:
    """Open a line to a test's server."""
    return open_line(
        Target.from_url(url.format(port=port)),
        token=None if token is None else Token(token, life_s=1800.0),
        deliver=inbox.deliver,
        recognise=lambda _rest, _data: NONE_KNOWN,
        rejected=inbox.rejected.append,
        ssl_context=context or ssl.create_default_context(),
        bounds=bounds,
    )


async def failure(*args: Any, **kwargs: Any) -> ConnectionFailed:
    """Return how an attempt fails, and make sure that it tells no secret."""
    with pytest.raises(ConnectionFailed) as caught:
        async with opened(*args, **kwargs):
            pass  # pragma: no cover
    error = caught.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(error)
    assert TOKEN not in shown
    assert error.__context__ is None or isinstance(error.__context__, GeneratorExit)
    return error


def text(payload: bytes) -> bytes:
    """Encode a short text frame."""
    return bytes([0x81, len(payload)]) + payload


async def test_messages_arrive_and_the_close_is_answered(serve: Serve, inbox: Inbox) -> None:
    """A clean life: the request is right, early data counts, and a close frame is answered."""
    answers: list[tuple[int, bytes]] = []
    heads: list[str] = []

    async def script(peer: Any) -> None:
        heads.append(await peer.read_request())
        await peer.send(peer.answer(f"Sec-WebSocket-Protocol: authorization#{TOKEN}") + text(b"early"))
        await peer.send(text(b"one") + text(b"two") + b"\x82\x01x" + b"\x88\x02\x03\xe8")
        answers.append(await peer.frame())

    port = await serve(script)
    async with opened(port, inbox) as connection:
        assert await connection.pump() == "closed"
    assert inbox.payloads == [b"early", b"one", b"two"]
    assert inbox.rejected == ["binary"]
    assert answers == [(8, b"\x03\xe8")]
    assert heads[0].startswith("GET /?market=BTC-USD&subscriptions=publicTrades HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{port}\r\n" in heads[0]
    assert f"Sec-WebSocket-Protocol: authorization#{TOKEN}" in heads[0]


async def test_without_a_token_no_subprotocol_is_offered(serve: Serve, inbox: Inbox) -> None:
    """No token, no header."""
    heads: list[str] = []

    async def script(peer: Any) -> None:
        await peer.accept()
        heads.append(peer.head)

    async with opened(await serve(script), inbox, token=None) as connection:
        await connection.pump()
    assert "protocol" not in heads[0].lower()


async def test_nothing_is_delivered_before_the_pump(serve: Serve, inbox: Inbox) -> None:
    """Data waits until the line says so, and none comes after the end."""

    async def script(peer: Any) -> None:
        await peer.accept()
        await peer.send(text(b"data"))
        await peer.frame()

    async with opened(await serve(script), inbox) as connection:
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert inbox.batches == 0
        connection.end("restart")
        assert await connection.pump() == "restart"
    assert inbox.batches == 0


@pytest.mark.parametrize("how", ["eof", "reset", "protocol", "oversize"])
async def test_reasons_of_an_end(serve: Serve, inbox: Inbox, how: str) -> None:
    """Each end has its name, and what came before it is delivered, half a frame is not."""
    answers: list[tuple[int, bytes]] = []

    async def script(peer: Any) -> None:
        await peer.accept()
        await peer.send(text(b"whole") + text(b"half a frame")[:5])
        if how == "protocol":
            await peer.send(b"f a frame")
            await peer.send(b"\xf1\x00")
            answers.append(await peer.frame())
        elif how == "oversize":
            await peer.send(b"f a frame" + b"\x81\x7f" + (1 << 40).to_bytes(8, "big"))
            answers.append(await peer.frame())
        elif how == "reset":
            await trio.testing.wait_all_tasks_blocked(0.01)
            await peer.reset()

    async with opened(await serve(script), inbox) as connection:
        assert await connection.pump() == how
    assert inbox.payloads[0] == b"whole"
    assert answers == {"protocol": [(8, b"\x03\xea")], "oversize": [(8, b"\x03\xf1")]}.get(how, [])


async def test_what_arrived_before_a_failing_write_is_delivered(serve: Serve, inbox: Inbox) -> None:
    """A write on a broken connection does not cut off what is still to be read."""

    async def script(peer: Any) -> None:
        await peer.accept()
        await peer.send(b"\x89\x00" + b"".join(text(b"%d" % i) for i in range(100)))
        await peer.stream.send_eof()
        await peer.reset()

    async with opened(await serve(script), inbox) as connection:
        assert await connection.pump() in {"eof", "reset"}
        await connection.send("too late")
    assert inbox.payloads == [b"%d" % i for i in range(100)]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 503, 302, 200])
async def test_refusals_carry_their_status(serve: Serve, inbox: Inbox, status: int) -> None:
    """The status is known as soon as the head is there, however long the body takes."""

    async def script(peer: Any) -> None:
        await peer.read_request()
        await peer.send(f"HTTP/1.1 {status} No\r\nContent-Length: 1000000000\r\n\r\n".encode())
        await peer.frame()

    error = await failure(await serve(script), inbox)
    assert isinstance(error, HandshakeRefused)
    assert (error.reason, error.status, error.retry_after) == ("handshake", status, None)


@pytest.mark.parametrize("as_date", [False, True])
async def test_retry_after_is_read(serve: Serve, inbox: Inbox, as_date: bool) -> None:
    """Seconds and dates both count."""
    value = formatdate(time() + 120, usegmt=True) if as_date else "120"

    async def script(peer: Any) -> None:
        await peer.read_request()
        await peer.send(f"HTTP/1.1 429 Slow down\r\nretry-after: {value}\r\n\r\n".encode())

    error = await failure(await serve(script), inbox)
    assert isinstance(error, HandshakeRefused)
    assert error.retry_after == pytest.approx(120, abs=3)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(b"", "handshake", id="eof"),
        pytest.param(b"HTTP/1.1 101 Swi", "handshake", id="eof in the head"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "protocol", id="not HTTP"),
        pytest.param(b"HTTP/1.1 1\xb2\xb3 x\r\n\r\n", "protocol", id="no number"),
        pytest.param(b"HTTP/1.1 101 x\r\n" + b"X: y\r\n" * 4000, "protocol", id="endless head"),
        pytest.param(b"HTTP/1.1 101 x\r\n\r\n", "protocol", id="bare 101"),
        pytest.param(b"HTTP/1.1 101 x\r\n\xff: \xff\r\n\r\n", "protocol", id="not ASCII"),
        pytest.param(
            b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n"
            b"Sec-WebSocket-Accept: no\r\n\r\n",
            "protocol",
            id="wrong accept",
        ),
    ],
)
async def test_bad_answers(serve: Serve, inbox: Inbox, answer: bytes, reason: str) -> None:
    """What is no answer fails the attempt at once, with a word for it."""

    async def script(peer: Any) -> None:
        await peer.read_request()
        await peer.send(answer)
        if reason == "protocol":
            await peer.frame()

    with trio.fail_after(5):
        assert (await failure(await serve(script), inbox)).reason == reason


async def test_a_reset_before_the_answer(serve: Serve, inbox: Inbox) -> None:
    """A reset instead of an answer is a failed handshake."""

    async def script(peer: Any) -> None:
        await peer.reset()

    assert (await failure(await serve(script), inbox)).reason == "handshake"


@pytest.mark.parametrize(
    "extra",
    [
        "Sec-WebSocket-Protocol: something else",
        f"Sec-WebSocket-Protocol: authorization#{TOKEN}x",
        f"Sec-WebSocket-Protocol: AUTHORIZATION#{TOKEN}",
        "Sec-WebSocket-Extensions: permessage-deflate",
    ],
)
async def test_what_was_not_offered_may_not_be_selected(serve: Serve, inbox: Inbox, extra: str) -> None:
    """Another subprotocol, or any extension, fails the attempt at once."""

    async def script(peer: Any) -> None:
        await peer.accept(extra)
        await peer.frame()

    with trio.fail_after(5):
        error = await failure(await serve(script), inbox)
    assert error.reason == "protocol"
    assert "not offered" in str(error)


async def test_no_answer_times_out(
    serve: Serve, inbox: Inbox, autojump_clock: trio.testing.MockClock
) -> None:
    """A server that accepts and stays mute costs the time of a handshake."""

    async def script(_peer: Any) -> None:
        await trio.sleep_forever()

    port = await serve(script)
    before_s = trio.current_time()
    assert (await failure(port, inbox)).reason == "timeout"
    assert trio.current_time() - before_s == pytest.approx(10, abs=0.1)


async def test_no_tls_answer_times_out(
    serve: Serve, inbox: Inbox, autojump_clock: trio.testing.MockClock
) -> None:
    """The same time bounds the TLS handshake."""

    async def script(_peer: Any) -> None:
        await trio.sleep_forever()

    error = await failure(await serve(script), inbox, url="wss://127.0.0.1:{port}")
    assert error.reason == "timeout"


async def test_nobody_listens(inbox: Inbox) -> None:
    """A closed port is a refused connection."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    assert (await failure(port, inbox)).reason == "refused"


@pytest.mark.parametrize("answers", [True, False])
async def test_whether_the_goodbye_was_answered_is_known(
    serve: Serve, inbox: Inbox, autojump_clock: trio.testing.MockClock, *, answers: bool
) -> None:
    """The exchange counts a connection until it has seen its end; and the address at the other end is known."""

    async def script(peer: Any) -> None:
        await peer.accept()
        await peer.frame()
        if answers:
            await peer.send(b"\x88\x02\x03\xe8")
        else:
            await trio.sleep_forever()

    port = await serve(script)
    async with opened(port, inbox) as connection:
        assert connection.peer == f"127.0.0.1:{port}"
        assert not connection.answered
    assert connection.answered == answers


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 64 + ".invalid"])
async def test_unknown_name(inbox: Inbox, host: str) -> None:
    """A name that does not resolve, or could not, is named as that."""
    assert (await failure(1, inbox, url=f"ws://{host}:{{port}}")).reason == "dns"


def server_context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """Return a server's TLS for these names."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def test_tls_with_our_own_authority(
    serve: Serve, inbox: Inbox, authority: trustme.CA, tmp_path: Path
) -> None:
    """With the right CA file data flows over TLS."""

    async def script(peer: Any) -> None:
        await peer.accept()
        await peer.send(text(b"secured") + b"\x88\x02\x03\xe8")
        await peer.frame()

    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    port = await serve(script, server_context(authority, "127.0.0.1"))
    context = tls_context(tmp_path / "ca.pem")
    async with opened(port, inbox, url="wss://127.0.0.1:{port}", context=context) as connection:
        assert await connection.pump() == "closed"
    assert inbox.payloads == [b"secured"]


async def test_records_that_come_together_are_one_delivery(
    serve: Serve, inbox: Inbox, authority: trustme.CA
) -> None:
    """A server that makes a record of each message costs no more deliveries than one over TCP."""
    opened_up, sent = trio.Event(), trio.Event()

    async def script(peer: Any) -> None:
        await peer.accept()
        await opened_up.wait()
        for number in range(100):
            await peer.send(text(b"%d" % number))
        await peer.send(b"\x88\x02\x03\xe8")
        sent.set()
        await peer.frame()

    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = await serve(script, server_context(authority, "127.0.0.1"))
    async with opened(port, inbox, url="wss://127.0.0.1:{port}", context=context) as connection:
        opened_up.set()
        await sent.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert await connection.pump() == "closed"
    assert inbox.payloads == [b"%d" % number for number in range(100)]
    assert inbox.batches < 10


@pytest.mark.parametrize("wrong", ["authority", "host", "no tls"])
async def test_tls_is_verified(serve: Serve, inbox: Inbox, authority: trustme.CA, wrong: str) -> None:
    """An unknown authority, another host's certificate and a server without TLS all fail as ``tls``."""

    async def script(peer: Any) -> None:
        await peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    context = ssl.create_default_context()
    if wrong != "authority":
        authority.configure_trust(context)
    name = "other.example" if wrong == "host" else "127.0.0.1"
    server = None if wrong == "no tls" else server_context(authority, name)
    error = await failure(await serve(script, server), inbox, url="wss://127.0.0.1:{port}", context=context)
    assert error.reason == "tls"


def test_unreadable_authority(tmp_path: Path) -> None:
    """A CA file that is not there or holds nothing is a mistake in the configuration."""
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(ConfigError, match=r"exchange\.ca_file"):
            tls_context(tmp_path / name)


def test_renegotiation_is_refused() -> None:
    """The stream's sends rely on it."""
    assert tls_context(None).options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("how", ["eof", "reset"])
async def test_reasons_of_an_end_over_tls(
    serve: Serve, inbox: Inbox, authority: trustme.CA, how: str
) -> None:
    """An end without a goodbye of TLS has the same names, and what came before it is delivered."""

    async def script(peer: Any) -> None:
        await peer.accept()
        await peer.send(b"".join(text(b"%d" % i) for i in range(100)))
        await trio.testing.wait_all_tasks_blocked(0.01)
        peer.stream = peer.stream.transport_stream
        await (peer.reset() if how == "reset" else peer.stream.send_eof())

    context = ssl.create_default_context()
    authority.configure_trust(context)
    port = await serve(script, server_context(authority, "127.0.0.1"))
    async with opened(port, inbox, url="wss://127.0.0.1:{port}", context=context) as connection:
        assert await connection.pump() == how
    assert inbox.payloads == [b"%d" % i for i in range(100)]


async def test_goodbye_is_bounded(serve: Serve, inbox: Inbox, autojump_clock: trio.testing.MockClock) -> None:
    """A server that does not answer a close frame costs a second, not more."""
    frames: list[tuple[int, bytes]] = []

    async def script(peer: Any) -> None:
        await peer.accept()
        frames.append(await peer.frame())
        await trio.sleep_forever()

    async with opened(await serve(script), inbox) as connection:
        connection.end("restart")
        await connection.pump()
        before_s = trio.current_time()
    assert trio.current_time() - before_s == pytest.approx(GOODBYE_S, abs=0.01)
    assert frames == [(8, b"\x03\xe8")]


@pytest.mark.parametrize(
    "close", [b"\x88\x01x", b"\x88\x02\x00\x01", b"\x88\x04\x03\xe8\xff\xff", b"\x88\x00"]
)
async def test_odd_close_frames(serve: Serve, inbox: Inbox, close: bytes) -> None:
    """A close frame is a close, whatever it holds."""

    async def script(peer: Any) -> None:
        await peer.accept()
        await peer.send(text(b"data") + close)

    async with opened(await serve(script), inbox) as connection:
        assert await connection.pump() == "closed"
    assert inbox.payloads == [b"data"]


async def test_pings_during_the_goodbye(serve: Serve, inbox: Inbox) -> None:
    """A server that goes on to ping and to send while we take leave changes nothing."""

    async def script(peer: Any) -> None:
        await peer.accept()
        assert await peer.frame() == (8, b"\x03\xe8")
        await peer.send(text(b"late") + b"\x89\x00" + text(b"late") + b"\x88\x02\x03\xe8")

    async with opened(await serve(script), inbox) as connection:
        connection.end("restart")
        assert await connection.pump() == "restart"
    assert inbox.payloads == []


async def test_cancellation_says_goodbye(serve: Serve, inbox: Inbox) -> None:
    """A cancelled line still tells the exchange that it goes."""
    frames: list[tuple[int, bytes]] = []
    told = trio.Event()

    async def script(peer: Any) -> None:
        await peer.accept()
        frames.append(await peer.frame())
        told.set()
        await peer.send(b"\x88\x02\x03\xe8")

    with trio.CancelScope() as scope:
        async with opened(await serve(script), inbox) as connection:
            scope.cancel()
            await connection.pump()
    await told.wait()
    assert frames == [(8, b"\x03\xe8")]


async def test_a_bug_in_delivery_is_raised(serve: Serve, inbox: Inbox) -> None:
    """An exception of ours is not taken for a fault of the exchange."""

    async def script(peer: Any) -> None:
        await peer.accept()
        await peer.send(text(b"data"))
        await peer.frame()

    def broken(_payloads: list[bytes], _frames: Frames) -> None:
        raise ZeroDivisionError

    inbox.deliver = broken  # type: ignore[method-assign]
    with pytest.raises(ExceptionGroup) as caught:
        async with opened(await serve(script), inbox) as connection:
            await connection.pump()
    assert caught.group_contains(ZeroDivisionError)


async def test_against_the_librarys_own_server(nursery: trio.Nursery, inbox: Inbox) -> None:
    """The library's server understands us: subprotocol, messages both ways, close."""
    heard: list[str | bytes] = []

    async def handler(request: trio_websocket.WebSocketRequest) -> None:
        library = await request.accept(subprotocol=request.proposed_subprotocols[0])
        await library.send_message("hello")
        heard.append(await library.get_message())
        await library.send_message("x" * 200_000)
        await library.aclose(1001, "going away")

    server = await nursery.start(trio_websocket.serve_websocket, handler, "127.0.0.1", 0, None)
    async with opened(server.port, inbox) as connection:
        await connection.send("question")
        assert await connection.pump() == "closed"
    assert heard == ["question"]
    assert inbox.payloads == [b"hello", b"x" * 200_000]


def test_authority_of_a_target() -> None:
    """The Host header names the port only where it is not the scheme's own, and brackets IPv6."""
    urls = ["ws://h/?a", "wss://h", "wss://h:443", "ws://h:443", "ws://[::1]:9", "wss://H.example:8443/p?q=1"]
    targets = [Target.from_url(url) for url in urls]
    assert [one.authority for one in targets] == ["h", "h", "h", "h:443", "[::1]:9", "h.example:8443"]
    assert [one.resource for one in targets] == ["/?a", "/", "/", "/", "/", "/p?q=1"]


async def test_a_line_that_is_cancelled_while_its_readers_home_opens_ends(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cancellation in the very moment in which the library's reader gets its home ends the line all the same."""
    del autojump_clock
    keep = connect._keep_reader

    async def keep_cancelled(*args: Any, task_status: trio.TaskStatus[trio.Nursery]) -> None:
        scope.cancel()
        await keep(*args, task_status=task_status)

    monkeypatch.setattr(connect, "_keep_reader", keep_cancelled)
    async with trio.open_nursery() as nursery:
        exchange = await nursery.start(partial(serve, Settings(markets=("BTC-USD",))))
        target = Target.from_url(f"{exchange.url}/?market=BTC-USD&subscriptions=publicTrades")
        with trio.move_on_after(30) as late, trio.CancelScope() as scope:
            async with open_line(
                target,
                token=None,
                deliver=lambda _payloads, _frames: None,
                recognise=lambda _rest, _data: NONE_KNOWN,
                rejected=lambda _: None,
                ssl_context=ssl.create_default_context(),
                bounds=Bounds(),
            ):
                pytest.fail("the line opened")
        nursery.cancel_scope.cancel()
    assert not late.cancelled_caught
    assert scope.cancelled_caught
