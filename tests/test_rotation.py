# ruff: noqa: ARG001 - the clock works by being asked for
"""Lines that are replaced while they run: by age and token, within the limits of an exchange that enforces them."""

from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from feedhandler.config import Bounds, Health, Limits
from feedhandler.errors import LineNeeded, NoSuchLine
from feedhandler.simulator.settings import Behaviour, Kind
from tests.support.names import Names
from tests.support.stage import BTC, Stage, staged

TOKEN_LIFE_S = 60.0
DROPS: tuple[Kind, ...] = ("close", "reset", "half_frame")


def strict(**more: Any) -> Behaviour:
    """Return an exchange that lets nobody in without a good token."""
    values: dict[str, Any] = {"token_required": True, "connections_per_minute": 20, "token_margin_s": 14.0}
    return Behaviour(**(values | {"token_life_s": TOKEN_LIFE_S} | more))


async def drop_at_random(stage: Stage, seed: int, every_s: float) -> None:
    """Let lines die by lot, but never the only one: with the second line of two, while the first is away, goes all."""
    lot = Random(seed)
    feed = stage.daemon.feeds[BTC]
    while True:
        await trio.sleep(lot.uniform(0.5, 1.5) * every_s)
        now_s = trio.current_time()
        is_due = any(line.due_s < now_s + 1 for line in feed.lines.values())
        if stage.all_up() and not feed.crew.rotation.busy and not is_due:
            index = lot.choice([line.index for line in stage.exchange.connections(BTC)])
            stage.strike(lot.choice(DROPS), index)


def assert_compliant(stage: Stage) -> None:
    """Assert that the exchange has seen no breach of its rules, and has refused nobody."""
    compliance = stage.exchange.gate.compliance
    assert compliance.breaches == []
    assert compliance.refusals == {}


@pytest.mark.parametrize("closes", [True, False])
@pytest.mark.parametrize(("cap", "lines"), [(2, 2), (5, 2), (5, 5)])
async def test_twenty_token_lives(
    tmp_path: Path, autojump_clock: MockClock, cap: int, lines: int, *, closes: bool
) -> None:
    """(12) Twenty lives of a token with lines dying at random: 0 gaps, the output is the truth, all rules kept."""
    behaviour = strict(connections_per_market=cap, close_at_token_expiry=closes)
    limits = Limits(connections_per_minute=20, connections_per_market=cap)
    async with staged(tmp_path, lines=lines, behaviour=behaviour, limits=limits, token=True) as stage:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drop_at_random, stage, cap + lines, 12.0)
            await stage.talk(20 * TOKEN_LIFE_S, every_s=0.25)
            nursery.cancel_scope.cancel()
        await stage.arrived()
        stage.assert_exact()
        assert_compliant(stage)
        compliance = stage.exchange.gate.compliance
        assert compliance.connections_max[BTC] == min(cap, lines + 1)
        assert compliance.token_requests in range(20, 60)
        lost = [one["reason"] for one in stage.named("line_lost")]
        assert lost.count("age") >= 18 * lines
        assert lost.count("reset") + lost.count("closed") >= 20


@pytest.mark.parametrize(("cap", "lines"), [(8, 1), (8, 2), (2, 2), (3, 3)])
async def test_a_line_may_be_replaced_at_any_event(
    tmp_path: Path, autojump_clock: MockClock, cap: int, lines: int
) -> None:
    """(3) One planned replacement after another begins at event after event: the output is the truth."""
    limits = Limits(connections_per_minute=100_000, connections_per_market=cap)
    behaviour = Behaviour(connections_per_market=cap)
    health = Health(probation_s=0.5)
    async with staged(tmp_path, lines=lines, limits=limits, behaviour=behaviour, health=health) as stage:
        feed = stage.daemon.feeds[BTC]
        for count in range(40):
            stage.say(count % 4)
            name = sorted(feed.lines)[count % lines]
            feed.crew.restart(name)
            for _ in range(count % 3):
                stage.say()
                await trio.sleep(0.005 * (count % 5))
            await stage.talk_until(lambda count=count: len(stage.named("line_lost")) > count)
            await stage.talk_until(lambda: not feed.crew.rotation.busy and stage.all_up())
        await stage.arrived()
        stage.assert_exact()
        assert_compliant(stage)
        assert {one["reason"] for one in stage.named("line_lost")} == {"by_hand"}
        assert stage.exchange.gate.compliance.connections_max[BTC] == min(cap, lines + 1)
        assert bool(stage.named("line_replaced")) == (cap > lines)


async def test_a_feed_is_rotated_one_line_at_a_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    """By hand all lines are replaced; at no time is more than one of them new, and each gets the next free letter."""
    async with staged(tmp_path, lines=3) as stage:
        feed = stage.daemon.feeds[BTC]
        feed.crew.rotate()
        await stage.talk_until(lambda: len(stage.named("line_replaced")) == 3)
        await stage.talk_until(lambda: not feed.crew.rotation.busy and len(feed.lines) == 3)
        assert [(one["line"], one["by"]) for one in stage.named("line_replaced")] == [
            ("a", "d"),
            ("b", "a"),
            ("c", "b"),
        ]
        assert sorted(feed.lines) == ["a", "b", "d"]
        assert stage.exchange.gate.compliance.connections_max[BTC] == 4
        story = [one.name for _, one in stage.notes if one.name in {"replacement_begun", "line_replaced"}]
        assert story == ["replacement_begun", "line_replaced"] * 3
        await stage.talk(2)
        await stage.arrived()
        stage.assert_exact()


