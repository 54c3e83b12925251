"""The daemon's nursery tree, and how its rooms are joined.

    run
    ├── signals                   SIGTERM and SIGINT end the service, a second one the process; SIGHUP reloads
    ├── systemd                   hears that all is well, while it is
    ├── the publisher             outlives the feeds: its consumers get what is pending
    ├── the control socket        what `feedhandler ctl` asks for
    ├── the observation           likewise: metrics, health and status over HTTP (`observe.service`)
    └── the service
        ├── incidents             written in a thread
        ├── the token             renewed before anyone has to wait for it
        ├── the ticker            tells every feed the time; the books follow
        ├── the markets           that the exchange lists, asked for again and again
        └── the feeds
            └── a feed each       they come and go
                └── its lines

**A standby** (`standby`) runs the service alone at first: it follows the active daemon, and its feeds publish nothing.
When the lock is its own, the feeds take over, and the publisher and the control socket are opened as at any start. What
it knows is whole where it was told all that any consumer was: then the session goes on (`standby.succession`); else it
begins as any daemon.

The feeds share one publisher, one gate for connection attempts and one token. At the end the service is cancelled
first, so nothing new comes; then the consumers are let go with what is pending. Both together have
``publish.drain_s``; only an exchange that does not answer the lines' goodbye can take longer, by its bound.

**A changed configuration** (`control.configuration`) takes effect key by key, here where all who go by one are known.
Feeds that are the same as before are not touched.
"""

import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Final

import msgspec
import trio

from feedhandler import __version__
from feedhandler.config import (
    ACCOUNT_STREAMS,
    Config,
    Limits,
    Wanted,
    have_files,
    read_credentials,
)
from feedhandler.control import server as control
from feedhandler.control.commands import Commands
from feedhandler.control.configuration import Configuration
from feedhandler.control.fleet import Fleet
from feedhandler.control.markets import Markets
from feedhandler.control.requests import Answer
from feedhandler.core.budget import Caps
from feedhandler.core.motion import Part
from feedhandler.core.notes import Notify, note
from feedhandler.cycles import sweep
from feedhandler.errors import ConfigError
from feedhandler.exchange.messages import OTHER
from feedhandler.exchange.requests import ping
from feedhandler.exchange.token import REQUESTS_PER_MINUTE, TIMEOUT_S, TokenSource
from feedhandler.ingest.connect import tls_context
from feedhandler.ingest.feed import Feed
from feedhandler.ingest.feeds import Feeds
from feedhandler.ingest.gate import NOBODY, UNANSWERED_S, Gate, Other
from feedhandler.ingest.ledger import REQUESTS_FOR_TOKENS, Ledger
from feedhandler.ingest.line import Means
from feedhandler.ingest.surroundings import Surroundings
from feedhandler.ingest.ticker import Ticker
from feedhandler.observe.counts import Counts
from feedhandler.observe.history import History
from feedhandler.observe.incidents import Incidents
from feedhandler.observe.liveness import Liveness
from feedhandler.observe.pair import in_words
from feedhandler.observe.readiness import NOT_FOLLOWED, NOT_HEARD, missing, reasons_of
from feedhandler.observe.service import Observation
from feedhandler.observe.sight import Log, Sight
from feedhandler.observe.systemd import Systemd, fan_out
from feedhandler.observe.telling import StatusMaker
from feedhandler.publish.outlet import Outlet
from feedhandler.publish.server import Publisher
from feedhandler.standby import sharing
from feedhandler.standby.mirror import Mirror
from feedhandler.standby.service import Standby
from feedhandler.standby.succession import Succession

CONTROL_PATIENCE_S: Final = 5.0
"""Beyond its time for the consumers a daemon that is leaving is given so long to free the control socket."""


def _nothing_to_load() -> Config:
    raise ConfigError(["this daemon was started without a file"])


def _caps(limits: Limits) -> Caps:
    return Caps(limits.connections_per_market, limits.connections_total, limits.connections_agnostic)


def _no_level(_: str) -> None:
    """Have no log."""


