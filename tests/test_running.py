# ruff: noqa: ARG001 - the clock works by being asked for
"""A daemon that is changed while it runs, over loopback, with the clock under control.

Feeds, markets, lines and streams come and go under load. What they do not concern is not touched: the same connections,
the same bytes as the exchange has sent.
"""

import json
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from feedhandler.config import Config, Feed, Health, Limits, Log, Publish, Recovery
from feedhandler.control.requests import Done, Refusal
from feedhandler.errors import ConfigError
from feedhandler.simulator.settings import Behaviour
from tests.support.stage import BTC, ETH, Stage, staged

SOL = "SOL-USD"
BTC_BOOK, BTC_TRADES = BTC_CHANNELS = (f"{BTC}/publicOrderBook", f"{BTC}/publicTrades")
ETH_BOOK, ETH_TRADES = ETH_CHANNELS = (f"{ETH}/publicOrderBook", f"{ETH}/publicTrades")


async def reload(stage: Stage, **sections: Any) -> Done | Refusal:
    """Change the file of the daemon, and have it read."""
    config = msgspec.structs.replace(stage.config, **sections)
    stage.load = lambda: config
    return await stage.daemon.reload()


def assert_untouched(stage: Stage, market: str = BTC) -> None:
    """Assert that a market's channels are the truth from the beginning, and that its lines are those of the start."""
    truth, got = stage.truth, stage.reading.sequences
    for name in (f"{market}/publicOrderBook", f"{market}/publicTrades"):
        assert got[name] == truth[name]
        assert stage.reading.of("gap", name) == []
    assert not [lost for lost in stage.named("line_lost", "connect_failed") if lost["feed"] == market]


async def settle(stage: Stage) -> None:
    """Let what was said arrive."""
    await trio.sleep(1)


# Feeds that come and go


