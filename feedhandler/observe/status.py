"""The state of a daemon as one value: what ``/status`` answers, what the page, ``status`` and ``top`` show.

It is made in pieces (`feedhandler.observe.slices`), a feed or a consumer at a time, each encoded at once; so the whole
holds the data path up as little as a scrape does. Its size is bounded: `CHANNELS` of a feed and `CONSUMERS` are told
one by one, of the others their number. Times are wall clock, ns; durations are in seconds. Nothing secret is in it.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec

from feedhandler import __version__
from feedhandler.core.bookkeeper import BookKeeper
from feedhandler.core.channels import Channel
from feedhandler.core.levels import Level
from feedhandler.core.line import Line
from feedhandler.core.notes import Value
from feedhandler.ingest.feed import Feed
from feedhandler.observe import metrics
from feedhandler.observe.catalogue import kind_of
from feedhandler.observe.collecting import clock_offset_s
from feedhandler.observe.counts import Remembered
from feedhandler.observe.history import STEP_S
from feedhandler.observe.pair import PairStatus, pair_of
from feedhandler.observe.readiness import bounded, doubts, general_reasons, missing, reasons_of
from feedhandler.observe.sight import Sight
from feedhandler.observe.slices import in_slices

CHANNELS: Final = 500
"""Channels of a feed that are told one by one, the first ones."""

CONSUMERS: Final = 1000
"""Consumers that are told one by one, the first ones."""

TOP_LEVELS: Final = 20_000
"""The most levels of a book whose top is looked for: it takes a look at each of them."""


UNNEEDED: Final = "unneeded"
"""The state of the token where none is needed."""


class LineStatus(msgspec.Struct, frozen=True):
    """One line: who it is, how it does, what it has done since the start."""

    name: str
    state: str
    doing: str
    """What the connection does or waits for: a token, a slot, a place that the exchange has left, and so on."""
    peer: str
    """The address that it is connected to; empty where it is not."""
    since_s: float
    leads: bool
    connected_since_ns: int | None
    lag_p50_s: float
    lag_p99_s: float
    wins: int
    duplicates: int
    messages: int
    garbage: int
    reconnects: int
    last_reason: str
    last_reason_ns: int | None
    led: list[int]
    """Events that it was the first to bring, in each of the last steps; only where the history was asked for."""
    lagged_s: list[float]
    """How far it was behind on average, likewise."""


class BookStatus(msgspec.Struct, frozen=True):
    """A book and its top; a side is None where it is empty, or the book too large to look."""

    synchronised: bool
    levels: int
    bid: tuple[str, str] | None
    """Price and quantity, as the exchange writes them."""
    ask: tuple[str, str] | None


class ChannelStatus(msgspec.Struct, frozen=True):
    """One channel; ``seq`` is the newest."""

    name: str
    state: str
    seq: int
    rate: float
    gaps: int
    last_event_ns: int | None
    repairing_events: int
    book: BookStatus | None


class FeedStatus(msgspec.Struct, frozen=True):
    """One feed."""

    name: str
    market: str
    streams: list[str]
    state: str
    ready: bool
    reasons: list[str]
    failovers: int
    last_failover_ns: int | None
    divergences: int
    window_events: int
    lines: list[LineStatus]
    channels: list[ChannelStatus]
    channels_total: int


class ConsumerStatus(msgspec.Struct, frozen=True):
    """One consumer; ``lag_bytes`` is an upper bound."""

    name: str
    pid: int
    uid: int
    subscribed: bool
    lag_events: int
    lag_bytes: int
    since_ns: int


class BudgetStatus(msgspec.Struct, frozen=True):
    """Attempts to connect: how many may begin at once, how many wait, and what the exchange allows."""

    available: int
    waiting: int
    paused_s: float
    """For how long yet nobody tries, since the exchange asked for that."""
    per_minute: int
    per_market: int
    total: int
    agnostic: int
    learnt: dict[str, int]
    """Connections at once that the exchange was found to allow, where that is fewer: by market, ``*`` of all."""


class TokenStatus(msgspec.Struct, frozen=True):
    """The token: its state as `exchange.token` has it, or `UNNEEDED`."""

    state: str
    age_s: float | None


class BacklogStatus(msgspec.Struct, frozen=True):
    """The backlog."""

    bytes: int
    limit_bytes: int
    records: int


class NewsItem(msgspec.Struct, frozen=True):
    """A note for people, a warning or worse, and how often it came with the same key."""

    at_ns: int
    times: int
    name: str
    level: str
    meaning: str
    fields: dict[str, Value]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of the daemon as a whole."""

    version: str
    session: str
    socket: str
    since_ns: int
    now_ns: int
    ready: bool
    reasons: list[str]
    """Why it is not ready, and what is in doubt although it may be (`observe.readiness`)."""
    pair: PairStatus
    step_s: float
    clock_offset_s: float | None
    budget: BudgetStatus
    token: TokenStatus
    backlog: BacklogStatus
    consumers_total: int
    news: list[NewsItem]


class Status(Summary, frozen=True, kw_only=True):
    """All that is told."""

    consumers: list[ConsumerStatus]
    feeds: list[FeedStatus]


_encode = msgspec.json.Encoder().encode


