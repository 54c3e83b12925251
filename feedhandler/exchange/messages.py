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
| ``completedOrdersDelta`` | object, ``orders`` | event of ``publicTrades`` (V1's name) |
| ``completedOrdersDelta`` | list, or ``orders`` with an ``orderId`` | event of ``trades``: channel ``ALL/trades`` |
| ``createOrder``, ``cancelOrder``, ``modifyOrder``, ``rejectOrder`` | object | event of ``orders`` |
| ``pong``, ``subscribed``, ``unsubscribed``, snapshots | object | reply |
| an own request's id, or a failing ``statusCode`` with no ``order`` | object | reply |
| anything else | | unknown |

**Whose request caused it.** No line ever sends an order. So what an order request causes, its acknowledgements and its
refusals included, answers somebody else, came here because the account's connections all get it, and is an event:
whatever id it carries, and whether it shows the order or not. Of other types the id decides: ours is a reply. A failure
with another's id, where the account is listened to, is unknown, since an order request of a type that no document names
may have caused it; elsewhere it is a reply that was given up.

**What the account says is not for everybody.** A message with an ``orderId`` in its rows is the account's, and one that
is in neither known form of trades is unknown: neither ever reaches a public channel.
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
OLD_TRADES = "completedOrdersDelta"
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
CONFIRMED = 200
"""The ``statusCode`` of a new state of an order; others acknowledge or refuse a request and change nothing."""
NAMELESS = "market"
"""The fault of a public message over ``market=ALL`` that does not name its market."""


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


class _Odd(msgspec.Struct, gc=False):
    """A header whose market is no string."""

    result_type: str = msgspec.field(name="resultType")
    data: msgspec.Raw


class _Answer(msgspec.Struct, gc=False):
    """What ``data`` of a reply or an order notification may say; what is of another type says nothing."""

    request: object = msgspec.field(name="clientRequestId", default="")
    status: object = msgspec.field(name="statusCode", default=200)
    order: object = None

    @property
    def request_id(self) -> str:
        return self.request if isinstance(self.request, str) else ""

    @property
    def market(self) -> str:
        """The market of the order, if there is one."""
        market = self.order.get("market") if isinstance(self.order, dict) else None
        return market if isinstance(market, str) else ""

    @property
    def is_failure(self) -> bool:
        """Whether a request failed, as far as no order shows that it was one for an order."""
        failed = isinstance(self.status, int) and self.status >= FAILED
        return failed and not isinstance(self.order, dict)


class _OldRow(msgspec.Struct, gc=False):
    order_id: object = msgspec.field(name="orderId", default=None)


class _OldRows(msgspec.Struct, gc=False):
    """Trades under V1's name: with ids of orders they are the account's."""

    orders: list[_OldRow]


class _Row(msgspec.Struct, gc=False):
    match_id: str = msgspec.field(name="matchId", default="")
    updated: int | None = msgspec.field(name="updatedAt", default=None)
    filled: int | None = msgspec.field(name="orderFilledAt", default=None)


class _Rows(msgspec.Struct, gc=False):
    orders: list[_Row] = []
    ts: int | None = None
    order: object = None


class _Dated(msgspec.Struct, gc=False):
    data: _Rows | list[_Row]


class _OrderState(msgspec.Struct, gc=False):
    order_id: str = msgspec.field(name="orderId", default="")
    updated: int | None = msgspec.field(name="updatedAt", default=None)


class _OrderData(msgspec.Struct, gc=False):
    order: _OrderState
    status: int = msgspec.field(name="statusCode", default=0)


class _OrderEvent(msgspec.Struct, gc=False):
    data: _OrderData


_usual = msgspec.json.Decoder(_Usual).decode
_header = msgspec.json.Decoder(_Header).decode
_odd = msgspec.json.Decoder(_Odd).decode
_answer = msgspec.json.Decoder(_Answer).decode
_old_rows = msgspec.json.Decoder(_OldRows).decode
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
    the feed's lines has sent; ``hears_account``, whether they are subscribed to anything of the account.
    """

    def __init__(
        self,
        market: str,
        is_own_request: Callable[[str], bool] = lambda _: False,
        *,
        hears_account: Callable[[], bool] = lambda: False,
    ) -> None:
        self._market = market
        self._is_own_request = is_own_request
        self._hears_account = hears_account
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
        return self._told(header, payload)

    def _told(self, header: _Header, payload: bytes) -> Message:
        """Tell what a message with a header is."""
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
        if kind == OLD_TRADES:
            return self._old_trades(header, shape, payload)
        if shape != _OBJECT:
            return self._unknown(market, payload)
        answer = _read_answer(header.data)
        if kind in _REPLIES or self._is_own(answer):
            return Reply(kind, answer.request_id, payload)
        if kind in _ORDER_EVENTS:
            return self._event(market or answer.market, ORDERS, payload)
        if answer.is_failure and not (answer.request_id and self._hears_account()):
            return Reply(kind, answer.request_id, payload)
        return self._unknown(market, payload)

    def _old_trades(self, header: _Header, shape: int, payload: bytes) -> Message:
        """Tell whose trades these are: the name was the public ones' first, and is the account's now."""
        if shape == _LIST:
            return self._event(ALL, TRADES, payload)
        try:
            rows = _old_rows(header.data).orders
        except _BROKEN:
            return self._unknown(header.market, payload)
        if any(row.order_id is not None for row in rows):
            return self._event(ALL, TRADES, payload)
        return self._event(header.market, PUBLIC_TRADES, payload)

    def _is_own(self, answer: _Answer) -> bool:
        return bool(answer.request_id) and self._is_own_request(answer.request_id)

    def _event(self, market: str, stream: str, payload: bytes) -> Message:
        market = market or self._market
        if market == ALL and stream in {PUBLIC_BOOK, PUBLIC_TRADES}:
            return self._unknown("", payload, NAMELESS)
        clean = _one_line(payload)
        return Garbage("utf8") if clean is None else Event(self._name(market, stream), clean)

    def _unknown(self, market: str, payload: bytes, fault: str = "") -> Message:
        clean = _one_line(payload)
        if clean is None:
            return Garbage("utf8")
        return Unknown(self._name(market or self._market, OTHER), clean, fault)

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
        try:
            odd = _odd(payload)
        except _BROKEN:
            return self._unknown("", payload)
        return self._told(_Header(odd.result_type, odd.data), payload)

    def identify(self, payload: bytes) -> Identity:
        """Tell whether an event has an identity, and its time (ms).

        Every trade row has to have its ``matchId``, a delta its ``ts``, an order its id and the time of its state.
        """
        try:
            data = _dated(payload).data
        except _BROKEN:
            return _NO_IDENTITY
        if isinstance(data, list):
            return _by_rows(data)
        if data.order is not None:
            return _by_order(payload)
        if data.ts is not None:
            return Identity(distinct=True, time_ms=data.ts)
        return _by_rows(data.orders)


MOST_NAMES = 100_000
"""Channel names that are remembered; a feed with more builds the rest anew for each event."""


def _by_rows(rows: list[_Row]) -> Identity:
    """Rows of trades; an account's order that is not filled yet may say 0 for the time at which it was."""
    times = [time for row in rows if (time := row.filled or None if row.updated is None else row.updated)]
    distinct = bool(rows) and all(row.match_id for row in rows)
    return Identity(distinct=distinct, time_ms=max(times, default=None))


def _by_order(payload: bytes) -> Identity:
    """Order notifications: one state of one order at one time.

    An acknowledgement or a refusal shows the order as it was and when that was; asked again, the exchange says the same
    again. So neither the content nor the time is its own; and where no status tells what it is, nobody knows.
    """
    try:
        data = _order_event(payload).data
    except _BROKEN:
        return _NO_IDENTITY
    order = data.order
    if data.status != CONFIRMED:
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
