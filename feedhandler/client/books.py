"""The books of a consumer: one of each book channel, kept from the records as they come.

A snapshot replaces a book; an event changes it, quantities are absolute and a zero, however it is written,
deletes its level. Prices are compared as numbers, two spellings of one price are one level, and both price
and quantity stay as the exchange sent them.

**A book is either right at its `seq` or says that it is not.** `gap`, `skipped` and `refused` leave it as it
was and no longer `synchronised`, until the next snapshot; so does a `late` event, whose place is before what
is in the book already (a snapshot follows), and a message that can't be read. Before the first
snapshot a book is empty and not synchronised. A channel that was resumed from a position of an earlier
process gets no snapshot of its own accord: who needs its book at once leaves it out of the position and
subscribes to it by its exact name.

What `books[channel]` gives is a value: it does not change when the book does, and other threads than the one
that reads may ask for it. A book has at most `LEVELS` levels; one that would get more is emptied and not
synchronised.
"""

import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from threading import Lock
from typing import Literal, NamedTuple

import msgspec

from feedhandler.client.core import Event, Gap, Record, Refused, Retired, Skipped, Snapshot, Subscribed

LEVELS = 200_000
PRICES_KEPT = 65_536  # numbers of prices remembered for all books; the least recently used ones go

_STREAM = "/publicOrderBook"
_number = re.compile(r"[0-9]{1,30}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,2})?", re.ASCII).fullmatch


class Level(NamedTuple):
    """A price and the quantity there, as the exchange wrote them."""

    price: str
    quantity: str


class Book(NamedTuple):
    """A book as it is after the record `seq`: bids descending, asks ascending."""

    channel: str
    seq: int
    synchronised: bool
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


class _Row(msgspec.Struct, frozen=True, gc=False):
    side: Literal["buy", "sell"] = msgspec.field(name="orderType")
    price: str
    quantity: str


class _Rows(msgspec.Struct, frozen=True):
    orders: list[_Row]


class _Image(msgspec.Struct, frozen=True, tag_field="resultType", tag="publicOrderBook"):
    data: _Rows


class _Delta(msgspec.Struct, frozen=True, tag_field="resultType", tag="publicOrderBookDelta"):
    data: _Rows


_images = msgspec.json.Decoder(_Image)
_deltas = msgspec.json.Decoder(_Delta)
_Changes = list[tuple[str, Decimal, Level]]


def _read(
    message: msgspec.Raw, decoder: msgspec.json.Decoder[_Image] | msgspec.json.Decoder[_Delta]
) -> _Changes | None:
    """Return the levels of a message, nothing where it can't be read."""
    try:
        rows = decoder.decode(message).data.orders
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    changes: _Changes = []
    for row in rows:
        price = _value(row.price)
        if price is None or not _number(row.quantity):
            return None
        changes.append((row.side, price, Level(row.price, row.quantity)))
    return changes


@lru_cache(maxsize=PRICES_KEPT)
def _value(price: str) -> Decimal | None:
    return Decimal(price) if _number(price) else None


def _is_zero(quantity: str) -> bool:
    """Tell whether a number is zero, however it is written.

    >>> [_is_zero(text) for text in ("0", "0.00", "0E-8", "0.01", "10", "1e2")]
    [True, True, True, False, False, False]
    """
    digits = quantity.strip("0.")
    return not digits or digits[0] in "eE"


class _Kept:
    """One book while it is kept."""

    def __init__(self, channel: str) -> None:
        self.seq = 0
        self.synchronised = False
        self._channel = channel
        self._sides: dict[str, dict[Decimal, Level]] = {"buy": {}, "sell": {}}
        self._value: Book | None = None

    def replace(self, record: Snapshot) -> None:
        changes = _read(record.msg, _images)
        self._clear()
        self._change(record.seq, changes)

    def apply(self, record: Event) -> None:
        if not self.synchronised:
            return
        if record.event_class:
            self.distrust()
        else:
            self._change(record.seq, _read(record.msg, _deltas))

    def distrust(self) -> None:
        self.synchronised = False
        self._value = None

    def value(self) -> Book:
        if self._value is None:
            bids, asks = self._sides["buy"], self._sides["sell"]
            self._value = Book(
                self._channel,
                self.seq,
                self.synchronised,
                tuple([bids[price] for price in sorted(bids, reverse=True)]),
                tuple([asks[price] for price in sorted(asks)]),
            )
        return self._value

    def _change(self, seq: int, changes: _Changes | None) -> None:
        if changes is None:
            self.distrust()
            return
        for side, price, level in changes:
            if _is_zero(level.quantity):
                self._sides[side].pop(price, None)
            else:
                self._sides[side][price] = level
        self.seq, self.synchronised, self._value = seq, True, None
        if sum(map(len, self._sides.values())) > LEVELS:
            self._clear()
            self.distrust()

    def _clear(self) -> None:
        for side in self._sides.values():
            side.clear()


class Books(Mapping[str, Book]):
    """The books by channel; those of a subscription are there from its confirmation on."""

    def __init__(self) -> None:
        self._kept: dict[str, _Kept] = {}
        self._lock = Lock()

    def __getitem__(self, channel: str) -> Book:
        with self._lock:
            return self._kept[channel].value()

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._kept))

    def __len__(self) -> int:
        return len(self._kept)

    def follow(self, record: Record) -> None:
        """Take the next record of the stream, whatever it is."""
        if isinstance(record, Event | Snapshot | Gap | Refused | Retired | Skipped):
            if record.channel.endswith(_STREAM):
                with self._lock:
                    self._follow(record)
        elif isinstance(record, Subscribed):
            with self._lock:
                for channel in record.channels:
                    if channel.endswith(_STREAM):
                        self._of(channel)

    def _follow(self, record: Event | Snapshot | Gap | Refused | Retired | Skipped) -> None:
        kept = self._of(record.channel)
        if isinstance(record, Event):
            kept.apply(record)
        elif isinstance(record, Snapshot):
            kept.replace(record)
        else:
            kept.distrust()

    def _of(self, channel: str) -> _Kept:
        if channel not in self._kept:
            self._kept[channel] = _Kept(channel)
        return self._kept[channel]
