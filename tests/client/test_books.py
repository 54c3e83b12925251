"""The books of a consumer."""

import json
import threading
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.client import books as module
from feedhandler.client.books import Book, Books, Level
from feedhandler.client.core import Event, Gap, Next, Record, Refused, Skipped, Snapshot, Subscribed

BOOK = "BTC-USD/publicOrderBook"
Rows = list[tuple[str, str, str]]


def message(kind: str, rows: Rows, **more: Any) -> msgspec.Raw:
    """Write a message of the exchange."""
    orders = [{"orderType": side, "price": price, "quantity": quantity} for side, price, quantity in rows]
    data = {"orders": orders, "statusCode": 200, **more}
    return msgspec.Raw(json.dumps({"resultType": kind, "market": "BTC-USD", "data": data}).encode())


def delta(seq: int, *rows: tuple[str, str, str], event_class: str = "") -> Event:
    """Make an event of a book."""
    return Event(BOOK, seq, "a", 7, message("publicOrderBookDelta", list(rows), ts=5), event_class)


def image(seq: int, *rows: tuple[str, str, str], reason: str = "join") -> Snapshot:
    """Make a snapshot of a book."""
    return Snapshot(BOOK, seq, reason, message("publicOrderBook", list(rows)))


def followed(*records: Record) -> Book:
    """Return the book after some records."""
    books = Books()
    for record in records:
        books.follow(record)
    return books[BOOK]


START = image(4, ("buy", "99", "1"), ("sell", "101.0", "2"), ("buy", "100.0", "3"), ("sell", "102", "0.0"))


def test_a_book_is_there_from_the_confirmation_on() -> None:
    """Before its first snapshot it is empty and says so; other channels have none."""
    books = Books()
    books.follow(Subscribed({BOOK: Next(5), "BTC-USD/publicTrades": Next(1)}))
    assert dict(books) == {BOOK: Book(BOOK, 0, synchronised=False, bids=(), asks=())}
    books.follow(delta(5, ("buy", "1", "1")))
    assert len(books) == 1
    assert not books[BOOK].synchronised
    with pytest.raises(KeyError):
        books["BTC-USD/publicTrades"]


def test_a_snapshot_replaces_and_events_change() -> None:
    """(5) Sides are sorted by number, strings stay as sent, and a zero of any spelling deletes."""
    old = image(1, ("buy", "1", "1"), ("sell", "9", "9"))
    changes = delta(
        5, ("buy", "100.00", "7.50"), ("buy", "99.0", "0.000"), ("sell", "99999", "1"), ("buy", "9", "4")
    )
    assert followed(old, START, changes) == Book(
        BOOK,
        5,
        synchronised=True,
        bids=(Level("100.00", "7.50"), Level("9", "4")),
        asks=(Level("101.0", "2"), Level("99999", "1")),
    )
    assert followed(START, delta(5, ("sell", "101", "0E-8"))).asks == ()
    assert followed(START, delta(5, ("sell", "101", "10e0"))).asks == (Level("101", "10e0"),)


