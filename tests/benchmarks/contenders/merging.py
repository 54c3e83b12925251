"""The work of the asyncio contenders on each message: duplicates, book, record.

As fast as plain Python does it with the usual fast libraries: xxh3 for the hash, msgspec with types for the decoding,
one formatted record. A message is decoded only if it is new.
"""

import time
from collections import deque
from collections.abc import Callable

import msgspec
import xxhash

from tests.benchmarks.contenders.task import REMEMBERED

STREAMS = {"publicOrderBookDelta": "publicOrderBook", "publicCompletedOrdersDelta": "publicTrades"}
BOOK = "publicOrderBookDelta"

_hash = xxhash.xxh3_64_intdigest


class _Row(msgspec.Struct, gc=False):
    side: str = msgspec.field(name="orderType")
    price: str
    quantity: str


class _Data(msgspec.Struct, gc=False):
    orders: list[_Row]


class _Message(msgspec.Struct, gc=False):
    kind: str = msgspec.field(name="resultType")
    market: str
    data: _Data


_decode = msgspec.json.Decoder(_Message).decode


class Merge:
    """One market: takes the messages of its lines, gives records."""

    def __init__(self, market: str, write: Callable[[bytes], None]) -> None:
        self._market = market
        self._write = write
        self._seen: set[int] = set()
        self._order: deque[int] = deque()
        self._seqs = dict.fromkeys(STREAMS, 0)
        self._sides: dict[str, dict[str, str]] = {"buy": {}, "sell": {}}
        self._heads = {
            kind: b'{"type":"event","channel":"%b/%b","seq":' % (market.encode(), stream.encode())
            for kind, stream in STREAMS.items()
        }

    def take(self, line: bytes, payload: bytes) -> None:
        """Take one message of a line."""
        key = _hash(payload)
        if key in self._seen:
            return
        self._remember(key)
        message = _decode(payload)
        kind = message.kind
        if kind not in STREAMS:
            return
        if kind == BOOK:
            self._apply(message.data.orders)
        self._seqs[kind] = seq = self._seqs[kind] + 1
        record = b'%b%d,"line":"%b","recv":%d,"msg":%b}\n'
        self._write(record % (self._heads[kind], seq, line, time.time_ns(), payload))

    def _remember(self, key: int) -> None:
        self._seen.add(key)
        self._order.append(key)
        if len(self._order) > REMEMBERED:
            self._seen.discard(self._order.popleft())

    def _apply(self, rows: list[_Row]) -> None:
        sides = self._sides
        for row in rows:
            if row.quantity == "0":
                sides[row.side].pop(row.price, None)
            else:
                sides[row.side][row.price] = row.quantity
