"""The list of markets, in whatever shape it comes."""

import ssl

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.errors import OperationalError
from feedhandler.exchange.markets import MARKETS_MAX, fetch_markets, parse_markets


@pytest.mark.parametrize(
    "body",
    [
        b'["BTC-USD","ETH-USD"]',
        b'["BTC-USD","BTC-USD","ETH-USD"]',
        b'[{"market":"BTC-USD"},{"market":"ETH-USD"}]',
        b'[{"id":7,"name":"BTC-USD"},{"id":8,"name":"ETH-USD"}]',
        b'[{"id":"1","symbol":"BTC-USD"},{"id":"2","symbol":"ETH-USD"}]',
        b'{"markets":["BTC-USD","ETH-USD"]}',
        b'{"statusCode":200,"data":{"markets":[{"name":"BTC-USD"},{"name":"ETH-USD"}]}}',
        b'{"statusCode":200,"listing":[{"ticker":"BTC-USD"},{"ticker":"ETH-USD"}]}',
        b'["BTC-USD",null,7,"","ALL","*","a\\nb"," x",["y"],{"z":1},"ETH-USD"]',
    ],
)
def test_shapes(body: bytes) -> None:
    """Names come out once and in order; what is no usable name is left out."""
    assert parse_markets(body) == ("BTC-USD", "ETH-USD")


@pytest.mark.parametrize(
    "body",
    [b"", b"nonsense", b"\xff", b"null", b"7", b"{}", b"[" * 99_999, b'{"a":{"b":{"c":{"d":{"e":["X"]}}}}}'],
)
def test_nothing_to_be_found(body: bytes) -> None:
    """An answer without markets gives none."""
    assert parse_markets(body) == ()


def test_the_number_is_bounded() -> None:
    """More markets than the bound are left out."""
    body = b"[" + b",".join(b'"M%d"' % i for i in range(MARKETS_MAX + 5)) + b"]"
    assert len(parse_markets(body)) == MARKETS_MAX


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=7), inner, max_size=4),
    max_leaves=20,
)


@given(json_values)
def test_any_json_is_read(value: object) -> None:
    """No answer raises, and whatever comes out could be a channel's market."""
    import msgspec  # noqa: PLC0415

    for name in parse_markets(msgspec.json.encode(value)):
        assert name
        assert name.isprintable()


@pytest.mark.parametrize(
    ("status", "body", "outcome"),
    [
        (200, b'["BTC-USD"]', ("BTC-USD",)),
        (200, b"[]", "names no market"),
        (503, b'["BTC-USD"]', "HTTP status 503"),
    ],
)
async def test_fetch(nursery: trio.Nursery, status: int, body: bytes, outcome: tuple[str, ...] | str) -> None:
    """The endpoint's answer is the list, or the reason why there is none."""

    async def play(stream: trio.SocketStream) -> None:
        async with stream:
            assert (await stream.receive_some()).startswith(b"GET /api/v1/markets HTTP/1.1\r\n")
            await stream.send_all(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)

    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    nursery.start_soon(trio.serve_listeners, play, [listener])
    url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/api/v1/markets"
    if isinstance(outcome, tuple):
        assert await fetch_markets(url, ssl.create_default_context()) == outcome
        return
    with pytest.raises(OperationalError, match=outcome):
        await fetch_markets(url, ssl.create_default_context())
