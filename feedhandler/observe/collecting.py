"""A scrape: every metric of the running parts, read off at the moment of asking.

Nothing is counted here. What happens with every event is counted by whoever does it, and notes by
`feedhandler.observe.counts`; a scrape goes through the families one after the other and reads the present values, so
what has no counter costs nothing between scrapes. Series are those of the feeds, lines, channels and consumers that are
there: what is gone has no series, and what was counted of it is forgotten.

Each table below has the families of one kind of thing, and how to read each. Bounds have gauges: ``bound`` says what
the configuration allows, by its name, and the gauge beside it how much of it is used (`BOUNDS`).
"""

import os
import platform
import resource
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import process_time
from typing import Final, NamedTuple

import msgspec

from feedhandler import __version__
from feedhandler.config import Bounds
from feedhandler.core.arbiter import DOWN, LIVE, QUIET, SYNCING
from feedhandler.core.asking import Keeper
from feedhandler.core.bookkeeper import BookKeeper
from feedhandler.core.channels import Channel
from feedhandler.core.health import STATES
from feedhandler.core.line import Line
from feedhandler.ingest.feed import Feed
from feedhandler.observe.exposition import Block, buckets, exposition, labels, sample
from feedhandler.observe.metrics import COUNTERS, KNOWN_VALUES, LOG_LINES_LOST, Family, counter, gauge
from feedhandler.observe.pair import pair_of, role_of, state_of
from feedhandler.observe.sight import Sight
from feedhandler.observe.status import NONE as NO_STANDBY
from feedhandler.observe.status import ROLES
from feedhandler.observe.status import STATES as PAIR_STATES

CONSUMER_NAMES: Final = 32
"""Different names of consumers that become labels; further ones are `OTHER_CONSUMERS`."""

OTHER_CONSUMERS: Final = "other"
UNNAMED: Final = "unnamed"

FEED_STATES: Final = (LIVE, QUIET, SYNCING, DOWN)

_PAGE_BYTES: Final = resource.getpagesize()
_STATM: Final = Path("/proc/self/statm")
_DESCRIPTORS: Final = "/proc/self/fd"


def histogram(name: str, text: str, *names: str) -> Family:
    """Make the family of a histogram."""
    return Family(name, "histogram", text, names)


LINE_STATE: Final = gauge("line_state", "1 for the state that a line is in.", "feed", "line", "state")
FEED_STATE: Final = gauge("feed_state", "1 for the state that a feed is in.", "feed", "state")
LINE_LAG: Final = histogram(
    "line_lag_seconds",
    "How far behind the winner a line was, at the newest event of each of its reads.",
    "feed",
    "line",
)
LATENCY: Final = histogram(
    "publish_latency_seconds", "From the reading of an event's first byte to its sending."
)
ROLE: Final = gauge("role", "1 for which of two daemons this one is; alone it is the active one.", "role")
STANDBY_STATE: Final = gauge(
    "standby_state",
    "1 for the state of the standby: of the one that follows, or of this daemon itself.",
    "state",
)
BOUND: Final = gauge("bound", "What the configuration allows, by the bound's name there.", "bound")
BUILD: Final = gauge("build_info", "1, with the versions of the program and of Python.", "version", "python")
STARTED: Final = gauge("start_time_seconds", "When the daemon, or the bridge, started (Unix time).")
HTTP_CONNECTIONS: Final = gauge("http_connections", "Connections of those who look, over HTTP.")
CONSUMER_LAG: Final = gauge(
    "consumer_lag_events", "Events that the consumers of a name are behind, the slowest of them.", "consumer"
)

Number = float | None

_LINE: Final = ("feed", "line")

