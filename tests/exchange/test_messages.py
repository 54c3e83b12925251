"""Classification: events, replies, unknown messages, garbage; what has an identity, and when it was."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core.messages import Event, Garbage, Identity, Message, Reply, Unknown
from feedhandler.exchange import messages
from feedhandler.exchange.messages import Dialect

LEVELS = [{"orderType": "buy", "price": "141.05", "quantity": "12.5"}]
ROW = {
    "executionType": "taker",
    "matchId": "0b6f",
    "orderType": "sell",
    "price": "1",
    "updatedAt": 1775000000456,
}


def encode(kind: str, data: object, **more: object) -> bytes:
    """Return a message in the exchange's envelope."""
    return json.dumps({"resultType": kind, **more, "data": data}).encode()


def classify(payload: bytes, market: str = "BTC-USD") -> Message:
    """Read one message of a connection to ``market``, which has asked with the id ``own``."""
    return Dialect(market, lambda request_id: request_id == "own").classify(payload)


@pytest.mark.parametrize(
    ("kind", "data", "stream"),
    [
        ("publicOrderBookDelta", {"orders": LEVELS, "statusCode": 200, "ts": 1}, "publicOrderBook"),
        ("orderBookDelta", {"orders": LEVELS}, "publicOrderBook"),
        ("publicCompletedOrdersDelta", {"orders": [ROW], "statusCode": 200}, "publicTrades"),
        ("completedOrdersDelta", {"orders": [ROW]}, "publicTrades"),
    ],
)
@pytest.mark.parametrize("market", ["ETH-USD", ""])
def test_public_events_go_to_the_channel_of_their_market(
    kind: str, data: dict[str, Any], stream: str, market: str
) -> None:
    """The market is the message's, else the connection's; the payload stays byte for byte."""
    payload = encode(kind, data, **({"market": market} if market else {}))
    assert classify(payload) == Event(f"{market or 'BTC-USD'}/{stream}", payload)


FILL = {"market": "ETH-USD", "orderId": "01", "matchId": "0b6f", "orderFilledAt": 1775000000456}
ORDER_KINDS = ["createOrder", "cancelOrder", "modifyOrder", "rejectOrder"]
KNOWN = [
    encode("publicOrderBookDelta", {"orders": LEVELS}),
    encode("publicCompletedOrdersDelta", {"orders": [ROW]}),
]
STRANGE = [
    encode("pong", {}),
    encode("marketStatus", {}),
    encode("createOrder", {"order": {"market": "M"}}),
    KNOWN[0].replace(b"12.5", "é".encode()),
    KNOWN[0].replace(b"12.5", b"\xff"),
    KNOWN[0].replace(b": [", b":\n["),
    KNOWN[0].replace(b": [", b":\r["),
    encode("publicOrderBookDelta", [], market="M"),
    encode("publicOrderBookDelta", {}, market="new"),
    KNOWN[0][:-1],
    KNOWN[0] + KNOWN[1],
    b"",
]


@given(st.lists(st.sampled_from(KNOWN), max_size=4), st.lists(st.sampled_from(KNOWN + STRANGE), max_size=2))
def test_messages_read_at_once_are_what_each_of_them_is(first: list[bytes], second: list[bytes]) -> None:
    """Their channels, where all are events of known channels that go out as they are; else each is read by itself."""
    dialect = Dialect("BTC-USD")
    for payload in KNOWN:
        dialect.classify(payload)
    payloads = [*first, *second, *first]
    channels = dialect.ordinary(payloads)
    if channels is not None:
        expected = [Event(channel, one) for channel, one in zip(channels, payloads, strict=True)]
        assert [dialect.classify(one) for one in payloads] == expected
    assert (channels is None) == any(one not in KNOWN for one in payloads)


@pytest.mark.parametrize("market", ["BTC-USD", "ALL"])
@pytest.mark.parametrize("rows", [[], [FILL], [FILL, {**FILL, "market": "BTC-USD"}]])
def test_account_trades_cover_all_markets(rows: list[dict[str, Any]], market: str) -> None:
    """A list of any length makes V1's name of public trades the account's own, whatever the connection's market."""
    payload = encode("completedOrdersDelta", rows)
    assert classify(payload, market) == Event("ALL/trades", payload)
    named = encode("completedOrdersDelta", rows, market="ETH-USD")
    assert classify(named, market) == Event("ALL/trades", named)


