"""The daemon's nursery tree.

    run
    ├── signals                   SIGTERM and SIGINT end the service, a second one the process; SIGHUP reloads
    ├── systemd                   hears that all is well, while it is
    ├── the publisher             outlives the feeds: its consumers get what is pending
    ├── the observation           likewise: metrics, health and status over HTTP (`observe.service`)
    └── the service
        ├── incidents             written in a thread
        ├── the token             renewed before anyone has to wait for it
        ├── the ticker            tells every feed the time
        ├── the books             follow what was published, a little at a time, where anything moves
        └── a feed each
            └── its lines

The feeds share one publisher, one gate for connection attempts and one token. At the end the service is cancelled
first, so nothing new comes; then the consumers are let go with what is pending. Both together have
``publish.drain_s``; only an exchange that does not answer the lines' goodbye can take longer, by its bound.

Nothing here reads a file in the event loop: the configuration is read again in a thread.
"""

import signal
import time
import uuid
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Final

import msgspec
import trio

from feedhandler import __version__
from feedhandler.config import ACCOUNT_STREAMS, LISTED, Config, have_files, plan, read_credentials
from feedhandler.config import Feed as FeedSettings
from feedhandler.core.budget import Caps
from feedhandler.core.channels import Channel
from feedhandler.core.notes import Notify, note
from feedhandler.core.progress import Part
from feedhandler.cycles import sweep
from feedhandler.errors import ConfigError, ConnectionFailed, OperationalError
from feedhandler.exchange.markets import fetch_markets
from feedhandler.exchange.messages import OTHER
from feedhandler.exchange.requests import ping
from feedhandler.exchange.token import TokenSource
from feedhandler.ingest.beat import sleep_in_step
from feedhandler.ingest.connect import tls_context
from feedhandler.ingest.feed import TICK_S, Feed, Surroundings
from feedhandler.ingest.gate import Gate
from feedhandler.ingest.line import Means
from feedhandler.observe.counts import Counts
from feedhandler.observe.history import History
from feedhandler.observe.incidents import Incidents
from feedhandler.observe.progress import Progress
from feedhandler.observe.service import Observation
from feedhandler.observe.sight import Log, Sight
from feedhandler.observe.systemd import Systemd, fan_out
from feedhandler.publish.server import Publisher

MARKETS_RETRY_S: Final = 5.0
"""Between two attempts to learn the markets."""

BOOKS_DELTAS: Final = 64
"""Deltas that a book follows at a time; then all other tasks have their turn."""


class Outlet:
    """The publisher as feeds see it: a channel that is open already is theirs to find."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._channels: dict[str, Channel] = {}
        self.publish = publisher.publish
        self.publish_run = publisher.publish_run
        self.gap = publisher.gap
        self.snapshot = publisher.snapshot
        self.offer_book = publisher.offer_book
        self.state = publisher.state
        self.flush = publisher.flush

    def channel(self, name: str, *, feed: str, account: bool) -> Channel:
        """Return a channel, opened for ``feed`` unless it is open already."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = self._publisher.channel(name, feed=feed, account=account)
        return channel