LINE_VALUES: Final[tuple[tuple[Family, Callable[[Line], Number]], ...]] = (
    (counter("line_messages", "Messages that a line has brought.", *_LINE), lambda line: line.messages),
    (counter("line_wins", "Events that a line was the first to bring.", *_LINE), lambda line: line.wins),
    (
        counter("duplicates", "Copies of events that a line has brought.", *_LINE),
        lambda line: line.duplicates,
    ),
    (
        gauge("hold_events", "Events that are held for a witness.", *_LINE),
        lambda line: len(line.hold.events) + len(line.aside),
    ),
    (
        gauge("hold_bytes", "Bytes of the events that are held for a witness.", *_LINE),
        lambda line: line.hold.bytes,
    ),
    (
        gauge("owed_events", "Events that were released and that a line has not brought yet.", *_LINE),
        lambda line: line.owing.count if line.owing else 0,
    ),
    (
        gauge("passed_events", "Events that a line has passed without bringing them so far.", *_LINE),
        lambda line: len(line.owing.passed) if line.owing else 0,
    ),
)

FEED_VALUES: Final[tuple[tuple[Family, Callable[[Feed], Number]], ...]] = (
    (
        gauge("window_events", "Events in a feed's window.", "feed"),
        lambda feed: len(feed.arbiter.window.payloads),
    ),
    (
        gauge("window_bytes", "Bytes of the events in a feed's window.", "feed"),
        lambda feed: feed.arbiter.window.bytes,
    ),
    (
        gauge("trail_bytes", "Bytes of the reads that lines behind are compared with.", "feed"),
        lambda feed: feed.arbiter.trail_bytes,
    ),
    (
        gauge("ghosts", "Dead lines of which something is still held.", "feed"),
        lambda feed: len(feed.arbiter.ghosts),
    ),
    (gauge("disputed_events", "Events that wait for a verdict.", "feed"), lambda feed: feed.arbiter.disputed),
    (
        gauge("unknown_events", "Messages of unknown type that are remembered.", "feed"),
        lambda feed: feed.arbiter.unknown,
    ),
    (gauge("feed_channels", "Channels of a feed.", "feed"), lambda feed: len(feed.channels())),
    (
        gauge("snapshot_requests", "Requests for snapshots that are remembered.", "feed"),
        lambda feed: feed.recovery.asking,
    ),
    (
        gauge("line_requests", "Requests that wait to be sent on the lines of a feed.", "feed"),
        lambda feed: sum(line.requests for line in feed.lines.values()),
    ),
)

CHANNEL_VALUES: Final[tuple[tuple[Family, Callable[[Channel], Number]], ...]] = (
    (counter("events", "Events published.", "channel"), lambda channel: channel.published),
    (
        gauge(
            "channel_last_event_timestamp_seconds", "When the newest event arrived (Unix time).", "channel"
        ),
        lambda channel: channel.last_ns / 1e9 if channel.last_ns >= 0 else None,
    ),
)

KEEPER_VALUES: Final[tuple[tuple[Family, Callable[[Keeper], Number]], ...]] = (
    (gauge("repair_events", "Events held of a channel in repair.", "channel"), lambda keeper: keeper.held[0]),
    (
        gauge("repair_bytes", "Bytes of the events held of a channel in repair.", "channel"),
        lambda keeper: keeper.held[1],
    ),
    (
        gauge("snapshot_attempts", "Requests in a row without a usable answer.", "channel"),
        lambda keeper: keeper.attempts,
    ),
)

BOOK_VALUES: Final[tuple[tuple[Family, Callable[[BookKeeper], Number]], ...]] = (
    (
        gauge("book_synchronised", "1 while a book is there, else 0.", "channel"),
        lambda book: not book.syncing,
    ),
    (
        gauge("book_levels", "Levels of a book, both sides together.", "channel"),
        lambda book: None if book.track.followed is None else len(book.track.followed),
    ),
    (
        gauge("book_deltas_waiting", "Deltas that a book does not follow yet.", "channel"),
        lambda book: book.track.waiting,
    ),
    (
        gauge("book_memory_bytes", "Bytes of the deltas that are remembered of a book.", "channel"),
        lambda book: book.track.remembered_bytes,
    ),
)

