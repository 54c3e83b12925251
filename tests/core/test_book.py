"""The book of one market against a naive one of decimals."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core import book as book_module
from feedhandler.core.book import Best, Book, Difference
from feedhandler.core.levels import Level, Levels, keyed

PRICES = st.sampled_from(["1", "1.0", "01", "2", "2.5", "2.50", "25e-1", "9.99", "10", "10.01", "100"])
QUANTITIES = st.sampled_from(["0", "0.0", "0E-8", "1", "1.0", "1.00", "2", "0.5", "5e-1", "3"])
ROWS = st.builds(Level, st.sampled_from(["buy", "sell"]), PRICES, QUANTITIES)
MESSAGES = st.lists(ROWS, max_size=12)

Naive = dict[tuple[str, Decimal], Decimal]


def levels_of(*rows: Level) -> Levels:
    """Key levels that are known to be good."""
    levels = keyed(rows)
    assert isinstance(levels, dict)
    return levels


def naive_apply(book: Naive, rows: list[Level]) -> None:
    """Do what a delta means, the slow way."""
    for row in rows:
        key = row.side, Decimal(row.price)
        book[key] = Decimal(row.quantity)
        if not book[key]:
            del book[key]


def naive(book: Book) -> Naive:
    """Return what a book holds as decimals."""
    return {(level.side, Decimal(level.price)): Decimal(level.quantity) for level in book.levels()}


@given(MESSAGES, st.lists(MESSAGES, max_size=8))
def test_a_snapshot_and_deltas_equal_a_naive_book(snapshot: list[Level], deltas: list[list[Level]]) -> None:
    """After every delta the book holds what a dict of decimals holds."""
    reference: Naive = {}
    naive_apply(reference, snapshot)
    book = Book(levels_of(*snapshot))
    for delta in deltas:
        book.apply(levels_of(*delta))
        naive_apply(reference, delta)
        assert naive(book) == reference
        assert len(book) == len(reference)


@given(MESSAGES, MESSAGES)
def test_books_differ_where_their_decimals_do(one: list[Level], two: list[Level]) -> None:
    """Two books that are spelled differently are the same where the numbers are."""
    mine, theirs = Book(levels_of(*one)), Book(levels_of(*two))
    ours, others = naive(mine), naive(theirs)
    assert (mine.difference(theirs) == []) == (ours == others)
    assert len(mine.differing(theirs)) == sum(ours.get(key) != others.get(key) for key in {*ours, *others})


def test_levels_come_best_first_with_their_strings() -> None:
    """Bids descend, asks ascend, by number and not by text; strings are as sent."""
    book = Book(
        levels_of(
            Level("sell", "10.50", "1"),
            Level("buy", "9.0", "2.00"),
            Level("sell", "9.5", "3"),
            Level("buy", "10.00e-1", "4"),
            Level("sell", "100", "5"),
        )
    )
    assert [level.price for level in book.levels()] == ["9.0", "10.00e-1", "9.5", "10.50", "100"]
    assert book.best() == Best(Level("buy", "9.0", "2.00"), Level("sell", "9.5", "3"))
    assert book.top(2) == (book.levels()[:2], book.levels()[2:4])
    assert repr(book) == "<Book 2.00 @ 9.0 / 3 @ 9.5, 5 levels>"


def test_a_side_without_levels_has_no_best() -> None:
    """An empty side, or an empty book, has no best level and is not crossed."""
    asks_only = Book(levels_of(Level("sell", "1", "1")))
    assert asks_only.best() == Best(None, Level("sell", "1", "1"))
    assert asks_only.top(5) == ([], asks_only.levels())
    assert Book().best() == Best(None, None)
    assert repr(Book()) == "<Book - / -, 0 levels>"
    assert not asks_only.crossed


def test_a_delta_can_cross_a_book() -> None:
    """A ghost level shows as a crossed book."""
    book = Book(levels_of(Level("buy", "1", "1"), Level("sell", "2", "1")))
    assert not book.crossed
    book.apply(levels_of(Level("buy", "3", "1")))
    assert book.crossed


def test_a_snapshot_replaces() -> None:
    """Nothing of the earlier book is left."""
    book = Book(levels_of(Level("buy", "1", "1")))
    book.replace(levels_of(Level("buy", "2", "1"), Level("sell", "3", "0.0")))
    assert book.levels() == [Level("buy", "2", "1")]


def test_a_copy_goes_its_own_way() -> None:
    """What happens to a copy does not happen to the book."""
    book = Book(levels_of(Level("buy", "1", "1")))
    twin = book.copy()
    twin.apply(levels_of(Level("buy", "1", "0"), Level("sell", "2", "1")))
    assert book.levels() == [Level("buy", "1", "1")]
    assert twin.levels() == [Level("sell", "2", "1")]


def test_differences_are_named_in_order_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison names missing, additional and other levels, those that it was asked for, up to its bound."""
    mine = Book(levels_of(Level("buy", "1", "1"), Level("sell", "3", "5"), Level("sell", "4", "1.0")))
    theirs = Book(levels_of(Level("buy", "2", "2"), Level("sell", "3.0", "6"), Level("sell", "4", "1")))
    expected = [
        Difference("sell", "3", "5", "6"),
        Difference("buy", "1", "1", ""),
        Difference("buy", "2", "", "2"),
    ]
    assert mine.difference(theirs) == expected
    assert mine.difference(theirs, {*mine.differing(Book())}) == [
        expected[0],
        Difference("sell", "4", "1.0", "1"),
        expected[1],
    ]
    monkeypatch.setattr(book_module, "DIFFERENCES_MOST", 2)
    assert mine.difference(theirs) == expected[:2]
