"""Telling the state of a daemon: a `feedhandler.observe.status.Status`, made of the running parts.

It is made in pieces (`feedhandler.observe.slices`), a feed or a consumer at a time, each encoded at once; so the whole
holds the data path up as little as a scrape does. Its size is bounded: `CHANNELS` of a feed and `CONSUMERS` are told
one by one, of the others their number.
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
from feedhandler.ingest.feed import Feed
from feedhandler.observe import metrics
from feedhandler.observe.catalogue import kind_of
from feedhandler.observe.collecting import clock_offset_s
from feedhandler.observe.counts import Remembered
from feedhandler.observe.history import STEP_S
from feedhandler.observe.pair import pair_of
from feedhandler.observe.readiness import bounded, doubts, general_reasons, missing, reasons_of
from feedhandler.observe.sight import Sight
from feedhandler.observe.slices import in_slices
from feedhandler.observe.status import (
    UNNEEDED,
    BacklogStatus,
    BookStatus,
    BudgetStatus,
    ChannelStatus,
    ConsumerStatus,
    FeedStatus,
    LineStatus,
    NewsItem,
    Summary,
    TokenStatus,
)

CHANNELS: Final = 500
"""Channels of a feed that are told one by one, the first ones."""

CONSUMERS: Final = 1000
"""Consumers that are told one by one, the first ones."""

TOP_LEVELS: Final = 20_000
"""The most levels of a book whose top is looked for: it takes a look at each of them."""

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