DAEMON_VALUES: Final[tuple[tuple[Family, Callable[[Sight], Number]], ...]] = (
    (
        gauge("exchange_clock_offset_seconds", "The exchange's clock minus ours, by the newest events."),
        lambda sight: clock_offset_s(sight.feeds),
    ),
    (
        gauge("token_age_seconds", "Age of the token; no series without one."),
        lambda sight: None if sight.tokens is None else sight.tokens.age_s,
    ),
    (
        gauge("connection_budget_available", "Attempts to connect that may begin at once."),
        lambda sight: sight.gate.available(),
    ),
    (
        gauge("connection_budget_limit", "Attempts to connect that may begin in any minute."),
        lambda sight: sight.gate.limit,
    ),
    (
        gauge("connection_attempts_waiting", "Attempts to connect that wait for the budget."),
        lambda sight: sight.gate.waiting,
    ),
    (
        gauge(
            "config_last_reload_successful", "1 unless the configuration was refused when it was read last."
        ),
        lambda sight: sight.counts.reload_succeeded,
    ),
    (
        gauge("standby_expected", "1 where the daemon was started as one of two (--standby), else 0."),
        lambda sight: sight.paired,
    ),
    (
        gauge(
            "standby_behind_events",
            "Events that the standby was not sent yet, or that the active daemon has not published yet.",
        ),
        lambda sight: pair_of(sight).behind_events if state_of(sight) != NO_STANDBY else None,
    ),
    (gauge("feeds", "Feeds that there are."), lambda sight: len(sight.feeds)),
    (gauge("consumers", "Consumers that are connected."), lambda sight: len(sight.publisher.connected())),
    (
        gauge("backlog_bytes", "Bytes of the records that are kept."),
        lambda sight: sight.publisher.backlog_bytes,
    ),
    (
        gauge("backlog_limit_bytes", "Bytes of records that may be kept (publish.backlog_mib)."),
        lambda sight: sight.config().publish.backlog_bytes,
    ),
    (gauge("backlog_records", "Records that are kept."), lambda sight: sight.publisher.backlog_records),
    (gauge("incidents_waiting", "Incidents that wait to be written."), lambda sight: sight.incidents.waiting),
    (
        gauge("log_lines_waiting", "Log lines that wait for their reader."),
        lambda sight: sight.log.waiting if sight.log else None,
    ),
    (
        LOG_LINES_LOST,
        lambda sight: sight.log.lost if sight.log else None,
    ),
    (
        gauge("progress_idle_seconds", "For how long the data path has not come round."),
        lambda sight: sight.liveness.idle_s,
    ),
    (STARTED, lambda sight: sight.started_ns / 1e9),
)


def _resident_bytes() -> int:
    """Return the memory in use; the kernel tells it without touching a disk."""
    return int(_STATM.read_text().split()[1]) * _PAGE_BYTES


PROCESS_VALUES: Final[tuple[tuple[Family, Callable[[], float]], ...]] = (
    (counter("cpu_seconds", "CPU time of the process."), process_time),
    (gauge("memory_bytes", "Memory of the process that is in use."), _resident_bytes),
    (gauge("open_descriptors", "File descriptors that are open."), lambda: len(os.listdir(_DESCRIPTORS))),
)

BOUNDS: Final[Mapping[str, str]] = {
    "window_events": "window_events",
    "window_mib": "window_bytes",
    "settled_events": "window_events",
    "trail_mib": "trail_bytes",
    "hold_events": "hold_events",
    "hold_mib": "hold_bytes",
    "passed_events": "passed_events",
    "repair_events": "repair_events",
    "repair_mib": "repair_bytes",
    "consumers": "consumers",
    "unknown_events": "unknown_events",
}
"""Each bound of something that fills up, and the gauge that says how full it is."""

FAMILIES: Final[tuple[Family, ...]] = (
    *(
        LINE_STATE,
        FEED_STATE,
        LINE_LAG,
        LATENCY,
        ROLE,
        STANDBY_STATE,
        BOUND,
        BUILD,
        HTTP_CONNECTIONS,
        CONSUMER_LAG,
    ),
    *(family for family, _ in LINE_VALUES),
    *(family for family, _ in FEED_VALUES),
    *(family for family, _ in CHANNEL_VALUES),
    *(family for family, _ in KEEPER_VALUES),
    *(family for family, _ in BOOK_VALUES),
    *(family for family, _ in DAEMON_VALUES),
    *(family for family, _ in PROCESS_VALUES),
    *COUNTERS,
)
"""Every metric that there is."""