def test_trades_with_the_ids_of_orders_are_never_public() -> None:
    """V1's name with rows of the account is the account's; a shape that is neither is not guessed at."""
    account = encode("completedOrdersDelta", {"orders": [ROW, FILL]})
    assert classify(account) == Event("ALL/trades", account)
    for data in (FILL, {"orders": FILL}, {"orders": [1]}, {}, "text"):
        payload = encode("completedOrdersDelta", data)
        assert classify(payload) == Unknown("BTC-USD/other", payload)


@pytest.mark.parametrize("kind", ORDER_KINDS)
@pytest.mark.parametrize("status", [200, 202, 400, "200", None])
def test_order_notifications_are_events_of_their_order_s_market(kind: str, status: object) -> None:
    """The market is the message's, else its order's, else the connection's; even where the order is refused."""
    data = {"statusCode": status, "clientRequestId": "x", "order": {"market": "SOL-USD", "orderId": "1"}}
    payload = encode(kind, data)
    assert classify(payload, "ALL") == Event("SOL-USD/orders", payload)
    named = encode(kind, data, market="ETH-USD")
    assert classify(named, "ALL") == Event("ETH-USD/orders", named)
    odd = encode(kind, data, market=7)
    assert classify(odd, "ALL") == Event("SOL-USD/orders", odd)


@pytest.mark.parametrize("kind", ORDER_KINDS)
@pytest.mark.parametrize(
    "data",
    [
        {"statusCode": 404, "body": "gone"},
        {"statusCode": 409, "body": "being filled", "clientRequestId": "theirs"},
        {"statusCode": 202, "body": "accepted", "clientRequestId": "theirs#0", "apiQuotaUsed": 3},
        {"statusCode": 200, "order": {"orderId": "1"}},
        {"statusCode": 200, "order": {"market": 7}},
        {"statusCode": 400, "order": None},
        {"clientRequestId": 7},
        {},
    ],
)
def test_what_an_order_request_causes_is_an_event_whatever_it_says(kind: str, data: dict[str, Any]) -> None:
    """We send no orders: an acknowledgement or a refusal answers somebody else, and comes to all of the account."""
    payload = encode(kind, data)
    assert classify(payload) == Event("BTC-USD/orders", payload)
    assert classify(payload, "ALL") == Event("ALL/orders", payload)


@pytest.mark.parametrize(
    "kind",
    [
        "pong",
        "subscribed",
        "unsubscribed",
        "publicOrderBook",
        "publicCompletedOrders",
        "orderBook",
        "completedOrders",
    ],
)
@pytest.mark.parametrize("request_id", ["", "7d1f"])
def test_replies_are_told_by_their_type(kind: str, request_id: str) -> None:
    """A reply names its request, if it does; it never takes part in the merge, even unasked."""
    payload = encode(kind, {"clientRequestId": request_id} if request_id else {})
    assert classify(payload) == Reply(kind, request_id, payload)


def test_the_answer_to_an_own_request_is_a_reply_whatever_its_type() -> None:
    """An id that a line of the feed has sent makes an unknown type a reply; a stranger's id does not."""
    assert classify(encode("new", {"clientRequestId": "own"})) == Reply(
        "new", "own", encode("new", {"clientRequestId": "own"})
    )
    assert isinstance(classify(encode("new", {"clientRequestId": "other"})), Unknown)


@pytest.mark.parametrize("kind", [*ORDER_KINDS, "error", "new"])
def test_the_answer_to_an_own_request_is_no_event(kind: str) -> None:
    """Should the exchange answer a request of ours under the name of an order's, it is a reply all the same."""
    payload = encode(kind, {"statusCode": 400, "clientRequestId": "own"})
    assert classify(payload) == Reply(kind, "own", payload)


