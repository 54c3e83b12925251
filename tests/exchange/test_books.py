"""Book messages: what is read, what is refused and why, what is written."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core import levels as levels_module
from feedhandler.core.book import Book
from feedhandler.core.levels import Broken, Level, Levels, keyed
from feedhandler.exchange.books import BookReply, read_book, read_levels, read_run, write_book
from feedhandler.exchange.requests import emit_book

MARKET = "BTC-USD"
BID = '{"orderType":"buy","price":"99.5","quantity":"1.0"}'
ASK = '{"orderType":"sell","price":"100","quantity":"2"}'


def delta(*rows: str) -> bytes:
    """Put a delta together."""
    return (
        '{"resultType":"publicOrderBookDelta","market":"BTC-USD",'
        f'"data":{{"orders":[{",".join(rows)}],"statusCode":200,"ts":1775000000123}}}}'
    ).encode()


def snapshot(*rows: str, top: str = "", data: str = "") -> bytes:
    """Put a snapshot together, with more keys at the top or in the data."""
    return f'{{"resultType":"publicOrderBook"{top},"data":{{"orders":[{",".join(rows)}]{data}}}}}'.encode()


def row(side: str = "buy", price: str = "1", quantity: str = "1") -> str:
    """Put a level together."""
    return msgspec.json.encode({"orderType": side, "price": price, "quantity": quantity}).decode()


def levels_of(*rows: Level) -> Levels:
    """Key levels that are known to be good."""
    levels = keyed(rows)
    assert isinstance(levels, dict)
    return levels


def test_a_delta_is_read() -> None:
    """Both sides come in one list, zeros included; extra keys and spaces do not matter."""
    expected = levels_of(Level("buy", "99.5", "1.0"), Level("sell", "100", "0.00"))
    gone = '{"orderType":"sell","price":"100","quantity":"0.00", "origin": "x"}'
    assert read_levels(delta(BID, gone)) == expected
    assert read_levels(msgspec.json.format(delta(BID, gone), indent=2)) == expected
    assert read_levels(delta()) == {}


def test_in_a_delta_the_last_of_two_equal_levels_wins() -> None:
    """A level that comes twice has its later quantity."""
    assert read_levels(delta(row(price="1.0"), row(price="1", quantity="2"))) == levels_of(
        Level("buy", "1", "2")
    )


NUMBERS = st.sampled_from(["1", "1.0", "2", "10.5", "0", "0.00", "00", "0e3", "1e2"])
ROWS = st.builds(row, st.sampled_from(["buy", "sell"]), NUMBERS, NUMBERS)
GOOD = st.builds(lambda rows: delta(*rows), st.lists(ROWS, max_size=6))
BAD = st.sampled_from(
    [
        b"",
        b"{",
        b"[]",
        delta(row("hold")),
        delta(row(price="-1")),
        delta(BID, row(quantity="1,5")),
        delta(BID) * 2,
    ]
)


@given(st.lists(GOOD, max_size=8), st.lists(st.tuples(st.integers(0, 8), BAD), max_size=1))
def test_a_run_is_read_as_its_deltas_one_after_another(
    goods: list[bytes], bads: list[tuple[int, bytes]]
) -> None:
    """What several deltas set all in all is what each sets in its turn; one that is broken has none read."""
    payloads = goods.copy()
    for place, bad in bads:
        payloads.insert(place, bad)
    merged: Levels = {}
    for levels in map(read_levels, goods):
        assert isinstance(levels, dict)
        merged.update(levels)
    assert read_run(payloads) == (None if bads else merged)


def test_a_snapshot_is_read_with_all_that_may_accompany_it() -> None:
    """``market`` and ``ts`` are taken where they are."""
    payload = snapshot(
        ASK, BID, top=',"market":"BTC-USD"', data=',"statusCode":200,"ts":17,"clientRequestId":"r1"'
    )
    levels = levels_of(Level("buy", "99.5", "1.0"), Level("sell", "100", "2"))
    assert read_book(payload, MARKET) == BookReply(market=MARKET, ts=17, levels=levels)


def test_a_snapshot_is_read_without_anything_but_levels() -> None:
    """Where the reply names nothing, the market asked for counts; a level of zero is none."""
    payload = snapshot(BID, row("sell", "7", "0.0"))
    levels = levels_of(Level("buy", "99.5", "1.0"))
    assert read_book(payload, MARKET) == BookReply(market=MARKET, ts=None, levels=levels)


def test_keys_of_unexpected_types_count_as_absent() -> None:
    """A change of the exchange in a side matter loses no snapshot."""
    payload = snapshot(BID, top=',"market":7', data=',"statusCode":"ok","ts":"soon","clientRequestId":[1]')
    reply = read_book(payload, MARKET)
    assert isinstance(reply, BookReply)
    assert (reply.market, reply.ts) == (MARKET, None)


def test_over_all_markets_a_snapshot_names_its_own() -> None:
    """Asked for any market, the reply says which; one that does not is of no use."""
    named = read_book(snapshot(BID, top=',"market":"ETH-USD"'), "ALL")
    assert isinstance(named, BookReply)
    assert named.market == "ETH-USD"
    assert read_book(snapshot(BID), "ALL") == Broken("market")
    assert read_book(snapshot(BID, top=',"market":"ALL"'), "ALL") == Broken("market")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (snapshot(row(), row()), "duplicate"),
        (snapshot(row(price="1"), row(price="1.00", quantity="0")), "duplicate"),
        (snapshot(BID, top=',"market":"ETH-USD"'), "market"),
        (snapshot(BID)[:-1], "json"),
        (snapshot(BID)[:40], "json"),
        (b"", "json"),
        (snapshot(BID).replace(b"99.5", b"\xff"), "json"),
        (b'{"extra":' + b"[" * 100_000, "json"),
        (b"[]", "shape"),
        (b'{"resultType":"publicOrderBook"}', "shape"),
        (b'{"resultType":"publicOrderBook","data":{"orders":{}}}', "shape"),
        (snapshot('{"orderType":"buy","price":1,"quantity":"1"}'), "shape"),
        (snapshot('{"orderType":"buy","price":"1"}'), "shape"),
        (snapshot('{"orderType":"hold","price":"1"}'), "shape"),
        (snapshot(row("hold")), "side"),
        (snapshot(row("Buy")), "side"),
        (snapshot(row(quantity="-1")), "number"),
        (snapshot(row(price="-1")), "number"),
        (snapshot(row(price="1" * 1_000_000)), "number"),
        (b'{"resultType":"publicOrderBook","data":{"statusCode":404,"body":"no"}}', "status"),
        (snapshot(BID, data=',"statusCode":400'), "status"),
    ],
)
def test_a_snapshot_that_cannot_be_believed_is_refused(payload: bytes, reason: str) -> None:
    """Each kind of bad snapshot has its reason."""
    assert read_book(payload, MARKET) == Broken(reason)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (delta(BID)[:-3], "json"),
        (delta(BID).replace(b"99.5", b"\xff"), "json"),
        (b'"text"', "shape"),
        (b'{"data":[]}', "shape"),
        (delta('{"orderType":"buy"}'), "shape"),
        (delta(row("hold")), "side"),
        *(
            (delta(BID, row(quantity=text)), "number")
            for text in ("NaN", "1e400", "0x1", " 1", "+1", "-0", "")
        ),
        *((delta(BID, row(price=text)), "number") for text in ("NaN", "1e400", "0x1", " 1", "+1", "-0", "")),
    ],
)
def test_a_delta_that_cannot_be_used_is_refused(payload: bytes, reason: str) -> None:
    """Each kind of bad delta has its reason."""
    assert read_levels(payload) == Broken(reason)


def test_more_levels_than_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message of more levels than any book is not read."""
    monkeypatch.setattr(levels_module, "LEVELS_MOST", 1)
    assert read_book(snapshot(BID, ASK), MARKET) == Broken("levels")
    assert read_levels(delta(BID, ASK)) == Broken("levels")
    assert read_run([delta(BID), delta(ASK)]) is None


