"""Public trades of this exchange, row by row: what a snapshot holds and an outage did not bring (exchange-api.md, 6.2).

A trade row has an identity of its own, (`matchId`, `executionType`, `orderType`); by it the rows of a snapshot are told
from those that were released. A row is kept as received, byte for byte, and an event for it is built around it.

The order in which a snapshot lists its rows is documented nowhere. They are brought into the order of time, oldest
first. Rows of one time keep the order in which they happened: that of the list, or its reverse where times fall more
often than they rise from row to row. A list with a row without a time can't be sorted and is at most turned round.

A row without `matchId`, or with other types, has no identity: it is left out and counted, the others are of use still.
The reasons of `Broken` are those of `feedhandler.exchange.books`, with ``rows`` for a list that is too long.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from feedhandler.core.levels import Broken
from feedhandler.exchange.books import has_failed, market_of

ROWS_MOST = 200_000
"""The most rows of one snapshot; what has more is refused."""


class RowKey(NamedTuple):
    """What identifies a trade row."""

    match_id: str
    execution: str
    side: str


class TradeRow(msgspec.Struct, frozen=True, gc=False):
    """One row as received (one line, valid UTF-8), its identity and its time (ms), where it has one."""

    raw: bytes
    key: RowKey
    time_ms: int | None


class TradesReply(msgspec.Struct, frozen=True, gc=False):
    """A snapshot of recent trades, oldest first; ``unreadable`` rows had no identity and are not among them."""

    market: str
    request_id: str
    rows: list[TradeRow]
    unreadable: int


class _Row(msgspec.Struct, gc=False):
    match_id: str = msgspec.field(name="matchId")
    execution: str = msgspec.field(name="executionType", default="")
    side: str = msgspec.field(name="orderType", default="")
    updated: int | None = msgspec.field(name="updatedAt", default=None)


class _Data(msgspec.Struct, gc=False):
    orders: list[msgspec.Raw] | None = None
    status: object = msgspec.field(name="statusCode", default=200)
    request_id: object = msgspec.field(name="clientRequestId", default="")


class _Trades(msgspec.Struct, gc=False):
    data: _Data
    market: object = ""


class _Envelope(msgspec.Struct, gc=False):
    kind: str = msgspec.field(name="resultType")
    market: str
    data: "_EnvelopeData"


class _EnvelopeData(msgspec.Struct, gc=False):
    orders: list[msgspec.Raw]
    status: int = msgspec.field(name="statusCode")


_trades = msgspec.json.Decoder(_Trades).decode
_row = msgspec.json.Decoder(_Row).decode
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def read_trades(payload: bytes, market: str) -> TradesReply | Broken:
    """Read a snapshot that was asked for ``market``; with ``ALL`` it is for whichever market it names."""
    try:
        reply = _trades(payload)
    except _UNREADABLE as error:
        return Broken("shape" if isinstance(error, msgspec.ValidationError) else "json")
    raws, request_id = reply.data.orders, reply.data.request_id
    if raws is None or has_failed(reply.data.status):
        return Broken("status" if has_failed(reply.data.status) else "shape")
    named = market_of(reply.market, market)
    if named is None:
        return Broken("market")
    if len(raws) > ROWS_MOST:
        return Broken("rows")
    rows = [row for raw in raws if (row := _read_row(raw)) is not None]
    return TradesReply(
        market=named,
        request_id=request_id if isinstance(request_id, str) else "",
        rows=_oldest_first(rows),
        unreadable=len(raws) - len(rows),
    )


def row_keys(payload: bytes) -> list[RowKey]:
    """Return the identities of the rows of a trade event, in order; rows without one are left out."""
    try:
        raws = _trades(payload).data.orders
    except _UNREADABLE:
        return []
    return [row.key for raw in raws or () if (row := _read_row(raw)) is not None]


def backfill_event(row: bytes, market: str) -> bytes:
    """Return the event that the exchange would have sent for one row alone."""
    data = _EnvelopeData(orders=[msgspec.Raw(row)], status=200)
    return msgspec.json.encode(_Envelope(kind="publicCompletedOrdersDelta", market=market, data=data))


def _read_row(raw: msgspec.Raw) -> TradeRow | None:
    """Return a row, None where it has no identity."""
    text = bytes(raw)
    try:
        row = _row(text)
        if not text.isascii():
            text.decode()
        if b"\n" in text or b"\r" in text:
            text = msgspec.json.format(text, indent=-1)
    except _UNREADABLE:
        return None
    if not row.match_id:
        return None
    return TradeRow(text, RowKey(row.match_id, row.execution, row.side), row.updated)


def _oldest_first(rows: Sequence[TradeRow]) -> list[TradeRow]:
    times = [row.time_ms for row in rows if row.time_ms is not None]
    steps = [later - earlier for earlier, later in pairwise(times)]
    newest_first = sum(step < 0 for step in steps) > sum(step > 0 for step in steps)
    ordered = list(reversed(rows)) if newest_first else list(rows)
    if len(times) == len(rows):
        ordered.sort(key=lambda row: row.time_ms or 0)
    return ordered