@pytest.mark.parametrize(
    ("request_id", "account", "is_reply"),
    [
        ("", False, True),
        ("", True, True),
        ("theirs", False, True),
        ("theirs", True, False),
        ("own", True, True),
    ],
)
def test_a_failure_is_a_reply_unless_it_may_be_about_the_account(
    request_id: str, account: bool, is_reply: bool
) -> None:
    """Of a type that no document names it may answer another client's order, so the account's readers get it."""
    dialect = Dialect("BTC-USD", lambda one: one == "own", hears_account=lambda: account)
    payload = encode("error", {"statusCode": 404, **({"clientRequestId": request_id} if request_id else {})})
    expected = Reply("error", request_id, payload) if is_reply else Unknown("BTC-USD/other", payload)
    assert dialect.classify(payload) == expected


def test_a_type_that_nobody_described_with_an_order_is_unknown() -> None:
    """The names of fills, triggers and the like are not known: they flow to the account's readers as unknown."""
    payload = encode("orderFilled", {"statusCode": 400, "order": {"orderId": "1", "market": "SOL-USD"}})
    assert classify(payload) == Unknown("BTC-USD/other", payload)


@pytest.mark.parametrize(
    "payload",
    [
        encode("new", {}),
        encode("new", [1]),
        encode("publicOrderBookDelta", [1]),
        encode("pong", "text"),
        encode("createOrder", [1]),
        encode("completedOrders", []),
        b'{"resultType":7,"data":{}}',
        b'{"data":{}}',
        b'{"resultType":"pong"}',
        b"{}",
    ],
)
def test_what_nobody_described_is_unknown(payload: bytes) -> None:
    """Requirement 13: another type or shape is neither event nor reply, and flows to MARKET/other."""
    assert classify(payload) == Unknown("BTC-USD/other", payload)


def test_an_unknown_message_keeps_its_market() -> None:
    """Where it names a market as others do, that is its channel's."""
    payload = encode("new", {}, market="ETH-USD")
    assert classify(payload) == Unknown("ETH-USD/other", payload)


@pytest.mark.parametrize("market", [7, None, ["ETH-USD"], {}])
def test_a_known_event_with_an_odd_field_still_flows(market: object) -> None:
    """Requirement 13: a market that is no string does not lose an event; the connection's market stands in."""
    payload = encode("publicOrderBookDelta", {"orders": LEVELS}, market=market)
    assert classify(payload) == Event("BTC-USD/publicOrderBook", payload)
    account = encode("completedOrdersDelta", [FILL], market=market)
    assert classify(account) == Event("ALL/trades", account)
    pong = encode("pong", {}, market=market)
    assert classify(pong) == Reply("pong", "", pong)


def test_unknown_fields_are_tolerated_everywhere() -> None:
    """Requirement 13: fields that were added since change nothing."""
    payload = encode("publicCompletedOrdersDelta", {"orders": [{**ROW, "x": [1]}], "y": {}}, z=None)
    assert classify(payload) == Event("BTC-USD/publicTrades", payload)
    assert Dialect("BTC-USD").identify(payload) == Identity(distinct=True, time_ms=1775000000456)


def test_over_all_markets_a_public_event_has_to_name_its_own() -> None:
    """Without it nobody knows the channel: that is a fault which is counted, and the message still flows."""
    for kind in (*messages._EVENTS, "completedOrdersDelta"):
        payload = encode(kind, {"orders": LEVELS})
        assert classify(payload, "ALL") == Unknown("ALL/other", payload, "market")
    named = encode("publicOrderBookDelta", {"orders": LEVELS}, market="ETH-USD")
    assert classify(named, "ALL") == Event("ETH-USD/publicOrderBook", named)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "json"),
        (b"not json", "json"),
        (b'{"resultType":', "json"),
        (b'{"resultType":"pong","data":{}} x', "json"),
        (b"[" * 100_000, "json"),
        (b"[]", "object"),
        (b'"text"', "object"),
        (b"7", "object"),
        (b"\xff", "utf8"),
        (b'{"x":"\xff"}', "utf8"),
        (b'{"resultType":"publicOrderBookDelta","data":{"x":"\xff"}}', "utf8"),
        (b'{"resultType":"new","data":{"x":"\xff"}}', "utf8"),
        (b'{"resultType":"createOrder","data":{"order":{"market":"\xff"}}}', "utf8"),
        (b'{"resultType":"completedOrdersDelta","data":{"orders":[{"orderId":"\xff"}]}}', "utf8"),
    ],
)
def test_what_is_not_one_json_object_in_utf8_is_garbage(payload: bytes, reason: str) -> None:
    """Rule R2: it is counted with its reason and never published."""
    assert classify(payload) == Garbage(reason)


