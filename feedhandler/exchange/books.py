"""Book messages of this exchange: deltas and snapshots read, snapshots written (exchange-api.md, 6.1).

Both hold one list of levels, sides mixed, numbers as strings. In a delta a level may come twice and the last counts;
in a snapshot that is a contradiction, and so is one for another market: each is `Broken`, since a snapshot *replaces*,
and a wrong one would be believed. A book without levels, or one whose bid reaches its ask, is doubtful.

| reason | the message |
| --- | --- |
| ``json`` | is cut short, or not JSON in UTF-8 |
| ``shape`` | lacks what a book message holds, or holds it in other types |
| ``status`` | says that the request failed |
| ``market`` | is for another market, or for none where one must be named |
| ``side`` | has a level that is neither ``buy`` nor ``sell`` |
| ``number`` | has a price or quantity that is no plain decimal, is signed, or is too long |
| ``levels`` | has more levels than any book |
| ``duplicate`` | (snapshots only) names a level twice |

``ts`` and ``market`` of a snapshot may be there or not; where they are of a type that nobody expects they count as not
there.
"""

from collections.abc import Sequence

import msgspec

from feedhandler.core.book import Book
from feedhandler.core.levels import Broken, Level, Levels, crossed, keyed, present
from feedhandler.exchange.messages import FAILED
from feedhandler.exchange.requests import ALL


class BookReply(msgspec.Struct, frozen=True, gc=False):
    """A snapshot: ``levels`` without zeros; ``ts`` (ms) None where the reply has none."""

    market: str
    ts: int | None
    levels: Levels


class _Orders(msgspec.Struct, gc=False):
    orders: list[Level]


class _Delta(msgspec.Struct, gc=False):
    data: _Orders


class _Row(msgspec.Struct, gc=False):
    """A level whose side may be any word."""

    side: str = msgspec.field(name="orderType")
    price: str
    quantity: str


class _Rows(msgspec.Struct, gc=False):
    orders: list[_Row]


class _Loose(msgspec.Struct, gc=False):
    data: _Rows


class _SnapshotData(msgspec.Struct, gc=False):
    orders: list[Level] | None = None
    status: object = msgspec.field(name="statusCode", default=200)
    ts: object = None


class _Snapshot(msgspec.Struct, gc=False):
    data: _SnapshotData
    market: object = ""


class _Written(msgspec.Struct, gc=False, omit_defaults=True):
    orders: list[Level]
    status: int = msgspec.field(name="statusCode")
    ts: int | None = None


class _Message(msgspec.Struct, gc=False):
    kind: str = msgspec.field(name="resultType")
    market: str
    data: _Written


_delta = msgspec.json.Decoder(_Delta).decode
_loose = msgspec.json.Decoder(_Loose).decode
_snapshot = msgspec.json.Decoder(_Snapshot).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_levels(payload: bytes) -> Levels | Broken:
    """Read a delta."""
    try:
        rows = _delta(payload).data.orders
    except _UNREADABLE as error:
        return _explain(payload, error)
    return keyed(rows)


def read_run(payloads: Sequence[bytes]) -> Levels | None:
    """Read deltas as if they were one; None where each has to be read by itself, since one may be broken."""
    rows: list[Level] = []
    try:
        for payload in payloads:
            rows += _delta(payload).data.orders
    except _UNREADABLE:
        return None
    levels = keyed(rows)
    return None if isinstance(levels, Broken) else levels


def read_book(payload: bytes, market: str) -> BookReply | Broken:
    """Read a snapshot that was asked for ``market``; with ``ALL`` it is for whichever market it names."""
    try:
        reply = _snapshot(payload)
    except _UNREADABLE as error:
        return _explain(payload, error)
    rows = reply.data.orders
    if rows is None or has_failed(reply.data.status):
        return Broken("status" if has_failed(reply.data.status) else "shape")
    named = market_of(reply.market, market)
    if named is None:
        return Broken("market")
    levels = _whole(rows)
    if isinstance(levels, Broken):
        return levels
    ts = reply.data.ts
    return BookReply(
        market=named,
        ts=ts if isinstance(ts, int) and not isinstance(ts, bool) else None,
        levels=levels,
    )


def write_book(book: Book, market: str, ts: int | None = None) -> bytes:
    """Return a book as the exchange's snapshot message: bids descending, asks ascending, strings as received."""
    data = _Written(orders=book.levels(), status=200, ts=ts)
    return msgspec.json.encode(_Message(kind="publicOrderBook", market=market, data=data))


def has_failed(status: object) -> bool:
    """Tell whether a reply's ``statusCode`` says that its request failed."""
    return isinstance(status, int) and status >= FAILED


class _Named(msgspec.Struct, gc=False):
    market: object = ""


class _Status(msgspec.Struct, gc=False):
    status: object = msgspec.field(name="statusCode", default=200)


class _Answer(msgspec.Struct, gc=False):
    data: _Status


_named = msgspec.json.Decoder(_Named).decode
_answer = msgspec.json.Decoder(_Answer).decode


def market_of_reply(payload: bytes) -> str:
    """Return the market that a reply names, "" for none."""
    try:
        market = _named(payload).market
    except _UNREADABLE:
        return ""
    return market if isinstance(market, str) else ""


def is_refusal(payload: bytes) -> bool:
    """Tell whether a reply says that its request failed."""
    try:
        return has_failed(_answer(payload).data.status)
    except _UNREADABLE:
        return False


def market_of(named: object, expected: str) -> str | None:
    """Return the market that a reply is for, given what it names; None where that is not the expected one."""
    market = named if isinstance(named, str) and named else expected
    return market if market != ALL and expected in {ALL, market} else None


def doubt(levels: Levels) -> str:
    """Return what is odd about a book, "" for nothing: it is ``empty``, or ``crossed``."""
    if not levels:
        return "empty"
    return "crossed" if crossed(levels) else ""


def _whole(rows: list[Level]) -> Levels | Broken:
    """Return the levels of a snapshot that can be believed."""
    levels = keyed(rows)
    if isinstance(levels, Broken):
        return levels
    if len(levels) < len(rows):
        return Broken("duplicate")
    return present(levels)


def _explain(payload: bytes, error: Exception) -> Broken:
    """Name what is wrong with a message that does not fit its type."""
    if not isinstance(error, msgspec.ValidationError):
        return Broken("json")
    try:
        _loose(payload)
    except _UNREADABLE:
        return Broken("shape")
    return Broken("side")
