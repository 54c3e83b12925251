"""An exchange in the test's nursery, an ordinary client, and a raw one that sees bytes."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from urllib.parse import urlsplit

import pytest
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from feedhandler.simulator.exchange import Exchange
from feedhandler.simulator.server import serve
from feedhandler.simulator.settings import Settings

Start = Callable[..., Awaitable[Exchange]]
Join = Callable[..., AbstractAsyncContextManager[WebSocketConnection]]

PUBLIC = "publicTrades,publicOrderBook"


@pytest.fixture
def faults() -> list[tuple[str, str, int]]:
    """Return the faults that were reported."""
    return []


@pytest.fixture
def start(nursery: trio.Nursery, faults: list[tuple[str, str, int]]) -> Start:
    """Return how to start an exchange; without a rate or a tape it says nothing by itself."""

    async def start(**settings: object) -> Exchange:
        settings.setdefault("markets", ("BTC-USD",))
        run = partial(
            serve,
            Settings(**settings),  # type: ignore[arg-type]
            on_fault=lambda kind, market, line, _: faults.append((kind, market, line)),
        )
        return await nursery.start(run)

    return start


@pytest.fixture
def join() -> Join:
    """Return how to connect an ordinary client."""

    @asynccontextmanager
    async def join(
        exchange: Exchange, market: str = "BTC-USD", subscriptions: str | None = PUBLIC, token: str = ""
    ) -> AsyncIterator[WebSocketConnection]:
        query = f"?market={market}" + (f"&subscriptions={subscriptions}" if subscriptions else "")
        protocols = [f"authorization#{token}"] if token else None
        url = urlsplit(exchange.url)
        assert url.hostname is not None
        assert url.port is not None
        stream = await trio.open_tcp_stream(url.hostname, url.port)
        try:
            # The library leaves the stream open where the exchange refuses.
            async with stream, trio.open_nursery() as nursery:
                resource = f"/{query}"
                line = await wrap_client_stream(nursery, stream, url.netloc, resource, subprotocols=protocols)
                async with line:
                    yield line
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first_leaf(group) from None

    return join


def _first_leaf(error: BaseException) -> BaseException:
    return _first_leaf(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


HANDSHAKE = (
    b"GET /?market=BTC-USD&subscriptions=publicTrades,publicOrderBook HTTP/1.1\r\nHost: test\r\n"
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture
def join_raw() -> Callable[[Exchange], Awaitable[trio.SocketStream]]:
    """Return how to connect a client that sees the bytes behind the handshake."""

    async def join_raw(exchange: Exchange) -> trio.SocketStream:
        url = urlsplit(exchange.url)
        assert url.hostname is not None
        assert url.port is not None
        stream = await trio.open_tcp_stream(url.hostname, url.port)
        await stream.send_all(HANDSHAKE)
        answer = bytearray()
        try:
            while not answer.endswith(b"\r\n\r\n"):
                answer += await stream.receive_some(1)
        except trio.Cancelled:
            await trio.aclose_forcefully(stream)
            raise
        assert answer.startswith(b"HTTP/1.1 101")
        return stream

    return join_raw
