"""The book and the trades of one market, against a plain reference."""

import json

from hypothesis import given
from hypothesis import strategies as st

from feedhandler.simulator import market as module
from feedhandler.simulator.market import Market
from feedhandler.simulator.messages import BOOK, TRADES, Wording, trade_row
from feedhandler.simulator.settings import Behaviour

WORDING = Wording(Behaviour())
LEVELS = st.tuples(
    st.sampled_from(["buy", "sell"]),
    st.sampled_from(["1", "2", "3.5"]),
    st.sampled_from(["0", "0.00", "1", "0.5"]),
)
BOOKS = st.lists(LEVELS, max_size=6)


def reference(levels):
    """Return the book after these levels, by the plainest rule."""
    book = {}
    for side, price, quantity in levels:
        book[side, price] = quantity
        if float(quantity) == 0:
            del book[side, price]
    return book


def shown(market, now=0.0):
    """Return a market's book as a mapping."""
    return {(side, price): quantity for side, price, quantity in market.levels(now)}


@given(deltas=st.lists(BOOKS, max_size=8), target=BOOKS)
def test_the_book_follows_the_broadcasts(deltas, target):
    """Deltas are absolute, zero removes; what `replace` asks for leads to the wanted book."""
    market = Market("X", trade_rows=5)
    for levels in deltas:
        market.record(0, BOOK, WORDING.delta("X", levels, 1))
    assert shown(market) == reference([level for levels in deltas for level in levels])
    wanted = {(side, price): quantity for side, price, quantity in target if float(quantity)}
    difference = market.replace([(*key, quantity) for key, quantity in wanted.items()])
    market.record(0, BOOK, WORDING.delta("X", difference, 1))
    assert shown(market) == wanted
    assert market.replace(market.levels(0)) == []


def test_recent_trades_are_a_ring():
    """Only the most recent rows are kept, oldest first, byte for byte."""
    market = Market("X", trade_rows=3)
    rows = [trade_row("taker", str(number), ("buy", "1", "1"), 1) for number in range(5)]
    market.record(0, TRADES, WORDING.trades("X", rows[:2]))
    market.record(0, TRADES, WORDING.trades("X", rows[2:]))
    assert market.trade_rows(0) == rows[2:]


def test_a_lag_is_bounded(monkeypatch):
    """More than the bound never waits: the oldest payloads enter the book early."""
    monkeypatch.setattr(module, "UNFOLDED_MAX", 10)
    market = Market("X", trade_rows=3, lag_s=1000)
    for number in range(11):
        market.record(number, BOOK, WORDING.delta("X", [("buy", str(number), "1")], number))
    assert [price for _, price, _ in market.levels(11)] == ["0", "1", "2", "3", "4", "5"]


def test_what_no_book_can_use_is_passed_over():
    """Garbage that a test broadcasts changes no book."""
    market = Market("X", trade_rows=3)
    market.record(0, BOOK, b"garbage")
    market.record(0, TRADES, json.dumps({"data": 1}).encode())
    assert (market.levels(0), market.trade_rows(0)) == ([], [])
