"""Recorded traffic as steps.

A tape is a gzip file of JSON lines: ``t`` (ns since its start), ``market``, ``kind`` (``book`` or
``trade``), ``ts``, and the levels or the trade; a line with ``snapshot`` replaces the whole book. One tape
line is one event, in the tape's order; price and quantity strings are kept.

A tape of several recorded connections has a ``line`` in every line. All lines agree on one order per
market: `_in_one_order` finds it by taking away, again and again, an event that is at the head of every line
that still has it. The event is broadcast when its first copy came; each line's lag behind that becomes
``Step.lags``, 0 where a line never got it. Of the snapshots of such a tape only those that are ahead of the
book (by their ``seq``) count.

A tape that cannot be read is a `ConfigError`, since it is named on the command line.
"""

import gzip
import hashlib
import zlib
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from feedhandler.errors import ConfigError
from feedhandler.simulator.messages import BOOK, TRADES, Level, Wording
from feedhandler.simulator.traffic import Step, uuid

_SIDES = {"bid": "buy", "ask": "sell"}


class Entry(msgspec.Struct, frozen=True):
    """One line of a tape."""

    t: int
    market: str
    kind: str
    ts: int
    line: int | None = None
    snapshot: bool = False
    seq: tuple[int, int] | None = None
    levels: tuple[Level, ...] = ()
    id: str = ""
    side: str = ""
    price: str = ""
    qty: str = ""


class _Glance(msgspec.Struct):
    market: str
    line: int | None = None


_decode = msgspec.json.Decoder(Entry).decode
_decode_glance = msgspec.json.Decoder(_Glance).decode


def survey(path: Path) -> tuple[list[str], dict[str, list[Level]]]:
    """Return the markets of a tape, in the order of their first line, and their first books."""
    names: dict[str, None] = {}
    books: dict[str, list[Level]] = {}
    for line in _lines(path):
        if b'"snapshot":true' in line:
            entry = _entry(path, line)
            books.setdefault(entry.market, _levels(entry))
        names[_glanced(path, line).market] = None
    return list(names), books


def steps(path: Path, wording: Wording) -> Iterator[Step]:
    """Yield a tape's events."""
    first = next(iter(_lines(path)), None)
    entries = (_entry(path, line) for line in _lines(path))
    if first is not None and _glanced(path, first).line is not None:
        yield from _of_lines(entries, wording)
    else:
        yield from (_step(entry, entry.t / 1e9, (), wording) for entry in entries)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with gzip.open(path, "rb") as file:
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(
            [f"{path}: no readable tape ({getattr(error, 'strerror', None) or error})"]
        ) from error


def _entry(path: Path, line: bytes) -> Entry:
    try:
        return _decode(line)
    except msgspec.DecodeError as error:
        raise ConfigError([f"{path}: no line of a tape: {error}"]) from error


def _glanced(path: Path, line: bytes) -> _Glance:
    try:
        return _decode_glance(line)
    except msgspec.DecodeError as error:
        raise ConfigError([f"{path}: no line of a tape: {error}"]) from error


def _step(entry: Entry, due_s: float, lags: tuple[float, ...], wording: Wording) -> Step:
    if entry.kind == "trade":
        digest = hashlib.blake2b(f"{entry.market}/{entry.id}".encode(), digest_size=16).digest()
        match_id = uuid(int.from_bytes(digest, "big"))
        rows = wording.match(match_id, (entry.side, entry.price, entry.qty), entry.ts)
        return Step(due_s, entry.market, TRADES, wording.trades(entry.market, rows), lags)
    levels = _levels(entry)
    if entry.snapshot:
        return Step(due_s, entry.market, BOOK, b"", lags, tuple(levels))
    return Step(due_s, entry.market, BOOK, wording.delta(entry.market, levels, entry.ts), lags)


def _levels(entry: Entry) -> list[Level]:
    return [(_SIDES[side], price, quantity) for side, price, quantity in entry.levels]


_Key = tuple[object, ...]


class _Copies:
    """One event of a tape of several lines, with the time at which each line got it."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.times: dict[int, int] = {}

    @property
    def first(self) -> int:
        return min(self.times.values())


def _of_lines(entries: Iterable[Entry], wording: Wording) -> Iterator[Step]:
    by_market: dict[str, list[Entry]] = defaultdict(list)
    lines: set[int] = set()
    for entry in entries:
        by_market[entry.market].append(entry)
        lines.add(entry.line or 0)
    names = sorted(lines)
    merged = [step for market in by_market.values() for step in _market_steps(market, names, wording)]
    yield from sorted(merged, key=lambda step: step.due_s)


def _market_steps(entries: list[Entry], lines: list[int], wording: Wording) -> Iterator[Step]:
    due = 0
    for copies in _in_one_order(entries):
        due = max(due, copies.first)
        lags = tuple(max(0, copies.times.get(line, due) - due) / 1e9 for line in lines)
        yield _step(copies.entry, due / 1e9, lags, wording)


def _in_one_order(entries: list[Entry]) -> Iterator[_Copies]:
    events: dict[_Key, _Copies] = {}
    heads: dict[int, deque[_Key]] = defaultdict(deque)
    for key, entry in _keyed(_only_news(entries)):
        copies = events.setdefault(key, _Copies(entry))
        copies.times[entry.line or 0] = entry.t
        heads[entry.line or 0].append(key)
    while True:
        candidates = {line[0] for line in heads.values() if line}
        if not candidates:
            return
        agreed = [key for key in candidates if all(heads[line][0] == key for line in events[key].times)]
        key = min(agreed or candidates, key=lambda key: events[key].first)
        for line in events[key].times:
            heads[line].remove(key)
        yield events[key]


def _keyed(entries: Iterable[Entry]) -> Iterator[tuple[_Key, Entry]]:
    """Give each event a key that its copies on all lines share: content, and how often the line had it."""
    seen: dict[_Key, int] = defaultdict(int)
    for entry in entries:
        content = (entry.kind, entry.snapshot, entry.ts, entry.seq, entry.id, entry.levels)
        on_line = (entry.line, *content)
        seen[on_line] += 1
        yield (seen[on_line], *content), entry


def _only_news(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Leave out the snapshots that show what is known already."""
    newest = -1
    for entry in entries:
        last = entry.seq[1] if entry.seq else newest + 1
        if not entry.snapshot or last > newest:
            yield entry
        if entry.kind == "book":
            newest = max(newest, last)
