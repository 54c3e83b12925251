# ruff: noqa: ARG001 - the clock works by being asked for
"""Recovery over sockets: what a consumer gets when the exchange answers awkwardly."""

import json
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from feedhandler.config import Feed, Health
from feedhandler.simulator.settings import Behaviour
from tests.support.references import Follower, Reference, rows
from tests.support.stage import BTC, ETH, Stage, staged

BOOK, TRADES = f"{BTC}/publicOrderBook", f"{BTC}/publicTrades"


def check_trades(stage: Stage, market: str = BTC) -> None:
    """Assert that each row came once, in order unless it is late, and that none is missing without a gap."""
    channel = f"{market}/publicTrades"
    truth = [row for payload in stage.truth.get(channel, []) for row in rows(payload)]
    place = {row: index for index, row in enumerate(truth)}
    seen: set[int] = set()
    last, gap = None, False
    for record in stage.reading.records:
        if record.get("channel") != channel:
            continue
        if record["type"] == "gap":
            gap = True
        elif record["type"] == "event":
            for row in rows(json.dumps(record["msg"])):
                at = place[row]
                assert at not in seen, f"{row} twice, at seq {record['seq']}"
                seen.add(at)
                if record.get("class") == "late":
                    continue
                if last is not None:
                    assert at > last, f"out of order at seq {record['seq']}"
                    missing = set(range(last + 1, at)) - seen
                    late = {
                        place[one]
                        for other in stage.reading.of("event", channel)
                        if other.get("class") == "late"
                        for one in rows(json.dumps(other["msg"]))
                    }
                    assert gap or not missing - late, f"lost before seq {record['seq']}: {sorted(missing)}"
                last, gap = at, False


