"""Which markets the exchange lists.

The shape of the answer is not documented (exchange-api.md, section 11), so it is read as far as it makes
sense: a list of names, a list of objects that have a name under one of the usual keys, or an object that
holds either. Names are opaque, but one that could not stand in a channel or that means something else here
is left out.

**The list is asked for again and again**, and what it says is believed in its own time. A new market counts at once.
One that is missing has vanished when it was missing in `MISSING_ANSWERS` good answers in a row. An answer is no good
one that failed, that names no market, or that has **shrunk suspiciously**: it lacks more than half (`LACKING_MOST`) of
the markets that count, and more than one. However often it comes, nothing vanishes by it; then it is for people to
decide.
"""

import ssl
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from itertools import islice
from typing import Any, Final, NamedTuple

import msgspec

from feedhandler.errors import OperationalError
from feedhandler.exchange.requests import ALL
from feedhandler.exchange.web import ask

TIMEOUT_S: Final = 10.0
NAME_MAX_CHARS: Final = 64
DEPTH_MAX: Final = 4
"""How deep a list of markets is looked for."""
MARKETS_MAX: Final = 1000
"""Markets that are taken; further ones are left out. To open a feed for each of these holds up the others for a
moment, and for ten times as many for seconds."""

MISSING_ANSWERS: Final = 3
"""Good answers in a row in which a market is missing before it has vanished."""
LACKING_MOST: Final = 0.5
"""The part of the markets that a good answer may lack."""

NAME_KEYS: Final = ("market", "name", "symbol", "marketName", "id", "ticker", "pair")
LIST_KEYS: Final = ("markets", "data", "result", "results", "items", "symbols")


class Change(NamedTuple):
    """What an answer has changed; ``doubtful`` if it was no good one and changed nothing."""

    appeared: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    doubtful: bool = False


class Listing:
    """The markets that count as listed: ``markets``, in the order of their appearance."""

    def __init__(self) -> None:
        self._missing: dict[str, int] = {}

    @property
    def markets(self) -> tuple[str, ...]:
        """The markets that count."""
        return tuple(self._missing)

    def take(self, answer: Iterable[str]) -> Change:
        """Take an answer of the exchange, up to `MARKETS_MAX` markets of it; return what it changes."""
        named = dict.fromkeys(islice(answer, MARKETS_MAX))
        lacking = [market for market in self._missing if market not in named]
        if not named or len(lacking) > max(1, LACKING_MOST * len(self._missing)):
            return Change(doubtful=True)
        appeared = tuple(market for market in named if market not in self._missing)
        self._missing.update(dict.fromkeys(named, 0))
        for market in lacking:
            self._missing[market] += 1
        vanished = tuple(market for market in lacking if self._missing[market] >= MISSING_ANSWERS)
        for market in vanished:
            del self._missing[market]
        return Change(appeared, vanished)


async def fetch_markets(url: str, ssl_context: ssl.SSLContext) -> tuple[str, ...]:
    """Ask the exchange for its markets; raise ``OperationalError`` where it names none."""
    answer = await ask("GET", url, headers={}, ssl_context=ssl_context, timeout_s=TIMEOUT_S)
    if answer.status != HTTPStatus.OK:
        raise OperationalError(f"the markets endpoint answered with HTTP status {answer.status}")
    markets = parse_markets(answer.body)
    if not markets:
        raise OperationalError("the answer of the markets endpoint names no market")
    return markets


def parse_markets(body: bytes) -> tuple[str, ...]:
    """Return the names of the markets in their order, each once; none where there are none to be found."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ()
    names = (name for name in _names(_list_in(value, DEPTH_MAX)) if _is_name(name))
    return tuple(dict.fromkeys(names))


def _list_in(value: Any, depth: int) -> list[Any]:
    """Find the list in an answer: itself, or under a usual key, or under any."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or not depth:
        return []
    inner = [value[key] for key in LIST_KEYS if key in value] or list(value.values())
    return next(filter(None, (_list_in(one, depth - 1) for one in inner)), [])


def _names(entries: list[Any]) -> Iterator[str]:
    for entry in entries:
        candidates = [entry.get(key) for key in NAME_KEYS] if isinstance(entry, dict) else [entry]
        yield from [name for name in candidates if isinstance(name, str)][:1]


def _is_name(name: str) -> bool:
    return (
        0 < len(name) <= NAME_MAX_CHARS
        and name.isprintable()
        and name not in {ALL, "*"}
        and name == name.strip()
    )
