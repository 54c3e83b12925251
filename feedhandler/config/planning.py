"""What a configuration asks of the exchange: connections against its limits, and how long they take to open.

Attempts are spent on feeds without a line first, so that two times matter: until every feed has one line,
and until all lines are up (full coverage). Both are upper bounds for an exchange that accepts every
attempt: never more than ``connections_per_minute`` are made in any minute.

What is legal and still doubtful is said here, too.
"""

from collections import Counter
from collections.abc import Iterator
from math import ceil

import msgspec

from feedhandler.config.model import ACCOUNT_STREAMS, ALL, LISTED, MIB, Config, Limits
from feedhandler.config.rules import is_tight

NAMELESS_UID = 65_534
"""The uid of peers from user namespaces whose users have no number in the daemon's (``overflowuid``)."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Feeds and connections of a configuration, for a number of listed markets where it has ``["*"]``."""

    limits: Limits
    markets: int | None
    """Markets that the exchange lists; None: not known, and ``["*"]`` counts as none."""
    feeds: int
    per_market: int
    """Lines of the market that has most of them."""
    busiest: str
    """That market."""
    sharing: tuple[tuple[str, int], ...]
    """The feeds on that market and the lines of each."""
    total: int
    """Lines of all per-market feeds together."""
    agnostic: int
    """Lines over ``market=ALL`` together."""
    listed_feeds: int
    """Feeds for each market that the exchange lists."""
    listed_lines: int
    """Lines for each market that the exchange lists."""

    @property
    def connections(self) -> int:
        """All lines of all feeds."""
        return self.total + self.agnostic

    @property
    def first_lines_s(self) -> float:
        """Time until every feed has a line."""
        return self._time_s(self.feeds)

    @property
    def coverage_s(self) -> float:
        """Time until every feed has all its lines."""
        return self._time_s(self.connections)

    @property
    def above_limits(self) -> tuple[str, ...]:
        """One line for each limit that the plan is above."""
        limits = self.limits
        needs = (
            ("per_market", self.per_market, limits.connections_per_market),
            ("total", self.total, limits.connections_total),
            ("agnostic", self.agnostic, limits.connections_agnostic),
        )
        return tuple(
            f"limits.connections_{name}: {need} connections needed, {limit} allowed"
            for name, need, limit in needs
            if need > limit > 0
        )

    def _time_s(self, connections: int) -> float:
        return 60.0 * connections / self.limits.connections_per_minute


def plan(config: Config, markets: int | None = None) -> Plan:
    """Count feeds and connections; ``markets`` is the number that the exchange lists, where it is known.

    Markets that the configuration names are taken to be among the listed ones.
    """
    listed = [feed for feed in config.feeds if LISTED in feed.markets]
    agnostic = [feed for feed in config.feeds if ALL in feed.markets]
    named = [feed for feed in config.feeds if feed not in listed and feed not in agnostic]
    listed_lines = sum(feed.lines for feed in listed)
    lines: Counter[str] = Counter()
    for feed in named:
        lines.update(dict.fromkeys(feed.markets, feed.lines))
    busiest, most = max(lines.items(), key=lambda item: item[1], default=(LISTED if listed else "", 0))
    sharing = [feed for feed in config.feeds if feed in listed or busiest in feed.markets]
    return Plan(
        limits=config.limits,
        markets=markets if listed else None,
        feeds=sum(len(feed.markets) for feed in named) + len(agnostic) + len(listed) * (markets or 0),
        per_market=most + listed_lines,
        busiest=busiest,
        sharing=tuple((feed.label(busiest), feed.lines) for feed in sharing),
        total=sum(lines.values()) + listed_lines * (markets or 0),
        agnostic=sum(feed.lines for feed in agnostic),
        listed_feeds=len(listed),
        listed_lines=listed_lines,
    )


def plan_pair(config: Config, markets: int | None = None) -> Plan:
    """Count the connections of an active daemon and its standby together."""
    standby = config.standby.lines
    feeds = tuple(
        msgspec.structs.replace(feed, lines=feed.lines + min(feed.lines, standby)) for feed in config.feeds
    )
    return plan(msgspec.structs.replace(config, feeds=feeds), markets)


def pair_mistakes(config: Config) -> list[str]:
    """Return one line for each limit that an active daemon and its standby are above together."""
    return [
        f"standby.lines: expected fewer than {config.standby.lines}, both daemons together are above {text}"
        for text in plan_pair(config).above_limits
    ]


