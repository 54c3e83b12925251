"""Generated traffic, shaped like the recordings.

Every market draws from its own seed. Events come in bursts at exponential intervals; within a burst they
are less than 100 us apart, so more than half of all events follow the one before that closely. Now and then
comes a sweep, hundreds of trades within a few milliseconds, and now and then the exchange really repeats
itself: the same delta k times in a row, or two deltas in turn (A-B-A-B). A delta has mostly one to eight
levels, some have many more.

The book never crosses: bids are at or below the middle tick, asks above it, and what the middle passes is
removed in the delta that moves it. Deltas that move the middle are not repeated in turn, which could cross
it.

The same seed, start and behaviour give the same bytes. Times are seconds since the start of playing.
"""

import heapq
from collections.abc import Iterable, Iterator
from random import Random
from typing import NamedTuple, Protocol

from feedhandler.simulator.messages import BOOK, TRADES, Level, Wording, level_row

NOMINAL_RATE = 1_000.0
"""Events per second and market in the exchange's own time when it plays flat out."""

BURST_MEAN = 4.0
SWEEP_SHARE = 0.001
"""Of all bursts."""
SWEEP_EVENTS = (100, 400)
TRADE_SHARE = 0.06
REPEAT_SHARE = 0.004
"""Of all deltas that do not move the middle."""
WIDE_SHARE = 0.01
WIDE_LEVELS = (20, 120)
DEPTH_TICKS = 200
TICKS = 4_000

MOVE_SHARE = 0.2
"""Of all events: deltas that move the middle of the book."""

