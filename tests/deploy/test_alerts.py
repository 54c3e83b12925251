# ruff: noqa: D401 - a play tells what happens in it
"""Each alert of the rules is brought about: a real Prometheus scrapes real daemons, and bridges into a real NATS.

The exchange is the test's own, so a fault strikes when it should. The rules are those that are deployed, only in a
hurry: their windows and waits are shortened, their conditions stay (`hurried`); how long they wait is the unit tests'
business (`feedhandler.tests.yml`). Nothing here waits for a fixed time: no alert fires before the fault, one is waited
for until it has fired, the fault is mended, and it is waited for until it has cleared.

A machine that is busy with something else makes all of this slow and none of it wrong. **A fault lasts until its alert
has fired, or strikes again until then**; whether an alert has fired is read off what Prometheus has written down since
the fault, so that it is found however short it was; and every window has room for scrapes that come late.
"""

import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import pytest
import trio

from feedhandler.simulator import exchange as simulated
from feedhandler.simulator.server import serve
from feedhandler.simulator.settings import Behaviour, Fault, FaultPlan, Settings
from tests.bridge.nats import NatsServer
from tests.support.ports import free_port
from tests.support.processes import MODULE

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "feedhandler.rules.yml"
FREEZING = Path(__file__).parent / "freezing.py"

PATIENCE_S = 240.0
POLL_S = 0.25
AT_ONCE = 5
"""Plays on stage at the same time."""

HURRY = {
    r"(changes\(\w+)\[15m\]": r"\1[80s]",
    r"\[1m\]": "[20s]", r"\[5m\]": "[20s]", r"\[10m\]": "[20s]", r"\[15m\]": "[40s]", r"\[1h\]": "[20s]",
    r"offset \w+": "offset 20s", r"for: \w+": "for: 1s", r"> 1740": "> 12",
}  # fmt: skip
"""What is shortened; the last is the age of a token, whose life is shortened alike."""

PROMETHEUS = """
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 500ms}}
rule_files: [{rules}]
scrape_configs:
  - job_name: feedhandler
    static_configs: [{{targets: {targets}}}]
"""

CONFIG = """
[exchange]
websocket_url = "{url}"
token_url = "{token_url}"
[limits]
connections_per_minute = 100000
connections_per_market = 8
[[feed]]
markets = ["BTC-USD"]
lines = 2
[publish]
socket = "feed.sock"
[observe]
http = "127.0.0.1:{port}"
[log]
format = "json"
[bounds]
backoff_min_s = 0.05
backoff_max_s = 0.5
"""


def hurried() -> str:
    """Return the rules in a hurry."""
    text = RULES.read_text()
    for pattern, short in HURRY.items():
        text, count = re.subn(pattern, short, text)
        assert count, pattern
    return text


def alerts() -> set[str]:
    """Return the names of all alerts."""
    return set(re.findall(r"- alert: (\w+)", RULES.read_text()))


class Program:
    """A program that can be killed and started again; its log goes to a file, or where nobody reads it."""

    def __init__(self, folder: Path, arguments: tuple[object, ...], environ: dict[str, str]) -> None:
        self._folder = folder
        self._arguments = [str(one) for one in arguments]
        self._environ = environ
        self.process: trio.Process | None = None
        self.began = 0.0
        """When it was started last (s, wall clock)."""

    def words(self) -> list[str]:
        """Return what the program is started with."""
        return self._arguments

    async def start(self, program: tuple[str, ...] = MODULE, errors: int | None = None) -> None:
        """Start it."""
        self.began = time.time()
        with (self._folder / "log").open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                [*program, *self.words()],
                stdout=log,
                stderr=log if errors is None else errors,
                env={**os.environ, **self._environ},
            )

    async def kill(self) -> None:
        """Kill it."""
        assert self.process is not None
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()