@pytest.mark.parametrize("spare", [0, 1])
async def test_connections_are_replaced_before_they_are_too_old(
    tmp_path: Path, autojump_clock: MockClock, spare: int
) -> None:
    """An exchange that cuts connections at an age never comes to it; the lines of a feed go at different times."""
    behaviour = Behaviour(max_connection_age_s=200.0, connections_per_market=3 + spare)
    limits = Limits(connections_per_minute=20, connections_per_market=3 + spare)
    health = Health(connection_max_age_s=196.0)
    async with staged(tmp_path, lines=3, behaviour=behaviour, limits=limits, health=health) as stage:
        await stage.talk(2000, every_s=0.5)
        await stage.arrived()
        stage.assert_exact()
        assert_compliant(stage)
        lost_s = [at for at, one in stage.notes if one.name == "line_lost"]
        assert {one["reason"] for one in stage.named("line_lost")} == {"age"}
        assert len(lost_s) in range(30, 45)
        assert min(later - earlier for earlier, later in pairwise(lost_s)) > 0.3


async def test_a_replacement_that_is_refused_is_given_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The old line stays as it is, and goes when it is asked for again and the exchange lets its successor in."""
    async with staged(tmp_path, lines=1) as stage:
        feed = stage.daemon.feeds[BTC]
        stage.exchange.behaviour = Behaviour(handshake_status=500)
        feed.crew.restart("a")
        await stage.talk_until(lambda: bool(stage.named("replacement_given_up")))
        await stage.talk(5)
        assert sorted(feed.lines) == ["a"]
        assert stage.named("line_lost") == []
        assert stage.named("replacement_given_up")[0]["reason"] == "failed"
        stage.exchange.behaviour = Behaviour()
        feed.crew.restart("a")
        await stage.talk_until(lambda: sorted(feed.lines) == ["b"])
        await stage.arrived()
        stage.assert_exact()


@pytest.mark.parametrize("kind", ["mute", "reset"])
async def test_a_replacement_that_brings_nothing_is_given_up(
    tmp_path: Path, autojump_clock: MockClock, kind: Kind
) -> None:
    """One that is mute or dies finds no place, however soon it is back; the old line stays."""
    bounds = Bounds(backoff_min_s=0.01, backoff_max_s=0.01)
    async with staged(tmp_path, lines=2, bounds=bounds) as stage:
        feed = stage.daemon.feeds[BTC]
        feed.crew.restart("a")
        await stage.until(lambda: len(stage.exchange.connections(BTC)) == 3)
        stage.strike(kind, 2)
        await stage.talk_until(lambda: bool(stage.named("replacement_given_up")))
        await stage.talk_until(lambda: sorted(feed.lines) == ["a", "b"])
        assert stage.all_up()
        await stage.arrived()
        stage.assert_exact()


async def test_a_line_that_dies_while_it_is_replaced_leaves_its_place(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Its successor stays, the dead one does not come back, and nothing is lost."""
    async with staged(tmp_path, lines=2) as stage:
        feed = stage.daemon.feeds[BTC]
        feed.crew.restart("a")
        await stage.talk_until(lambda: len(stage.exchange.connections(BTC)) == 3)
        stage.strike("reset", 0)
        await stage.talk_until(lambda: bool(stage.named("line_replaced")) and len(feed.lines) == 2)
        await stage.talk_until(stage.all_up)
        assert "c" in feed.lines
        await stage.arrived()
        stage.assert_exact()


@pytest.mark.parametrize("cap", [3, 8])
async def test_a_stalled_line_is_replaced_beside_itself(
    tmp_path: Path, autojump_clock: MockClock, cap: int
) -> None:
    """(1) A mute line goes when its successor is there, where the limits leave a place; else it begins anew."""
    limits = Limits(connections_per_minute=100, connections_per_market=cap)
    async with staged(tmp_path, lines=3, limits=limits) as stage:
        feed = stage.daemon.feeds[BTC]
        await stage.talk(5)
        stage.strike("mute", 1)
        await stage.talk_until(lambda: bool(stage.named("line_lost")))
        assert stage.named("line_lost")[0]["reason"] == "stalled"
        await stage.talk_until(stage.all_up)
        assert ("d" in feed.lines) == (cap > 3)
        await stage.arrived()
        stage.assert_exact()


