"""What a changed configuration means for a daemon that runs: what takes effect at once, and what at the next start.

Feeds come, go and change; limits, health, recovery, the level of the log, the files with key and secret, and where and
how often the markets are asked for are changed in place. Everything else is fixed as long as the daemon runs: it is
named, key by key, and keeps its old value, while the rest takes effect.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from feedhandler.config.model import ALL, LISTED, Config, Feed, Limits

LIVE_SECTIONS = frozenset({"limits", "feeds", "health", "recovery"})
"""Sections that take effect at once, whichever key has changed."""

LIVE_KEYS = frozenset(
    {
        "exchange.api_key_file",
        "exchange.api_secret_file",
        "exchange.markets_url",
        "exchange.markets_refresh_s",
        "log.level",
    }
)
"""Keys of other sections that do."""


def adopt(old: Config, new: Config) -> tuple[Config, tuple[str, ...]]:
    """Return what is in force from now on, and the changed keys that are not: they need a restart."""
    values: dict[str, object] = {}
    fixed: list[str] = []
    for section in msgspec.structs.fields(Config):
        before, after = getattr(old, section.name), getattr(new, section.name)
        if section.name not in LIVE_SECTIONS:
            kept = list(_fixed(section.encode_name, before, after))
            fixed += [f"{section.encode_name}.{name}" for name in kept]
            after = msgspec.structs.replace(after, **{name: getattr(before, name) for name in kept})
        values[section.name] = after
    return Config(**values), tuple(fixed)  # type: ignore[arg-type]


def _fixed(section: str, before: msgspec.Struct, after: msgspec.Struct) -> Iterator[str]:
    """Name the changed keys of a section that keep their old values."""
    for name in before.__struct_fields__:
        if f"{section}.{name}" not in LIVE_KEYS and getattr(before, name) != getattr(after, name):
            yield name


class Wanted(NamedTuple):
    """One feed that is to run."""

    market: str
    streams: tuple[str, ...]
    lines: int

    def differs(self, other: "Wanted") -> bool:
        """Tell whether a feed has to change to be another one; the order of streams makes no difference."""
        return self._replace(streams=()) != other._replace(streams=()) or {*self.streams} != {*other.streams}


def wanted(feeds: Iterable[Feed], listed: Iterable[str]) -> dict[str, Wanted]:
    """Return the feeds that are to run, by label; ``listed`` are the markets of ``["*"]``.

    A listed market with the label of a feed that is named gets none: that one has it.
    """
    result: dict[str, Wanted] = {}
    for feed in sorted(feeds, key=lambda feed: LISTED in feed.markets):
        markets = listed if LISTED in feed.markets else feed.markets
        for market in markets:
            result.setdefault(feed.label(market), Wanted(market, feed.streams, feed.lines))
    return result


class Changes(NamedTuple):
    """What is to be done so that the feeds that run are those that are wanted; each is named by its label."""

    gone: tuple[str, ...]
    added: tuple[str, ...]
    changed: tuple[str, ...]


def changes(running: Mapping[str, Wanted], target: Mapping[str, Wanted]) -> Changes:
    """Compare what runs with what is wanted; a feed over another market is another feed."""
    moved = {
        label for label in running.keys() & target.keys() if running[label].market != target[label].market
    }
    kept = [label for label in running if label in target and label not in moved]
    return Changes(
        gone=tuple(label for label in running if label not in target or label in moved),
        added=tuple(label for label in target if label not in running or label in moved),
        changed=tuple(label for label in kept if running[label].differs(target[label])),
    )


def clashes(target: Mapping[str, Wanted], limits: Limits) -> Iterator[str]:
    """Say what speaks against feeds that were put together at run time: channels in two feeds, lines above limits."""
    owners: dict[str, str] = {}
    lines: Counter[str] = Counter()
    for label, feed in target.items():
        lines[feed.market] += feed.lines
        for stream in feed.streams:
            channel = f"{ALL if stream == 'trades' else feed.market}/{stream}"
            if owners.setdefault(channel, label) != label:
                yield f"channel {channel} is in feed {owners[channel]} already"
    agnostic = lines.pop(ALL, 0)
    market, most = max(lines.items(), key=lambda item: item[1], default=("", 0))
    uses = (
        ("per_market", f"of market {market}", most, limits.connections_per_market),
        ("total", "of all markets", lines.total(), limits.connections_total),
        ("agnostic", "over market=ALL", agnostic, limits.connections_agnostic),
    )
    for name, what, count, limit in uses:
        if count > limit > 0:
            yield f"{count} lines {what} together, limits.connections_{name} is {limit}"