class Daemon:
    """One running configuration; ``load`` reads it again, ``set_level`` sets the level of the log."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        notify: Notify,
        *,
        standby: bool = False,
        load: Callable[[], Config] = _nothing_to_load,
        set_level: Callable[[str], object] = _no_level,
        log: Log | None = None,
    ) -> None:
        self._counts = Counts(time.time_ns)
        self._liveness = Liveness()
        notify = self._counts.before(notify)
        self._service = trio.CancelScope()
        self._configuration = Configuration(
            config,
            load,
            effect=self._take_effect,
            is_ending=lambda: self._service.cancel_called,
            notify=notify,
        )
        self._environ = environ
        self._notify = notify
        self._set_level = set_level
        self._ssl = tls_context(config.exchange.ca_file)
        self.publisher = Publisher(
            config.publish,
            config.bounds,
            session=str(uuid.uuid4()),
            clock=time.time_ns,
            notify=notify,
            account_streams=self._account_streams,
            may_come=self._may_come,
        )
        self._incidents = Incidents(config.observe.incidents, config.bounds.incident_files, notify)
        limits = config.limits
        self._in_pair = standby
        self._ledger = Ledger(config.publish.socket, lambda: self.config.bounds.handshake_s, notify)
        self._gate = Gate(
            limits.connections_per_minute, _caps(limits), notify, ledger=self._ledger, other=self._other
        )
        self._outlet = Outlet(self.publisher)
        self._around = self._surroundings()
        self.standby = self._make_standby() if standby else None
        self._work: trio.Nursery | None = None
        self.fleet = Fleet(config, self._make_feed, notify)
        self._succession = Succession(self.publisher, self._outlet, self.fleet, lambda: self.config)
        self._markets = Markets(lambda: self.config, self._ssl, self.fleet, self._follow_anew, notify)
        self._ticker = Ticker(self.feeds, self._liveness.beat)
        self._stopped_s = 0.0
        self._hands_over = False
        self._left = trio.Event()
        self._outer: trio.Nursery | None = None
        address = config.standby.http_address if standby else config.observe.http_address
        self.observation = Observation(self._sight(log), address, notify)

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
            liveness=self._liveness,
            log=log,
            draining=lambda: self._service.cancel_called,
            pending=lambda: self._markets.pending,
            standby=self.standby_reasons,
            course=lambda: self.standby,
            paired=self.standby is not None,
            wall_ns=time.time_ns,
            now_s=trio.current_time,
            started_ns=time.time_ns(),
        )

    def moved_s(self) -> float:
        """Return when anything was released last, to a tick."""
        return self._ticker.moved_s

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._configuration.now

    @property
    def feeds(self) -> Feeds:
        """The feeds that run, by their labels."""
        return self.fleet.feeds

    def _surroundings(self) -> Surroundings:
        config = self.config
        tokens = None
        if config.exchange.token_url:
            tokens = TokenSource(
                config.exchange.token_url,
                lambda: read_credentials(config, self._environ),
                self._ssl,
                self._notify,
                in_thread=have_files(config, self._environ),
                round_s=self._gate.round_s,
                shared=Ledger(config.publish.socket, lambda: TIMEOUT_S, self._notify, of=REQUESTS_FOR_TOKENS),
                most=self._most_token_requests,
            )
        means = Means(
            gate=self._gate,
            tokens=tokens,
            ssl_context=self._ssl,
            health=config.health,
            bounds=config.bounds,
            make_ping=ping,
        )
        return Surroundings(
            outlet=self._outlet,
            means=means,
            notify=self._notify,
            wall_ns=time.time_ns,
            incident=self._incidents.take,
            recovery=config.recovery,
            account_other=self._has_account,
        )

    def _has_account(self) -> bool:
        """Tell whether any feed is about the account."""
        return any(ACCOUNT_STREAMS.intersection(feed.streams) for feed in self.config.feeds)

    def _account_streams(self) -> frozenset[str]:
        """Return the streams that are for the account's readers: with a feed about it unknown messages, too."""
        return ACCOUNT_STREAMS | {OTHER} if self._has_account() else ACCOUNT_STREAMS

    def _may_come(self, channel: str) -> bool:
        """Tell whether a channel that is not open may be opened some time."""
        return self.fleet.may_bring(channel)

    def _make_feed(self, label: str, wanted: Wanted) -> Feed:
        """Make a feed that goes by the settings of now; one that follows has the standby's lines."""
        lines = wanted.lines if self.standby is None else min(wanted.lines, self.config.standby.lines)
        feed = Feed(
            label,
            self.config.exchange.websocket_url,
            wanted.market,
            wanted.streams,
            lines,
            self._around,
            follows=self.standby is not None,
        )
        feed.retune(self.config.health, self.config.recovery)
        return feed

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run until `stop`; started when the socket listens, or a standby is about to follow."""
        async with trio.open_nursery() as nursery:
            self._outer = nursery
            if self.standby is None:
                await nursery.start(self.publisher.serve)
            await nursery.start(self.observation.run)
            async with trio.open_nursery() as controls:
                if self.standby is None:
                    await controls.start(self._control(0.0))
                    self._notify(note("daemon_started", version=__version__, session=self.publisher.session))
                task_status.started()
                with self._service:
                    await self._serve(nursery, controls)
                self._notify(note("daemon_draining"))
                if self._hands_over:
                    await self._left.wait()
                elif self.standby is None:
                    await self._leave()
                controls.cancel_scope.cancel()
            self.observation.end()
        self._ledger.close()
        self._notify(note("daemon_stopped"))

    def _control(self, patience_s: float) -> Callable[..., Awaitable[None]]:
        """Return what serves the control socket."""
        commands = Commands(
            self.fleet,
            status=self.status,
            reload=self.reload,
            drain=self.stop,
            hand_over=self.hand_over,
            is_ending=lambda: self._service.cancel_called,
        )
        publish = self.config.publish
        return partial(control.serve, publish, commands.execute, self._notify, patience_s=patience_s)

    async def _leave(self) -> None:
        """Let the consumers go, to a standby if there is one that goes on."""
        if not self._hands_over:
            for feed in self.feeds.values():
                feed.end()
        left_s = self._stopped_s + self.config.publish.drain_s - trio.current_time()
        await self.publisher.drain(max(0.0, left_s), "takeover" if self._hands_over else "shutdown")
        self._left.set()

    def stop(self) -> None:
        """End the service; the consumers get what is pending, and a standby that is ready goes on.

        That one does not wait for the lines to say goodbye to the exchange.
        """
        if self._service.cancel_called:
            return
        self._stopped_s = trio.current_time()
        self._service.cancel()
        self._hands_over = self.publisher.precedence.ready and self._outer is not None
        if self._hands_over and self._outer is not None:
            for feed in self.feeds.values():
                feed.hush()  # a line may be about to deliver what it has read
            self._outer.start_soon(self._leave)

    def hand_over(self) -> str:
        """End the service if there is a standby that goes on; return why not."""
        precedence = self.publisher.precedence
        if not precedence.ready:
            found = (
                "no standby follows this daemon"
                if precedence.follower is None
                else "the standby is not ready yet"
            )
            return f"{found}; `drain` ends the daemon all the same"
        self.stop()
        return ""

    # The standby

    def _other(self) -> Other:
        """Return the other daemon at the socket, as far as the exchange's limits go."""
        running, lines = self.fleet.running, self.config.standby.lines
        if self.standby is not None:
            return Other(sharing.active_places(running), is_first=True)
        self._in_pair = self._in_pair or self.publisher.precedence.follower is not None
        return Other(sharing.standby_places(running, lines), is_first=False) if self._in_pair else NOBODY

    def _most_token_requests(self) -> int:
        """Return how many token requests of a minute this daemon may be the last of; a standby leaves half."""
        return REQUESTS_PER_MINUTE if self.standby is None else REQUESTS_PER_MINUTE // 2

    def _outlive(self, for_s: float) -> None:
        """Count what the exchange may still count of daemons that have ended."""
        running, lines = self.fleet.running, self.config.standby.lines
        self._gate.outlive(sharing.active_places(running), for_s=for_s)
        if self.standby is not None:
            self._gate.outlive(sharing.standby_places(running, lines))

    def _make_standby(self) -> Standby:
        return Standby(
            self.config.publish.socket,
            self.publisher.lock,
            begin=self._follow,
            level=self._run_feeds,
            missing=self._unready,
            notify=self._notify,
        )

    def standby_reasons(self) -> list[str] | None:
        """Return why this daemon could not take over without a gap; None where it is the active one."""
        if self.standby is None:
            return None
        if not self.standby.is_level:
            return [NOT_FOLLOWED]
        return self._unready() or ([] if self.standby.is_heard else [NOT_HEARD])

    def standby_in_words(self) -> str:
        """Return how the standby of the active daemon does; empty where there is none to be."""
        return in_words(self.observation.sight)

    def _unready(self) -> list[str]:
        reasons = [reason for feed in self.feeds.values() for reason in reasons_of(feed)]
        return [*missing(self.observation.sight), *reasons]

    def _follow(self, session: str) -> Mirror:
        """Begin anew with a session of the active daemon; the feeds run when all is known that there is."""
        return self._succession.follow(session)

    def _follow_anew(self) -> None:
        """Let a standby follow anew, with the feeds of now."""
        if self.standby is not None:
            self.standby.start_over()

    def _run_feeds(self) -> None:
        """Run the feeds, unless they do already; a standby that begins to follow anew halts them."""
        assert self._work is not None
        if self.standby is not None:
            self._outlive(UNANSWERED_S - self._ledger.since_takeover_s())
        self.feeds.begin(self._work)

    async def _stand_by(self, standby: Standby, nursery: trio.Nursery, controls: trio.Nursery) -> None:
        """Follow until the lock is this daemon's, and be the active one then."""
        whole = await standby.run()
        began = trio.current_time()
        self.standby = None
        if standby.has_followed:
            self._ledger.note_takeover()
            self._outlive(UNANSWERED_S)
        if whole:
            self._succession.take_over()
        else:
            self._succession.begin(str(uuid.uuid4()))
        self._run_feeds()
        await nursery.start(self.publisher.serve)
        session = self.publisher.session
        if standby.has_followed:
            took_s = round(trio.current_time() - began, 3)
            self._notify(note("took_over", session=session, whole=whole, took_s=took_s))
        self._notify(note("daemon_started", version=__version__, session=session))
        self.observation.open(self.config.observe.http_address)
        await controls.start(self._control(self.config.publish.drain_s + CONTROL_PATIENCE_S))

    async def status(self) -> msgspec.Raw:
        """Return the state of everything, for operators: what ``/status`` answers."""
        return msgspec.Raw(await StatusMaker(self.observation.sight).document())

    # The configuration

    async def reload(self) -> Answer:
        """Read the configuration again, and let it take effect unless it has a mistake."""
        return await self._configuration.reload()

    def _take_effect(self, before: Config, now: Config) -> None:
        """Let everything go by a changed configuration that does not ask for it by itself."""
        if now.limits != before.limits:
            self._gate.set_limit(now.limits.connections_per_minute, _caps(now.limits))
        files = [(one.exchange.api_key_file, one.exchange.api_secret_file) for one in (before, now)]
        if files[0] != files[1]:
            self._change_keys()
        if now.log.level != before.log.level:
            self._set_level(now.log.level)
        if self.standby is not None and self.fleet.is_changed_by(now):
            self.standby.start_over()
        else:
            self.fleet.configure(now)
        if (now.health, now.recovery) != (before.health, before.recovery):
            for feed in self.feeds.values():
                feed.retune(now.health, now.recovery)
        self._markets.ask_again()
        self._notify(note("config_reloaded", feeds=len(self.feeds)))

    def _change_keys(self) -> None:
        """Let key and secret be read from where the configuration says by now."""
        tokens = self._around.means.tokens
        if tokens is not None:
            tokens.change(
                self.config.exchange.token_url,
                lambda: read_credentials(self.config, self._environ),
                self._ssl,
                in_thread=have_files(self.config, self._environ),
            )

    # What runs

    def parts(self) -> Iterator[Part]:
        """Return the parts of the data path that have to move now; at the end only the consumers do."""
        if not self._service.cancel_called:
            for feed in tuple(self.feeds.values()):
                yield from feed.parts()
        yield from self.publisher.parts()

    def consumer_count(self) -> int:
        """Return how many consumers are connected."""
        return self.publisher.consumer_count

    async def _serve(self, outer: trio.Nursery, controls: trio.Nursery) -> None:
        async with trio.open_nursery() as nursery:
            self._work = nursery
            nursery.start_soon(self._incidents.run)
            nursery.start_soon(self._ticker.run)
            if self._around.means.tokens is not None:
                nursery.start_soon(self._around.means.tokens.run)
            nursery.start_soon(self._markets.run)
            if self.standby is None:
                self._run_feeds()
            else:
                nursery.start_soon(self._stand_by, self.standby, outer, controls)


