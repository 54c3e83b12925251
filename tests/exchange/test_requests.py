"""What is asked: the connection's address and the requests on it."""

import json

import pytest

from feedhandler.exchange.requests import connection_url, emit_book, emit_trades, ping


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("wss://ws.example", "wss://ws.example/?market=BTC-USD&subscriptions=publicTrades,publicOrderBook"),
        (
            "wss://ws.example/v2",
            "wss://ws.example/v2?market=BTC-USD&subscriptions=publicTrades,publicOrderBook",
        ),
        ("ws://[::1]:9/?x=1", "ws://[::1]:9/?x=1&market=BTC-USD&subscriptions=publicTrades,publicOrderBook"),
    ],
)
def test_the_url_names_market_and_subscriptions(base: str, url: str) -> None:
    """All lines of a feed get the same parameters; what the configured address has stays."""
    assert connection_url(base, "BTC-USD", ["publicTrades", "publicOrderBook"]) == url


def test_a_market_is_quoted() -> None:
    """A market's name cannot add parameters."""
    assert connection_url("ws://h", "A&b=/é", ["x"]) == "ws://h/?market=A%26b%3D%2F%C3%A9&subscriptions=x"


def test_requests_stand_in_the_exchange_s_envelope() -> None:
    """A ping names its id; snapshot requests name a market only where the connection has none."""
    assert json.loads(ping("id")) == {"message": "ping", "content": {"clientRequestId": "id"}}
    assert json.loads(emit_book("id", None)) == {
        "message": "emitPublicOrderBook",
        "content": {"clientRequestId": "id"},
    }
    assert json.loads(emit_trades("id", "ETH-USD")) == {
        "message": "emitPublicCompletedOrders",
        "content": {"clientRequestId": "id", "market": "ETH-USD"},
    }
