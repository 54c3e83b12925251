"""Public trades of this exchange, row by row: what a snapshot holds and an outage did not bring (exchange-api.md, 6.2).

A trade row has an identity of its own, (`matchId`, `executionType`, `orderType`); by it the rows of a snapshot are told
from those that were released. A row is kept as received, byte for byte, and an event for it is built around it.

The order in which a snapshot lists its rows is documented nowhere. It is that of the list, or its reverse where times
fall from row to row more often than they rise. Times need not be in order, so nothing is sorted by them; and where they
do not tell, the list says so (`TradesReply.newest_first`).

A row without `matchId`, or with other types, has no identity: it is kept, and proves nothing. The reasons of `Broken`
are those of `feedhandler.exchange.books`, with ``rows`` for a list that is too long.
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
    """One row as received (one line, valid UTF-8), its identity and its time (ms), where it has them."""

    raw: bytes
    key: RowKey | None
    time_ms: int | None


class TradesReply(msgspec.Struct, frozen=True, gc=False):
    """A message of trade rows, in the list's order; whether that is newest first, None where times do not tell."""

    market: str
    rows: list[TradeRow]
    newest_first: bool | None


class _Row(msgspec.Struct, gc=False):
    match_id: object = msgspec.field(name="matchId", default="")
    execution: object = msgspec.field(name="executionType", default="")
    side: object = msgspec.field(name="orderType", default="")
    updated: object = msgspec.field(name="updatedAt", default=None)


class _Data(msgspec.Struct, gc=False):
    orders: list[msgspec.Raw] | None = None
    status: object = msgspec.field(name="statusCode", default=200)


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
    raws = reply.data.orders
    if raws is None or has_failed(reply.data.status):
        return Broken("status" if has_failed(reply.data.status) else "shape")
    named = market_of(reply.market, market)
    if named is None:
        return Broken("market")
    if len(raws) > ROWS_MOST:
        return Broken("rows")
    rows = [_read_row(raw) for raw in raws]
    return TradesReply(market=named, rows=rows, newest_first=_is_newest_first(rows))


def backfill_event(row: bytes, market: str) -> bytes:
    """Return the event that the exchange would have sent for one row alone."""
    data = _EnvelopeData(orders=[msgspec.Raw(row)], status=200)
    return msgspec.json.encode(_Envelope(kind="publicCompletedOrdersDelta", market=market, data=data))


def _read_row(raw: msgspec.Raw) -> TradeRow:
    """Return a row; what cannot be told of it is None."""
    text = bytes(raw)
    if b"\n" in text or b"\r" in text:
        text = msgspec.json.format(text, indent=-1)
    try:
        text.decode()
        row = _row(text)
    except _UNREADABLE:
        return TradeRow(text, None, None)
    parts = (row.match_id, row.execution, row.side)
    match_id, execution, side = (part if isinstance(part, str) else None for part in parts)
    named = match_id and execution is not None and side is not None
    time_ms = row.updated if isinstance(row.updated, int) and not isinstance(row.updated, bool) else None
    return TradeRow(text, RowKey(match_id or "", execution or "", side or "") if named else None, time_ms)


def _is_newest_first(rows: Sequence[TradeRow]) -> bool | None:
    times = [row.time_ms for row in rows if row.time_ms is not None]
    steps = [later - earlier for earlier, later in pairwise(times)]
    tendency = sum(step < 0 for step in steps) - sum(step > 0 for step in steps) or (
        times[0] - times[-1] if times else 0
    )
    return tendency > 0 if tendency else None
