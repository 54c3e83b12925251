"""A whole play in one process: a simulated exchange on loopback, a daemon, and a consumer of its socket."""

import json
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import trio

from feedhandler.config import Bounds, Config, Exchange, Feed, Health, Limits, Observe, Publish
from feedhandler.core.notes import Note, Notify
from feedhandler.daemon import Daemon
from feedhandler.simulator import exchange as simulated
from feedhandler.simulator import traffic
from feedhandler.simulator.market import Market
from feedhandler.simulator.server import serve
from feedhandler.simulator.settings import Behaviour, Fault, FaultPlan, Kind, Settings
from feedhandler.simulator.traffic import Step
from tests.support.references import Follower, Level, Reference

BTC, ETH = "BTC-USD", "ETH-USD"
START_MS = 1_775_000_000_000
PATIENCE_S = 120.0
ARRIVE_S = 10.0
NEVER = 1_000_000
"""More connections than there ever are: the exchange does not begin to play by itself."""


class Reading:
    """A consumer that writes down all it gets, and sees to it that seqs have no hole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[dict[str, Any]] = []
        self.lines: list[bytes] = []
        self.sequences: defaultdict[str, list[bytes]] = defaultdict(list)
        self._next: dict[str, int] = {}

    async def run(self) -> None:
        """Read to the end."""
        async with raw_consumer(self.path) as stream:
            rest = b""
            async for data in stream:
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    self._take(line)

    def _take(self, line: bytes) -> None:
        record = json.loads(line.decode())
        self.lines.append(line)
        self.records.append(record)
        if record["type"] in {"event", "gap"} or record.get("reason") in {"start", "gap", "late", "audit"}:
            channel = record["channel"]
            assert record["seq"] == self._next.get(channel, 1)
            self._next[channel] = record["seq"] + 1
            if record["type"] == "event":
                self.sequences[channel].append(line[line.index(b',"msg":') + 7 : -1])
        elif record["type"] == "heartbeat":
            assert all(self._next.get(channel, 1) == seq for channel, seq in record["next"].items())

    def next(self, channel: str) -> int:
        """Return the seq that comes next."""
        return self._next.get(channel, 1)

    def of(self, kind: str, channel: str = "") -> list[dict[str, Any]]:
        """Return the records of a type, of one channel if it is named."""
        return [
            record
            for record in self.records
            if record["type"] == kind and (not channel or record["channel"] == channel)
        ]

    def states(self, channel: str) -> list[str]:
        """Return the states of a channel in their order."""
        return [record["state"] for record in self.of("state", channel)]


class Stage:
    """The exchange, the daemon, and what came of them."""

    def __init__(
        self, exchange: simulated.Exchange, truth: Path, config: Config, environ: dict[str, str], log: Notify
    ) -> None:
        self.exchange = exchange
        self.notes: list[tuple[float, Note]] = []
        self.config = config
        self.load: Callable[[], Config] = lambda: config
        """What the daemon finds when it reads its configuration again."""
        self.levels: list[str] = []
        """The levels that the log was set to."""
        self.environ = environ
        self.daemon = Daemon(config, environ, self._note, load=self.read, set_level=self.levels.append)
        self.reading = Reading(config.publish.socket)
        self.openings = {name: dict(_opening(market)) for name, market in exchange.markets.items()}
        self._truth = truth
        self._log = log
        self._steps: Iterator[Step] = traffic.merge(exchange.traffic, START_MS)

    def _note(self, one: Note) -> None:
        self.notes.append((trio.current_time(), one))
        self._log(one)

    def read(self) -> Config:
        """Read the configuration again, as a daemon does."""
        return self.load()

    # What is to happen

    def say(self, count: int = 1) -> None:
        """Let the exchange broadcast so many events at once."""
        for _ in range(count):
            step = next(self._steps)
            self.exchange.broadcast(step.market, step.stream, step.payload)

    async def talk(self, seconds: float, every_s: float = 0.02) -> None:
        """Let the exchange broadcast for a while."""
        end = trio.current_time() + seconds
        while trio.current_time() < end:
            self.say()
            await trio.sleep(every_s)

    def strike(self, kind: Kind, line: int | str = 0, market: str = BTC, **more: Any) -> None:
        """Let something go wrong."""
        self.exchange.inject(Fault(kind=kind, line=line, market=market, **more))

    async def talk_until(self, condition: Callable[[], bool], every_s: float = 0.02) -> None:
        """Let the exchange broadcast until something is so."""
        with trio.fail_after(PATIENCE_S):
            while not condition():
                self.say()
                await trio.sleep(every_s)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so."""
        with trio.fail_after(PATIENCE_S):
            while not condition():
                await trio.sleep(0.05)

    async def arrived(self) -> None:
        """Wait until the consumer has as many events as were broadcast, or clearly will not get them."""
        with trio.move_on_after(ARRIVE_S):
            while sum(map(len, self.reading.sequences.values())) < self.exchange.broadcasts:
                await trio.sleep(0.05)

    # What came of it

    def named(self, *names: str) -> list[dict[str, Any]]:
        """Return the fields of the notes of these names."""
        return [one.fields for _, one in self.notes if one.name in names]

    def when(self, name: str, **fields: Any) -> float:
        """Return when such a note came first."""
        return next(at for at, one in self.notes if one.name == name and fields.items() <= one.fields.items())

    def all_connected(self) -> bool:
        """Tell whether every line of every feed is connected."""
        feeds = self.daemon.feeds.values()
        return bool(feeds) and all(line.connected for feed in feeds for line in feed.arbiter.lines.values())

    def all_synchronised(self) -> bool:
        """Tell whether every book is there."""
        return all(all(feed.recovery.synchronised().values()) for feed in self.daemon.feeds.values())

    def all_up(self) -> bool:
        """Tell whether every line of every feed is aligned and healthy."""
        return all(line.up for feed in self.daemon.feeds.values() for line in feed.arbiter.lines.values())

    @property
    def truth(self) -> dict[str, list[bytes]]:
        """What the exchange has broadcast, by channel."""
        found: defaultdict[str, list[bytes]] = defaultdict(list)
        for market, stream, message in self.broadcasts():
            found[f"{market}/{stream}"].append(message)
        return dict(found)

    def broadcasts(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield what the exchange has broadcast, in its order: market, stream and message."""
        self.exchange.truth.flush()
        for line in self._truth.read_bytes().splitlines():
            one = json.loads(line)
            yield one["market"], one["stream"], line[line.index(b',"msg":') + 7 : -1]

    def assert_exact(self) -> None:
        """Assert that the consumer has what the exchange has broadcast, byte for byte, and nothing marked."""
        truth, got = self.truth, self.reading.sequences
        assert {name: len(events) for name, events in got.items()} == {
            name: len(events) for name, events in truth.items()
        }
        assert got == truth
        assert self.reading.of("gap") == []
        assert {event.get("class", "") for event in self.reading.of("event")} <= {"", "unknown"}

    def follow_book(self, market: str = BTC, sent: Sequence[bytes] | None = None) -> Follower:
        """Assert that a book channel is right at every seq, and at its end; return what it consisted of.

        What was ``sent`` is the truth, unless the connections got it in other words (compact ones in any case).
        """
        channel = f"{market}/publicOrderBook"
        reference = Reference(self.openings[market], self.truth.get(channel, []) if sent is None else sent)
        records = [one for one in self.reading.records if one.get("channel") == channel]
        follower = Follower(reference).check(records)
        assert follower.at_end
        return follower

    def heartbeats(self) -> int:
        """Return how many heartbeats have come."""
        return len(self.reading.of("heartbeat"))


def _opening(market: Market) -> Iterator[tuple[Level, Decimal]]:
    for side, price, quantity in market.levels(0.0):
        yield (side, Decimal(price)), Decimal(quantity)


@asynccontextmanager
async def staged(
    folder: Path,
    *,
    lines: int = 2,
    markets: tuple[str, ...] = (BTC,),
    feeds: tuple[Feed, ...] = (),
    behaviour: Behaviour | None = None,
    wait: bool = True,
    token: bool = False,
    environ: dict[str, str] | None = None,
    markets_url: str = "",
    refresh_s: float = 0.0,
    log: Notify = lambda _: None,
    tapes: tuple[Path, ...] = (),
    account_rate: float = 0.0,
    host: str = "",
    runs: bool = True,
    before: Callable[[simulated.Exchange], None] = lambda _: None,
    **sections: Any,
) -> AsyncIterator[Stage]:
    """Raise the curtain: by default all lines are aligned when the body begins.

    A daemon that breaks a documented rule of the exchange meanwhile fails the test.

    With ``tapes`` the exchange has their markets, and the test plays them. What is done ``before`` the daemon starts
    belongs to the exchange's past. Where nothing ``runs``, the test
    starts its daemons itself. With a ``host`` the exchange listens at all addresses, and is known by that name.
    """
    truth = folder / "truth.jsonl"
    settings = Settings(
        host="0.0.0.0" if host else "127.0.0.1",
        markets=None if tapes else markets,
        tapes=tapes,
        wait=NEVER if tapes else 0,
        account_rate=account_rate,
        truth=truth,
        plan=FaultPlan(behaviour=behaviour or Behaviour()),
        start_ms=START_MS,
    )
    environ = {"FEEDHANDLER_API_KEY": "key-of-a-test", "FEEDHANDLER_API_SECRET": "secret"} | (environ or {})
    async with trio.open_nursery() as nursery:
        exchange: simulated.Exchange = await nursery.start(partial(serve, settings))
        before(exchange)
        urls = Exchange(
            websocket_url=exchange.url.replace("0.0.0.0", host),
            token_url=f"{exchange.http_url}/api/v1/token" if token else "",
            markets_url=markets_url or f"{exchange.http_url}/api/v1/markets",
            markets_refresh_s=refresh_s,
        )
        config = config_for(urls, folder, feeds or (Feed(markets=markets, lines=lines),), **sections)
        stage = Stage(exchange, truth, config, environ, log)
        if runs:
            await nursery.start(stage.daemon.run)
            nursery.start_soon(stage.reading.run)
        if wait and runs:
            await stage.until(stage.all_connected)
            await stage.until(stage.all_synchronised)
            await stage.talk_until(stage.all_up)
        yield stage
        assert not exchange.gate.compliance.breaches, exchange.gate.compliance.breaches
        nursery.cancel_scope.cancel()


def config_for(urls: Exchange, folder: Path, feeds: tuple[Feed, ...], **sections: Any) -> Config:
    """Return a configuration for a test: quick retries and no limit worth the name."""
    quick: dict[str, Any] = {
        "limits": Limits(connections_per_minute=100_000, connections_per_market=8),
        "publish": Publish(socket=folder / "feed.sock", drain_s=2.0),
        "observe": Observe(http=""),
        "bounds": Bounds(backoff_min_s=0.1, backoff_max_s=0.5),
        "health": Health(),
    }
    return Config(exchange=urls, feeds=feeds, **(quick | sections))


@asynccontextmanager
async def raw_consumer(path: Path) -> AsyncIterator[trio.SocketStream]:
    """Connect to a daemon's socket and ask for everything."""
    async with await trio.open_unix_socket(os.fspath(path)) as stream:
        await stream.send_all(b'{"op":"subscribe","channels":["*"],"name":"test"}\n')
        yield stream
