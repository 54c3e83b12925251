"""What holds between keys: each key may be right and the whole still wrong.

- **A channel is in one feed.** ``["*"]`` and ``["ALL"]`` stand for every market. The account stream
  ``trades`` is one channel whatever market its connection names, so it can be in one feed over one market
  only.
- **A feed has one label**, since metrics, logs and requests know it by nothing else.
- **Lines stay within the limits**: of one market over all feeds, of all per-market feeds, over
  ``market=ALL``. Markets that only the exchange knows are counted once it has listed them
  (`feedhandler.config.planning`).
- **Secrets travel encrypted**, except within this machine.
- **Two daemons are observed at two addresses**: one is the active daemon's, whichever that is, the other the process's.
- **A consumer can recover**: it may fall behind by more than the largest snapshot and a second of peak output,
  or it would be too late again as soon as it has its book; and by no more than the backlog holds. A limit that
  was derived from a small backlog is legal all the same, and said.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from feedhandler.config.model import ALL, LISTED, STREAMS, Bounds, Config, Exchange, Feed, Publish
from feedhandler.config.readers import is_loopback, split_url

EVERY = frozenset({ALL, LISTED})
"""The entries of ``markets`` that stand for every market."""

CONTROL = "control.sock"
"""The file name of the control socket, beside the feed's."""


def broken_rules(config: Config) -> Iterator[str]:
    """Give one line for each rule that the configuration breaks."""
    yield from _secrets(config.exchange)
    yield from _markets(config)
    yield from _overlaps(config.feeds)
    yield from _lines(config)
    yield from _backoff(config.bounds)
    if config.standby.http and config.standby.http == config.observe.http:
        yield f'standby.http: expected another address than observe.http has, got "{config.standby.http}"'
    yield from _publish(config.publish, config.bounds)


def is_tight(publish: Publish, bounds: Bounds) -> bool:
    """Whether a consumer may fall behind by no more than the largest snapshot and a second of peak output."""
    return publish.consumer_bytes <= bounds.snapshot_bytes + publish.peak_bytes


def _secrets(exchange: Exchange) -> Iterator[str]:
    if exchange.token_url and _is_open(exchange.websocket_url, "ws"):
        yield "exchange.websocket_url: expected wss://, a token goes over ws:// only within this machine"
    if _is_open(exchange.token_url, "http"):
        yield "exchange.token_url: expected https://, key and secret go over http:// only within this machine"


def _is_open(url: str, scheme: str) -> bool:
    parts = split_url(url)
    return parts is not None and parts.scheme == scheme and not is_loopback(parts.hostname)


def _markets(config: Config) -> Iterator[str]:
    for index, feed in enumerate(config.feeds):
        path = f"feed[{index}].markets"
        for every in sorted(EVERY.intersection(feed.markets)):
            if len(feed.markets) > 1:
                yield f'{path}: expected "{every}" to stand alone, got {len(feed.markets)} markets'
        if LISTED in feed.markets and not config.exchange.markets_url:
            yield f'{path}: ["*"] needs exchange.markets_url'
        if "trades" in feed.streams and (len(feed.markets) > 1 or LISTED in feed.markets):
            yield (
                f"feed[{index}].streams: trades are the whole account's on every connection: "
                'expected one market or ["ALL"] with them'
            )


def _overlaps(feeds: tuple[Feed, ...]) -> Iterator[str]:
    channels = {stream: _Owners() for stream in STREAMS}
    per_market, agnostic = _Owners(), _Owners()  # unnamed: one over market=ALL is labelled ALL, no market is
    names: dict[str, int] = {}
    for index, feed in enumerate(feeds):
        shared = [f"feed[{index}].streams: {text}" for text in _shared_channels(channels, feed, index)]
        yield from shared
        if not feed.name:
            labels = agnostic if ALL in feed.markets else per_market
            clash = labels.claim(feed.markets, index, every=LISTED in feed.markets)
            if clash and not shared:
                yield f"feed[{index}].name: expected a name, feed[{clash[1]}] has {clash[0]} without one too"
        elif names.setdefault(feed.name, index) != index:
            yield f'feed[{index}].name: "{feed.name}" is the name of feed[{names[feed.name]}] already'