class Daemon(Program):
    """A daemon."""

    def __init__(self, folder: Path, config: Path, sets: tuple[str, ...], environ: dict[str, str]) -> None:
        super().__init__(
            folder, ("--config", config, *(word for one in sets for word in ("--set", one))), environ
        )
        self.flags: tuple[str, ...] = ()

    def words(self) -> list[str]:
        """Return what the program is started with."""
        return ["run", *self.flags, *super().words()]


class Play:
    """One daemon, its exchange, and the alerts about it."""

    def __init__(self, folder: Path, port: int, watch: "Watch", nursery: trio.Nursery) -> None:
        self.folder = folder
        self.port = port
        self.instance = f"127.0.0.1:{port}"
        self.watch = watch
        self._nursery = nursery
        self._exchange_scope = trio.CancelScope()
        self._calm_at = time.time()
        self.exchange: simulated.Exchange
        self.daemon: Daemon
        self.nats: NatsServer
        self.bridge: Program

    async def open(
        self, *sets: str, rate: float = 40, token: bool = False, start: bool = True, **behaviour: Any
    ) -> None:
        """Start an exchange and a daemon."""
        await self.open_exchange(rate=rate, **behaviour)
        config = self.folder / "feedhandler.toml"
        token_url = f"{self.exchange.http_url}/api/v1/token" if token else ""
        config.write_text(CONFIG.format(url=self.exchange.url, token_url=token_url, port=self.port))
        keys = {"FEEDHANDLER_API_KEY": "key", "FEEDHANDLER_API_SECRET": "secret"}
        self.daemon = Daemon(self.folder, config, sets, keys)
        if start:
            await self.daemon.start()

    async def open_bridge(self, *arguments: object, server: tuple[object, ...] = ()) -> None:
        """Start an exchange and a daemon that nobody watches, a NATS, and the bridge that the alerts are about."""
        await self.open(f'observe.http="127.0.0.1:{free_port()}"', "publish.backlog_mib=1")
        self.nats = NatsServer(self.folder, arguments=server)
        await self.nats.start()
        words = ("--socket", self.folder / "feed.sock", "--server", self.nats.url, "--stream", "FEED")
        http = ("--http", self.instance, "--snapshot-every-s", 1)
        self.bridge = Program(self.folder, ("bridge", "nats", *words, *http, *arguments), {})
        await self.bridge.start()
        self._nursery.start_soon(self._end_nats)

    async def _end_nats(self) -> None:
        """Let nothing that the play has started outlive it."""
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await self.nats.stop()
                await self.bridge.kill()

    async def forwards(self, *names: str) -> None:
        """Wait until Prometheus sees the bridge write, and none of these alerts; what fires from now on counts."""
        writes = f'feedhandler_bridge_leads{{instance="{self.instance}"}} == 1'
        await self.until(lambda: self.watch.has(writes))
        await self.clears(*names)
        self._calm_at = time.time()

    async def open_pair(self, *names: str) -> Daemon:
        """Start an exchange, a daemon, and its standby, which is returned; wait until none of these alerts fires."""
        await self.open(start=False)
        second = self.other()
        self.daemon.flags = second.flags
        await self.daemon.start()
        await self.started()
        await second.start()
        await self.calm(*names)
        return second

    def other(self, *sets: str) -> Daemon:
        """Return a standby that is yet to be started."""
        one = Daemon(self.folder, self.folder / "feedhandler.toml", sets, {})
        one.flags = ("--standby",)
        return one

    async def open_exchange(
        self, *, rate: float = 40, port: int = 0, start_ms: int | None = None, **behaviour: Any
    ) -> None:
        """Start an exchange."""
        plan = FaultPlan(behaviour=Behaviour(**behaviour))
        settings = Settings(markets=("BTC-USD",), rate=rate, port=port, start_ms=start_ms, plan=plan)

        async def run(task_status: trio.TaskStatus[simulated.Exchange]) -> None:
            with self._exchange_scope:
                await serve(settings, task_status=task_status)

        self._exchange_scope = trio.CancelScope()
        self.exchange = await self._nursery.start(run)

    async def close_exchange(self) -> int:
        """End the exchange; return its port."""
        port = int(self.exchange.url.rpartition(":")[2])
        self._exchange_scope.cancel()
        await trio.sleep(0)
        return port

    def strike(self, kind: Any, line: Any = "all", **more: Any) -> None:
        """Let something go wrong."""
        self.exchange.inject(Fault(kind=kind, line=line, market="BTC-USD", **more))

    def behave(self, **behaviour: Any) -> None:
        """Let the exchange behave otherwise from now on."""
        self.exchange.behaviour = msgspec.structs.replace(self.exchange.behaviour, **behaviour)

    async def calm(self, *names: str, lines: int = 2) -> None:
        """Wait until Prometheus sees all lines up and none of these alerts; what fires from now on counts.

        What it still knows of a daemon that was killed does not count: the new one may not even hear signals yet.
        """
        up = f'sum(feedhandler_line_state{{instance="{self.instance}", state=~"good|probation"}}) == {lines}'
        await self.until(lambda: self.watch.has(f"({up}) and on () {self._is_new}"))
        await self.clears(*names)
        self._calm_at = time.time()

    async def started(self) -> None:
        """Wait until Prometheus sees the daemon that was started last."""
        await self.until(lambda: self.watch.has(self._is_new))

    @property
    def _is_new(self) -> str:
        """What is there once the daemon that was started last has been scraped."""
        return f'feedhandler_start_time_seconds{{instance="{self.instance}"}} > {self.daemon.began}'

    async def until(self, condition: Callable[[], Awaitable[bool]], left: Collection[str] = ()) -> None:
        """Wait until something is so; ``left`` says what is still missing."""
        with trio.move_on_after(PATIENCE_S) as patience:
            while not await condition():
                await trio.sleep(POLL_S)
        if patience.cancelled_caught:
            log = (self.folder / "log").read_text(errors="replace")[-3000:]
            pytest.fail(
                f"{self.folder.name}: waited in vain {left or ''}; firing: {await self.firing()}\n{log}"
            )

    async def firing(self) -> set[str]:
        """Return the names of the alerts about this daemon."""
        alerts = await self.watch.get("alerts")
        mine = [one for one in alerts["alerts"] if one["labels"].get("instance") == self.instance]
        return {one["labels"]["alertname"] for one in mine if one["state"] == "firing"}

    async def fired(self) -> set[str]:
        """Return the names of the alerts that have fired at any time since all was calm."""
        seconds = int(time.time() - self._calm_at)
        if not seconds:
            return set()
        alerts = f'max_over_time(ALERTS{{alertstate="firing", instance="{self.instance}"}}[{seconds}s])'
        return {one["metric"]["alertname"] for one in await self.watch.query(alerts)}

    async def fires(self, *names: str, again: Callable[[], object] = lambda: None) -> None:
        """Wait until alerts have fired, each at some time since all was calm."""
        left = set(names)

        async def all_fired() -> bool:
            again()
            left.difference_update(await self.fired())
            return not left

        await self.until(all_fired, left)
        self.watch.fired.update(names)

    async def clears(self, *names: str) -> None:
        """Wait until none of these alerts fires."""

        async def cleared() -> bool:
            return not (await self.firing()).intersection(names)

        await self.until(cleared)
        self.watch.cleared.update(names)


