"""What the benchmark's source plays: messages with room for a stamp, as WebSocket frames, and the book behind them.

The mix is the one that the targets name: book deltas of 290 bytes on average, with 1 to 8 levels, and trades, 10 to 1;
or a recorded tape. Unlike the simulator's traffic it stands still: the best prices never move, so a stretch of events
can be played again and again and the book never crosses.

Every message ends in a **stamp** of `STAMP_DIGITS` digits (`"sent"`, an extra key of ``data``), at the same place
counted from its end. Depending on what is measured it holds the time of sending, the number of the event, or the
number of the round in which the stretch is played.

**No two messages are the same.** Contenders that remove duplicates by a set of hashes lose real repeats; the
benchmark asks what they cost, not whether they are right, and so it spares them.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import NamedTuple

from feedhandler.simulator import frames, tapes
from feedhandler.simulator.messages import BOOK, TRADES, Level, Wording
from feedhandler.simulator.settings import Behaviour
from feedhandler.simulator.traffic import uuid

MARKET = "BTC-USD"
"""The market of the generated events; other markets play the same under their own names."""

TS_MS = 1_772_576_154_169
TRADE_SHARE = 1 / 11
DEPTH_TICKS = 200
BASE_TICK = 9_500_000
LEVELS = (1,) * 28 + (2,) * 14 + (3,) * 8 + (4,) * 4 + (5,) * 4 + (6,) * 2 + (7,) * 2 + (8,) * 2
"""How many levels a delta has, by lot; so that it has 290 bytes on average."""
ZERO_SHARE = 1 / 8

TRADE_ROWS = 100
"""Rows of a snapshot of trades, at most."""

STAMP_DIGITS = 19
STAMP_START = -STAMP_DIGITS - 3
STAMP_END = -3
"""Where the stamp stands in a message, and in its frame."""
STAMP_KEY = b'"sent":"'

TAPE = "binance-usdm-2024-08-08.jsonl.gz"

_wording = Wording(Behaviour())


class Event(NamedTuple):
    """One event: its message, and what it does to the book or adds to the trades."""

    message: bytes
    levels: tuple[Level, ...]
    row: bytes


class Programme(NamedTuple):
    """What is played of one market: the book to begin with, and the events."""

    opening: dict[tuple[str, str], str]
    events: Sequence[Event]


def stamp(number: int) -> bytes:
    """Return a stamp's text."""
    return b"%0*d" % (STAMP_DIGITS, number)


def stamped(data: bytes, number: int) -> bytes:
    """Return a message or a frame with another stamp."""
    return data[:STAMP_START] + stamp(number) + data[STAMP_END:]


def generated(count: int, seed: int = 1) -> Programme:
    """Return so many generated events of `MARKET`."""
    return Programme(dict(_opening()), list(islice(_distinct(_traffic(Random(seed))), count)))


def recorded(path: Path, count: int) -> tuple[str, Programme]:
    """Return the market that a tape begins with and its first events; snapshots after the first are left out."""
    names, books = tapes.survey(path)
    market = names[0]
    opening = {(side, price): quantity for side, price, quantity in books[market]}
    return market, Programme(opening, list(islice(_distinct(_taped(path, market)), count)))


def tape_path() -> Path | None:
    """Return the tape that is played where the recordings are at hand."""
    default = Path(__file__).parents[3] / "shared" / "tapes"
    path = Path(os.environ.get("FEEDHANDLER_TAPES", default)) / TAPE
    return path if path.exists() else None


def renamed(programme: Programme, old: str, new: str) -> Programme:
    """Return the same events as those of another market."""
    if old == new:
        return programme
    was, named = f'"market":"{old}"'.encode(), f'"market":"{new}"'.encode()
    return Programme(
        programme.opening,
        [event._replace(message=event.message.replace(was, named)) for event in programme.events],
    )


def framed(programme: Programme) -> list[bytes]:
    """Return the events as WebSocket frames."""
    return [frames.text(event.message) for event in programme.events]


