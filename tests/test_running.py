# ruff: noqa: ARG001 - the clock works by being asked for
"""A daemon that is changed while it runs, over loopback, with the clock under control.

Feeds, markets, lines and streams come and go under load. What they do not concern is not touched: the same connections,
the same bytes as the exchange has sent.
"""

from pathlib import Path
from typing import Any

import msgspec
import trio
from trio.testing import MockClock

from feedhandler.config import Feed
from feedhandler.control.requests import Done, Refusal
from tests.support.stage import BTC, ETH, Stage, staged

SOL = "SOL-USD"
BTC_CHANNELS = (f"{BTC}/publicOrderBook", f"{BTC}/publicTrades")
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