class OneFeed(NamedTuple):
    """A feed with its labels."""

    text: str
    feed: Feed
    lines: list[tuple[str, Line]]
    channels: list[tuple[str, Channel]]
    keepers: list[tuple[str, Keeper]]

    def look(self) -> Iterator[None]:
        """Find out what the feed consists of, a thing at a time."""
        label = self.feed.label
        for line in self.feed.arbiter.lines.values():
            self.lines.append((labels(feed=label, line=line.name), line))
        for channel in self.feed.channels():
            self.channels.append((labels(channel=channel.name), channel))
            yield
        for keeper in self.feed.recovery.keepers():
            self.keepers.append((labels(channel=keeper.channel), keeper))
            yield


def clock_offset_s(feeds: Mapping[str, Feed]) -> float | None:
    """Return the exchange's clock minus ours (s), by the feed whose newest event was the least on its way."""
    offsets = (feed.arbiter.clock_offset_s() for feed in tuple(feeds.values()))
    return max((offset for offset in offsets if offset is not None), default=None)


class Collector:
    """Makes scrapes of one daemon."""

    def __init__(self, sight: Sight, connections: Callable[[], int]) -> None:
        self._sight = sight
        self._connections = connections
        self._names: dict[str, None] = {}

    def scrape(self, *, openmetrics: bool) -> Iterator[str]:
        """Return the text of all metrics, in pieces."""
        feeds: list[OneFeed] = []
        for feed in tuple(self._sight.feeds.values()):
            one = OneFeed(labels(feed=feed.label), feed, [], [], [])
            feeds.append(one)
            for _ in one.look():
                yield ""
        self._forget(feeds)
        yield from exposition(self._blocks(feeds), openmetrics=openmetrics)

    def _forget(self, feeds: list[OneFeed]) -> None:
        """Forget what was counted of what is gone."""
        self._sight.counts.forget(
            {one.feed.label for one in feeds},
            {(one.feed.label, line.name) for one in feeds for _, line in one.lines},
            {channel.name for one in feeds for _, channel in one.channels},
        )

    def _blocks(self, feeds: list[OneFeed]) -> Iterator[Block]:
        yield Block(
            BUILD, [sample(BUILD.name, labels(version=__version__, python=platform.python_version()), 1)]
        )
        for family, read in DAEMON_VALUES:
            yield Block(family, [_value(family, "", read(self._sight))])
        for family, read_process in PROCESS_VALUES:
            yield Block(family, [_value(family, "", read_process())])
        yield Block(ROLE, [_states(ROLE, "", role_of(self._sight), ROLES)])
        yield Block(STANDBY_STATE, [_states(STANDBY_STATE, "", state_of(self._sight), PAIR_STATES)])
        yield Block(LATENCY, [buckets(LATENCY.name, "", self._sight.latency)])
        yield Block(BOUND, [self._bounds()])
        yield Block(HTTP_CONNECTIONS, [_value(HTTP_CONNECTIONS, "", self._connections())])
        yield Block(
            FEED_STATE, (_states(FEED_STATE, one.text, one.feed.arbiter.state, FEED_STATES) for one in feeds)
        )
        for family, read_feed in FEED_VALUES:
            yield Block(family, _of_feeds(family, read_feed, feeds))
        yield Block(LINE_STATE, _line_states(feeds))
        for family, read_line in LINE_VALUES:
            yield Block(family, _of_lines(family, read_line, feeds))
        yield Block(LINE_LAG, _line_lags(feeds))
        for family, read_channel in CHANNEL_VALUES:
            yield Block(family, _of_channels(family, read_channel, feeds))
        for family, read_keeper in KEEPER_VALUES:
            yield Block(family, _of_keepers(family, read_keeper, feeds))
        for family, read_book in BOOK_VALUES:
            yield Block(family, _of_books(family, read_book, feeds))
        yield Block(CONSUMER_LAG, self._consumer_lags())
        for family in COUNTERS:
            yield Block(family, self._counted(family, feeds))

    def _bounds(self) -> str:
        bounds = self._sight.config().bounds
        fields = msgspec.structs.fields(Bounds)
        return "".join(
            sample(BOUND.name, labels(bound=field.name), getattr(bounds, field.name)) for field in fields
        )

    def _counted(self, family: Family, feeds: list[OneFeed]) -> Iterator[str]:
        """Return the series of what counts notes, and at 0 those that should be there from the beginning."""
        counts = dict(self._sight.counts.of(family))
        for key, count in counts.items():
            yield _counted(family, key, count)
        if family.name in KNOWN_VALUES:
            for one in feeds:
                for key in _known_keys(family, one):
                    yield _counted(family, key, 0) if key not in counts else ""

    def _consumer_lags(self) -> Iterator[str]:
        lags: dict[str, int] = {}
        for consumer in self._sight.publisher.connected():
            status = consumer.status()
            name = self._label_of(status.name)
            lags[name] = max(lags.get(name, 0), status.lag_events)
            yield ""
        yield "".join(sample(CONSUMER_LAG.name, labels(consumer=name), lag) for name, lag in lags.items())

    def _label_of(self, name: str) -> str:
        """Return a consumer's label: its name, if it is among the first `CONSUMER_NAMES` of the process's life."""
        name = name or UNNAMED
        if name in self._names or len(self._names) < CONSUMER_NAMES:
            self._names[name] = None
            return name
        return OTHER_CONSUMERS