async def test_a_quiet_market_is_rotated_without_haste(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Where nothing happens a successor can prove nothing: it waits beside the old line, and nobody reconnects."""
    async with staged(tmp_path, lines=2) as stage:
        feed = stage.daemon.feeds[BTC]
        feed.crew.restart("a")
        await trio.sleep(120)
        assert len(stage.exchange.connections(BTC)) == 3
        assert stage.exchange.gate.compliance.handshakes == 3
        await stage.talk_until(lambda: bool(stage.named("line_replaced")))
        await stage.talk_until(lambda: sorted(feed.lines) == ["b", "c"])
        await stage.arrived()
        stage.assert_exact()


# By hand


async def test_a_paused_line_rests_until_it_is_told_to_go_on(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Paused, a line has no connection; the last aligned one cannot be paused; resumed, it comes back."""
    async with staged(tmp_path, lines=2) as stage:
        feed = stage.daemon.feeds[BTC]
        feed.crew.pause("a")
        feed.crew.pause("a")
        await stage.talk(60)
        assert len(stage.exchange.connections(BTC)) == 1
        assert feed.lines["a"].doing == "paused"
        with pytest.raises(LineNeeded, match="line b is the last aligned one of feed BTC-USD"):
            feed.crew.pause("b")
        feed.crew.resume("a")
        feed.crew.resume("a")
        await stage.talk_until(stage.all_up)
        assert [one["line"] for one in stage.named("line_paused", "line_resumed")] == ["a", "a"]
        await stage.arrived()
        stage.assert_exact()


async def test_the_last_line_is_restarted_only_beside_itself(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Where the limits leave no place for a successor, restarting the only line is refused."""
    limits = Limits(connections_per_minute=100, connections_per_market=1)
    async with staged(tmp_path, lines=1, limits=limits) as stage:
        feed = stage.daemon.feeds[BTC]
        with pytest.raises(LineNeeded):
            feed.crew.restart("a")
        feed.crew.rotate()
        await stage.talk(60)
        assert stage.named("line_lost") == []


async def test_a_line_that_is_not_there_is_named(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Whoever asks for a line by a name that none has is told so."""
    async with staged(tmp_path, lines=1) as stage:
        feed = stage.daemon.feeds[BTC]
        for act in (feed.crew.restart, feed.crew.pause, feed.crew.resume):
            with pytest.raises(NoSuchLine, match="feed BTC-USD has no line z"):
                act("z")


async def test_a_line_that_waits_is_tried_at_once_when_restarted(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Restarting a line that is in its backoff ends the wait."""
    bounds = Bounds(backoff_min_s=1000.0, backoff_max_s=1000.0)
    async with staged(tmp_path, lines=2, bounds=bounds) as stage:
        feed = stage.daemon.feeds[BTC]
        stage.exchange.behaviour = Behaviour(handshake_status=500)
        stage.strike("reset", 0)
        await stage.until(lambda: not stage.all_connected())
        name = next(name for name, line in feed.lines.items() if not line.is_open)
        stage.exchange.behaviour = Behaviour()
        feed.crew.restart(name)
        await trio.sleep(1)
        assert stage.all_connected()


@pytest.mark.parametrize("moment_s", [0.0, 0.01, 0.021, 0.03])
async def test_a_line_may_be_paused_while_it_connects(
    tmp_path: Path, autojump_clock: MockClock, moment_s: float
) -> None:
    """Whatever it is doing, it has no connection soon after; and comes back."""
    async with staged(tmp_path, lines=2) as stage:
        feed = stage.daemon.feeds[BTC]
        for _ in range(5):
            feed.crew.pause("a")
            await stage.talk(1)
            feed.crew.resume("a")
            await trio.sleep(moment_s)
        feed.crew.pause("a")
        await stage.talk(5)
        assert not feed.lines["a"].is_open
        assert not feed.arbiter.lines["a"].connected
        assert len(stage.exchange.connections(BTC)) == 1
        assert feed.crew.attempting == set()
        feed.crew.resume("a")
        await stage.talk_until(stage.all_up)
        await stage.arrived()
        stage.assert_exact()


# Addresses


async def test_lines_of_a_feed_are_spread_over_the_addresses_of_the_host(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Three lines, three addresses: each has its own, and so have their successors; one that is gone costs none."""
    names = Names("exchange.test", ("127.0.0.1", "127.0.0.2", "127.0.0.3"))
    async with staged(tmp_path, lines=3, host="exchange.test") as stage:
        feed = stage.daemon.feeds[BTC]

        def hosts() -> list[str]:
            return sorted(line.peer.rpartition(":")[0] for line in feed.lines.values())

        assert hosts() == sorted(names.addresses)
        feed.crew.rotate()
        await stage.talk_until(lambda: len(stage.named("line_replaced")) == 3)
        await stage.talk_until(lambda: not feed.crew.rotation.busy and len(feed.lines) == 3)
        assert hosts() == sorted(names.addresses)
        names.addresses.remove("127.0.0.2")
        feed.crew.rotate()
        await stage.talk_until(lambda: len(stage.named("line_replaced")) == 6)
        await stage.talk_until(lambda: not feed.crew.rotation.busy and len(feed.lines) == 3)
        assert set(hosts()) == set(names.addresses)
        await stage.arrived()
        stage.assert_exact()
