"""Price levels: what deltas and snapshots say of a book, checked and keyed.

**One price is one level, however it is spelled**: `1.0` and `1.00` are the same, and both strings are kept as the
exchange sent them. So levels are held in a mapping from a *key*, made of the side and the normalised price, to the
level as received. A later level of the same key replaces the earlier one; that is what absolute quantities mean.

A key sorts as its price does: the side's letter, one character for the count of digits before the point, the digits
without superfluous zeros. `a` (ask) sorts before `b` (bid), so that of all keys of a book the least is the lowest ask
and the greatest the highest bid, and no number is ever parsed for it.

Numbers are plain decimals of at most `DIGITS` digits on either side of the point. A sign, white space, `NaN`, another
base or more digits make the whole message broken, since half a delta is a wrong book. An exponent is understood.

**Many levels are checked as one.** Their quantities are joined by commas and matched once, which costs a third of a
match for each. Only where that fails are they looked at one by one. Prices recur, so each spelling's key is remembered.
"""

import re
from collections.abc import Collection
from decimal import Decimal
from itertools import islice
from operator import attrgetter
from typing import Literal

import msgspec

DIGITS = 30
"""The most digits of a number before the point, and after it; a number with more is refused."""

LEVELS_MOST = 200_000
"""The most levels of one message; what has more is refused."""

PRICES_KEPT = 65_536
"""Keys remembered for each side, over all books."""

PRICES_FORGOTTEN = 1_024
"""With so many keys the first ones are forgotten, so many at a time: to clear them all would be felt."""

MANY = 8
"""From so many levels on their quantities are checked as one."""

ZEROS = frozenset({"0"} | {"0." + "0" * digits for digits in range(1, DIGITS + 1)})
"""The usual spellings of the quantity that removes a level; `keyed` puts "0" in the place of any other."""

BUY = "buy"
Side = Literal["buy", "sell"]


class Level(msgspec.Struct, frozen=True, gc=False):
    """One level as received: ``quantity`` is the new total at ``price``, zero for none.

    It is decoded straight from messages, hence the exchange's name for the side.
    """

    side: Side = msgspec.field(name="orderType")
    price: str
    quantity: str


Levels = dict[str, Level]
"""Levels by their keys, those with a quantity of zero included; only `keyed` makes them."""


class Broken(msgspec.Struct, frozen=True, gc=False):
    """A message that can't be used for a book; ``reason`` is a word of a closed set, never text from outside."""

    reason: str


class _NotANumber(ValueError):
    """Not a plain decimal; caught in this module."""


_USUAL = rf"(?:0|[1-9][0-9]{{0,{DIGITS - 1}}}+)(?:\.[0-9]{{1,{DIGITS}}}+)?+"
"""A number as nearly all are spelled; as a quantity it is zero only where it is one of `ZEROS`."""

_quantity = attrgetter("quantity")
_usual = re.compile(_USUAL).fullmatch
_all_usual = re.compile(rf"{_USUAL}(?:,{_USUAL})*+").fullmatch
_plain = re.compile(rf"[0-9]{{1,{DIGITS}}}(?:\.[0-9]{{1,{DIGITS}}})?").fullmatch
_scientific = re.compile(rf"[0-9]{{1,{DIGITS}}}(?:\.[0-9]{{1,{DIGITS}}})?[eE][+-]?[0-9]{{1,2}}").fullmatch


def keyed(rows: Collection[Level]) -> Levels | Broken:
    """Return the levels by their keys; of two of one key the last counts."""
    if len(rows) > LEVELS_MOST:
        return Broken("levels")
    try:
        if len(rows) < MANY or not _are_usual(rows):
            return _keyed_one_by_one(rows)
        return {_bid_keys[row.price] if row.side == BUY else _ask_keys[row.price]: row for row in rows}
    except _NotANumber:
        return Broken("number")


def is_zero(level: Level) -> bool:
    """Tell whether a keyed level removes its price from the book."""
    return level.quantity in ZEROS


def present(levels: Levels) -> Levels:
    """Return the levels that hold anything, in a mapping of their own; a snapshot's mostly all do."""
    if ZEROS.isdisjoint(map(_quantity, levels.values())):
        return levels.copy()
    return {key: level for key, level in levels.items() if not is_zero(level)}


def normal(text: str) -> str:
    """Return the one spelling that all spellings of a number share; zero is empty.

    Only for numbers of levels that `keyed` let pass.

    >>> [normal(text) for text in ("1.50", "01.5", "15e-1", "0.00")]
    ['1.5', '1.5', '1.5', '']
    """
    if not _plain(text):
        text = _expanded(text)
    return text.strip("0").rstrip(".") if "." in text else text.lstrip("0")


def crossed(keys: Collection[str]) -> bool:
    """Tell whether the highest bid reaches the lowest ask, which a matched market never shows."""
    if not keys:
        return False
    lowest, highest = min(keys), max(keys)
    return lowest[0] == "a" and highest[0] == "b" and lowest[1:] <= highest[1:]


class _Keys(dict[str, str]):
    """The keys of one side by their prices as spelled, each made when it is asked for first."""

    def __init__(self, side: str) -> None:
        super().__init__()
        self._side = side

    def __missing__(self, price: str) -> str:
        key = self._side + _sortable(price)
        if len(self) >= PRICES_KEPT:
            for first in list(islice(self, PRICES_FORGOTTEN)):
                del self[first]
        self[price] = key
        return key


_bid_keys = _Keys("b")
_ask_keys = _Keys("a")


def _sortable(price: str) -> str:
    """Return the normalised price behind a character that grows with the count of digits before the point."""
    number = normal(price)
    return chr(ord("0") + len(number.partition(".")[0])) + number


def _are_usual(rows: Collection[Level]) -> bool:
    """Tell whether all quantities are spelled as nearly all are; a comma within one would look like two."""
    joined = ",".join([row.quantity for row in rows])
    return joined.count(",") == len(rows) - 1 and _all_usual(joined) is not None


def _keyed_one_by_one(rows: Collection[Level]) -> Levels:
    levels: Levels = {}
    for row in rows:
        quantity = row.quantity
        if quantity not in ZEROS and not _usual(quantity):
            row = _respelled(row)  # noqa: PLW2901 - a rare spelling, checked, takes the row's place
        levels[_bid_keys[row.price] if row.side == BUY else _ask_keys[row.price]] = row
    return levels


def _respelled(row: Level) -> Level:
    """Check a quantity that is spelled in no usual way; a zero gets a spelling that `is_zero` knows."""
    return row if normal(row.quantity) else Level(row.side, row.price, "0")


def _expanded(text: str) -> str:
    """Return a number with an exponent as a plain decimal."""
    if _scientific(text):
        number = format(Decimal(text), "f")
        if _plain(number):
            return number
    raise _NotANumber