_WITHIN_BURST_S = 50e-6
_COUNTS = [1 + min(7, lot * lot // 500) for lot in range(64)]
"""How many levels a delta has, by lot: mostly few."""
_DISTANCES = [lot * lot * DEPTH_TICKS // 256**2 for lot in range(256)]
"""How far from the middle a level lies, by lot: mostly near."""
_EVENTS_PER_BURST = (1 - SWEEP_SHARE) * BURST_MEAN + SWEEP_SHARE * sum(SWEEP_EVENTS) / 2


class Step(NamedTuple):
    """One event to come: when, where, what; ``lags`` are the extra seconds of each recorded line, if any."""

    due_s: float
    market: str
    stream: str
    payload: bytes
    lags: tuple[float, ...] = ()
    snapshot: tuple[Level, ...] | None = None
    """Levels of a whole book; then the payload is empty, and only the difference to the book is broadcast."""


class MarketTraffic:
    """The endless traffic of one market."""

    def __init__(self, market: str, rate: float, seed: int, wording: Wording) -> None:
        self._market = market
        self._random = Random(f"{seed}/{market}")  # noqa: S311 - traffic, no secret
        self._wording = wording
        self._start_ms = 0
        self._within_s = min(_WITHIN_BURST_S, 0.25 / rate)
        self._pause_s = _EVENTS_PER_BURST * (1 / rate - self._within_s)
        self._middle = TICKS // 2
        self._delta_head = wording.head("publicOrderBookDelta", market)
        self._quantities = [f"{self._random.uniform(0.001, 20):.4f}" for _ in range(448)] + ["0"] * 64
        base = self._random.randrange(TICKS, 40 * TICKS)
        self._prices = [f"{(base + tick) / 100:.2f}" for tick in range(TICKS)]
        self._buys = self._row_heads("buy")
        self._sells = self._row_heads("sell")
        self._row_tails = [quantity.encode() + b'"}' for quantity in self._quantities]

    def _row_heads(self, side: str) -> list[bytes]:
        return [level_row((side, price, ""))[:-2] for price in self._prices]

    def opening(self) -> Iterator[Level]:
        """Yield the book before the first event."""
        for distance in range(DEPTH_TICKS // 4):
            quantity = self._quantities[distance]
            yield "buy", self._prices[self._middle - distance], quantity
            yield "sell", self._prices[self._middle + 1 + distance], quantity

    def steps(self, start_ms: int) -> Iterator[Step]:
        """Yield events for ever; ``start_ms``: the exchange's clock at the start of playing."""
        self._start_ms = start_ms
        now = 0.0
        while True:
            now += self._random.expovariate(1 / self._pause_s)
            sweep = self._random.random() < SWEEP_SHARE
            for stream, payload in self._sweep(now) if sweep else self._burst(now):
                yield Step(now, self._market, stream, payload)
                now += self._random.random() * self._within_s * 2

    def _burst(self, now: float) -> Iterator[tuple[str, bytes]]:
        ts = self._start_ms + int(now * 1000)
        left = min(1 + int(self._random.expovariate(1 / (BURST_MEAN - 0.5))), 100)
        while left > 0:
            events = self._next(ts)
            left -= len(events)
            yield from events

    def _next(self, ts: int) -> list[tuple[str, bytes]]:
        lot = self._random.random()
        if lot < TRADE_SHARE:
            return [(TRADES, self._trade(ts, 1 + int(self._random.expovariate(1.5))))]
        delta = self._delta(ts, move=lot > 1 - MOVE_SHARE, wide=lot < TRADE_SHARE + WIDE_SHARE)
        events = [(BOOK, delta)]
        if lot <= 1 - MOVE_SHARE and self._random.random() < REPEAT_SHARE:
            events += [(BOOK, repeat) for repeat in self._repeats(delta, ts)]
        return events

    def _repeats(self, delta: bytes, ts: int) -> Iterator[bytes]:
        times = self._random.randint(1, 5)
        if self._random.random() < 0.5:
            yield from (delta for _ in range(times))
            return
        other = self._delta(ts)
        for _ in range(times):
            yield other
            yield delta

    def _sweep(self, now: float) -> Iterator[tuple[str, bytes]]:
        ts = self._start_ms + int(now * 1000)
        for _ in range(self._random.randint(*SWEEP_EVENTS)):
            yield TRADES, self._trade(ts, 1)

    def _delta(self, ts: int, *, move: bool = False, wide: bool = False) -> bytes:
        draw_bits = self._random.getrandbits
        rows = [self._move(up=bool(draw_bits(1)))] if move else []
        count = self._random.randint(*WIDE_LEVELS) if wide else _COUNTS[draw_bits(6)]
        middle = self._middle
        for _ in range(count):
            bits = draw_bits(18)
            tail = self._row_tails[bits >> 9]
            distance = _DISTANCES[bits >> 1 & 255]
            row = self._buys[middle - distance] if bits & 1 else self._sells[middle + 1 + distance]
            rows.append(row + tail)
        return self._wording.dress(self._delta_head + b",".join(rows) + self._wording.delta_tail(ts))

    def _move(self, *, up: bool) -> bytes:
        if not DEPTH_TICKS + 1 < self._middle < TICKS - DEPTH_TICKS - 2:
            up = self._middle < TICKS // 2
        if up:
            self._middle += 1
            return self._sells[self._middle] + b'0"}'
        self._middle -= 1
        return self._buys[self._middle + 1] + b'0"}'

    def _trade(self, ts: int, matches: int) -> bytes:
        rows: list[bytes] = []
        for _ in range(matches):
            side = "buy" if self._random.random() < 0.5 else "sell"
            price = self._prices[self._middle + (side == "buy")]
            quantity = self._quantities[self._random.getrandbits(8)]
            rows += self._wording.match(uuid(self._random.getrandbits(128)), (side, price, quantity), ts)
        return self._wording.trades(self._market, rows)


def uuid(number: int) -> str:
    """Return 128 bits as the text of a version 4 UUID."""
    text = f"{number:032x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


class Source(Protocol):
    """Where events come from."""

    def steps(self, start_ms: int) -> Iterator[Step]:
        """Yield events for ever; ``start_ms``: the exchange's clock at the start of playing."""


def merge(sources: Iterable[Source], start_ms: int) -> Iterator[Step]:
    """Yield the events of several sources in the order of their times."""
    return heapq.merge(*(source.steps(start_ms) for source in sources))