class Daemon:
    """One running configuration."""

    def __init__(
        self, config: Config, environ: Mapping[str, str], notify: Notify, log: Log | None = None
    ) -> None:
        self._counts = Counts(time.time_ns)
        self._progress = Progress()
        notify = self._counts.before(notify)
        self.config = config
        self._environ = environ
        self._notify = notify
        self._ssl = tls_context(config.exchange.ca_file)
        self.publisher = Publisher(
            config.publish,
            config.bounds,
            session=str(uuid.uuid4()),
            clock=time.time_ns,
            notify=notify,
            account_streams=self._account_streams,
        )
        self._incidents = Incidents(config.observe.incidents, config.bounds.incident_files, notify)
        self._around = self._surroundings(config)
        self.feeds: dict[str, Feed] = {}
        self._service = trio.CancelScope()
        self._stopped_s = 0.0
        self._listed = False
        self.observation = Observation(self._sight(log), config.observe.http_address, notify)
        self._moving: dict[Feed, None] = {}
        self._movement = trio.Event()
        self._moved_s = 0.0

    def _sight(self, log: Log | None) -> Sight:
        """Return what operators may look at."""
        return Sight(
            config=lambda: self.config,
            feeds=self.feeds,
            publisher=self.publisher,
            gate=self._around.means.gate,
            tokens=self._around.means.tokens,
            latency=self._around.latency,
            counts=self._counts,
            history=History(self.feeds),
            incidents=self._incidents,
            progress=self._progress,
            log=log,
            draining=lambda: self._service.cancel_called,
            pending=lambda: not self._listed and any(LISTED in feed.markets for feed in self.config.feeds),
            wall_ns=time.time_ns,
            now_s=trio.current_time,
            started_ns=time.time_ns(),
        )

    def moved_s(self) -> float:
        """Return when anything was released last, to a tick."""
        return self._moved_s

    def _surroundings(self, config: Config) -> Surroundings:
        exchange, limits = config.exchange, config.limits
        caps = Caps(limits.connections_per_market, limits.connections_total, limits.connections_agnostic)
        tokens = None
        if exchange.token_url:
            tokens = TokenSource(
                exchange.token_url,
                lambda: read_credentials(config, self._environ),
                self._ssl,
                self._notify,
                in_thread=have_files(config, self._environ),
            )
        means = Means(
            gate=Gate(limits.connections_per_minute, caps, self._notify),
            tokens=tokens,
            ssl_context=self._ssl,
            health=config.health,
            bounds=config.bounds,
            make_ping=ping,
        )
        return Surroundings(
            outlet=Outlet(self.publisher),
            means=means,
            notify=self._notify,
            wall_ns=time.time_ns,
            incident=self._incidents.take,
            recovery=config.recovery,
            account_other=self._has_account(),
        )

    def _has_account(self) -> bool:
        """Tell whether any feed is about the account."""
        return any(ACCOUNT_STREAMS.intersection(feed.streams) for feed in self.config.feeds)

    def _account_streams(self) -> frozenset[str]:
        """Return the streams that are for the account's readers: with a feed about it unknown messages, too."""
        return ACCOUNT_STREAMS | {OTHER} if self._has_account() else ACCOUNT_STREAMS

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`; started when the socket listens."""
        self._open_known_feeds()
        async with trio.open_nursery() as nursery:
            await nursery.start(self.publisher.serve)
            await nursery.start(self.observation.run)
            self._notify(note("daemon_started", version=__version__, session=self.publisher.session))
            task_status.started()
            with self._service:
                await self._serve()
            self._notify(note("daemon_draining"))
            for feed in self.feeds.values():
                feed.end()
            left_s = self._stopped_s + self.config.publish.drain_s - trio.current_time()
            await self.publisher.drain(max(0.0, left_s))
            self.observation.end()
        self._notify(note("daemon_stopped"))

    def stop(self) -> None:
        """End the service; the consumers get what is pending."""
        self._stopped_s = trio.current_time()
        self._service.cancel()

    async def reload(self, load: Callable[[], Config]) -> None:
        """Read the configuration again: refuse a wrong one, and say what of a new one needs a restart."""
        try:
            config = await trio.to_thread.run_sync(load, abandon_on_cancel=True)
        except ConfigError as error:
            for mistake in error.mistakes:
                self._notify(note("config_refused", mistake=mistake))
            return
        names = [field.name for field in msgspec.structs.fields(Config)]
        changed = [name for name in names if getattr(config, name) != getattr(self.config, name)]
        for section in changed:
            self._notify(note("config_needs_restart", section=section))
        if not changed:
            self._notify(note("config_reloaded"))

    def parts(self) -> Iterator[Part]:
        """Return the parts of the data path that have to move now; at the end only the consumers do."""
        if not self._service.cancel_called:
            for feed in tuple(self.feeds.values()):
                yield from feed.parts()
        yield from self.publisher.parts()

    def consumer_count(self) -> int:
        """Return how many consumers are connected."""
        return self.publisher.consumer_count

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._incidents.run)
            nursery.start_soon(self._tick)
            nursery.start_soon(self._follow_books)
            if self._around.means.tokens is not None:
                nursery.start_soon(self._around.means.tokens.run)
            for feed in self.feeds.values():
                nursery.start_soon(feed.run)
            for settings in self.config.feeds:
                if settings.markets == (LISTED,):
                    nursery.start_soon(self._open_listed_feeds, settings, nursery)

    async def _tick(self) -> None:
        while True:
            await sleep_in_step(TICK_S)
            now = trio.current_time()
            for feed in [feed for feed in self.feeds.values() if feed.is_due(now)]:
                if feed.tick():
                    self._moved_s = now
                self._moving[feed] = None
                self._movement.set()
            self._progress.beat()

    async def _follow_books(self) -> None:
        """Keep the books near the head, so that who needs one does not wait for it."""
        while True:
            await self._movement.wait()
            self._movement = trio.Event()
            moving, self._moving = self._moving, {}
            for track in [track for feed in moving for track in feed.recovery.behind()]:
                waiting = track.waiting
                while waiting:
                    waiting = track.catch_up(BOOKS_DELTAS)
                    await trio.lowlevel.checkpoint()

    # Feeds

    def _open_known_feeds(self) -> None:
        for settings in self.config.feeds:
            for market in settings.markets:
                if market != LISTED:
                    self._open(settings, market)

    def _open(self, settings: FeedSettings, market: str) -> Feed:
        label = settings.label(market)
        url = self.config.exchange.websocket_url
        feed = Feed(label, url, market, settings.streams, settings.lines, self._around)
        self.feeds[label] = feed
        return feed

    async def _open_listed_feeds(self, settings: FeedSettings, nursery: trio.Nursery) -> None:
        """Open a feed for each market that the exchange lists, as far as the limits allow, unless there is one."""
        markets = await self._markets()
        self._listed = True
        most = self._most_markets(len(markets))
        if most < len(markets):
            limit = plan(self.config, len(markets)).above_limits[0]
            self._notify(note("markets_left_out", markets=len(markets) - most, limit=limit))
        for market in markets[:most]:
            if settings.label(market) not in self.feeds:
                nursery.start_soon(self._open(settings, market).run)

    def _most_markets(self, listed: int) -> int:
        """Return how many of the listed markets the limits allow."""
        return bisect_left(range(1, listed + 1), True, key=self._is_above_limits)

    def _is_above_limits(self, markets: int) -> bool:
        return bool(plan(self.config, markets).above_limits)

    async def _markets(self) -> tuple[str, ...]:
        while True:
            try:
                markets = await fetch_markets(self.config.exchange.markets_url, self._ssl)
            except OperationalError as failure:
                reason = failure.reason if isinstance(failure, ConnectionFailed) else "answer"
                self._notify(note("markets_failed", reason=reason, detail=str(failure)))
            else:
                self._notify(note("markets_listed", markets=len(markets)))
                return markets
            await trio.sleep(MARKETS_RETRY_S)


async def run(
    config: Config,
    environ: Mapping[str, str],
    notify: Notify,
    *,
    reload: Callable[[], Config],
    exit_now: Callable[[], object],
    log: Log | None = None,
) -> None:
    """Run the daemon in the foreground, with signals: the first end drains, the second calls ``exit_now``."""
    systemd = Systemd(environ, notify)
    daemon = Daemon(config, environ, fan_out(notify, systemd.hear), log)
    daemon.observation.sight.progress.ask(systemd.standing_s)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey_signals, signals, daemon, reload, exit_now, systemd)
            nursery.start_soon(sweep, daemon.moved_s)
            async with trio.open_nursery() as serving:
                await serving.start(daemon.run)
                nursery.start_soon(systemd.run, daemon)
            nursery.cancel_scope.cancel()


async def _reload(daemon: Daemon, load: Callable[[], Config], systemd: Systemd) -> None:
    """Reload, and let systemd know when it begins and when it is over."""
    with systemd.reloading():
        await daemon.reload(load)


async def _obey_signals(
    signals: AsyncIterator[int],
    daemon: Daemon,
    reload: Callable[[], Config],
    exit_now: Callable[[], object],
    systemd: Systemd,
) -> None:
    stopping = False
    async with trio.open_nursery() as nursery:
        async for number in signals:
            if number == signal.SIGHUP:
                nursery.start_soon(_reload, daemon, reload, systemd)
            elif stopping:
                exit_now()
            else:
                stopping = True
                daemon.stop()
