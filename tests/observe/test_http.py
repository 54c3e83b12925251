# ruff: noqa: ARG001 - the clock works by being asked for
"""The HTTP server against clients of all kinds: what is right, what is wrong, what is slow, and what is too much."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from feedhandler.core.notes import Note
from feedhandler.errors import OperationalError
from feedhandler.observe import http
from feedhandler.observe.http import Answer, HttpServer, Request
from tests.support.clock import jumping_clock
from tests.support.web import Browser, parse

SAFE = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "content-security-policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}
BIG_BYTES = 16 * 2**20
"""More than two sockets hold."""


class House:
    """A server that writes down what it is asked, and answers with it."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.notes: list[Note] = []
        self.server = HttpServer("127.0.0.1", 0, self.answer, self.notes.append)

    async def answer(self, request: Request) -> Answer:
        """Answer."""
        self.asked.append(request)
        await trio.lowlevel.checkpoint()
        if request.path == "/bug":
            raise ValueError("secret")
        size = int(request.query.get("bytes", "5"))
        return Answer([b"a" * size])

    @property
    def browser(self) -> Browser:
        """A client of it."""
        return Browser(self.server.addresses[0])


@asynccontextmanager
async def house() -> AsyncIterator[House]:
    """Serve beside the body."""
    one = House()
    async with trio.open_nursery() as nursery:
        await nursery.start(one.server.serve)
        yield one
        nursery.cancel_scope.cancel()


async def test_an_answer_has_its_headers() -> None:
    """Length and type are told, nothing may be stored or loaded, and the query is read."""
    async with house() as one:
        reply = await one.browser.get("/a%20b?x=1&x=2&y=", Accept="text/plain")
    assert (reply.status, reply.body) == (200, b"aaaaa")
    assert reply.headers["content-length"] == "5"
    assert SAFE.items() <= reply.headers.items()
    assert one.asked == [Request("/a b", {"x": "2", "y": ""}, "text/plain")]


async def test_head_is_get_without_a_body() -> None:
    """The headers are the same, the length of the body included; the body is not sent."""
    async with house() as one:
        head = await one.browser.get("/?bytes=1000", "HEAD")
        body = await one.browser.get("/?bytes=1000")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "1000")
    assert head.headers.keys() == body.headers.keys()
    assert len(body.body) == 1000


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"])
async def test_nothing_can_be_changed(method: str) -> None:
    """Only GET and HEAD are answered; the others are told so."""
    async with house() as one:
        reply = await one.browser.get("/", method)
    assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
    assert one.asked == []


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET /%ff HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET /?" + b"&".join([b"a=1"] * 20) + b" HTTP/1.1\r\nHost: h\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
    ids=["no host", "no request", "no utf-8", "no url", "many fields", "length", "two hosts", "tls"],
)
async def test_what_makes_no_sense_is_a_bad_request(data: bytes) -> None:
    """Whatever is wrong with a request, it is answered with 400, and asked of nobody."""
    async with house() as one, await one.browser.connect() as stream:
        await stream.send_all(data)
        assert parse(await stream.receive_some()).status == 400
    assert one.asked == []


async def test_a_long_head_is_refused() -> None:
    """More than the bound before the end of a head is answered with 431 and the end of the connection."""
    async with house() as one:
        reply = await one.browser.raw(b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * (http.HEAD_BYTES + 1))
    assert (reply.status, reply.headers["connection"]) == (431, "close")


async def test_a_long_body_is_refused() -> None:
    """A body is dropped up to its bound, and one beyond ends the connection."""
    head = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    async with house() as one:
        short = await one.browser.raw(head % 10 + b"x" * 10)
        long = await one.browser.raw(head % 2**40 + b"x" * (http.BODY_BYTES + 1))
    assert (short.status, long.status) == (200, 413)


async def test_requests_come_one_after_the_other() -> None:
    """One connection serves several requests, those too that were sent at once."""
    asked = b"GET /%d HTTP/1.1\r\nHost: h\r\n%s\r\n"
    async with house() as one:
        data = b"".join(asked % (n, b"Connection: close\r\n" if n == 2 else b"") for n in range(3))
        async with await one.browser.connect() as stream:
            await stream.send_all(data)
            received = b"".join([part async for part in stream])
    assert [request.path for request in one.asked] == ["/0", "/1", "/2"]
    assert received.count(b"HTTP/1.1 200 OK\r\n") == 3