def describe_pair(config: Config, markets: int | None = None) -> list[str]:
    """Say what two daemons with this configuration cost (`run --standby`)."""
    both, limits = plan_pair(config, markets), config.limits
    text = f"with a standby (run --standby): {_count(both.connections, 'line')}"
    if both.per_market:
        text += f"; one market: {both.per_market} of {limits.connections_per_market}"
    if both.total and limits.connections_total:
        text += f"; per-market feeds together: {both.total} of {limits.connections_total}"
    if both.agnostic:
        text += f"; over market=ALL: {both.agnostic} of {limits.connections_agnostic}"
    scopes = [
        (both.per_market, limits.connections_per_market),
        (both.total, limits.connections_total),
        (both.agnostic, limits.connections_agnostic),
    ]
    is_full = any(need >= limit > 0 for need, limit in scopes if need)
    spare = "no place is left: a line ends before its replacement begins" if is_full else ""
    wrong = [f"not with a standby: {mistake}" for mistake in pair_mistakes(config)]
    return [text, *([f"  {spare}"] if spare and not wrong else []), *wrong]


def describe(config: Config, markets: int | None = None) -> list[str]:
    """Say what `plan` found, one line for each thing, for people."""
    found = plan(config, markets)
    limits = found.limits
    lines = [f"connections: {_count(found.connections, 'line')} of {_count(found.feeds, 'feed')}"]
    if found.listed_feeds and found.markets is None:
        lines[0] += f", and {_count(found.listed_lines, 'line')} for each market that the exchange lists"
    if found.per_market:
        lines.append(f"  one market: {found.per_market} of {limits.connections_per_market} ({_where(found)})")
        lines.append(
            f"  per-market feeds together: {found.total} of {limits.connections_total or 'no limit'}"
        )
    if found.agnostic:
        lines.append(f"  over market=ALL: {found.agnostic} of {limits.connections_agnostic}")
    lines += [*_times(found), *(f"above a limit: {text}" for text in found.above_limits)]
    return [*lines, *_doubts(config)]


def _where(found: Plan) -> str:
    """Name the market with most lines, and where there are several the feeds that share it."""
    market = "each listed one" if found.busiest == LISTED else found.busiest
    if len(found.sharing) < 2:
        return market
    return f"{market}: " + ", ".join(f"{label} {lines}" for label, lines in found.sharing)


def _doubts(config: Config) -> list[str]:
    """Say what is legal, and probably not meant."""
    return [f"doubtful: {text}" for text in (*_mixed(config), *_strangers(config), *_tightness(config))]


def _mixed(config: Config) -> Iterator[str]:
    for index, feed in enumerate(config.feeds):
        account = [stream for stream in feed.streams if stream in ACCOUNT_STREAMS]
        if account and len(account) < len(feed.streams):
            yield (
                f"feed[{index}].streams: {', '.join(account)} share their lines with public streams; "
                "expected a feed of their own"
            )


def _strangers(config: Config) -> Iterator[str]:
    if NAMELESS_UID in (config.publish.account_uids or ()):
        yield (
            f"publish.account_uids: {NAMELESS_UID} may be anybody: "
            "the kernel calls every user so who has no number here"
        )


def _tightness(config: Config) -> Iterator[str]:
    publish, bounds = config.publish, config.bounds
    if is_tight(publish, bounds):
        limit, least = publish.consumer_bytes / MIB, bounds.snapshot_mib + publish.peak_mib_s
        yield (
            f"publish.backlog_mib: a consumer may fall {limit:g} MiB behind, three quarters of it; "
            f"expected more than {least} (bounds.snapshot_mib + publish.peak_mib_s)"
        )


def _times(found: Plan) -> list[str]:
    rate = found.limits.connections_per_minute
    text = f"time to full coverage, at {rate} connections a minute:"
    if found.listed_feeds and found.markets is None:
        each = 60.0 * found.listed_lines / rate
        return [f"{text} at most {_span(found.coverage_s)}, and {each:.3g} s for each listed market"]
    first, full = _span(found.first_lines_s), _span(found.coverage_s)
    return [f"{text} at most {full}; every feed has a line within {first}"]


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _span(seconds: float) -> str:
    whole = ceil(seconds)
    return f"{whole} s" if whole < 120 else f"{whole // 60} min {whole % 60} s"
