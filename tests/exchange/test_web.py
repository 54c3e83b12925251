# ruff: noqa: ARG001 - the clock works by being asked for
"""One HTTP request: whatever the endpoint does, there is an answer or one failure with a word for it."""

import ssl
import traceback
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedhandler.errors import ConnectionFailed
from feedhandler.exchange.web import ANSWER_MAX_BYTES, Answer, Secret, ask, retry_after_s

SECRET = "marked-secret-value"
HEADERS = {"X-Api-Secret": Secret(SECRET)}
OK = b"HTTP/1.1 200 OK\r\n"

Listen = Callable[..., Awaitable[int]]
Clock = trio.testing.MockClock


class Peer:
    """A server on loopback that answers every request with the same bytes."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.requests: list[bytes] = []

    async def play(self, stream: trio.abc.Stream) -> None:
        """Read a request, answer, and close."""
        try:
            self.requests.append(bytes(await stream.receive_some(65536)))
            await stream.send_all(self.answer)
            if isinstance(stream, trio.SocketStream):
                await stream.send_eof()
            await stream.receive_some(1)
        except trio.BrokenResourceError:
            await trio.lowlevel.checkpoint()
        finally:
            await trio.aclose_forcefully(stream)


@pytest.fixture
def listen(nursery: trio.Nursery) -> Listen:
    """Return how to start a peer, with TLS where there is a context for it."""

    async def listen(peer: Peer, tls: ssl.SSLContext | None = None) -> int:
        listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
        port: int = listener.socket.getsockname()[1]
        wrapped = trio.SSLListener(listener, tls, https_compatible=True) if tls else listener
        nursery.start_soon(trio.serve_listeners, peer.play, [wrapped])
        return port

    return listen


async def post(url: str, trust: ssl.SSLContext | None = None, timeout_s: float = 10.0) -> Answer:
    """Send a secret."""
    context = trust or ssl.create_default_context()
    return await ask("POST", url, headers=HEADERS, ssl_context=context, timeout_s=timeout_s)


async def failed(url: str, trust: ssl.SSLContext | None = None, timeout_s: float = 10.0) -> ConnectionFailed:
    """Return why a request failed, and make sure that nothing of it shows."""
    with pytest.raises(ConnectionFailed) as caught:
        await post(url, trust, timeout_s)
    error = caught.value
    assert error.__cause__ is None
    assert error.__context__ is None
    frames = traceback.TracebackException.from_exception(error, capture_locals=True)
    assert SECRET not in "".join(frames.format())
    return error


async def test_an_answer(listen: Listen) -> None:
    """The answer has a status, the body as it came, and the wish to be asked later; the request has the secret."""
    peer = Peer(OK + b"Content-Length: 5\r\nRetry-After: 7\r\n\r\nhello")
    answer = await post(f"http://127.0.0.1:{await listen(peer)}/path")
    assert answer == Answer(200, b"hello", 7.0)
    assert "hello" not in repr(answer)
    assert peer.requests[0].startswith(b"POST /path HTTP/1.1\r\n")
    assert b"X-Api-Secret: marked-secret-value\r\n" in peer.requests[0]


async def test_a_secret_shows_nowhere() -> None:
    """Neither the value of a header nor a body stands in a representation."""
    assert repr(Secret(SECRET)) == "Secret()"
    assert repr(Answer(200, SECRET.encode())) == "Answer(status=200, retry_after_s=None)"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(listen: Listen, status: int) -> None:
    """A redirect is an answer like any other; nothing goes where it leads."""
    elsewhere = Peer(OK + b"\r\n")
    location = f"Location: http://127.0.0.1:{await listen(elsewhere)}/\r\n"
    peer = Peer(f"HTTP/1.1 {status} Moved\r\n{location}Content-Length: 0\r\n\r\n".encode())
    assert (await post(f"http://127.0.0.1:{await listen(peer)}/")).status == status
    assert elsewhere.requests == []


async def test_no_proxy_of_the_environment(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret goes where the configuration says, whatever the environment names as a proxy."""
    proxy, peer = Peer(OK + b"\r\n"), Peer(OK + b"Content-Length: 0\r\n\r\n")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{await listen(proxy)}")
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{await listen(proxy)}")
    await post(f"http://127.0.0.1:{await listen(peer)}/")
    assert proxy.requests == []
    assert len(peer.requests) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "protocol"),
        (b"\x16\x03\x01\x00", "protocol"),
        (b"SSH-2.0-marked\r\n", "protocol"),
        (OK + b"Content-Length: 50\r\n\r\nhalf", "protocol"),
        (OK + b"Content-Length: -5\r\n\r\n", "protocol"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "protocol"),
        (OK + b"X: " + b"x" * 1_000_000 + b"\r\n\r\n", "protocol"),
        (OK + b"Content-Length: %d\r\n\r\n" % (ANSWER_MAX_BYTES + 1), "protocol"),
    ],
)
async def test_what_is_no_answer(listen: Listen, answer: bytes, reason: str) -> None:
    """An answer that breaks HTTP, ends too early or is too long is a failure with a reason."""
    body = b" " * (ANSWER_MAX_BYTES + 1) if str(ANSWER_MAX_BYTES + 1).encode() in answer else b""
    port = await listen(Peer(answer + body))
    assert (await failed(f"http://127.0.0.1:{port}/", timeout_s=3.0)).reason == reason


async def test_the_longest_body(listen: Listen) -> None:
    """A body of exactly the bound is an answer."""
    head = OK + b"Content-Length: %d\r\n\r\n" % ANSWER_MAX_BYTES
    port = await listen(Peer(head + b" " * ANSWER_MAX_BYTES))
    assert len((await post(f"http://127.0.0.1:{port}/")).body) == ANSWER_MAX_BYTES