async def test_a_feed_is_added_and_given_up_under_load(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(3) The other market is the truth throughout; the channels of the one that goes end with `down` and `retired`."""
    async with staged(tmp_path, markets=(BTC, ETH), feeds=(Feed(markets=(BTC,)),)) as stage:
        await stage.talk(2)
        await reload(stage, feeds=(Feed(markets=(BTC, ETH)),))
        await stage.talk_until(stage.all_up)
        await stage.talk(2)
        await settle(stage)
        eth = {name: list(stage.reading.sequences[name]) for name in ETH_CHANNELS}
        for name in ETH_CHANNELS:
            assert eth[name] == stage.truth[name][-len(eth[name]) :]
        await reload(stage, feeds=(Feed(markets=(BTC,)),))
        await stage.talk(3)
        await settle(stage)
        assert_untouched(stage)
        assert stage.exchange.connections(ETH) == []
        for name in ETH_CHANNELS:
            assert stage.reading.sequences[name] == eth[name]
            kinds = [one["type"] for one in stage.reading.records if one.get("channel") == name]
            assert kinds[-2:] == ["state", "retired"]
            assert stage.reading.states(name)[-1] == "down"
            assert stage.reading.of("retired", name)[0]["next"] == stage.reading.next(name)
        assert set(stage.reading.of("heartbeat")[-1]["next"]) == set(BTC_CHANNELS)
        assert stage.named("feed_opened") == stage.named("feed_retired") == [{"feed": ETH}]
        reasons = {line.end_reason for line in stage.exchange.connections(ETH)}
        assert reasons == set()


async def test_a_channel_that_comes_again_goes_on_behind_a_gap(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(4) Given up and added again: the seqs go on, a gap says that nothing is proven between, the book is repaired."""
    async with staged(tmp_path, markets=(BTC, ETH)) as stage:
        for round_ in range(1, 3):
            await stage.talk(1)
            await settle(stage)
            await reload(stage, feeds=(Feed(markets=(BTC,)),))
            await stage.talk(1)
            await reload(stage, feeds=(Feed(markets=(BTC, ETH)),))
            await stage.until(stage.all_synchronised)
            await stage.talk_until(stage.all_up)
            await stage.talk(1)
            await settle(stage)
            for name in ETH_CHANNELS:
                assert [gap["reason"] for gap in stage.reading.of("gap", name)] == ["unproven"] * round_
                assert stage.reading.of("refused", name)[-1]["reason"] == "retired"
        assert_untouched(stage)
        assert stage.follow_book(ETH).shapes[:3] == ["snapshot", "events", "gap"]
        events = stage.reading.sequences[ETH_TRADES]
        assert len(set(events)) == len(events)
        assert set(events) < set(stage.truth[ETH_TRADES])
        gap = stage.reading.of("gap", ETH_BOOK)[0]
        assert gap["since"] <= gap["until"]


async def test_a_feed_that_comes_again_at_once_waits_for_its_predecessor(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The exchange never has more lines of a market than configured, though one feed follows another at once."""
    async with staged(tmp_path, markets=(BTC, ETH)) as stage:
        fleet = stage.daemon.fleet
        wanted = fleet.running[ETH]
        for _ in range(3):
            assert fleet.set_by_hand(ETH, None) == ""
            assert fleet.set_by_hand(ETH, wanted) == ""
        await stage.talk_until(stage.all_up)
        await stage.talk(1)
        assert stage.exchange.gate.compliance.connections_max[ETH] == 2
        assert len(stage.exchange.connections(ETH)) == 2
        await settle(stage)
        assert_untouched(stage)


async def test_what_is_in_repair_ends_with_its_gap(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(4) A feed given up in the middle of a repair: its gaps are written, and held trades, before its channels end."""
    async with staged(tmp_path, markets=(BTC, ETH)) as stage:
        await stage.talk(2)
        await settle(stage)
        for line in stage.exchange.connections(ETH):
            line._answer = lambda *_: None
        stage.exchange.behaviour = Behaviour(handshake_status=503)
        stage.strike("reset", "all", ETH)
        await stage.until(lambda: stage.reading.states(ETH_BOOK)[-1] == "down")
        stage.exchange.behaviour = Behaviour()
        stage.exchange.reply = lambda *_: None  # type: ignore[method-assign]
        await stage.until(stage.all_connected)
        await stage.talk(0.5)
        await trio.sleep(0.2)
        assert stage.reading.states(ETH_BOOK)[-1] == "syncing"
        assert stage.reading.of("gap") == []
        stage.daemon.fleet.set_by_hand(ETH, None)
        await stage.talk(1)
        await settle(stage)
        for name in ETH_CHANNELS:
            assert [gap["reason"] for gap in stage.reading.of("gap", name)] == ["outage"]
            kinds = [one["type"] for one in stage.reading.records if one.get("channel") == name]
            assert kinds[-2:] == ["state", "retired"]
        (gap,) = stage.reading.of("gap", ETH_TRADES)
        behind = [one for one in stage.reading.of("event", ETH_TRADES) if one["seq"] > gap["seq"]]
        assert behind
        assert_untouched(stage)


async def test_a_shared_channel_stays_with_who_is_left(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Messages of unknown type go on when the feed that opened their channel is given up, and end with the last one."""
    feeds = (
        Feed(name="t", markets=(BTC,), streams=("publicTrades",)),
        Feed(name="b", markets=(BTC,), streams=("publicOrderBook",)),
    )
    other = f"{BTC}/other"
    async with staged(tmp_path, feeds=feeds) as stage:
        stage.exchange.broadcast(BTC, "other", b'{"resultType":"marketStatus","data":{"n":1}}')
        await settle(stage)
        owner = stage.daemon.publisher._channels.get(other)
        assert owner is not None
        first, second = owner.feed, {f"t/{BTC}": f"b/{BTC}", f"b/{BTC}": f"t/{BTC}"}[owner.feed]
        stage.daemon.fleet.set_by_hand(first, None)
        stage.exchange.broadcast(BTC, "other", b'{"resultType":"marketStatus","data":{"n":2}}')
        await settle(stage)
        assert owner.feed == second
        assert len(stage.reading.sequences[other]) == 3  # the first one came from both feeds
        assert stage.reading.of("retired", other) == []
        stage.daemon.fleet.set_by_hand(second, None)
        await settle(stage)
        assert len(stage.reading.of("retired", other)) == 1


async def test_retired_feeds_leave_nothing_behind(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(8) A market that comes and goes again and again takes no more tasks and tracks than one that does so once."""
    async with staged(tmp_path, markets=(BTC, ETH)) as stage:
        fleet, sizes = stage.daemon.fleet, []
        wanted = fleet.running[ETH]
        for _ in range(20):
            fleet.set_by_hand(ETH, None)
            await trio.sleep(2)
            fleet.set_by_hand(ETH, wanted)
            await stage.until(stage.all_connected)
            await stage.talk(0.1)
            tasks = trio.lowlevel.current_statistics().tasks_living
            sizes.append((tasks, len(stage.daemon.publisher._channels)))
        assert len(set(sizes)) == 1


# Streams on live lines


def only(*streams: str, lines: int = 2) -> tuple[Feed, ...]:
    """Return a feed with these streams."""
    return (Feed(markets=(BTC,), streams=streams, lines=lines),)


def add_stream(stage: Stage, stream: str) -> None:
    """Add a stream to the feed of BTC-USD by hand."""
    wanted = stage.daemon.fleet.running[BTC]
    assert stage.daemon.fleet.set_by_hand(BTC, wanted._replace(streams=(*wanted.streams, stream))) == ""


def drop_stream(stage: Stage, stream: str) -> None:
    """Drop a stream from it."""
    wanted = stage.daemon.fleet.running[BTC]
    streams = tuple(one for one in wanted.streams if one != stream)
    assert stage.daemon.fleet.set_by_hand(BTC, wanted._replace(streams=streams)) == ""


def assert_added_is_exact(stage: Stage, channel: str) -> list[bytes]:
    """Assert that an added channel is one run of the truth up to its end, without a mark; return it."""
    got, truth = stage.reading.sequences[channel], stage.truth[channel]
    assert got
    assert got == truth[-len(got) :]
    assert stage.reading.of("gap", channel) == []
    assert all("class" not in event for event in stage.reading.of("event", channel))
    return got


@pytest.mark.parametrize("answer", ["reply", "late", "deaf"])
@pytest.mark.parametrize("named", [True, False], ids=["by id", "by kind"])
async def test_a_stream_is_added_to_live_lines(
    tmp_path: Path, autojump_clock: MockClock, *, answer: Any, named: bool
) -> None:
    """(3) The other stream is the truth, the added one exact from its first record on, and no line is touched.

    An exchange that carries the request out and never says so has its lines replaced, one at a time, all the same.
    """
    behaviour = Behaviour(subscribe_answer=answer, subscribe_request_id=named)
    async with staged(tmp_path, feeds=only("publicTrades", lines=3), behaviour=behaviour) as stage:
        await stage.talk(1)
        add_stream(stage, "publicOrderBook")
        await stage.talk_until(lambda: bool(stage.named("stream_joined")), every_s=0.005)
        await stage.talk(5)
        await stage.until(stage.all_synchronised)
        await settle(stage)
        assert stage.reading.sequences[BTC_TRADES] == stage.truth[BTC_TRADES]
        assert_added_is_exact(stage, BTC_BOOK)
        assert stage.follow_book().shapes == ["snapshot", "events"]
        if answer != "deaf":
            assert stage.named("line_lost", "line_replaced") == []
            assert stage.exchange.gate.compliance.handshakes == 3
        assert all(
            set(line.subscriptions) == {"publicTrades", "publicOrderBook"}
            for line in stage.exchange.connections(BTC)
        )


@pytest.mark.parametrize("answer", ["error", "silence"])
async def test_an_exchange_that_does_not_subscribe_gets_new_lines(
    tmp_path: Path, autojump_clock: MockClock, answer: Any
) -> None:
    """A request that is refused or not answered in time: the lines are replaced one at a time, nothing is lost."""
    behaviour = Behaviour(subscribe_answer=answer)
    async with staged(tmp_path, feeds=only("publicTrades"), behaviour=behaviour) as stage:
        await stage.talk(1)
        add_stream(stage, "publicOrderBook")
        await stage.talk_until(lambda: len(stage.named("line_replaced")) >= 2)
        await stage.talk_until(lambda: bool(stage.named("stream_joined")))
        await stage.talk(2)
        await settle(stage)
        reason = {"error": "refused", "silence": "silence"}[answer]
        assert {failed["reason"] for failed in stage.named("subscribe_failed")} == {reason}
        assert stage.reading.sequences[BTC_TRADES] == stage.truth[BTC_TRADES]
        assert_added_is_exact(stage, BTC_BOOK)
        assert stage.reading.of("gap") == []


async def test_streams_come_and_go_under_load_while_lines_die(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(3) Added, dropped and added again with a line killed at each step: the other stream is the truth throughout."""
    async with staged(tmp_path, feeds=only("publicTrades", lines=3)) as stage:
        for turn in range(6):
            await stage.talk(0.5)
            seen = len(stage.reading.sequences[BTC_BOOK])
            add_stream(stage, "publicOrderBook")
            await stage.talk(0.1 * turn, every_s=0.005)
            stage.strike("reset" if turn % 2 else "close", turn % 3)
            await stage.talk_until(stage.all_up)
            await stage.talk_until(lambda: stage.daemon.feeds[BTC].arbiter.joining == frozenset())
            await stage.talk(1)
            await settle(stage)
            life = stage.reading.sequences[BTC_BOOK][seen:]
            assert life == stage.truth[BTC_BOOK][-len(life) :]
            drop_stream(stage, "publicOrderBook")
            await stage.talk(0.3, every_s=0.005)
            stage.strike("reset", (turn + 1) % 3)
            await stage.talk_until(stage.all_up)
        await settle(stage)
        assert stage.reading.sequences[BTC_TRADES] == stage.truth[BTC_TRADES]
        assert stage.reading.of("gap", BTC_TRADES) == []
        assert len(stage.reading.of("retired", BTC_BOOK)) == 6
        assert len(stage.reading.of("gap", BTC_BOOK)) == 5
        assert {one.subscriptions[0] for one in stage.exchange.connections(BTC)} == {"publicTrades"}


async def test_a_stream_comes_and_goes_over_all_markets(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One feed over every market: the channels of an added stream appear with their events, each of them exact."""
    feeds = (Feed(markets=("ALL",), streams=("publicTrades",), lines=3),)
    async with staged(tmp_path, markets=(BTC, ETH, SOL), feeds=feeds) as stage:
        fleet = stage.daemon.fleet
        wanted = fleet.running["ALL"]
        await stage.talk(1)
        fleet.set_by_hand("ALL", wanted._replace(streams=("publicTrades", "publicOrderBook")))
        await stage.talk(5)
        await stage.until(stage.all_synchronised)
        await settle(stage)
        for market in (BTC, ETH, SOL):
            assert_added_is_exact(stage, f"{market}/publicOrderBook")
        fleet.set_by_hand("ALL", wanted)
        await stage.talk(1)
        fleet.set_by_hand("ALL", wanted._replace(streams=("publicTrades", "publicOrderBook")))
        await stage.talk(5)
        await stage.until(stage.all_synchronised)
        await settle(stage)
        for market in (BTC, ETH, SOL):
            name = f"{market}/publicTrades"
            assert stage.reading.sequences[name] == stage.truth[name]
            assert stage.reading.of("gap", name) == []
            name = f"{market}/publicOrderBook"
            assert [gap["reason"] for gap in stage.reading.of("gap", name)] == ["unproven"]
            (gap,) = stage.reading.of("gap", name)
            life = [one for one in stage.reading.of("event", name) if one["seq"] > gap["seq"]]
            count = len(life)
            assert stage.reading.sequences[name][-count:] == stage.truth[name][-count:]
        assert stage.daemon.feeds["ALL"].arbiter.joining == frozenset()
        assert stage.named("line_lost") == []


async def test_a_dropped_stream_ends_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The channel is retired, what still comes is left out, the lines unsubscribe, and none of them is blamed."""
    async with staged(tmp_path, lines=3) as stage:
        await stage.talk(1)
        await settle(stage)
        stage.strike("delay", 1, delay_s=0.3, duration_s=60)
        await stage.talk(1)
        drop_stream(stage, "publicTrades")
        ended = stage.reading.sequences[BTC_TRADES]
        await stage.talk(20)
        await settle(stage)
        assert stage.reading.sequences[BTC_BOOK] == stage.truth[BTC_BOOK]
        assert ended == stage.truth[BTC_TRADES][: len(ended)]
        assert [one["type"] for one in stage.reading.records if one.get("channel") == BTC_TRADES][
            -1
        ] == "retired"
        assert stage.named("event_missed", "line_lost", "line_restarted", "subscribe_failed") == []
        assert stage.named("straggler_left_out")
        assert all(line.subscriptions == ["publicOrderBook"] for line in stage.exchange.connections(BTC))
        assert set(stage.reading.of("heartbeat")[-1]["next"]) == {BTC_BOOK}


# Lines


async def test_lines_are_added_and_let_go(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(3) From two lines to four, to one, to two, under load: one exact stream; one line leaves after the other."""
    async with staged(tmp_path) as stage:
        for lines in (4, 1, 2):
            await reload(stage, feeds=(Feed(markets=(BTC,), lines=lines),))
            await stage.talk_until(lambda lines=lines: len(stage.daemon.feeds[BTC].lines) == lines)
            await stage.talk_until(stage.all_up)
            await stage.talk(8)
            assert len(stage.exchange.connections(BTC)) == lines
        await stage.arrived()
        stage.assert_exact()


# Settings


async def test_settings_take_effect_where_they_can(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Limits, health and recovery of feeds that run are others from then on; what is fixed is named and stays."""
    async with staged(tmp_path) as stage:
        first = stage.daemon.feeds[BTC]
        answer = await reload(
            stage,
            limits=Limits(connections_per_minute=7, connections_per_market=3),
            health=Health(quiet_s=1.0, ping_interval_s=1.0),
            recovery=Recovery(audit_s=2.0, verify_s=1.0),
            log=Log(level="debug", format="json"),
            publish=Publish(socket=tmp_path / "other.sock", drain_s=2.0),
        )
        assert answer == Done("the configuration is in force; at the next start: publish.socket, log.format")
        assert [fields["key"] for fields in stage.named("config_needs_restart")] == [
            "publish.socket",
            "log.format",
        ]
        assert stage.levels == ["debug"]
        assert stage.daemon.feeds[BTC] is first
        assert stage.daemon.observation.sight.gate.available() <= 7
        audits = len(stage.named("book_audited"))
        await stage.talk(6)
        assert len(stage.named("book_audited")) - audits >= 2
        await trio.sleep(3)
        assert stage.reading.states(BTC_BOOK)[-1] == "quiet"
        await stage.talk(1)
        await stage.arrived()
        stage.assert_exact()
        assert_untouched(stage)


async def test_where_the_exchange_is_takes_effect_or_is_named(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Another token endpoint or other certificates wait for the next start, by name; key files are read at once."""
    async with staged(tmp_path, token=True, behaviour=Behaviour(token_required=True)) as stage:
        key, secret = tmp_path / "key", tmp_path / "secret"
        key.write_text("another-key")
        secret.write_text("another-secret")
        requests = stage.exchange.gate.compliance.token_requests
        moved = msgspec.structs.replace(
            stage.config.exchange, token_url="https://elsewhere/token", ca_file=tmp_path / "ca.pem"
        )
        answer = await reload(stage, exchange=moved)
        text = "the configuration is in force; at the next start: exchange.token_url, exchange.ca_file"
        assert answer == Done(text)
        assert stage.daemon.config.exchange == stage.config.exchange
        await stage.talk(5)
        assert stage.exchange.gate.compliance.token_requests == requests
        files = msgspec.structs.replace(stage.config.exchange, api_key_file=key, api_secret_file=secret)
        stage.load = lambda: msgspec.structs.replace(stage.config, exchange=files)
        assert await stage.daemon.reload() == Done("the configuration is in force")
        await stage.until(lambda: stage.exchange.gate.compliance.token_requests == requests + 1)
        await stage.talk(1)
        await stage.arrived()
        stage.assert_exact()
        assert_untouched(stage)


async def test_a_configuration_with_mistakes_changes_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Each mistake is told; the next reading may be a good one."""

    def broken() -> Config:
        raise ConfigError(["feed[0].lines: expected 1..8, got 0"])

    async with staged(tmp_path) as stage:
        stage.load = broken
        assert await stage.daemon.reload() == Refusal("bad_config", "feed[0].lines: expected 1..8, got 0")
        assert stage.named("config_refused") == [{"mistake": "feed[0].lines: expected 1..8, got 0"}]
        await stage.talk(1)
        assert await reload(stage) == Done("the configuration is in force")
        await stage.talk(1)
        await stage.arrived()
        stage.assert_exact()
        assert_untouched(stage)


async def test_readings_of_the_configuration_never_overlap(
    tmp_path: Path, autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    """Who asks while the file is being read has it read once more, however many ask; nothing piles up."""
    async with staged(tmp_path) as stage:
        readings: list[int] = []
        go = threading.Event()

        def load() -> Config:
            readings.append(len(readings))
            assert go.wait(10)
            return stage.config

        stage.load = load
        nursery.start_soon(stage.daemon.reload)
        await trio.sleep(0.1)
        for _ in range(5):
            answer = await stage.daemon.reload()
            assert isinstance(answer, Refusal)
            assert answer.code == "busy"
        go.set()
        await stage.until(lambda: len(stage.named("config_reloaded")) == 2)
        await trio.sleep(1)
        assert len(readings) == 2


# Markets that the exchange lists


class Listings:
    """A markets endpoint that answers in turn with these lists; the last one stays. None is a failure."""

    def __init__(self, *answers: tuple[str, ...] | None) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.url = ""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Answer until cancelled."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}/markets"
        task_status.started()
        await trio.serve_listeners(self._answer, [listener])

    async def _answer(self, stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            self.asked += 1
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            body = b"" if answer is None else json.dumps(answer).encode()
            status = b"503 X" if answer is None else b"200 OK"
            head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            await stream.send_all(head % (status, len(body)) + body)


async def test_markets_come_and_vanish_under_load(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A new market gets a feed; one is given up only after several good answers without it, never by a bad one."""
    full, less = (BTC, ETH, SOL), (BTC, SOL)
    listings = Listings((BTC, ETH), full, None, (), (SOL,), less, None, less, (), less)
    async with trio.open_nursery() as nursery:
        await nursery.start(listings.run)
        async with staged(
            tmp_path,
            markets=(BTC, ETH, SOL),
            feeds=(Feed(),),
            wait=False,
            markets_url=listings.url,
            refresh_s=10.0,
        ) as stage:
            await stage.until(lambda: len(stage.daemon.feeds) == 2 and stage.all_connected())
            await stage.until(stage.all_synchronised)
            await stage.talk_until(lambda: set(stage.daemon.feeds) == set(full))
            await stage.talk_until(stage.all_up)
            await stage.talk_until(lambda: listings.asked == 9)
            assert set(stage.daemon.feeds) == set(full)
            assert [fields["reason"] for fields in stage.named("markets_failed")] == ["answer"] * 4
            assert stage.named("markets_doubted") == [{"markets": 1, "listed": 3}]
            await stage.talk_until(lambda: set(stage.daemon.feeds) == set(less))
            await stage.talk(1)
            await settle(stage)
            assert listings.asked == 10
            assert {one["channel"] for one in stage.reading.of("retired")} == set(ETH_CHANNELS)
            assert_untouched(stage)
            listed = [(one["appeared"], one["vanished"]) for one in stage.named("markets_listed")]
            assert listed == [(2, 0), (1, 0), (0, 1)]
        nursery.cancel_scope.cancel()


async def test_a_listed_market_can_be_asked_for_before_it_is_known(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """As long as the exchange has not told its markets, any may come; when it has, those that it named are there."""
    listings = Listings(None, (BTC,))
    async with trio.open_nursery() as nursery:
        await nursery.start(listings.run)
        async with staged(
            tmp_path, feeds=(Feed(),), wait=False, markets_url=listings.url, refresh_s=10.0
        ) as stage:
            may_bring = stage.daemon.fleet.may_bring
            await stage.until(lambda: listings.asked == 1)
            assert may_bring(BTC_TRADES)
            assert not may_bring(f"{BTC}/orders")
            assert not may_bring("ALL/publicTrades")
            await stage.until(stage.all_connected)
            assert not may_bring(ETH_TRADES)
            assert may_bring(f"{BTC}/other")
            assert not may_bring(f"{ETH}/other")
        nursery.cancel_scope.cancel()


async def test_a_change_to_all_that_is_listed_touches_no_feed_that_runs(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(3) A feed goes on while the list is asked for, however long; what the list lacks goes when it has come."""
    async with staged(tmp_path, markets=(BTC, ETH), feeds=(Feed(markets=(BTC, SOL)),), wait=False) as stage:
        await stage.until(lambda: len(stage.exchange.connections(BTC)) == 2)
        await stage.talk(10)
        before = stage.daemon.feeds[BTC]
        await reload(stage, feeds=(Feed(),))
        assert set(stage.daemon.feeds) == {BTC, SOL}
        await stage.until(lambda: set(stage.daemon.feeds) == {BTC, ETH})
        await stage.talk(2)
        await settle(stage)
        assert stage.daemon.feeds[BTC] is before
        assert_untouched(stage)


async def test_markets_beyond_the_bound_are_named_once(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More markets than are taken: that is said once for each change of their number, and the first ones have feeds."""
    for module in ("feedhandler.exchange.markets", "feedhandler.control.markets"):
        monkeypatch.setattr(f"{module}.MARKETS_MAX", 2)
    listings = Listings((BTC, ETH, SOL), (BTC, ETH, SOL), (BTC, ETH, SOL, "X-USD"), (BTC, ETH))
    async with trio.open_nursery() as nursery:
        await nursery.start(listings.run)
        async with staged(
            tmp_path,
            markets=(BTC, ETH, SOL),
            feeds=(Feed(),),
            wait=False,
            markets_url=listings.url,
            refresh_s=10.0,
        ) as stage:
            await stage.until(lambda: listings.asked == 5)
            assert set(stage.daemon.feeds) == {BTC, ETH}
            assert stage.named("markets_left_out") == [
                {"markets": 1, "limit": "3 listed, 2 are taken"},
                {"markets": 2, "limit": "4 listed, 2 are taken"},
            ]
        nursery.cancel_scope.cancel()


async def test_limits_hold_for_markets_that_come(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A market too many waits until another one vanishes; that it is left out is said once."""
    listings = Listings((BTC, ETH), (BTC, ETH, SOL), (BTC, ETH, SOL), (BTC, SOL))
    limits = Limits(connections_per_minute=1000, connections_total=4)
    async with trio.open_nursery() as nursery:
        await nursery.start(listings.run)
        async with staged(
            tmp_path,
            markets=(BTC, ETH, SOL),
            feeds=(Feed(),),
            wait=False,
            limits=limits,
            markets_url=listings.url,
            refresh_s=10.0,
        ) as stage:
            await stage.until(lambda: listings.asked == 4)
            assert set(stage.daemon.feeds) == {BTC, ETH}
            assert len(stage.named("markets_left_out")) == 1
            await stage.until(lambda: set(stage.daemon.feeds) == {BTC, SOL})
            await stage.until(stage.all_connected)
            compliance = stage.exchange.gate.compliance
            assert compliance.connections_specific_max <= 4
        nursery.cancel_scope.cancel()
