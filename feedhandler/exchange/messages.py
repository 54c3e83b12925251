"""What the exchange's messages are: events, replies, unknown ones, garbage (rule R2; exchange-api.md, 4 to 7).

A message is told by its ``resultType`` *and* its shape, since names were reused over the API's versions: account
trades and V1's public trades are both ``completedOrdersDelta``, one with a list and one with an object as ``data``.
Nothing is decoded that need not be: the header is typed and walks over ``data``, whose structure it thereby checks.
Most messages are public events of channels that are known, with an object as ``data``: those are told first, and all
the rest by a second look. What the typed header does not fit goes the tolerant way: a ``market`` that is no string does
not lose an event.

| resultType | data | is |
| --- | --- | --- |
| ``publicOrderBookDelta``, ``orderBookDelta`` (before 2026) | object | event of ``publicOrderBook`` |
| ``publicCompletedOrdersDelta`` | object | event of ``publicTrades`` |
| ``completedOrdersDelta`` | object | event of ``publicTrades`` (V1's name) |
| ``completedOrdersDelta`` | list | event of ``trades``, which cover the whole account: channel ``ALL/trades`` |
| ``createOrder``, ``cancelOrder``, ``modifyOrder``, ``rejectOrder`` | object | event of ``orders`` |
| ``pong``, ``subscribed``, ``unsubscribed``, snapshots | object | reply |
| an own request's id, or a failing ``statusCode`` with no ``order`` | object | reply |
| anything else | | unknown |
"""

from collections.abc import Callable, Sequence

import msgspec

from feedhandler.core.messages import Event, Garbage, Identity, Message, Reply, Unknown
from feedhandler.exchange.requests import ALL

PUBLIC_TRADES = "publicTrades"
PUBLIC_BOOK = "publicOrderBook"
ORDERS = "orders"
TRADES = "trades"
OTHER = "other"
ACCOUNT_STREAMS = frozenset({ORDERS, TRADES})

_EVENTS = {
    "publicOrderBookDelta": PUBLIC_BOOK,
    "orderBookDelta": PUBLIC_BOOK,
    "publicCompletedOrdersDelta": PUBLIC_TRADES,
}
_ORDER_EVENTS = frozenset({"createOrder", "cancelOrder", "modifyOrder", "rejectOrder"})
_REPLIES = frozenset(
    {
        "pong",
        "subscribed",
        "unsubscribed",
        "publicOrderBook",
        "publicCompletedOrders",
        "orderBook",
        "completedOrders",
    }
)
_LIST = ord("[")
_OBJECT = ord("{")
_LF = ord("\n")  # as a number: it is found in bytes several times as fast as in the form of bytes
_CR = ord("\r")
FAILED = 400
"""From this ``statusCode`` on a message without an order is the answer to a request that failed."""


class _Object(msgspec.Struct, gc=False):
    """Any object."""


class _Usual(msgspec.Struct, gc=False):
    """The header of a message whose ``data`` is an object."""

    result_type: str = msgspec.field(name="resultType")
    data: _Object
    market: str = ""


class _Header(msgspec.Struct, gc=False):
    result_type: str = msgspec.field(name="resultType")
    data: msgspec.Raw
    market: str = ""


class _Order(msgspec.Struct, gc=False):
    market: str = ""


class _Answer(msgspec.Struct, gc=False):
    """What ``data`` of a reply or an order notification may say."""

    request_id: str = msgspec.field(name="clientRequestId", default="")
    status: int = msgspec.field(name="statusCode", default=200)
    order: _Order | None = None


class _Row(msgspec.Struct, gc=False):
    match_id: str = msgspec.field(name="matchId", default="")
    updated: int | None = msgspec.field(name="updatedAt", default=None)
    filled: int | None = msgspec.field(name="orderFilledAt", default=None)


class _Rows(msgspec.Struct, gc=False):
    orders: list[_Row] = []
    ts: int | None = None


class _Dated(msgspec.Struct, gc=False):
    data: _Rows | list[_Row]


class _OrderState(msgspec.Struct, gc=False):
    order_id: str = msgspec.field(name="orderId", default="")
    updated: int | None = msgspec.field(name="updatedAt", default=None)


class _OrderData(msgspec.Struct, gc=False):
    order: _OrderState


class _OrderEvent(msgspec.Struct, gc=False):
    data: _OrderData


_usual = msgspec.json.Decoder(_Usual).decode
_header = msgspec.json.Decoder(_Header).decode
_answer = msgspec.json.Decoder(_Answer).decode
_dated = msgspec.json.Decoder(_Dated).decode
_order_event = msgspec.json.Decoder(_OrderEvent).decode
_anything = msgspec.json.Decoder().decode
_BROKEN = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
_NOT_USUAL = (KeyError, *_BROKEN)
_NO_IDENTITY = Identity(distinct=False, time_ms=None)


def channel_name(market: str, stream: str) -> str:
    """Return the name of a channel."""
    return f"{market}/{stream}"