def test_fifty_thousand_levels_make_the_round_trip() -> None:
    """A very large snapshot is read and written without loss."""
    rows = [row("buy", f"{price / 100:.2f}", "1.50") for price in range(25_000, 0, -1)]
    rows += [row("sell", f"{price / 100:.2f}", "0.25") for price in range(25_001, 50_001)]
    payload = snapshot(*rows, data=',"statusCode":200')
    reply = read_book(payload, MARKET)
    assert isinstance(reply, BookReply)
    assert write_book(Book(reply.levels), MARKET).replace(b',"market":"BTC-USD"', b"") == payload


def test_a_book_is_written_in_the_shape_of_the_exchange() -> None:
    """Bids descend, asks ascend, strings are as received, ``ts`` is there where it is known."""
    book = Book(levels_of(Level("sell", "100", "2"), Level("buy", "9", "1"), Level("buy", "99.5", "1.0")))
    body = f'"orders":[{BID},{row("buy", "9")},{ASK}],"statusCode":200'
    head = '{"resultType":"publicOrderBook","market":"BTC-USD","data":{'
    assert write_book(book, MARKET) == f"{head}{body}}}}}".encode()
    assert write_book(book, MARKET, ts=5) == f'{head}{body},"ts":5}}}}'.encode()


PRICES = st.decimals(1, 999, places=2).map(str)
QUANTITIES = st.decimals("0.001", 99, places=3).map(str)


@given(st.lists(st.tuples(PRICES, QUANTITIES), min_size=1), st.lists(st.tuples(PRICES, QUANTITIES)))
def test_what_is_written_is_read_again(bids: list[tuple[str, str]], asks: list[tuple[str, str]]) -> None:
    """The round trip keeps every level and its strings."""
    book = Book(
        levels_of(
            *(Level("buy", *level) for level in bids),
            *(Level("sell", "1" + price.zfill(6), quantity) for price, quantity in asks),
        )
    )
    reply = read_book(write_book(book, MARKET, ts=1), MARKET)
    assert isinstance(reply, BookReply)
    again = Book(reply.levels)
    assert again.levels() == book.levels()


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 60))
def test_hostile_bytes_never_raise(noise: bytes, start: int, cut: int) -> None:
    """Noise anywhere in a message gives levels or a reason, never an exception."""
    for payload in (delta(BID, ASK), snapshot(BID, ASK, data=',"statusCode":200')):
        spoiled = payload[:start] + noise + payload[start + cut :]
        assert isinstance(read_levels(spoiled), dict | Broken)
        assert isinstance(read_book(spoiled, MARKET), BookReply | Broken)


def test_the_request_names_the_market_where_it_must() -> None:
    """Over all markets the request says which; otherwise only its id goes along."""
    assert emit_book("r1", None) == '{"message":"emitPublicOrderBook","content":{"clientRequestId":"r1"}}'
    assert emit_book("r1", MARKET) == (
        '{"message":"emitPublicOrderBook","content":{"clientRequestId":"r1","market":"BTC-USD"}}'
    )