async def run(
    config: Config,
    environ: Mapping[str, str],
    notify: Notify,
    *,
    reload: Callable[[], Config],
    exit_now: Callable[[], object],
    standby: bool = False,
    set_level: Callable[[str], object] = _no_level,
    log: Log | None = None,
) -> None:
    """Run the daemon in the foreground, with signals: the first end drains, the second calls ``exit_now``."""
    systemd = Systemd(environ, notify)
    notify = fan_out(notify, systemd.hear)
    daemon = Daemon(config, environ, notify, standby=standby, load=reload, set_level=set_level, log=log)
    daemon.observation.sight.liveness.ask(systemd.standing_s)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey_signals, signals, daemon, exit_now, systemd)
            nursery.start_soon(sweep, daemon.moved_s)
            async with trio.open_nursery() as serving:
                await serving.start(daemon.run)
                nursery.start_soon(systemd.run, daemon)
            nursery.cancel_scope.cancel()


async def _reload(daemon: Daemon, systemd: Systemd) -> None:
    """Reload, and let systemd know when it begins and when it is over."""
    with systemd.reloading():
        await daemon.reload()


async def _obey_signals(
    signals: AsyncIterator[int], daemon: Daemon, exit_now: Callable[[], object], systemd: Systemd
) -> None:
    stopping = False
    async with trio.open_nursery() as nursery:
        async for number in signals:
            if number == signal.SIGHUP:
                nursery.start_soon(_reload, daemon, systemd)
            elif stopping:
                exit_now()
            else:
                stopping = True
                daemon.stop()