class Dialect:
    """How the messages of one feed's lines are read.

    ``market`` is the connection's parameter; ``is_own_request`` tells whether an id belongs to a request that one of
    the feed's lines has sent.
    """

    def __init__(self, market: str, is_own_request: Callable[[str], bool] = lambda _: False) -> None:
        self._market = market
        self._is_own_request = is_own_request
        self._names: dict[tuple[str, str], str] = {}
        self._public: dict[str, dict[str, str]] = {kind: {} for kind in _EVENTS}
        """The names of known channels of public events, by ``resultType`` and ``market``."""

    def classify(self, payload: bytes) -> Message:
        """Tell what a message is."""
        try:
            header = _usual(payload)
            name = self._public[header.result_type][header.market]
        except _NOT_USUAL:
            return self._classify(payload)
        if payload.isascii() and _LF not in payload and _CR not in payload:
            return Event(name, payload)
        clean = _one_line(payload)
        return Garbage("utf8") if clean is None else Event(name, clean)

    def ordinary(self, payloads: Sequence[bytes]) -> list[str] | None:
        """Return the channels of messages that are all events of known channels and go out as they are, else None."""
        public = self._public
        try:
            channels = [public[header.result_type][header.market] for header in map(_usual, payloads)]
        except _NOT_USUAL:
            return None
        text = b"".join(payloads)
        return channels if text.isascii() and _LF not in text and _CR not in text else None

    def _classify(self, payload: bytes) -> Message:
        """Tell what any message is."""
        try:
            header = _header(payload)
        except _BROKEN:
            return self._tolerate(payload)
        stream = _EVENTS.get(header.result_type)
        if stream is None or memoryview(header.data)[0] != _OBJECT:
            return self._rarer(header, payload)
        message = self._event(header.market, stream, payload)
        if isinstance(message, Event) and (header.market or self._market, stream) in self._names:
            self._public[header.result_type][header.market] = message.channel
        return message

    def _rarer(self, header: _Header, payload: bytes) -> Message:
        """Tell apart all but the plain public events."""
        kind, market = header.result_type, header.market
        shape = memoryview(header.data)[0]
        if kind == "completedOrdersDelta" and shape == _LIST:
            return self._event(ALL, TRADES, payload)
        if shape != _OBJECT:
            return self._unknown(market, payload)
        if kind == "completedOrdersDelta":
            return self._event(market, PUBLIC_TRADES, payload)
        answer = _read_answer(header.data)
        if kind in _REPLIES:
            return Reply(kind, answer.request_id, payload)
        if kind in _ORDER_EVENTS and answer.order is not None:
            return self._event(market or answer.order.market, ORDERS, payload)
        if self._is_reply(answer):
            return Reply(kind, answer.request_id, payload)
        return self._unknown(market, payload)

    def _is_reply(self, answer: _Answer) -> bool:
        if answer.request_id and self._is_own_request(answer.request_id):
            return True
        return answer.status >= FAILED and answer.order is None

    def _event(self, market: str, stream: str, payload: bytes) -> Message:
        market = market or self._market
        if market == ALL and stream in {PUBLIC_BOOK, PUBLIC_TRADES}:
            return self._unknown("", payload)  # over ALL a public message names its market
        clean = _one_line(payload)
        return Garbage("utf8") if clean is None else Event(self._name(market, stream), clean)

    def _unknown(self, market: str, payload: bytes) -> Message:
        clean = _one_line(payload)
        if clean is None:
            return Garbage("utf8")
        return Unknown(self._name(market or self._market, OTHER), clean)

    def _name(self, market: str, stream: str) -> str:
        name = self._names.get((market, stream))
        if name is None:
            name = channel_name(market, stream)
            if len(self._names) < MOST_NAMES:
                self._names[market, stream] = name
        return name

    def _tolerate(self, payload: bytes) -> Message:
        """Read what does not fit the header: other types in known fields, no ``resultType``, no JSON at all."""
        try:
            value = _anything(payload)
        except UnicodeDecodeError:
            return Garbage("utf8")
        except _BROKEN:
            return Garbage("json" if _is_utf8(payload) else "utf8")
        if not isinstance(value, dict):
            return Garbage("object")
        kind, data = value.get("resultType"), value.get("data")
        stream = _EVENTS.get(kind) if isinstance(kind, str) and isinstance(data, dict) else None
        if stream is not None:
            return self._event("", stream, payload)
        return self._unknown("", payload)

    def identify(self, payload: bytes) -> Identity:
        """Tell whether an event has an identity: every trade row a ``matchId``, a delta a ``ts``; and its time (ms)."""
        try:
            data = _dated(payload).data
        except _BROKEN:
            return _NO_IDENTITY
        if isinstance(data, list):
            return _by_rows(data)
        if data.ts is not None:
            return Identity(distinct=True, time_ms=data.ts)
        if data.orders:
            return _by_rows(data.orders)
        return _by_order(payload)


MOST_NAMES = 100_000
"""Channel names that are remembered; a feed with more builds the rest anew for each event."""


def _by_rows(rows: list[_Row]) -> Identity:
    times = [
        time for row in rows if (time := row.updated if row.updated is not None else row.filled) is not None
    ]
    distinct = bool(rows) and all(row.match_id for row in rows)
    return Identity(distinct=distinct, time_ms=max(times, default=None))


def _by_order(payload: bytes) -> Identity:
    """Order notifications: one state of one order at one time."""
    try:
        order = _order_event(payload).data.order
    except _BROKEN:
        return _NO_IDENTITY
    return Identity(distinct=bool(order.order_id and order.updated is not None), time_ms=order.updated)


def _read_answer(data: msgspec.Raw) -> _Answer:
    try:
        return _answer(data)
    except _BROKEN:
        return _Answer()


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _one_line(payload: bytes) -> bytes | None:
    """Return the message as it is published: valid UTF-8 without line breaks; None where it is not UTF-8.

    A line break can stand only between tokens (JSON escapes it inside strings), so taking the white space out changes
    no value and no number's text.
    """
    if not payload.isascii() and not _is_utf8(payload):
        return None
    if _LF in payload or _CR in payload:
        return msgspec.json.format(payload, indent=-1)
    return payload