async def test_a_slow_body_ends_with_the_time(nursery: trio.Nursery, autojump_clock: Clock) -> None:
    """An endpoint that sends a byte now and then does not hold the program for longer than the whole time."""

    async def drip(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(OK + b"Content-Length: 1000\r\n\r\n")
        try:
            while True:
                await stream.send_all(b" ")
                await trio.sleep(1)
        except trio.BrokenResourceError:
            await trio.aclose_forcefully(stream)

    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    nursery.start_soon(trio.serve_listeners, drip, [listener])
    failure = await failed(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/")
    assert failure.reason == "timeout"
    assert trio.current_time() == pytest.approx(10.0, abs=0.5)


async def test_a_silent_endpoint(autojump_clock: Clock) -> None:
    """An endpoint that never answers costs no more than the time."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    assert (await failed(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/")).reason == "timeout"
    assert trio.current_time() <= 10.5
    await listener.aclose()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:1/", "unreachable"),
        ("http://", "protocol"),
        ("ftp://127.0.0.1/", "protocol"),
        ("http://127.0.0.1:1/\0", "protocol"),
        (f"http://{'a' * 70}.invalid/", "dns"),
        ("http://a..b/", "dns"),
    ],
)
async def test_where_nobody_is(url: str, reason: str) -> None:
    """A URL that leads nowhere is a failure with a reason, never another exception."""
    assert (await failed(url)).reason == reason


async def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that nobody knows has a word of its own."""

    async def unknown(*_: object, **__: object) -> object:
        await trio.lowlevel.checkpoint()
        raise trio.socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(trio.socket, "getaddrinfo", unknown)
    assert (await failed("http://token.invalid/")).reason == "dns"


@pytest.mark.parametrize("name", ["other.example", "127.0.0.1"])
async def test_certificates(listen: Listen, name: str) -> None:
    """An authority that is not trusted or a certificate for another name is told, and the secret is not sent."""
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(tls)
    trust = ssl.create_default_context()
    if name == "other.example":
        authority.configure_trust(trust)
    peer = Peer(OK + b"\r\n")
    failure = await failed(f"https://127.0.0.1:{await listen(peer, tls)}/", trust)
    assert failure.reason == "tls"
    assert "the certificate of the endpoint is not accepted: " in str(failure)
    assert peer.requests == []


async def test_over_tls(listen: Listen) -> None:
    """Where the certificate is good, the request goes out."""
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    peer = Peer(OK + b"Content-Length: 2\r\n\r\n{}")
    assert (await post(f"https://127.0.0.1:{await listen(peer, tls)}/", trust)).body == b"{}"


async def test_an_endpoint_without_tls_gets_no_secret(listen: Listen) -> None:
    """What does not speak TLS is told nothing, and the failure says so."""
    peer = Peer(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    failure = await failed(f"https://127.0.0.1:{await listen(peer)}/")
    assert (failure.reason, str(failure)) == ("tls", "the TLS handshake with the endpoint was not completed")
    assert SECRET.encode() not in b"".join(peer.requests)


HOSTILE = st.sampled_from(
    [
        b"Content-Length: 5",
        b"Content-Length: 99999999999999999999",
        b"Transfer-Encoding: chunked",
        b"Content-Encoding: gzip",
        b"Set-Cookie: \xff=\x80; expires=foo; max-age=zz; domain=..;",
        b"Set-Cookie: a=b; Max-Age=99999999999999999999999; version=q",
        b"Location: http://[::1",
        b"Retry-After: \xff",
        b"Content-Type: text/html; charset=\xff",
        b"Connection: upgrade",
        b": x",
    ]
)
ANSWERS = st.one_of(
    st.binary(max_size=200),
    st.builds(
        lambda status, heads, body: b"\r\n".join([b"HTTP/1.1 " + status, *heads, b"", body]),
        st.sampled_from([b"200 OK", b"204 No", b"304 Same", b"999 Odd", b"abc", b"200 \xff", b"307 Go"]),
        st.lists(HOSTILE | st.binary(max_size=20), max_size=4),
        st.sampled_from([b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"ffffffffffffffff\r\n"])
        | st.binary(max_size=50),
    ),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANSWERS)
def test_any_bytes_are_an_answer_or_a_failure(data: bytes) -> None:
    """Data never raises anything else, and no failure shows what was sent."""

    async def try_it() -> None:
        peer = Peer(data)

        async def play_and_close(stream: trio.SocketStream) -> None:
            peer.requests.append(bytes(await stream.receive_some(65536)))
            await stream.send_all(data)
            await stream.aclose()

        async with trio.open_nursery() as nursery:
            listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
            nursery.start_soon(trio.serve_listeners, play_and_close, [listener])
            url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/"
            try:
                answer = await post(url)
            except ConnectionFailed as failure:
                assert SECRET not in f"{failure!r}{failure.__context__!r}{failure.__cause__!r}"  # noqa: PT017
            else:
                assert 100 <= answer.status <= 999
            nursery.cancel_scope.cancel()

    trio.run(try_it)


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("9" * 400, 999_999_999_999.0),
        ("Thu, 01 Jan 1970 00:02:00 GMT", 20.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 1970 00:02:00", 20.0),
        ("soon", None),
        ("-5", None),
        ("\u0661", None),
        ("", None),
    ],
)
def test_retry_after(value: str, wait_s: float | None) -> None:
    """Seconds or a date, read against the wall clock; anything else is no wish."""
    assert retry_after_s(value, 100.0) == wait_s


@given(st.text(max_size=60))
def test_any_retry_after_is_read(value: str) -> None:
    """No header raises."""
    result = retry_after_s(value, 0.0)
    assert result is None or result >= 0