async def test_mute_lines_that_the_exchange_has_left_behind_are_replaced(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(1) (2) All lines muted while the exchange moves on: one gap a channel, new lines, and a right book."""
    async with staged(tmp_path) as stage:
        await stage.talk(3)
        await stage.arrived()
        stage.strike("mute", "all")
        muted_s = trio.current_time()
        await stage.talk_until(lambda: bool(stage.named("line_restarted")), 0.1)
        assert trio.current_time() - muted_s < 15
        await stage.talk_until(stage.all_up)
        await stage.talk(3)
        await trio.sleep(1)
        assert [fields["reason"] for fields in stage.named("line_lost")] == ["dead", "dead"]
        check_trades(stage)
        assert len(stage.reading.of("gap", TRADES)) == 1
        assert stage.follow_book().shapes == ["snapshot", "events", "gap", "snapshot", "events"]


async def test_mute_lines_are_found_out_however_long_quiet_takes(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(1) (2) The same with a feed that is called quiet a little later: the lines are replaced all the same."""
    async with staged(tmp_path, health=Health(quiet_s=20.0)) as stage:
        await stage.talk(3)
        await stage.arrived()
        stage.strike("mute", "all")
        await stage.talk(300, 0.1)
        assert {fields["reason"] for fields in stage.named("line_lost")} == {"dead"}


@pytest.mark.parametrize("lines", [1, 2])
async def test_a_reply_that_overtakes_its_line(tmp_path: Path, autojump_clock: MockClock, lines: int) -> None:
    """R7: behind an outage the snapshot overtakes the events of half a second; what is published is true at its seq."""
    async with staged(tmp_path, lines=lines) as stage:
        await stage.talk(2)
        stage.strike("reset", "all")
        await stage.until(lambda: len(stage.named("line_lost")) == lines)
        await stage.talk_until(lambda: bool(stage.exchange.connections(BTC)), 0.01)
        stage.strike("mute", "all", duration_s=0.5)
        await stage.talk_until(stage.all_up)
        await stage.talk(3)
        await stage.arrived()
        stage.follow_book()
        check_trades(stage)


@pytest.mark.parametrize(
    ("dated", "every_s"),
    [
        (True, 0.02),
        (True, 0.5),
        (True, 3.0),
        (False, 0.02),
        (False, 0.5),
        (False, 3.0),
    ],
)
async def test_a_source_that_lags_repairs_an_outage(
    tmp_path: Path, autojump_clock: MockClock, *, dated: bool, every_s: float
) -> None:
    """(6) Thirty seconds behind: it converges, and what is published is true."""
    behaviour = Behaviour(snapshot_lag_s=30.0, snapshot_ts=dated, delta_ts=dated)
    async with staged(tmp_path, behaviour=behaviour) as stage:
        await stage.talk(40, every_s)
        stage.strike("outage", "all", duration_s=5)
        await stage.talk(110, every_s)
        await trio.sleep(1)
        assert stage.all_synchronised()
        stage.follow_book()
        check_trades(stage)


async def test_a_source_that_lags_at_the_start(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(6) The first book of all is as old as its source, thirty seconds here; an audit tells, and a gap marks it."""
    behaviour = Behaviour(snapshot_lag_s=30.0)
    async with staged(tmp_path, behaviour=behaviour, wait=False) as stage:
        stage.say(200)
        await stage.until(stage.all_connected)
        await stage.talk(250, 0.1)
        await trio.sleep(1)
        records = [one for one in stage.reading.records if one.get("channel") == BOOK]
        gaps = [index for index, one in enumerate(records) if one["type"] == "gap"]
        assert [records[index]["reason"] for index in gaps] == ["audit"]
        reference = Reference(stage.openings[BTC], stage.truth[BOOK])
        assert Follower(reference).check(records[gaps[-1] + 1 :]).at_end


async def test_silence_with_a_right_book(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(2) Ten minutes: audits, and nothing else."""
    async with staged(tmp_path) as stage:
        await stage.talk(3)
        await stage.arrived()
        await trio.sleep(600)
        audits = stage.named("book_audited")
        assert {one["result"] for one in audits} == {"passed"}
        assert stage.named("line_lost", "line_restarted", "gap_published") == []
        stage.assert_exact()


@pytest.mark.parametrize(
    ("ids", "lines"),
    [
        (True, 1),
        (True, 2),
        (False, 1),
        (False, 2),
    ],
)
async def test_replies_over_all_markets(
    tmp_path: Path, autojump_clock: MockClock, *, ids: bool, lines: int
) -> None:
    """(5) Replies name no market, with and without ids: behind an outage each book is its own market's."""
    markets = (BTC, ETH, "SOL-USD", "XRP-USD")
    behaviour = Behaviour(snapshot_market=False, snapshot_request_id=ids)
    feeds = (Feed(markets=("ALL",), lines=lines),)
    async with staged(tmp_path, markets=markets, feeds=feeds, behaviour=behaviour, wait=False) as stage:
        await stage.until(stage.all_connected)
        await stage.talk(10)
        stage.strike("reset", "all", market="ALL")
        await stage.talk(20)
        await trio.sleep(5)
        for market in markets:
            shapes = stage.follow_book(market).shapes
            assert shapes[:3] == ["snapshot", "events", "gap"]
            assert shapes[3:] == ["snapshot", "events"]


@pytest.mark.parametrize("lines", [1, 2])
async def test_an_outage_behind_the_first_book_is_a_gap(
    tmp_path: Path, autojump_clock: MockClock, lines: int
) -> None:
    """(4) R9: the book is out, no event is yet; then all lines die, and what happens meanwhile is missing."""
    async with staged(tmp_path, lines=lines, wait=False) as stage:
        await stage.until(stage.all_connected)
        await stage.until(stage.all_synchronised)
        await trio.sleep(1)
        stage.strike("outage", "all", duration_s=2)
        await stage.talk(3)
        await stage.talk_until(stage.all_up)
        await stage.talk(3)
        assert stage.follow_book().shapes == ["snapshot", "gap", "snapshot", "events"]


async def test_what_is_backfilled_keeps_its_order_within_a_millisecond(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(4) R9: oldest first; the exchange lists five rows of one sweep, newest first."""
    behaviour = Behaviour(rows_per_match=2, trade_snapshot_rows=5)
    async with staged(tmp_path, behaviour=behaviour) as stage:
        await stage.talk(2)
        for _ in range(20):
            stage.strike("reset", "all")
            await stage.talk(1)
            await stage.talk_until(stage.all_up)
        await stage.arrived()
        check_trades(stage)
