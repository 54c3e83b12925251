# ruff: noqa: ARG001 - the clock works by being asked for
"""A daemon that is changed while it runs, over loopback, with the clock under control.

Feeds, markets, lines and streams come and go under load. What they do not concern is not touched: the same connections,
the same bytes as the exchange has sent.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from feedhandler.config import Feed
from feedhandler.control.requests import Done, Refusal
from feedhandler.simulator.settings import Behaviour
from tests.support.stage import BTC, ETH, Stage, staged

SOL = "SOL-USD"
BTC_BOOK, BTC_TRADES = BTC_CHANNELS = (f"{BTC}/publicOrderBook", f"{BTC}/publicTrades")
ETH_BOOK, ETH_TRADES = ETH_CHANNELS = (f"{ETH}/publicOrderBook", f"{ETH}/publicTrades")


async def reload(stage: Stage, clock: MockClock, **sections: Any) -> Done | Refusal:
    """Change the file of the daemon, and have it read."""
    config = msgspec.structs.replace(stage.config, **sections)
    stage.daemon._load = lambda: config
    clock.autojump_threshold = 0.01  # a thread reads
    answer = await stage.daemon.reload()
    clock.autojump_threshold = 0.0
    return answer


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
        await reload(stage, autojump_clock, feeds=(Feed(markets=(BTC, ETH)),))
        await stage.talk_until(stage.all_up)
        await stage.talk(2)
        await settle(stage)
        eth = {name: list(stage.reading.sequences[name]) for name in ETH_CHANNELS}
        for name in ETH_CHANNELS:
            assert eth[name] == stage.truth[name][-len(eth[name]) :]
        await reload(stage, autojump_clock, feeds=(Feed(markets=(BTC,)),))
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
            await reload(stage, autojump_clock, feeds=(Feed(markets=(BTC,)),))
            await stage.talk(1)
            await reload(stage, autojump_clock, feeds=(Feed(markets=(BTC, ETH)),))
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
            await reload(stage, autojump_clock, feeds=(Feed(markets=(BTC,), lines=lines),))
            await stage.talk_until(lambda lines=lines: len(stage.daemon.feeds[BTC].lines) == lines)
            await stage.talk_until(stage.all_up)
            await stage.talk(8)
            assert len(stage.exchange.connections(BTC)) == lines
        await stage.arrived()
        stage.assert_exact()