def apply(book: dict[tuple[str, str], str], events: Iterable[Event]) -> None:
    """Carry a book on through events."""
    for event in events:
        for side, price, quantity in event.levels:
            if quantity.strip("0."):
                book[side, price] = quantity
            else:
                book.pop((side, price), None)


def book_reply(market: str, book: dict[tuple[str, str], str], request_id: str | None, ts_ms: int) -> bytes:
    """Return a book as the answer to a request for it."""
    rows = (
        b'{"orderType":"%b","price":"%b","quantity":"%b"}'
        % (side.encode(), price.encode(), quantity.encode())
        for (side, price), quantity in book.items()
    )
    return _wording.snapshot(BOOK, market, rows, ts_ms, request_id)


def trades_reply(market: str, events: Iterable[Event], request_id: str | None, ts_ms: int) -> bytes:
    """Return the last trades among events as the answer to a request for them, newest first."""
    rows = [event.row for event in events if event.row][-TRADE_ROWS:]
    return _wording.snapshot("publicCompletedOrders", market, reversed(rows), ts_ms, request_id)


def pong(request_id: str | None) -> bytes:
    """Return the answer to an application-level ping."""
    return _wording.reply("pong", {"clientRequestId": request_id, "statusCode": 200})


def _with_room(message: bytes) -> bytes:
    return b'%b,"sent":"%b"}}' % (message[:-2], stamp(0))


def _distinct(events: Iterable[Event]) -> Iterator[Event]:
    seen: set[bytes] = set()
    for event in events:
        if event.message not in seen:
            seen.add(event.message)
            yield event


def _traffic(random: Random) -> Iterator[Event]:
    while True:
        if random.random() < TRADE_SHARE:
            side = random.choice(("buy", "sell"))
            match = uuid(random.getrandbits(128))
            level = (side, _price(BASE_TICK + (side == "buy")), _quantity(random))
            yield _trade(MARKET, _wording.match(match, level, TS_MS))
        else:
            levels = tuple(_level(random) for _ in range(random.choice(LEVELS)))
            yield Event(_with_room(_wording.delta(MARKET, levels, TS_MS)), levels, b"")


def _trade(market: str, rows: list[bytes]) -> Event:
    return Event(_with_room(_wording.trades(market, rows)), (), rows[0])


def _level(random: Random) -> Level:
    """Draw a level, mostly near the best one; the best one itself is never removed."""
    distance = random.getrandbits(8) ** 2 * DEPTH_TICKS // 256**2
    removed = distance > 0 and random.random() < ZERO_SHARE
    quantity = "0" if removed else _quantity(random)
    if random.getrandbits(1):
        return ("buy", _price(BASE_TICK - distance), quantity)
    return ("sell", _price(BASE_TICK + 1 + distance), quantity)


def _opening() -> Iterator[tuple[tuple[str, str], str]]:
    for distance in range(DEPTH_TICKS):
        yield ("buy", _price(BASE_TICK - distance)), "1.0000"
        yield ("sell", _price(BASE_TICK + 1 + distance)), "1.0000"


def _price(tick: int) -> str:
    return f"{tick // 100}.{tick % 100:02d}"


def _quantity(random: Random) -> str:
    return f"{random.uniform(0.001, 20):.4f}"


def _taped(path: Path, market: str) -> Iterator[Event]:
    for step in tapes.steps(path, _wording):
        if step.market != market or step.snapshot is not None:
            continue
        if step.stream == TRADES:
            start = step.payload.index(b"[") + 1
            row = step.payload[start : step.payload.index(b"]", start)]
            yield Event(_with_room(step.payload), (), row)
        elif step.stream == BOOK:
            yield Event(_with_room(step.payload), _levels_of(step.payload), b"")


def _levels_of(payload: bytes) -> tuple[Level, ...]:
    rows = json.loads(payload)["data"]["orders"]
    return tuple((row["orderType"], row["price"], row["quantity"]) for row in rows)
