"""What a line asks the exchange for.

The envelope is ``{"message": TYPE, "content": {…}}``; ``clientRequestId`` is a UUID that comes back inside ``data``
of the reply; ``market`` is required on connections over ``market=ALL`` (exchange-api.md, sections 3 and 4).
"""

from collections.abc import Sequence
from urllib.parse import quote, urlsplit, urlunsplit

import msgspec

ALL = "ALL"
"""The market parameter that stands for every market."""


def connection_url(base: str, market: str, streams: Sequence[str]) -> str:
    """Return the URL of one line: identical for all lines of a feed."""
    parts = urlsplit(base)
    own = f"market={quote(market, safe='')}&subscriptions={','.join(quote(s, safe='') for s in streams)}"
    query = f"{parts.query}&{own}" if parts.query else own
    return urlunsplit((parts.scheme, parts.netloc, parts.path or "/", query, ""))


def ping(request_id: str) -> str:
    """Return the application-level ping, which the exchange prefers to control frames for liveness."""
    return request("ping", {"clientRequestId": request_id})


def emit_book(request_id: str, market: str | None) -> str:
    """Return the request for the whole book; ``market`` is named on connections over ``market=ALL`` only."""
    return request("emitPublicOrderBook", _content(request_id, market))


def emit_trades(request_id: str, market: str | None) -> str:
    """Return the request for the recent trades; ``market`` is named on connections over ``market=ALL`` only."""
    return request("emitPublicCompletedOrders", _content(request_id, market))


def _content(request_id: str, market: str | None) -> dict[str, str | list[str]]:
    content: dict[str, str | list[str]] = {"clientRequestId": request_id}
    if market is not None:
        content["market"] = market
    return content


def request(message: str, content: dict[str, str | list[str]]) -> str:
    """Return a request in the exchange's envelope."""
    return msgspec.json.encode({"message": message, "content": content}).decode()
