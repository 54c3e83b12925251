"""Public trades row by row: identities, order, and the event around one row."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core.levels import Broken
from feedhandler.core.messages import Event
from feedhandler.exchange import trades as module
from feedhandler.exchange.messages import Dialect
from feedhandler.exchange.requests import emit_trades
from feedhandler.exchange.trades import RowKey, TradeRow, TradesReply, backfill_event, read_trades

MARKET = "BTC-USD"


def row(match: str, time_ms: int | None = 1, *, execution: str = "taker", side: str = "buy") -> str:
    """Put a row together."""
    stamp = "" if time_ms is None else f',"updatedAt":{time_ms}'
    return (
        f'{{"executionType":"{execution}","matchId":"{match}","orderType":"{side}",'
        f'"price":"1.0","quantity":"2.0"{stamp}}}'
    )


def reply(*rows: str, top: str = "", data: str = "") -> bytes:
    """Put a snapshot together, with more keys at the top or in the data."""
    return (
        f'{{"resultType":"publicCompletedOrders"{top},"data":{{"orders":[{",".join(rows)}],"statusCode":200{data}}}}}'
    ).encode()


def test_rows_are_kept_as_received() -> None:
    """A row has its bytes, its identity and its time; the reply its market and its direction."""
    odd = '{ "matchId":"m2", "extra":{"a":[1.50]}, "executionType":"maker","orderType":"sell","updatedAt":2}'
    payload = reply(row("m1", 1), odd, top=',"market":"BTC-USD"', data=',"clientRequestId":"r1"')
    assert read_trades(payload, MARKET) == TradesReply(
        market=MARKET,
        rows=[
            TradeRow(row("m1", 1).encode(), RowKey("m1", "taker", "buy"), 1),
            TradeRow(odd.encode(), RowKey("m2", "maker", "sell"), 2),
        ],
        newest_first=False,
    )


def test_a_market_without_recent_trades_has_an_empty_snapshot() -> None:
    """No rows is an answer."""
    assert read_trades(reply(data=',"clientRequestId":7'), MARKET) == TradesReply(MARKET, [], None)


@pytest.mark.parametrize(
    ("times", "newest_first"),
    [
        ("123", False),
        ("321", True),
        ("1122", False),
        ("2211", True),
        ("2134", False),
        ("4231", True),
        ("3-1", True),
        ("1-3", False),
        ("132", False),
        ("312", True),
        ("11", None),
        ("--", None),
        ("121", None),
        ("", None),
    ],
)
def test_times_tell_which_way_a_list_runs(times: str, newest_first: bool | None) -> None:
    """Most steps decide, else the ends; where neither does, nothing is guessed. The list's own order stays."""
    payload = reply(*(row(str(i), None if one == "-" else int(one)) for i, one in enumerate(times)))
    trades = read_trades(payload, MARKET)
    assert isinstance(trades, TradesReply)
    assert trades.newest_first is newest_first
    assert [one.key and one.key.match_id for one in trades.rows] == [str(i) for i in range(len(times))]


def test_rows_without_identity_are_kept_and_have_none() -> None:
    """A row that cannot be told from others is not backfilled, but it is there; a bad time is but a bad time."""
    bad = ['{"price":"1"}', row("", None), "7", '{"matchId":5}']
    trades = read_trades(reply(*bad, '{"matchId":"x","updatedAt":"now"}', row("good")), MARKET)
    assert isinstance(trades, TradesReply)
    keys = [RowKey("x", "", ""), RowKey("good", "taker", "buy")]
    assert [(one.key, one.time_ms) for one in trades.rows] == [
        *[(None, None)] * 4,
        (keys[0], None),
        (keys[1], 1),
    ]


def test_a_row_that_is_not_utf8_has_no_identity() -> None:
    """What is published is valid UTF-8, so such a row is of no use, also where the bad bytes are in an unknown key."""
    payload = reply(row("a"), row("b").replace('"price"', '"é":"é","price"')).replace(
        "é".encode(), b"\xff", 1
    )
    trades = read_trades(payload, MARKET)
    assert isinstance(trades, TradesReply)
    assert [one.key and one.key.match_id for one in trades.rows] == ["a", None]


def test_other_alphabets_stay() -> None:
    """A row in valid UTF-8 is kept byte for byte."""
    trades = read_trades(reply(row("größe")), MARKET)
    assert isinstance(trades, TradesReply)
    assert trades.rows[0].raw == row("größe").encode()


@pytest.mark.parametrize(
    ("payload", "market", "reason"),
    [
        (reply(row("a"))[:-4], MARKET, "json"),
        (b"", MARKET, "json"),
        (b"[]", MARKET, "shape"),
        (b'{"data":{"orders":7}}', MARKET, "shape"),
        (b'{"data":{"statusCode":200}}', MARKET, "shape"),
        (b'{"data":{"statusCode":429}}', MARKET, "status"),
        (reply(row("a")).replace(b"200", b"500"), MARKET, "status"),
        (reply(row("a"), top=',"market":"ETH-USD"'), MARKET, "market"),
        (reply(row("a")), "ALL", "market"),
    ],
)
def test_a_reply_that_is_of_no_use_is_refused(payload: bytes, market: str, reason: str) -> None:
    """Each kind of bad reply has its reason."""
    assert read_trades(payload, market) == Broken(reason)


def test_more_rows_than_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list beyond the bound is not read."""
    monkeypatch.setattr(module, "ROWS_MOST", 1)
    assert read_trades(reply(row("a"), row("b")), MARKET) == Broken("rows")


def test_an_event_is_built_around_a_row() -> None:
    """The envelope is the exchange's own, compact, with the row as received; the dialect takes it for a trade event."""
    event = backfill_event(row("m1", 5).encode(), 'B"T')
    assert (
        event
        == (
            '{"resultType":"publicCompletedOrdersDelta","market":"B\\"T",'
            f'"data":{{"orders":[{row("m1", 5)}],"statusCode":200}}}}'
        ).encode()
    )
    assert Dialect(MARKET).classify(event) == Event('B"T/publicTrades', event)
    assert Dialect(MARKET).identify(event).distinct


def test_an_event_is_one_line() -> None:
    """A snapshot with line breaks between its tokens gives rows without."""
    for line_break in (b"\n", b"\r", b"\r\n"):
        payload = msgspec.json.format(reply(row("m1", 5)), indent=2).replace(b"\n", line_break)
        trades = read_trades(payload, MARKET)
        assert isinstance(trades, TradesReply)
        assert trades.rows[0].raw == row("m1", 5).encode()


@given(st.binary(max_size=60), st.integers(0, 200), st.integers(0, 60))
def test_hostile_bytes_never_raise(noise: bytes, start: int, cut: int) -> None:
    """Noise anywhere in a reply gives rows or a reason, never an exception."""
    payload = reply(row("a"), row("b"))
    spoiled = payload[:start] + noise + payload[start + cut :]
    assert isinstance(read_trades(spoiled, MARKET), TradesReply | Broken)


def test_the_request_names_the_market_where_it_must() -> None:
    """Over all markets the request says which; otherwise only its id goes along."""
    assert emit_trades("r", None) == (
        '{"message":"emitPublicCompletedOrders","content":{"clientRequestId":"r"}}'
    )
    assert emit_trades("r", "X") == (
        '{"message":"emitPublicCompletedOrders","content":{"clientRequestId":"r","market":"X"}}'
    )
