"""One market: its book and its recent trades.

Both are folded from the very payloads that were broadcast, and only when somebody asks: broadcasting a
payload only puts it aside. So what a snapshot shows is what the truth says, by construction; and a snapshot
that lags is one for which less was folded.

Bounds: `UNFOLDED_MAX` payloads wait for folding; when more would wait the older half is folded early (which
shortens the lag of a snapshot, never the book's correctness). The recent trades are a ring.
"""

from collections import deque
from collections.abc import Iterable

import msgspec

from feedhandler.simulator.messages import BOOK, TRADES, Level, level_row

UNFOLDED_MAX = 65_536


class _Row(msgspec.Struct, gc=False, rename="camel"):
    order_type: str
    price: str
    quantity: str


class _Levels(msgspec.Struct):
    orders: list[_Row]
    ts: int = 0


class _Delta(msgspec.Struct):
    data: _Levels


class _Rows(msgspec.Struct):
    orders: list[msgspec.Raw]


class _Trades(msgspec.Struct):
    data: _Rows


_decode_delta = msgspec.json.Decoder(_Delta).decode
_decode_trades = msgspec.json.Decoder(_Trades).decode


class Market:
    """The book and the recent trades of one market."""

    def __init__(self, name: str, *, trade_rows: int, lag_s: float = 0.0) -> None:
        self.name = name
        self.events = 0
        self.ts = 0
        self._lag_s = lag_s
        self._levels: dict[tuple[str, str], str] = {}
        self._trades: deque[bytes] = deque(maxlen=trade_rows)
        self._unfolded: deque[tuple[float, str, bytes]] = deque()

    def record(self, now: float, stream: str, payload: bytes) -> None:
        """Take note of a broadcast."""
        self.events += 1
        self._unfolded.append((now, stream, payload))
        if len(self._unfolded) > UNFOLDED_MAX:
            self._fold(self._unfolded[UNFOLDED_MAX // 2][0], least=UNFOLDED_MAX // 2)

    def replace(self, levels: Iterable[Level]) -> list[Level]:
        """Say what has to be broadcast so that the book becomes ``levels``."""
        self._fold(float("inf"))
        wanted = {(side, price): quantity for side, price, quantity in levels if not is_zero(quantity)}
        gone = [(side, price, "0") for side, price in self._levels if (side, price) not in wanted]
        new = [(*key, quantity) for key, quantity in wanted.items() if self._levels.get(key) != quantity]
        return gone + new

    def open(self, levels: Iterable[Level]) -> None:
        """Fill the book before the first broadcast."""
        for side, price, quantity in levels:
            if not is_zero(quantity):
                self._levels[side, price] = quantity

    def levels(self, now: float) -> list[Level]:
        """Return the book as a snapshot at ``now`` shows it."""
        self._fold(now - self._lag_s)
        return [(side, price, quantity) for (side, price), quantity in self._levels.items()]

    def level_rows(self, now: float) -> list[bytes]:
        """Return the book as the rows of a message."""
        return list(map(level_row, self.levels(now)))

    def trade_rows(self, now: float) -> list[bytes]:
        """Return the recent trades as the rows of a message, oldest first."""
        self._fold(now - self._lag_s)
        return list(self._trades)

    def _fold(self, until: float, least: int = 0) -> None:
        unfolded = self._unfolded
        while unfolded and (least > 0 or unfolded[0][0] <= until):
            _, stream, payload = unfolded.popleft()
            least -= 1
            try:
                self._fold_one(stream, payload)
            except msgspec.DecodeError:
                continue  # a test broadcast something that no book can use

    def _fold_one(self, stream: str, payload: bytes) -> None:
        if stream == BOOK:
            data = _decode_delta(payload).data
            self.ts = data.ts or self.ts
            levels = self._levels
            for row in data.orders:
                if row.quantity.strip("0."):
                    levels[row.order_type, row.price] = row.quantity
                else:
                    levels.pop((row.order_type, row.price), None)
        elif stream == TRADES:
            self._trades.extend(bytes(row) for row in _decode_trades(payload).data.orders)


def is_zero(quantity: str) -> bool:
    """Tell whether a quantity removes its level."""
    return not quantity.strip("0.")