def test_line_breaks_between_tokens_are_taken_out() -> None:
    """Rule R2: what is published is one line; values and the text of numbers stay."""
    payload = b'{\r\n "resultType": "publicOrderBookDelta",\n "data": {"orders": [], "ts": 1.50}\n}'
    event = classify(payload)
    assert isinstance(event, Event)
    assert event.payload == b'{"resultType":"publicOrderBookDelta","data":{"orders":[],"ts":1.50}}'


def test_other_white_space_and_other_letters_go_out_byte_for_byte() -> None:
    """Rule R2: spaces, escapes and letters beyond ASCII are the exchange's own business."""
    payload = '{"resultType" : "new", "data": {"x":"\\u00e9\\n é"}}'.encode()
    assert classify(payload) == Unknown("BTC-USD/other", payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
kinds = st.sampled_from(
    [*messages._EVENTS, *messages._ORDER_EVENTS, *messages._REPLIES, "completedOrdersDelta"]
)
datas = json_values | st.fixed_dictionaries(
    {},
    optional={
        "orders": json_values,
        "ts": json_values,
        "statusCode": json_values,
        "clientRequestId": json_values,
        "order": json_values,
    },
)


@given(
    st.binary()
    | st.builds(lambda k, d, m: encode(k, d, market=m), kinds, datas, json_values)
    | json_values.map(lambda value: json.dumps(value, indent=1).encode())
)
def test_nothing_ever_raises_and_what_is_published_is_one_line(payload: bytes) -> None:
    """Rules R2 and R11: whatever the bytes, there is an answer; events and unknowns are valid one-line JSON objects."""
    dialect = Dialect("BTC-USD")
    message = dialect.classify(payload)
    dialect.identify(payload)
    if isinstance(message, Event | Unknown):
        text = message.payload.decode()
        assert "\n" not in text
        assert "\r" not in text
        assert json.loads(text) == json.loads(payload)
        assert message.channel.count("/") >= 1
    elif isinstance(message, Garbage):
        assert message.reason in {"utf8", "json", "object"}


@pytest.mark.parametrize(
    ("payload", "identity"),
    [
        (encode("publicOrderBookDelta", {"orders": LEVELS, "ts": 12}), Identity(distinct=True, time_ms=12)),
        (encode("orderBookDelta", {"orders": LEVELS}), Identity(distinct=False, time_ms=None)),
        (
            encode("publicCompletedOrdersDelta", {"orders": [ROW, {**ROW, "updatedAt": 1775000000999}]}),
            Identity(distinct=True, time_ms=1775000000999),
        ),
        (
            encode("publicCompletedOrdersDelta", {"orders": [ROW, {"updatedAt": 5}]}),
            Identity(distinct=False, time_ms=1775000000456),
        ),
        (
            encode("completedOrdersDelta", [{"matchId": "x", "orderFilledAt": 9}]),
            Identity(distinct=True, time_ms=9),
        ),
        (
            encode("completedOrdersDelta", [{"matchId": "x", "orderFilledAt": 0}]),
            Identity(distinct=True, time_ms=None),
        ),
        (
            encode("completedOrdersDelta", [{"matchId": "x"}, {"orderFilledAt": 9}]),
            Identity(distinct=False, time_ms=9),
        ),
        (encode("completedOrdersDelta", []), Identity(distinct=False, time_ms=None)),
        (
            encode("createOrder", {"order": {"orderId": "01", "updatedAt": 3}}),
            Identity(distinct=False, time_ms=None),
        ),
        (
            encode("createOrder", {"statusCode": 200, "order": {"orderId": "01", "updatedAt": 3}}),
            Identity(distinct=True, time_ms=3),
        ),
        (
            encode("cancelOrder", {"statusCode": 202, "order": {"orderId": "01", "updatedAt": 3}}),
            Identity(distinct=False, time_ms=None),
        ),
        (
            encode("cancelOrder", {"statusCode": 409, "order": {"orderId": "01", "updatedAt": 3}, "ts": 4}),
            Identity(distinct=False, time_ms=None),
        ),
        (encode("cancelOrder", {"statusCode": 404}), Identity(distinct=False, time_ms=None)),
        (encode("createOrder", {"order": "01"}), Identity(distinct=False, time_ms=None)),
        (
            encode("createOrder", {"statusCode": 200, "order": {"orderId": "01"}}),
            Identity(distinct=False, time_ms=None),
        ),
        (
            encode("createOrder", {"statusCode": 200, "order": {"updatedAt": 3}}),
            Identity(distinct=False, time_ms=3),
        ),
        (encode("new", {}), Identity(distinct=False, time_ms=None)),
        (encode("new", {"ts": "soon"}), Identity(distinct=False, time_ms=None)),
        (b"garbage", Identity(distinct=False, time_ms=None)),
    ],
)
def test_identity_is_a_match_id_or_a_time_of_its_own(payload: bytes, identity: Identity) -> None:
    """Rule R1: every row needs its matchId; a delta its ts; an order its id and the time of its state."""
    assert Dialect("BTC-USD").identify(payload) == identity


def test_channel_names_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the bound names are built anew, and are the same."""
    monkeypatch.setattr(messages, "MOST_NAMES", 2)
    dialect = Dialect("ALL")
    for _ in range(2):
        for market in ("A", "B", "C"):
            event = dialect.classify(encode("publicOrderBookDelta", {}, market=market))
            assert isinstance(event, Event)
            assert event.channel == f"{market}/publicOrderBook"
    assert len(dialect._names) == 2
    assert sum(map(len, dialect._public.values())) == 2


ODD = [
    b'{"resultType":"publicOrderBookDelta","data":[1],"data":{}}',
    b'{"resultType":"publicOrderBookDelta","data":{},"data":[1]}',
    b'{"resultType":"publicOrderBookDelta","data":{"x":"\xff"}}',
    b'{"resultType":"publicOrderBookDelta",\r\n"data":{}}',
    b'{"resultType":"publicOrderBookDelta","data":{}} x',
    b'{"resultType":"publicOrderBookDelta","data":null}',
    b'{"resultType":"publicOrderBookDelta","market":7,"data":{}}',
    b'{"resultType":"publicOrderBookDelta","market":"ETH-USD","market":"","data":{}}',
    b'{"resultType":"publicOrderBookDelta","data":{"x":"\xc3\xa9"}}',
    encode("completedOrdersDelta", {"orders": [ROW]}),
    encode("completedOrdersDelta", [ROW]),
    encode("pong", {}),
]


@pytest.mark.parametrize("market", ["BTC-USD", "ALL"])
@given(st.data())
def test_what_is_known_already_changes_no_answer(market: str, data: st.DataObject) -> None:
    """The same message is told the same by one who has seen thousands, and by one who has seen none."""
    seen = Dialect(market)
    for name in ("BTC-USD", "ETH-USD", ""):
        for kind in messages._EVENTS:
            seen.classify(encode(kind, {}, **({"market": name} if name else {})))
    payload = data.draw(
        st.sampled_from(ODD) | st.builds(lambda k, d, m: encode(k, d, market=m), kinds, datas, json_values)
    )
    place = data.draw(st.integers(0, len(payload)))
    spoiled = (
        payload[:place] + data.draw(st.binary(max_size=2)) + payload[place + data.draw(st.integers(0, 2)) :]
    )
    for one in (payload, spoiled):
        assert seen.classify(one) == Dialect(market).classify(one)


def test_results_are_inert_values() -> None:
    """Messages compare and print as values, and cannot be changed."""
    event = Event("M/b", b"{}")
    assert event == Event("M/b", b"{}")
    assert "M/b" in repr(event)
    with pytest.raises(AttributeError):
        event.channel = "other"  # type: ignore[misc]
    assert isinstance(event, msgspec.Struct)