def _shared_channels(channels: dict[str, "_Owners"], feed: Feed, index: int) -> Iterator[str]:
    every = not EVERY.isdisjoint(feed.markets)
    for stream in feed.streams:
        owners = channels.get(stream)
        markets = (ALL,) if stream == "trades" else (LISTED,) if every else feed.markets
        clash = owners and feed.markets and owners.claim(markets, index, every=every)
        if clash:
            yield f"channel {clash[0]}/{stream} is in feed[{clash[1]}] already"


class _Owners:
    """Which feed was the first with each market, and with every one."""

    def __init__(self) -> None:
        self._owners: dict[str, int] = {}
        self._every: int | None = None

    def claim(self, markets: Sequence[str], index: int, *, every: bool) -> tuple[str, int] | None:
        """Note the markets of a feed; one that an earlier feed has is returned with that feed."""
        clash = self._clash(markets, every=every)
        for market in markets:
            self._owners.setdefault(market, index)
        if every and self._every is None:
            self._every = index
        return clash

    def _clash(self, markets: Sequence[str], *, every: bool) -> tuple[str, int] | None:
        if self._every is not None and markets:
            return markets[0], self._every
        taken = self._owners if every else (market for market in markets if market in self._owners)
        market = next(iter(taken), None)
        return None if market is None else (market, self._owners[market])


def _lines(config: Config) -> Iterator[str]:
    limits = config.limits
    markets: Counter[str] = Counter()
    agnostic = total = 0
    for index, feed in enumerate(config.feeds):
        path = f"feed[{index}].lines"
        if ALL in feed.markets:
            agnostic += feed.lines
            use = _Use("agnostic", "over market=ALL", agnostic, limits.connections_agnostic)
            yield from use.crossed(path, feed.lines)
            continue
        markets.update(dict.fromkeys(feed.markets, feed.lines))
        market, most = _busiest(markets, feed)
        use = _Use("per_market", f"of market {market}", most, limits.connections_per_market)
        yield from use.crossed(path, feed.lines)
        added = feed.lines * len(feed.markets)
        total += added
        use = _Use("total", "of all markets", total, limits.connections_total)
        yield from use.crossed(path, added)


def _busiest(markets: Counter[str], feed: Feed) -> tuple[str, int]:
    """Give the market of ``feed`` with most lines; a market that is configured is taken to be listed, too."""
    listed = markets[LISTED]
    named = [market for market in (markets if LISTED in feed.markets else feed.markets) if market != LISTED]
    ranked = [(market, markets[market] + listed) for market in named]
    return max(ranked, key=lambda item: item[1], default=(LISTED, listed))


class _Use(NamedTuple):
    """How much of a limit is used so far."""

    limit_name: str
    what: str
    lines: int
    limit: int

    def crossed(self, path: str, added: int) -> Iterator[str]:
        """Say that the lines just ``added`` are those that cross the limit; 0 is no limit."""
        if self.limit == 0 or not self.lines - added <= self.limit < self.lines:
            return
        if self.limit_name != "total" and self.lines == added:
            yield f"{path}: expected at most {self.limit} (limits.connections_{self.limit_name}), got {added}"
        else:
            yield (
                f"{path}: {self.lines} lines {self.what} together, "
                f"limits.connections_{self.limit_name} is {self.limit}"
            )


def _backoff(bounds: Bounds) -> Iterator[str]:
    if bounds.backoff_max_s and bounds.backoff_max_s < bounds.backoff_min_s:
        yield (
            f"bounds.backoff_max_s: expected at least {bounds.backoff_min_s:g} (bounds.backoff_min_s), "
            f"got {bounds.backoff_max_s:g}"
        )


def _publish(publish: Publish, bounds: Bounds) -> Iterator[str]:
    if publish.socket and publish.socket.name == CONTROL:
        yield f"publish.socket: {CONTROL} is the name of the control socket beside it"
    path, limit = "publish.consumer_mib", publish.consumer_mib
    if limit > publish.backlog_mib > 0:
        yield f"{path}: expected at most {publish.backlog_mib} (publish.backlog_mib), got {limit}"
    elif limit and is_tight(publish, bounds):
        least = bounds.snapshot_mib + publish.peak_mib_s
        yield f"{path}: expected more than {least} (bounds.snapshot_mib + publish.peak_mib_s), got {limit}"
