# ruff: noqa: ARG001 - the clock works by being asked for
"""The state of a daemon as a value: what it says, that it is bounded, and that nothing secret is in it."""

from pathlib import Path

import msgspec
import pytest
import trio
from trio.testing import MockClock

from feedhandler.config import Feed
from feedhandler.observe import telling
from feedhandler.observe.history import STEP_S, STEPS
from feedhandler.observe.status import FeedStatus, Status
from feedhandler.observe.telling import StatusMaker
from feedhandler.simulator.settings import Behaviour
from tests.support.stage import BTC, ETH, Stage, raw_consumer, staged

BOOK, TRADES = f"{BTC}/publicOrderBook", f"{BTC}/publicTrades"


async def told(stage: Stage, *, history: bool = False) -> Status:
    """Return the state, which is the same value however it is encoded."""
    document = await StatusMaker(stage.daemon.observation.sight).document(history=history)
    status = msgspec.json.decode(document, type=Status)
    assert msgspec.json.encode(status) == document
    return status


def feed_of(status: Status, name: str) -> FeedStatus:
    """Return one feed."""
    return next(feed for feed in status.feeds if feed.name == name)


async def test_the_state_is_that_of_the_play(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Feeds, lines, channels, books and consumers are told as they are."""
    async with staged(tmp_path, lines=3, markets=(BTC, ETH)) as stage:
        await stage.talk(5)
        await stage.arrived()
        status = await told(stage)
        sent = {name: len(events) for name, events in stage.truth.items()}
        book = stage.follow_book()
    assert (status.ready, status.reasons) == (True, [])
    assert [feed.name for feed in status.feeds] == [BTC, ETH]
    feed = feed_of(status, BTC)
    assert (feed.state, feed.ready, feed.failovers, feed.channels_total) == ("live", True, 0, 2)
    assert sum(line.wins for line in feed.lines) == sent[BOOK] + sent[TRADES]
    assert sum(line.leads for line in feed.lines) == 1
    assert all(line.connected_since_ns for line in feed.lines)
    channels = {channel.name: channel for channel in feed.channels}
    assert {name: channel.seq for name, channel in channels.items()} == {
        TRADES: sent[TRADES],
        BOOK: sent[BOOK] + 1,
    }
    shown = channels[BOOK].book
    assert shown is not None
    assert shown.synchronised
    assert shown.bid is not None
    assert shown.ask is not None
    assert float(shown.bid[0]) < float(shown.ask[0])
    assert book.at_end
    [consumer] = status.consumers
    assert (consumer.name, consumer.lag_events) == ("test", 0)
    assert consumer.pid > 0
    assert status.session == stage.daemon.publisher.session


async def test_an_outage_is_told_with_its_reasons(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(4) While all lines of a market are down the state says which feed and why, and what its lines met."""
    async with staged(tmp_path, markets=(BTC, ETH)) as stage:
        stage.strike("outage", "all", duration_s=20)
        await stage.talk(5)
        status = await told(stage)
        await stage.talk_until(stage.all_up)
        await stage.until(stage.all_synchronised)
        later = await told(stage)
    assert not status.ready
    assert status.reasons == [f"{BTC}: no line is aligned"]
    down, up = feed_of(status, BTC), feed_of(status, ETH)
    assert (down.state, down.ready, up.ready) == ("down", False, True)
    assert all(line.connected_since_ns is None and line.reconnects == 1 for line in down.lines)
    assert all(line.last_reason and line.last_reason_ns for line in down.lines)
    assert {item.name for item in status.news} >= {"line_lost", "connect_failed"}
    assert later.ready
    assert sum(channel.gaps for channel in feed_of(later, BTC).channels) == 2
    assert sum(channel.gaps for channel in feed_of(later, ETH).channels) == 0


async def test_a_failover_is_told_with_its_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Who leads is told, and when that changed because the leader was gone."""
    async with staged(tmp_path, lines=2) as stage:
        stage.strike("close", 0)
        stage.strike("close", 1)
        await stage.talk_until(lambda: bool(stage.named("failed_over")))
        feed = feed_of(await told(stage), BTC)
    assert feed.failovers >= 1
    assert feed.last_failover_ns is not None


async def test_the_last_minutes_are_told_to_who_asks(tmp_path: Path, autojump_clock: MockClock) -> None:
    """With the history each line has its steps, as many as are kept and no more, and they add up to its wins."""
    async with staged(tmp_path, lines=2) as stage:
        await trio.sleep(STEP_S + 1)
        before = feed_of(await told(stage, history=True), BTC).lines
        await stage.talk(2 * STEP_S)
        await trio.sleep(STEP_S)
        lines = feed_of(await told(stage, history=True), BTC).lines
        plain = feed_of(await told(stage), BTC).lines
        await trio.sleep((STEPS + 5) * STEP_S)
        full = feed_of(await told(stage, history=True), BTC).lines
    for line, earlier in zip(lines, before, strict=True):
        assert line.wins - earlier.wins == sum(line.led) - sum(earlier.led)
    assert sum(sum(line.led) for line in lines) > 100
    assert {len(line.led) for line in full} == {len(line.lagged_s) for line in full} == {STEPS}
    assert all(line.led == line.lagged_s == [] for line in plain)


async def test_rates_are_there_from_the_first_second(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Before its first step has ended a channel's rate is that since its beginning; then that of the last step."""
    async with staged(tmp_path, lines=2, markets=(BTC, ETH)) as stage:
        began = stage.daemon.observation.sight.history._began
        assert trio.current_time() - began < STEP_S / 2
        await stage.talk(1)
        await stage.arrived()
        early = await told(stage)
        lived_s = trio.current_time() - began
        assert lived_s < STEP_S
        sent = {name: len(events) for name, events in stage.truth.items()}
        await stage.talk(2 * STEP_S)
        steady = await told(stage)
        await trio.sleep(2 * STEP_S)
        idle = await told(stage)
    rates = {one.name: one.rate for feed in early.feeds for one in feed.channels}
    assert rates == {name: pytest.approx(count / lived_s, rel=0.01) for name, count in sent.items()}
    assert sum(one.rate for feed in steady.feeds for one in feed.channels) == pytest.approx(50, rel=0.1)
    assert sum(one.rate for feed in idle.feeds for one in feed.channels) == 0


async def test_the_state_is_bounded(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Channels and consumers beyond the bounds are counted and not told; a huge book is not searched for its top."""
    for name, most in (("CHANNELS", 1), ("CONSUMERS", 1), ("TOP_LEVELS", 3)):
        monkeypatch.setattr(telling, name, most)
    async with staged(tmp_path) as stage, raw_consumer(stage.reading.path):
        await stage.until(lambda: len(stage.daemon.publisher.connected()) == 2)
        status = await told(stage)
        monkeypatch.setattr(telling, "CHANNELS", 2)
        book = feed_of(await told(stage), BTC).channels[1].book
    [feed] = status.feeds
    assert (len(feed.channels), feed.channels_total) == (1, 2)
    assert (len(status.consumers), status.consumers_total) == (1, 2)
    assert book is not None
    assert book.levels > 3
    assert book.bid is None


async def test_nothing_secret_is_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Neither key nor secret nor token is in the state or in the metrics; the token's age is."""
    secrets = {"FEEDHANDLER_API_KEY": "key-never-told", "FEEDHANDLER_API_SECRET": "secret-never-told"}
    async with staged(tmp_path, token=True, environ=secrets) as stage:
        document = await StatusMaker(stage.daemon.observation.sight).document(history=True)
        tokens = stage.daemon.observation.sight.tokens
        assert tokens is not None
        token = (await tokens.get()).text
    for secret in (*secrets.values(), token):
        assert secret.encode() not in document
    age_s = msgspec.json.decode(document, type=Status).token.age_s
    assert age_s is not None
    assert 0 <= age_s < 60


async def test_lines_of_a_named_feed_are_told_by_its_label(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A feed with a name is told by name and market."""
    feeds = (Feed(name="t", markets=(BTC,), streams=("publicTrades",), lines=1),)
    async with staged(tmp_path, feeds=feeds) as stage:
        [feed] = (await told(stage)).feeds
    assert (feed.name, feed.market, feed.streams) == (f"t/{BTC}", BTC, ["publicTrades"])


async def test_learnt_limits_are_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(11) How many connections the exchange was found to allow is told by market; at first nothing is."""
    behaviour = Behaviour(connections_per_market=2)
    async with staged(tmp_path, lines=3, behaviour=behaviour, wait=False) as stage:
        before = (await told(stage)).budget.learnt
        await stage.talk_until(lambda: bool(stage.named("cap_learnt")))
        after = (await told(stage)).budget.learnt
        stage.exchange.gate.compliance.breaches.clear()  # one refusal is the way to learn it
    assert (before, after) == ({}, {BTC: 2})
