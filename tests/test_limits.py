# ruff: noqa: ARG001 - the clock works by being asked for
"""What the exchange allows: attempts in a minute, connections at once, and when to come again."""

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from feedhandler.config import Bounds, Feed, Health, Limits, Wanted
from feedhandler.core.budget import CAP_RETRY_S, DISBELIEF_S, WINDOW_S
from feedhandler.simulator.exchange import Exchange
from feedhandler.simulator.settings import Behaviour
from tests.support.stage import BTC, ETH, Stage, staged

SOL = "SOL-USD"
MARKETS = tuple(f"M{number}-USD" for number in range(50))
DOWN_S = 1800
RETRY_AFTER_S = 25
CALM = Health(ping_interval_s=120.0, pong_timeout_s=120.0)


def attempts_at(exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that fills with the moments of all handshakes from now on."""
    moments: list[float] = []
    admit = exchange.gate.admit

    def noted(now: float, *args: Any, **more: Any) -> Any:
        moments.append(now)
        return admit(now, *args, **more)

    monkeypatch.setattr(exchange.gate, "admit", noted)
    return moments


def backoff_shares(stage: Stage, bounds: Bounds, until_s: dict[float, float]) -> list[float]:
    """Return the waits after failures as shares of the longest that each could have cost, Retry-After aside."""
    failures: Counter[tuple[Any, Any]] = Counter()
    shares = []
    for at, one in stage.notes:
        line = one.fields.get("feed"), one.fields.get("line")
        if one.name == "connect_failed":
            told_s = next((told_s for end_s, told_s in until_s.items() if at < end_s), None)
            ceiling_s = min(bounds.backoff_min_s * 2.0 ** failures[line], bounds.backoff_max_s)
            if told_s is not None:
                shares.append((float(one.fields["retry_s"]) - told_s) / ceiling_s)
        if one.name in {"connect_failed", "line_lost"}:
            failures[line] += 1
    return shares


def take_breaches(stage: Stage) -> set[str]:
    """Return what rules were broken and that this is known; a test that ends with others fails."""
    breaches = stage.exchange.gate.compliance.breaches
    found = set(breaches)
    breaches.clear()
    return found


def covered(stage: Stage) -> bool:
    """Tell whether every feed has a line."""
    return all(
        any(line.connected for line in feed.arbiter.lines.values()) for feed in stage.daemon.feeds.values()
    )


async def test_fifty_markets_come_back_after_half_an_hour(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(11) 50 markets x 3 lines, the exchange down for 30 min: one budget, full jitter, no end, and quick coverage.

    For the first half of the time it says when to come again, then it does not.
    """
    limits = Limits(connections_per_minute=20, connections_per_market=3)
    bounds = Bounds()
    up = Behaviour(connections_per_minute=20, connections_per_market=3)
    feeds = (Feed(markets=MARKETS, streams=("publicTrades",), lines=3),)
    async with staged(
        tmp_path,
        markets=MARKETS,
        feeds=feeds,
        behaviour=up,
        limits=limits,
        bounds=bounds,
        health=CALM,
        wait=False,
    ) as stage:
        moments = attempts_at(stage.exchange, monkeypatch)
        with trio.fail_after(150 / 20 * 60 + 60):
            while not stage.all_connected():
                await trio.sleep(1)
        await trio.sleep(61)

        gone_s = trio.current_time()
        for market in MARKETS:
            stage.strike("outage", "all", market=market, duration_s=0.01)
        for retry_after_s in (RETRY_AFTER_S, 0):
            stage.exchange.behaviour = Behaviour(
                connections_per_minute=20, handshake_status=503, retry_after_s=retry_after_s
            )
            await trio.sleep(DOWN_S / 2)
        back_s = trio.current_time()
        stage.exchange.behaviour = up
        while not covered(stage):
            await trio.sleep(0.1)
        assert trio.current_time() - back_s <= max(2 * bounds.backoff_max_s, 50 / 20 * 60 + 60)

        half_s = (gone_s + back_s) / 2
        told = [moment for moment in moments if gone_s < moment < half_s]
        untold = [moment for moment in moments if half_s < moment < back_s]
        longest_s = max(later - earlier for earlier, later in pairwise([gone_s, *told, *untold, back_s]))
        assert longest_s <= WINDOW_S + RETRY_AFTER_S
        assert len(told) in range(DOWN_S // 2 // RETRY_AFTER_S // 2, DOWN_S // 2 // RETRY_AFTER_S * 2)
        assert len(untold) in range(19 * DOWN_S // 2 // 60, 20 * (DOWN_S // 2 // 60 + 1) + 1)
        shares = backoff_shares(stage, bounds, {half_s: RETRY_AFTER_S, back_s: 0})
        assert len(shares) > 200
        assert sum(shares) / len(shares) == pytest.approx(0.5, abs=0.15)
        assert min(shares) < 0.1
        assert max(shares) > 0.9


async def test_a_lower_limit_is_learnt_and_kept_to(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exchange allows two connections where three are configured: the third waits, is seen to, and is let in later.

    Another token does not help, so it is asked for once; the lines that are up notice nothing.
    """
    behaviour = Behaviour(connections_per_market=2, token_required=True)
    async with staged(
        tmp_path, lines=3, markets=(BTC, ETH), behaviour=behaviour, token=True, wait=False
    ) as stage:
        await stage.until(lambda: len(stage.named("cap_learnt")) == 2)
        moments = attempts_at(stage.exchange, monkeypatch)
        refused = stage.exchange.gate.compliance.refusals[403]
        assert refused <= 4
        await stage.talk(CAP_RETRY_S - 20, every_s=0.2)
        assert moments == []
        for market in (BTC, ETH):
            feed = stage.daemon.feeds[market]
            assert sorted(line.doing for line in feed.lines.values()) == ["capped", "up", "up"]
        gate = stage.daemon.observation.sight.gate
        assert gate.learnt_caps() == {BTC: 2, ETH: 2}
        assert {(one["market"], one["connections"]) for one in stage.named("cap_learnt")} == {
            (BTC, 2),
            (ETH, 2),
        }
        assert stage.named("line_lost") == []

        await stage.talk(2 * CAP_RETRY_S, every_s=0.2)
        assert stage.exchange.gate.compliance.refusals[403] <= refused + 8
        stage.exchange.behaviour = Behaviour()
        await stage.talk(CAP_RETRY_S + 40, every_s=0.2)
        assert stage.all_connected()
        assert take_breaches(stage) == {
            f"one more connection of {market}, 2 are allowed" for market in (BTC, ETH)
        }
        assert stage.named("line_lost") == []
        await stage.arrived()
        stage.assert_exact()


async def test_a_line_above_a_learnt_limit_takes_the_place_of_one_that_goes(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Whoever waits above a learnt limit is the first to come when a line of the market dies."""
    behaviour = Behaviour(connections_per_market=2)
    async with staged(tmp_path, lines=3, behaviour=behaviour, wait=False) as stage:
        await stage.until(lambda: bool(stage.named("cap_learnt")))
        await stage.talk(20)
        refusals = stage.exchange.gate.compliance.refusals[403]
        stage.strike("reset", 0)
        await stage.talk(20)
        assert stage.exchange.gate.compliance.refusals[403] == refusals
        assert len(stage.exchange.connections(BTC)) == 2
        assert take_breaches(stage) == {f"one more connection of {BTC}, 2 are allowed"}
        await stage.arrived()
        stage.assert_exact()


async def test_a_time_that_one_line_is_told_holds_for_all(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """(11) One handshake is answered 429 with Retry-After: no line of any feed tries before that time."""
    async with staged(tmp_path, lines=2, markets=(BTC, ETH)) as stage:
        moments = attempts_at(stage.exchange, monkeypatch)
        stage.exchange.behaviour = Behaviour(handshake_status=429, retry_after_s=40)
        stage.strike("reset", 0, market=BTC)
        await stage.until(lambda: bool(stage.named("attempts_paused")))
        told_s = trio.current_time()
        stage.exchange.behaviour = Behaviour()
        for market in (BTC, ETH):
            stage.strike("reset", "all", market=market)
        await stage.talk(38)
        assert [moment for moment in moments if moment > told_s] == []
        await stage.talk_until(stage.all_up)
        assert {one["status"] for one in stage.named("attempts_paused")} == {429}


# A lower limit of all together


async def test_redundancy_gives_way_to_a_feed_without_any_line(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(11) Four connections in all, used up by two feeds: a third one gets one of theirs, and they lose nothing by it.

    The line that had to go waits until the exchange allows more.
    """
    behaviour = Behaviour(connections_specific=4, token_required=True)
    async with staged(
        tmp_path, markets=(BTC, ETH, SOL), feeds=(Feed(markets=(BTC, ETH)),), behaviour=behaviour, token=True
    ) as stage:
        await stage.talk(12)
        stage.daemon.fleet.set_by_hand(SOL, Wanted(SOL, ("publicTrades", "publicOrderBook"), 2))
        came_s = trio.current_time()
        await stage.talk_until(lambda: bool(stage.exchange.connections(SOL)))
        assert trio.current_time() - came_s < 10
        await stage.talk(60)
        (given,) = stage.named("place_given_up")
        assert given["feed"] in {BTC, ETH}
        assert given["to"] == SOL
        assert stage.daemon.observation.sight.gate.learnt_caps() == {"*": 4}
        assert {"market": "*", "connections": 4} in stage.named("cap_learnt")
        feed = stage.daemon.feeds[given["feed"]]
        assert sorted(line.doing for line in feed.lines.values()) == ["capped", "up"]
        assert [one["reason"] for one in stage.named("line_lost")] == ["given_up"]
        refused = stage.exchange.gate.compliance.refusals[403]
        await stage.talk(2 * CAP_RETRY_S, every_s=0.5)
        assert stage.exchange.gate.compliance.refusals[403] <= refused + 8
        stage.exchange.behaviour = Behaviour()
        await stage.talk(2 * CAP_RETRY_S + 40, every_s=0.5)
        assert stage.all_connected()
        assert stage.daemon.observation.sight.gate.learnt_caps() == {}
        assert take_breaches(stage) == {"one more connection of all, 4 are allowed"}
        assert len(stage.named("place_given_up")) == 1
        for market in (BTC, ETH):
            for stream in ("publicTrades", "publicOrderBook"):
                name = f"{market}/{stream}"
                assert stage.reading.sequences[name] == stage.truth[name]
        assert stage.reading.of("gap") == []


async def test_a_line_that_dies_is_not_the_price_of_another_feed_s_redundancy(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(11) The limit falls below the lines there are, and one feed's only line dies: it is back within seconds."""
    feeds = (Feed(markets=(BTC,), lines=3), Feed(markets=(ETH,), lines=1))
    async with staged(tmp_path, markets=(BTC, ETH), feeds=feeds) as stage:
        await stage.talk(12)
        stage.exchange.behaviour = Behaviour(connections_specific=3)
        stage.strike("reset", 0, ETH)
        died_s = trio.current_time()
        await stage.talk_until(lambda: stage.exchange.connections(ETH) == [])
        await stage.talk_until(lambda: bool(stage.exchange.connections(ETH)))
        assert trio.current_time() - died_s < 10
        await stage.talk(20)
        assert [(one["feed"], one["to"]) for one in stage.named("place_given_up")] == [(BTC, ETH)]
        assert len(stage.exchange.connections(BTC)) == 2
        for stream in ("publicTrades", "publicOrderBook"):
            assert stage.reading.sequences[f"{BTC}/{stream}"] == stage.truth[f"{BTC}/{stream}"]
        assert {gap["channel"].partition("/")[0] for gap in stage.reading.of("gap")} <= {ETH}
        assert take_breaches(stage) == {"one more connection of all, 3 are allowed"}


async def test_the_last_aligned_line_of_a_feed_is_never_given_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(11) Where every feed has one line, one that has none is refused for ever, and nobody else loses anything."""
    behaviour = Behaviour(connections_specific=2)
    feeds = (Feed(markets=(BTC, ETH), lines=1),)
    async with staged(tmp_path, markets=(BTC, ETH, SOL), feeds=feeds, behaviour=behaviour) as stage:
        await stage.talk(12)
        stage.daemon.fleet.set_by_hand(SOL, Wanted(SOL, ("publicTrades",), 1))
        await stage.talk(120, every_s=0.1)
        assert len(stage.named("connect_failed")) > 10
        assert stage.named("place_given_up", "line_lost", "cap_learnt") == []
        for market in (BTC, ETH):
            name = f"{market}/publicTrades"
            assert stage.reading.sequences[name] == stage.truth[name]
        assert take_breaches(stage) == {"one more connection of all, 2 are allowed"}


async def test_a_refusal_for_another_reason_costs_one_line_for_a_moment(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(11) A market that is refused whatever the others have: what was given up is taken back, and kept."""
    feeds = (Feed(markets=(BTC, ETH)),)
    async with staged(tmp_path, markets=(BTC, ETH, SOL), feeds=feeds) as stage:
        await stage.talk(12)
        stage.strike("refuse", market=SOL, status=403, duration_s=3000)
        stage.daemon.fleet.set_by_hand(SOL, Wanted(SOL, ("publicTrades",), 1))
        await stage.talk_until(lambda: bool(stage.named("place_given_up")))
        await stage.talk(10)
        assert stage.daemon.observation.sight.gate.learnt_caps() == {}
        assert len(stage.exchange.connections(BTC)) == len(stage.exchange.connections(ETH)) == 2
        await stage.talk(DISBELIEF_S - 20, every_s=0.5)
        assert len(stage.named("place_given_up")) == 1
        await stage.talk(1.5 * DISBELIEF_S, every_s=0.5)
        assert len(stage.named("place_given_up")) == 2
        for market in (BTC, ETH):
            name = f"{market}/publicTrades"
            assert stage.reading.sequences[name] == stage.truth[name]
        assert stage.reading.of("gap") == []


async def test_feeds_of_one_market_count_together(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(11) Focused connections: trades have used up what the market may have, and the book gets one of their places."""
    feeds = (
        Feed(name="t", markets=(BTC,), streams=("publicTrades",), lines=2),
        Feed(name="b", markets=(BTC,), streams=("publicOrderBook",), lines=1),
    )
    async with staged(tmp_path, feeds=feeds) as stage:
        await stage.talk(12)
        stage.exchange.behaviour = Behaviour(connections_per_market=2)
        book = stage.daemon.feeds[f"b/{BTC}"]
        book.lines["a"].restart("reset")
        await stage.talk_until(lambda: not book.lines["a"].is_open)
        await stage.talk_until(lambda: book.lines["a"].is_open)
        await stage.talk(5)
        assert [(one["feed"], one["to"]) for one in stage.named("place_given_up")] == [
            (f"t/{BTC}", f"b/{BTC}")
        ]
        assert stage.daemon.observation.sight.gate.learnt_caps() == {BTC: 2}
        name = f"{BTC}/publicTrades"
        assert stage.reading.sequences[name] == stage.truth[name]
        assert take_breaches(stage) == {f"one more connection of {BTC}, 2 are allowed"}