def _value(family: Family, text: str, value: Number) -> str:
    return "" if value is None else sample(family.name, text, +value)


def _states(family: Family, text: str, present: str, states: tuple[str, ...]) -> str:
    before = f"{text}," if text else ""
    label = family.labels[-1]
    return "".join(
        sample(family.name, f'{before}{label}="{state}"', 1 if state == present else 0) for state in states
    )


def _line_states(feeds: list[OneFeed]) -> Iterator[str]:
    for one in feeds:
        for text, line in one.lines:
            yield _states(LINE_STATE, text, line.health.state, STATES)


def _line_lags(feeds: list[OneFeed]) -> Iterator[str]:
    for one in feeds:
        for text, line in one.lines:
            yield buckets(LINE_LAG.name, text, line.health.lags)


def _of_feeds(family: Family, read: Callable[[Feed], Number], feeds: list[OneFeed]) -> Iterator[str]:
    for one in feeds:
        yield _value(family, one.text, read(one.feed))


def _of_lines(family: Family, read: Callable[[Line], Number], feeds: list[OneFeed]) -> Iterator[str]:
    for one in feeds:
        yield "".join([_value(family, text, read(line)) for text, line in one.lines])


def _of_channels(family: Family, read: Callable[[Channel], Number], feeds: list[OneFeed]) -> Iterator[str]:
    for one in feeds:
        for text, channel in one.channels:
            yield _value(family, text, read(channel))


def _of_keepers(family: Family, read: Callable[[Keeper], Number], feeds: list[OneFeed]) -> Iterator[str]:
    for one in feeds:
        for text, keeper in one.keepers:
            yield _value(family, text, read(keeper))


def _of_books(family: Family, read: Callable[[BookKeeper], Number], feeds: list[OneFeed]) -> Iterator[str]:
    for one in feeds:
        for text, keeper in one.keepers:
            if isinstance(keeper, BookKeeper):
                yield _value(family, text, read(keeper))


def _counted(family: Family, key: tuple[str, ...], count: int) -> str:
    return sample(family.name, labels(**dict(zip(family.labels, key, strict=True))), count)


def _known_keys(family: Family, one: OneFeed) -> Iterator[tuple[str, ...]]:
    if family.labels == ("feed",):
        yield (one.feed.label,)
        return
    books_only = family.name != "gaps_total"
    channels = (
        [keeper.channel for _, keeper in one.keepers if isinstance(keeper, BookKeeper)]
        if books_only
        else [channel.name for _, channel in one.channels]
    )
    for channel in channels:
        for value in KNOWN_VALUES[family.name]:
            yield channel, value
