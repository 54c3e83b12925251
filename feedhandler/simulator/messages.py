"""The exchange's messages as bytes.

Messages are put together as compact JSON from prepared pieces, since the generator makes a hundred thousand
of them a second; what is rare (spaces between tokens, extra keys) is done to the finished message.
`Wording` holds the choices of a `Behaviour` that concern text.
"""

import json
from collections.abc import Iterable, Mapping

import msgspec

from feedhandler.simulator.settings import Behaviour

BOOK = "publicOrderBook"
TRADES = "publicTrades"
ORDERS = "orders"
ACCOUNT_TRADES = "trades"
OTHER = "other"
"""In the truth: messages of a type that no document names."""

STREAMS = (ORDERS, ACCOUNT_TRADES, TRADES, BOOK)
ALL = "ALL"
"""The market parameter that stands for every market."""

Level = tuple[str, str, str]
"""Side (``buy``, ``sell``), price, quantity."""

V1_NAMES = {
    "publicOrderBookDelta": "orderBookDelta",
    "publicCompletedOrdersDelta": "completedOrdersDelta",
    "publicOrderBook": "orderBook",
    "publicCompletedOrders": "completedOrders",
}
EXTRA_IN_DATA = b',"origin":"simulated"}'
EXTRA_AT_TOP = b',"revision":7}'


class Wording:
    """How the exchange words its messages."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._dressed = behaviour.spaced_json or behaviour.extra_keys

    def dress(self, message: bytes) -> bytes:
        """Add to a compact message whose last key is ``data`` what the behaviour asks for."""
        if not self._dressed:
            return message
        if self._behaviour.extra_keys:
            inside = message[:-2] + EXTRA_IN_DATA if message.endswith(b"}}") else message[:-1]
            message = inside + EXTRA_AT_TOP
        return msgspec.json.format(message, indent=0) if self._behaviour.spaced_json else message

    def head(self, result_type: str, market: str) -> bytes:
        """Return the beginning of a public message, up to its first row."""
        named = f'"market":{json.dumps(market)},' if market and self._behaviour.market_in_public else ""
        return f'{{"resultType":"{self._name(result_type)}",{named}"data":{{"orders":['.encode()

    def _name(self, result_type: str) -> str:
        return V1_NAMES[result_type] if self._behaviour.v1_names else result_type

    def delta_tail(self, ts: int) -> bytes:
        """Return the end of a book delta."""
        return b'],"statusCode":200,"ts":%d}}' % ts if self._behaviour.delta_ts else b'],"statusCode":200}}'

    def delta(self, market: str, levels: Iterable[Level], ts: int) -> bytes:
        """Return a book delta."""
        rows = b",".join(map(level_row, levels))
        return self.dress(self.head("publicOrderBookDelta", market) + rows + self.delta_tail(ts))

    def trades(self, market: str, rows: Iterable[bytes]) -> bytes:
        """Return a trade message around finished rows."""
        return self.dress(
            self.head("publicCompletedOrdersDelta", market) + b",".join(rows) + b'],"statusCode":200}}'
        )

    def match(self, match_id: str, taker: Level, ts: int) -> list[bytes]:
        """Return the rows of one match, seen from the taker's side."""
        side, price, quantity = taker
        rows = [trade_row("taker", match_id, taker, ts)]
        if self._behaviour.rows_per_match == 2:
            other = "sell" if side == "buy" else "buy"
            rows.append(trade_row("maker", match_id, (other, price, quantity), ts))
        return rows

    def unknown(self, market: str, number: int) -> bytes:
        """Return a message of a type that no document names."""
        named = f'"market":{json.dumps(market)},' if self._behaviour.market_in_public else ""
        text = f'{{"resultType":"marketStatus",{named}"data":{{"status":"trading","number":{number}}}}}'
        return self.dress(text.encode())

    def snapshot(
        self, result_type: str, market: str, rows: Iterable[bytes], ts: int, request_id: str | None
    ) -> bytes:
        """Return the reply to a snapshot request."""
        behaviour = self._behaviour
        named = f'"market":{json.dumps(market)},' if behaviour.snapshot_market else ""
        head = f'{{"resultType":"{self._name(result_type)}",{named}"data":{{'
        if request_id is not None and behaviour.snapshot_request_id:
            head += f'"clientRequestId":{json.dumps(request_id)},'
        stamp = f',"ts":{ts}' if behaviour.snapshot_ts else ""
        tail = f'],"statusCode":200{stamp}}}}}'
        return self.dress(head.encode() + b'"orders":[' + b",".join(rows) + tail.encode())

    def reply(self, result_type: str, data: Mapping[str, object]) -> bytes:
        """Return any other reply."""
        return self.dress(msgspec.json.encode({"resultType": result_type, "data": data}))


def level_row(level: Level) -> bytes:
    """Return one level of a book message."""
    return b'{"orderType":"%b","price":"%b","quantity":"%b"}' % tuple(map(str.encode, level))


def trade_row(execution: str, match_id: str, level: Level, ts: int) -> bytes:
    """Return one row of a trade message; its side is that of the order that the row is about."""
    side, price, quantity = level
    return (
        f'{{"executionType":"{execution}","matchId":"{match_id}","orderType":"{side}",'
        f'"price":"{price}","quantity":"{quantity}","updatedAt":{ts}}}'
    ).encode()


def with_market(message: bytes, market: str) -> bytes:
    """Return a public message with its ``market``, which connections over all markets always get."""
    start = message.find(b",")
    if start < 0 or b'"market"' in message[: start + 12]:
        return message
    return b"%b,%b%b" % (message[:start], b'"market":' + json.dumps(market).encode(), message[start:])