@pytest.mark.parametrize(
    ("sent", "after_s", "status"),
    [(b"", http.HEAD_S, None), (b"GET / HTTP/1.1\r\nHo", http.HEAD_S, 408)],
    ids=["nothing", "half a head"],
)
async def test_who_is_slow_to_ask_is_sent_away(
    autojump_clock: MockClock, sent: bytes, after_s: float, status: int | None
) -> None:
    """A connection without a whole request ends in time, with a word if something was begun."""
    async with house() as one:
        start = trio.current_time()
        async with await one.browser.connect() as stream:
            await stream.send_all(sent)
            received = b"".join([part async for part in stream])
        assert after_s <= trio.current_time() - start < after_s + 1
    assert (parse(received).status if received else None) == status


async def test_an_idle_connection_ends(autojump_clock: MockClock) -> None:
    """A connection that has had its answer may ask again for a while, and is closed then."""
    async with house() as one, await one.browser.connect() as stream:
        await stream.send_all(b"HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert parse(await stream.receive_some()).status == 200
        start = trio.current_time()
        assert await stream.receive_some() == b""
        assert trio.current_time() - start == pytest.approx(http.IDLE_S, abs=1)


async def test_who_does_not_read_is_sent_away(autojump_clock: MockClock) -> None:
    """(14) A client that stops reading has its time to take the answer, then it is gone; others are served."""
    async with house() as one, await one.browser.connect() as stream:
        await stream.send_all(b"GET /?bytes=%d HTTP/1.1\r\nHost: h\r\n\r\n" % BIG_BYTES)
        await trio.sleep(http.SEND_S / 2)
        assert one.server.connections == 1
        assert (await one.browser.get("/")).status == 200
        await trio.sleep(http.SEND_S)
        assert one.server.connections == 0


async def test_connections_have_a_bound(autojump_clock: MockClock) -> None:
    """One connection too many is told 503, and those that are there stay."""
    async with house() as one:
        streams = [await one.browser.connect() for _ in range(http.CONNECTIONS)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert (await one.browser.get("/")).status == 503
        await streams[0].send_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert parse(await streams[0].receive_some()).status == 200
        await streams[1].aclose()
        await trio.sleep(0.1)
        assert (await one.browser.get("/")).status == 200
        for stream in streams:
            await stream.aclose()


async def test_a_bug_in_a_page_costs_the_page() -> None:
    """An exception becomes 500 and a note that tells where, and nothing of what it was about."""
    async with house() as one:
        assert (await one.browser.get("/bug")).status == 500
        assert (await one.browser.get("/")).status == 200
    [noted] = one.notes
    assert noted.name == "answer_failed"
    assert str(noted.fields["error"]).startswith("ValueError at test_http.py:")
    assert "secret" not in str(noted)


async def test_an_address_in_use_is_one_error() -> None:
    """Who cannot listen says where and why."""
    async with house() as one:
        host, port = one.server.addresses[0]
        second = HttpServer(host, port, one.answer, one.notes.append)
        with pytest.raises(OperationalError, match=rf"observe\.http: 127\.0\.0\.1:{port}: .*in use"):
            await second.serve()


async def test_an_unknown_host_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is no host's is an error as well."""

    async def unknown(*_: Any, **__: Any) -> None:
        await trio.lowlevel.checkpoint()
        raise OSError("no such host")

    monkeypatch.setattr(trio, "open_tcp_listeners", unknown)
    with pytest.raises(OperationalError, match=r"nowhere:1: no such host"):
        await HttpServer("nowhere", 1, House().answer, print).serve()


PARTS = st.sampled_from(
    [
        *(
            b"GET ",
            b"HEAD ",
            b"POST ",
            b"/",
            b"/status",
            b"/?",
            b"%",
            b"http://h/",
            b" HTTP/1.1",
            b" HTTP/9.9",
        ),
        *(
            b"\r\n",
            b"\n",
            b"\r\n\r\n",
            b"Host: h\r\n",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
        ),
        *(
            b"Expect: 100-continue\r\n",
            b"Connection: upgrade\r\nUpgrade: websocket\r\n",
            b"5\r\nhello\r\n0\r\n\r\n",
        ),
    ]
)


@settings(max_examples=150)
@given(parts=st.lists(PARTS | st.binary(max_size=40), max_size=20))
def test_no_bytes_do_any_harm(parts: list[bytes]) -> None:
    """Whatever is sent, the server goes on, and who comes after is served."""

    async def scene() -> None:
        async with house() as one:
            async with await one.browser.connect() as stream:
                await stream.send_all(b"".join(parts))
                await stream.send_eof()
                received = b"".join([part async for part in stream])
                assert not received or received.startswith(b"HTTP/1.1 ")
            assert (await one.browser.get("/")).status == 200
            assert one.notes == []

    trio.run(scene, clock=jumping_clock())