@pytest.mark.parametrize(
    "loss",
    [
        Gap(BOOK, 5, "outage", 1, 2),
        Refused(BOOK, "too_old", 9, 10),
        Skipped(BOOK, 5, 8),
        delta(5, ("buy", "98", "1"), event_class="late"),
        delta(5, ("buy", "NaN", "1")),
        delta(5, ("buy", "98", "-1")),
        delta(5, ("buy", " 98", "1")),
        delta(5, ("buy", "9" * 31, "1")),
        delta(5, ("middle", "98", "1")),
        Event(BOOK, 5, "a", 7, msgspec.Raw(b"{}")),
        Event(BOOK, 5, "a", 7, msgspec.Raw(b'{"resultType":"publicOrderBookDelta"}')),
        Event(BOOK, 5, "a", 7, msgspec.Raw(b"[" * 100_000)),
        Event(BOOK, 5, "a", 7, msgspec.Raw(b'{"resultType":"\xff"}')),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_book_that_missed_something_says_so_until_the_next_snapshot(loss: Record) -> None:
    """(4, 5, 13) It stays as it was, takes no more changes, and is right again with a snapshot."""
    before = followed(START)
    assert followed(START, loss, delta(9, ("buy", "55", "1"))) == before._replace(synchronised=False)
    again = image(20, ("sell", "7", "1"), reason="gap")
    assert followed(START, loss, again, delta(21)) == Book(
        BOOK, 21, synchronised=True, bids=(), asks=(Level("7", "1"),)
    )


def test_a_snapshot_that_cannot_be_read_leaves_no_book() -> None:
    """What is not known to be right is not shown as the old book."""
    broken = Snapshot(BOOK, 9, "gap", msgspec.Raw(b'{"resultType":"publicOrderBook","data":{"orders":[7]}}'))
    assert followed(START, broken) == Book(BOOK, 4, synchronised=False, bids=(), asks=())


def test_a_book_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """(8) One level too many empties the book until a snapshot fits."""
    monkeypatch.setattr(module, "LEVELS", 4)
    fits = delta(5, ("buy", "1", "1"))
    assert len(followed(START, fits).bids) == 3
    assert followed(START, fits, delta(6, ("buy", "2", "1"))) == Book(
        BOOK, 6, synchronised=False, bids=(), asks=()
    )


def test_a_book_that_was_read_does_not_change() -> None:
    """What was given is a value, made once for each state of the book."""
    books = Books()
    books.follow(START)
    first = books[BOOK]
    assert books[BOOK] is first
    books.follow(delta(5, ("buy", "100", "0")))
    assert first.bids[0] == Level("100.0", "3")
    assert books[BOOK].bids[0] == Level("99", "1")


numbers = st.sampled_from(
    ["0", "0.00", "1", "1.0", "01.00", "2.5", "2.50", "1e1", "10", "0e5", "0.05", "100"]
)
sides = st.sampled_from(["buy", "sell"])
rows = st.lists(st.tuples(sides, numbers, numbers), max_size=6)


@given(steps=st.lists(st.tuples(st.booleans(), rows), max_size=12))
def test_a_book_equals_a_plain_reference(steps: list[tuple[bool, Rows]]) -> None:
    """(5) Whatever the changes and snapshots, the numbers are those of a plain model."""
    books = Books()
    books.follow(image(0))
    model: dict[tuple[str, Decimal], Decimal] = {}
    for seq, (replaced, changes) in enumerate(steps, 1):
        books.follow(image(seq, *changes) if replaced else delta(seq, *changes))
        if replaced:
            model.clear()
        for side, price, quantity in changes:
            model[side, Decimal(price)] = Decimal(quantity)
        book = books[BOOK]
        assert (book.seq, book.synchronised) == (seq, True)
        assert list(read(book.bids)) == sorted(level(model, "buy"), reverse=True)
        assert list(read(book.asks)) == sorted(level(model, "sell"))


def read(levels: tuple[Level, ...]) -> Iterator[tuple[Decimal, Decimal]]:
    """Return levels as numbers."""
    return ((Decimal(level.price), Decimal(level.quantity)) for level in levels)


def level(model: dict[tuple[str, Decimal], Decimal], wanted: str) -> Iterator[tuple[Decimal, Decimal]]:
    """Return a side of the model, without the empty levels."""
    return ((price, quantity) for (side, price), quantity in model.items() if side == wanted and quantity)


def test_other_threads_may_look_at_any_time() -> None:
    """A book that is read while it changes is the one before or the one after, never something between."""
    books = Books()
    books.follow(image(0))
    ended = threading.Event()
    torn: list[Book] = []

    def look() -> None:
        while not ended.is_set():
            book = books[BOOK]
            if book.synchronised and len(book.bids) != len(book.asks):
                torn.append(book)

    thread = threading.Thread(target=look)
    thread.start()
    for seq in range(1, 2001):
        price = str(1 + seq % 50)
        books.follow(delta(seq, ("buy", price, str(seq % 3)), ("sell", price, str(seq % 3))))
    ended.set()
    thread.join()
    assert torn == []
    assert books[BOOK].seq == 2000