class StatusMaker:
    """Tells the state of one daemon."""

    def __init__(self, sight: Sight) -> None:
        self._sight = sight

    async def document(self, *, history: bool = False) -> bytes:
        """Return a `Status` as JSON; with the history of each line if that is asked for."""
        reasons = [*general_reasons(self._sight), *missing(self._sight)]
        feeds = await in_slices(self._feeds(reasons, history=history))
        consumers = await in_slices(self._consumers())
        summary = _encode(self._summary(reasons))
        return b'%b,"consumers":[%b],"feeds":[%b]}' % (
            summary[:-1],
            b",".join(consumers),
            b",".join(filter(None, feeds)),
        )

    def _feeds(self, reasons: list[str], *, history: bool) -> Iterator[bytes]:
        for feed in tuple(self._sight.feeds.values()):
            channels = []
            for channel in feed.channels()[:CHANNELS]:
                channels.append(self._channel(feed, channel))
                yield b""
            status = self._feed(feed, channels, history=history)
            reasons += status.reasons
            yield _encode(status)

    def _consumers(self) -> Iterator[bytes]:
        for consumer in islice(self._sight.publisher.connected(), CONSUMERS):
            yield _encode(ConsumerStatus(*consumer.status()))

    def _summary(self, reasons: list[str]) -> Summary:
        sight = self._sight
        publisher, config = sight.publisher, sight.config()
        return Summary(
            version=__version__,
            session=publisher.session,
            socket=str(config.publish.socket),
            since_ns=sight.started_ns,
            now_ns=sight.wall_ns(),
            ready=not reasons,
            reasons=bounded([*doubts(sight), *reasons]),
            pair=pair_of(sight),
            step_s=STEP_S,
            clock_offset_s=clock_offset_s(sight.feeds),
            budget=_budget(sight),
            token=_token(sight),
            backlog=BacklogStatus(
                publisher.backlog_bytes, config.publish.backlog_bytes, publisher.backlog_records
            ),
            consumers_total=len(publisher.connected()),
            news=[_news(one) for one in sight.counts.news],
        )

    def _feed(self, feed: Feed, channels: list[ChannelStatus], *, history: bool) -> FeedStatus:
        counts = self._sight.counts
        failover = counts.failovers.get(feed.label)
        reasons = reasons_of(feed)
        return FeedStatus(
            name=feed.label,
            market=feed.market,
            streams=list(feed.streams),
            state=feed.arbiter.state,
            ready=not reasons,
            reasons=reasons,
            failovers=feed.arbiter.failovers,
            last_failover_ns=None if failover is None else failover.at_ns,
            divergences=counts.of(metrics.DIVERGENCES).get((feed.label,), 0),
            window_events=len(feed.arbiter.window.payloads),
            lines=[self._line(feed, line, history=history) for line in feed.arbiter.lines.values()],
            channels=channels,
            channels_total=len(feed.channels()),
        )

    def _line(self, feed: Feed, line: Line, *, history: bool) -> LineStatus:
        sight, health = self._sight, line.health
        last = sight.counts.reasons.get((feed.label, line.name))
        past = sight.history.line(feed.label, line.name) if history else None
        connection = feed.lines.get(line.name)
        p50, p99 = health.percentiles(50, 99)
        return LineStatus(
            name=line.name,
            state=health.state,
            doing="" if connection is None else connection.doing,
            peer="" if connection is None else connection.peer,
            since_s=round(sight.now_s() - health.since, 3),
            leads=line.name == feed.arbiter.leader and line.up,
            connected_since_ns=line.connected_recv if line.connected else None,
            lag_p50_s=round(p50, 6),
            lag_p99_s=round(p99, 6),
            wins=line.wins,
            duplicates=line.duplicates,
            messages=line.messages,
            garbage=line.garbage,
            reconnects=sight.counts.reconnects(feed.label, line.name),
            last_reason="" if last is None else str(last.note.fields["reason"]),
            last_reason_ns=None if last is None else last.at_ns,
            led=[] if past is None else list(past.wins),
            lagged_s=[] if past is None else [round(one, 6) for one in past.lag_s],
        )

    def _channel(self, feed: Feed, channel: Channel) -> ChannelStatus:
        sight, keeper = self._sight, feed.recovery.keeper(channel.name)
        return ChannelStatus(
            name=channel.name,
            state=feed.recovery.state(channel.name),
            seq=channel.next - 1,
            rate=round(sight.history.rate(channel), 3),
            gaps=sight.counts.gaps(channel.name),
            last_event_ns=channel.last_ns if channel.last_ns >= 0 else None,
            repairing_events=keeper.held[0] if keeper is not None else 0,
            book=_book(keeper) if isinstance(keeper, BookKeeper) else None,
        )


def _book(keeper: BookKeeper) -> BookStatus:
    book = keeper.track.followed
    if book is None or keeper.syncing:
        return BookStatus(not keeper.syncing, 0, None, None)
    bids, asks = book.top(1) if len(book) <= TOP_LEVELS else ([], [])
    return BookStatus(
        not keeper.syncing, len(book), _level(bids[0]) if bids else None, _level(asks[0]) if asks else None
    )


def _level(level: Level) -> tuple[str, str]:
    return level.price, level.quantity


def _budget(sight: Sight) -> BudgetStatus:
    limits = sight.config().limits
    return BudgetStatus(
        available=sight.gate.available(),
        waiting=sight.gate.waiting,
        paused_s=round(sight.gate.paused_s(), 3),
        per_minute=sight.gate.limit,
        per_market=limits.connections_per_market,
        total=limits.connections_total,
        agnostic=limits.connections_agnostic,
        learnt=sight.gate.learnt_caps(),
    )


def _token(sight: Sight) -> TokenStatus:
    if sight.tokens is None:
        return TokenStatus(UNNEEDED, None)
    return TokenStatus(sight.tokens.state, sight.tokens.age_s)


def _news(one: Remembered) -> NewsItem:
    kind = kind_of(one.note.name)
    return NewsItem(one.at_ns, one.times, one.note.name, kind.level, kind.meaning, one.note.fields)