class Watch:
    """Prometheus, as it is asked."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self.fired: set[str] = set()
        """Alerts that were seen to fire."""
        self.cleared: set[str] = set()
        """Alerts that were seen to be over afterwards."""

    async def get(self, path: str) -> Any:
        """Ask its API."""
        return await trio.to_thread.run_sync(partial(self._get, path))

    async def query(self, query: str) -> list[dict[str, Any]]:
        """Return what a query results in."""
        quoted = "".join(f"%{byte:02x}" for byte in query.encode())
        result: list[dict[str, Any]] = (await self.get(f"query?query={quoted}"))["result"]
        return result

    async def has(self, query: str) -> bool:
        """Tell whether a query has a result."""
        return bool(await self.query(query))

    def _get(self, path: str) -> Any:
        with urlopen(f"{self._url}/api/v1/{path}", timeout=10) as answer:  # noqa: S310 - of this machine
            return json.load(answer)["data"]

    async def ready(self) -> None:
        """Wait until it answers."""
        with trio.fail_after(PATIENCE_S):
            while True:
                try:
                    await self.get("alerts")
                except OSError:
                    await trio.sleep(POLL_S)
                else:
                    return


@asynccontextmanager
async def prometheus(folder: Path, targets: list[int]) -> AsyncIterator[Watch]:
    """Run a Prometheus that scrapes these ports."""
    rules, config, port = folder / "rules.yml", folder / "prometheus.yml", free_port()
    rules.write_text(hurried())
    config.write_text(PROMETHEUS.format(rules=rules, targets=[f"127.0.0.1:{one}" for one in targets]))
    with (folder / "prometheus.log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        watch = Watch(port)
        await watch.ready()
        yield watch
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


# The plays, each with the alerts that it brings about.


async def the_daemon_is_killed(play: Play) -> None:
    """What does not answer is down; what starts too often is no better."""
    names = ("FeedhandlerDown", "FeedhandlerRestarting")
    await play.open()
    await play.calm(*names)
    await play.daemon.kill()
    await play.fires("FeedhandlerDown")
    while "FeedhandlerRestarting" not in await play.fired():
        await play.daemon.kill()
        await play.daemon.start()
        await play.started()
    await play.fires("FeedhandlerRestarting")
    await play.clears(*names)


async def the_data_path_freezes(play: Play) -> None:
    """The loop turns, and answers that no time is told, or that nothing is read."""
    await play.open(start=False)
    for fault in (signal.SIGUSR2, signal.SIGUSR1):
        await play.daemon.start((sys.executable, os.fspath(FREEZING)))
        await play.calm("FeedhandlerDataPathStands")
        play.daemon.process.send_signal(fault)
        await play.fires("FeedhandlerDataPathStands")
        await play.daemon.kill()
    await play.daemon.start()
    await play.calm("FeedhandlerDataPathStands")


async def the_exchange_is_away(play: Play) -> None:
    """All lines go, and the feed is down; when it comes back there is a gap."""
    names = ("FeedhandlerFeedDown", "FeedhandlerGap")
    await play.open()
    await play.calm(*names)
    port = await play.close_exchange()
    await play.fires("FeedhandlerFeedDown")
    await play.open_exchange(port=port)
    await play.fires("FeedhandlerGap")
    await play.clears(*names)


async def snapshots_are_no_good(play: Play) -> None:
    """Behind a gap, the exchange has no book to tell."""
    await play.open()
    await play.calm("FeedhandlerBookNotSynchronised")
    desk = play.exchange._desk
    answer, desk.book_snapshot = desk.book_snapshot, lambda *_: b'{"resultType":"busy"}'
    play.strike("outage", duration_s=1.0)
    await play.fires("FeedhandlerBookNotSynchronised")
    desk.book_snapshot = answer
    await play.clears("FeedhandlerBookNotSynchronised")


async def a_delta_is_lost_on_all_lines(play: Play) -> None:
    """No line can tell; the audit of the book does."""
    await play.open("recovery.audit_s=2", "recovery.verify_s=1")
    await play.calm("FeedhandlerBookWrong")
    play.strike("drop", count=20)
    await play.fires("FeedhandlerBookWrong")
    await play.clears("FeedhandlerBookWrong")


async def unknown_messages_come(play: Play) -> None:
    """A new type of message is noticed at the first of it."""
    await play.open()
    await play.calm("FeedhandlerUnknownMessages")
    await play.open_exchange(port=await play.close_exchange(), unknown_types_every_s=2.0)
    await play.fires("FeedhandlerUnknownMessages")
    await play.open_exchange(port=await play.close_exchange())
    await play.clears("FeedhandlerUnknownMessages")


async def one_line_is_left(play: Play) -> None:
    """The other line is refused for a while."""
    await play.open()
    await play.calm("FeedhandlerNoRedundancy")
    play.behave(handshake_status=503)
    play.strike("close", line=1)
    await play.fires("FeedhandlerNoRedundancy")
    play.behave(handshake_status=101)
    await play.clears("FeedhandlerNoRedundancy")


async def a_line_flaps(play: Play) -> None:
    """It is closed whenever it is up."""
    await play.open()
    await play.calm("FeedhandlerLineFlaps")
    await play.fires("FeedhandlerLineFlaps", again=lambda: play.strike("close", line=1))
    await play.clears("FeedhandlerLineFlaps")


async def a_line_misses_events(play: Play) -> None:
    """Two lines agree against the third."""
    await play.open("feed[0].lines=3", "health.quarantine_divergences=2", "health.quarantine_s=4", rate=200)
    await play.calm("FeedhandlerLineQuarantined", lines=3)
    await play.until(lambda: _all_good(play, 3))
    await play.fires("FeedhandlerLineQuarantined", again=lambda: play.strike("drop", line=1, count=3))
    await play.clears("FeedhandlerLineQuarantined")


async def all_lines_miss_events(play: Play) -> None:
    """Each line misses something at another time: nobody can be blamed."""
    await play.open("feed[0].lines=3", "health.quarantine_divergences=4", rate=200)
    await play.calm("FeedhandlerDivergenceCheckOff", lines=3)
    await play.until(lambda: _all_good(play, 3))
    turns = count()
    await play.fires(
        "FeedhandlerDivergenceCheckOff", again=lambda: play.strike("drop", line=next(turns) % 3, count=1)
    )
    await play.clears("FeedhandlerDivergenceCheckOff")


async def _all_good(play: Play, count: int) -> bool:
    states = f'feedhandler_line_state{{instance="{play.instance}", state="good"}}'
    return await play.watch.has(f"sum({states}) == {count}")


async def the_exchange_refuses(play: Play) -> None:
    """The key is no good any more, for a while."""
    await play.open()
    await play.calm("FeedhandlerRefusedByExchange")
    play.behave(handshake_status=403)
    play.strike("close")
    await play.fires("FeedhandlerRefusedByExchange")
    play.behave(handshake_status=101)
    await play.clears("FeedhandlerRefusedByExchange")


async def attempts_are_used_up(play: Play) -> None:
    """Three lines, and two attempts in a minute."""
    await play.open("feed[0].lines=3", "limits.connections_per_minute=2")
    await play.fires("FeedhandlerBudgetExhausted")
    await play.clears("FeedhandlerBudgetExhausted")


async def the_key_is_not_accepted(play: Play) -> None:
    """It was good until the next token was asked for."""
    await play.open(token=True, token_life_s=12.0)
    await play.calm("FeedhandlerKeyRefused")
    play.behave(token_status=403)
    await play.fires("FeedhandlerKeyRefused")
    play.behave(token_status=200)
    await play.clears("FeedhandlerKeyRefused")


async def no_token_is_to_be_had(play: Play) -> None:
    """The exchange is away for longer than a token lives."""
    await play.open(token=True, token_life_s=10.0)
    await play.calm("FeedhandlerTokenOld")
    port = await play.close_exchange()
    await play.fires("FeedhandlerTokenOld")
    await play.open_exchange(port=port, token_life_s=600.0)
    await play.clears("FeedhandlerTokenOld")


async def the_clocks_differ(play: Play) -> None:
    """The exchange lives in another minute."""
    await play.open()
    await play.calm("FeedhandlerClockOff")
    port = await play.close_exchange()
    await play.open_exchange(port=port, start_ms=round(time.time() * 1000) + 60_000)
    await play.fires("FeedhandlerClockOff")
    await play.close_exchange()
    await play.open_exchange(port=port)
    await play.clears("FeedhandlerClockOff")


async def the_configuration_is_wrong(play: Play) -> None:
    """A mistake is reloaded, and mended."""
    await play.open()
    await play.calm("FeedhandlerConfigRefused")
    config = play.folder / "feedhandler.toml"
    text = config.read_text()
    config.write_text(text + "nonsense = 1\n")
    play.daemon.process.send_signal(signal.SIGHUP)
    await play.fires("FeedhandlerConfigRefused")
    config.write_text(text)
    play.daemon.process.send_signal(signal.SIGHUP)
    await play.clears("FeedhandlerConfigRefused")


async def a_consumer_does_not_read(play: Play) -> None:
    """First it lags, then it is dropped."""
    tight = (
        "publish.backlog_mib=12",
        "publish.consumer_mib=9",
        "publish.peak_mib_s=2",
        "bounds.snapshot_mib=2",
    )
    names = ("FeedhandlerConsumerLags", "FeedhandlerConsumerDropped")
    await play.open(*tight, rate=3000)
    await play.calm(*names)

    async def sleep_again_and_again() -> None:
        while True:
            async with await trio.open_unix_socket(os.fspath(play.folder / "feed.sock")) as stream:
                await stream.send_all(b'{"op":"subscribe","channels":["*"],"name":"sleeper"}\n')
                await play.until(lambda: _is_gone(play))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep_again_and_again)
        await play.fires(*names)
        nursery.cancel_scope.cancel()
    await play.clears(*names)


async def _is_gone(play: Play) -> bool:
    """Tell whether the daemon has let the only consumer go."""
    return not await play.watch.has(f'feedhandler_consumers{{instance="{play.instance}"}} > 0')


async def nobody_reads_the_log(play: Play) -> None:
    """More is logged than fits; once it is read again, nothing more is lost."""
    reading, writing = os.pipe()
    await play.open("log.level=debug", "bounds.consumers=32", start=False)
    await play.daemon.start(errors=writing)
    os.close(writing)
    await play.calm("FeedhandlerLogLost")

    async def complain() -> None:
        for number in count():
            async with await trio.open_unix_socket(os.fspath(play.folder / "feed.sock")) as stream:
                await stream.send_all(b'{"op":"subscribe","channels":["x/y"],"name":"c%d"}\n' % number)
                while await stream.receive_some():
                    pass

    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(complain)
        await play.fires("FeedhandlerLogLost")
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.to_thread.run_sync, _drain, reading, abandon_on_cancel=True))
        await play.clears("FeedhandlerLogLost")
        await play.daemon.kill()


def _drain(descriptor: int) -> None:
    with os.fdopen(descriptor, "rb", buffering=0) as pipe:
        while pipe.read(65_536):
            pass


async def the_standby_is_gone(play: Play) -> None:
    """It is killed, and started again."""
    second = await play.open_pair("FeedhandlerNoStandby")
    await second.kill()
    await play.fires("FeedhandlerNoStandby")
    await second.start()
    try:
        await play.clears("FeedhandlerNoStandby")
    finally:
        await second.kill()


async def the_standby_has_no_line(play: Play) -> None:
    """It follows, and has nothing beside that to prove its place; then one with lines comes."""
    second = await play.open_pair("FeedhandlerStandbyNotReady")
    await second.kill()
    blind = play.other('exchange.websocket_url="ws://127.0.0.1:1"')
    await blind.start()
    try:
        await play.fires("FeedhandlerStandbyNotReady")
        await blind.kill()
        await second.start()
        await play.clears("FeedhandlerStandbyNotReady")
    finally:
        await blind.kill()
        await second.kill()


async def nats_is_away(play: Play) -> None:
    """What comes has to wait, until the server is there again."""
    names = ("FeedhandlerBridgeUnlinked", "FeedhandlerBridgeLags")
    await play.open_bridge()
    await play.forwards(*names)
    await play.nats.stop(kill=True)
    await play.fires(*names)
    await play.nats.start()
    await play.clears(*names)


async def the_daemon_of_a_bridge_is_killed(play: Play) -> None:
    """The bridge has nothing to read; the next daemon knows nothing of what was before it."""
    await play.open_bridge()
    await play.forwards("FeedhandlerBridgeNoSocket", "FeedhandlerBridgeGap")
    await play.daemon.kill()
    await play.fires("FeedhandlerBridgeNoSocket")
    await play.daemon.start()
    await play.fires("FeedhandlerBridgeGap")
    await play.clears("FeedhandlerBridgeNoSocket", "FeedhandlerBridgeGap")


async def the_stream_is_full(play: Play) -> None:
    """It takes no more, until somebody makes room."""
    await play.open_bridge("--discard", "new", "--max-msgs", 1500)
    await play.forwards("FeedhandlerBridgeRefused")
    await play.fires("FeedhandlerBridgeRefused")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_make_room, play.nats)
        await play.clears("FeedhandlerBridgeRefused")
        nursery.cancel_scope.cancel()


async def _make_room(server: NatsServer) -> None:
    while True:
        await server.ask(lambda client: client.jetstream().purge_stream("FEED", keep=100))
        await trio.sleep(1)


async def books_are_too_large(play: Play) -> None:
    """The server takes no message of that size, until it is told to."""
    rules = play.folder / "nats.conf"
    rules.write_text("max_payload: 3KB\n")
    await play.open_bridge(server=("-c", rules))
    await play.forwards()
    await play.fires("FeedhandlerBridgeLeavesOut")
    rules.write_text("max_payload: 1MB\n")
    await play.nats.stop()
    await play.nats.start()
    await play.clears("FeedhandlerBridgeLeavesOut")


PLAYS = (
    the_daemon_is_killed,
    attempts_are_used_up,
    the_data_path_freezes,
    the_exchange_is_away,
    snapshots_are_no_good,
    a_delta_is_lost_on_all_lines,
    unknown_messages_come,
    one_line_is_left,
    a_line_flaps,
    a_line_misses_events,
    all_lines_miss_events,
    the_exchange_refuses,
    the_key_is_not_accepted,
    no_token_is_to_be_had,
    the_clocks_differ,
    the_configuration_is_wrong,
    a_consumer_does_not_read,
    nobody_reads_the_log,
    the_standby_is_gone,
    the_standby_has_no_line,
    nats_is_away,
    the_daemon_of_a_bridge_is_killed,
    the_stream_is_full,
    books_are_too_large,
)


@pytest.mark.skipif(
    not all(map(shutil.which, ("prometheus", "nats-server"))),
    reason="not there: prometheus or nats-server (Debian: packages of these names)",
)
async def test_each_alert_fires_at_its_fault_and_clears(tmp_path_factory):
    """All plays, a few at a time, before one Prometheus."""
    folder = tmp_path_factory.mktemp("alerts")  # a socket's path has its bound
    ports = [free_port() for _ in PLAYS]
    stage = trio.CapacityLimiter(AT_ONCE)
    async with prometheus(folder, ports) as watch, trio.open_nursery() as nursery:
        for scene, port in zip(PLAYS, ports, strict=True):
            nursery.start_soon(_perform, scene, port, folder, watch, stage)
    assert watch.fired == watch.cleared == alerts()


async def _perform(
    scene: Callable[[Play], Awaitable[None]],
    port: int,
    folder: Path,
    watch: Watch,
    stage: trio.CapacityLimiter,
) -> None:
    own = folder / scene.__name__
    own.mkdir()
    async with stage, trio.open_nursery() as nursery:
        play = Play(own, port, watch, nursery)
        try:
            await scene(play)
        finally:
            with trio.CancelScope(shield=True):
                await play.daemon.kill()
        nursery.cancel_scope.cancel()


def test_every_alert_is_brought_about():
    """No alert is without a play."""
    played = set(re.findall(r'"(Feedhandler\w+)"', Path(__file__).read_text()))
    assert played == alerts()
