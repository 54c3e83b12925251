# ruff: noqa: ARG001 - the clock works by being asked for
"""Two daemons at one exchange that enforces its limits: a breach of one of them fails a test by itself (`staged`)."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from feedhandler.config import Limits, Standby
from feedhandler.core.budget import WINDOW_S
from feedhandler.daemon import Daemon
from feedhandler.exchange.token import REQUESTS_PER_MINUTE
from feedhandler.ingest.gate import UNANSWERED_S
from feedhandler.simulator.settings import Behaviour
from tests.standby.couple import Couple, coupled
from tests.standby.test_takeover import replace
from tests.support.stage import BTC, ETH

MINUTE_S = 60.0


def limited(per_minute: int, per_market: int, **more: Any) -> dict[str, Any]:
    """Return what a stage needs for an exchange that allows so much, and daemons that know it."""
    return {
        "limits": Limits(connections_per_minute=per_minute, connections_per_market=per_market),
        "behaviour": Behaviour(connections_per_minute=per_minute, connections_per_market=per_market),
        **more,
    }


def has_found_its_places(standby: Daemon | None) -> bool:
    """Tell whether every line of a standby is aligned; it is ready where nothing was said, too."""
    assert standby is not None
    return all(line.up for feed in standby.feeds.values() for line in feed.arbiter.lines.values())


async def settled(couple: Couple) -> None:
    """Wait until the active daemon has all its lines, and a standby that is ready."""
    with trio.fail_after(10 * MINUTE_S):
        await couple.until_ready()
        await couple.stage.talk_until(partial(has_found_its_places, couple.standby))
        await couple.stage.talk_until(couple.stage.all_up)


def has_connected(couple: Couple, times: int) -> bool:
    """Tell whether lines have connected so often in all."""
    return len(couple.named("line_connected")) >= times


@pytest.mark.parametrize(("lines", "standby_lines"), [(2, 1), (2, 2), (3, 1)])
async def test_places_are_never_more_than_the_exchange_has(
    tmp_path: Path, autojump_clock: MockClock, lines: int, standby_lines: int
) -> None:
    """(3) One more daemon after another is killed, where both together have every place of the market."""
    options = limited(100, lines + standby_lines, lines=lines, standby_section=Standby(lines=standby_lines))
    async with coupled(tmp_path, **options) as couple:
        for _ in range(5):
            couple.stage.say(3)
            await replace(couple)
            await couple.start(standby=True)
            await settled(couple)
        await couple.arrived()
        couple.assert_exact()
        most = couple.stage.exchange.gate.compliance.connections_max[BTC]
        assert most == lines + standby_lines


async def test_attempts_of_a_minute_are_shared(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(11) Daemons that die and come back all the time make no more attempts than the exchange allows in any minute.

    What a standby would need in the minute of a takeover it gets later; the active daemon always has its turn.
    """
    options = limited(8, 5, markets=(BTC, ETH), lines=2)
    async with coupled(tmp_path, **options) as couple:
        began_s = trio.current_time()
        for _ in range(8):
            couple.stage.say(3)
            await replace(couple)
            await couple.start(standby=True)
            await settled(couple)
        await couple.arrived()
        couple.assert_exact()
        compliance = couple.stage.exchange.gate.compliance
        assert 4 < compliance.handshakes_per_minute_max <= 8
        assert compliance.refusals == {}
        assert trio.current_time() - began_s >= (compliance.handshakes / 8 - 2) * MINUTE_S


@pytest.mark.parametrize("markets", [(BTC,), (BTC, ETH)])
async def test_an_upgrade_waits_for_no_attempt(
    tmp_path: Path, autojump_clock: MockClock, markets: tuple[str, ...]
) -> None:
    """(11) Right after the start of both, one and the other are restarted at 20 attempts a minute: it takes seconds.

    Then all lines of both are lost at once, and the active one has its own back at once.
    """
    async with coupled(tmp_path, **limited(20, 5, markets=markets, lines=2)) as couple:
        began_s = trio.current_time()
        await restart_standby(couple)
        couple.stage.daemon.stop()
        couple.promote()
        await couple.stage.talk_until(lambda: couple.stage.daemon.publisher.consumer_count > 0)
        await couple.start(standby=True)
        await settled(couple)
        assert trio.current_time() - began_s < 2 * UNANSWERED_S
        await couple.arrived()
        couple.assert_exact()
        lost_s = trio.current_time()
        for market in markets:
            couple.stage.strike("reset", "all", market=market)
        await couple.stage.talk_until(lambda: not active_connections(couple))
        await couple.stage.talk_until(lambda: active_connections(couple) == 2 * len(markets))
        assert trio.current_time() - lost_s < UNANSWERED_S
        assert couple.stage.exchange.gate.compliance.handshakes_per_minute_max <= 20


def active_connections(couple: Couple) -> int:
    """Return how many lines of the active daemon are connected."""
    feeds = couple.stage.daemon.feeds.values()
    return sum(line.connected for feed in feeds for line in feed.arbiter.lines.values())


async def restart_standby(couple: Couple) -> None:
    """End the standby as SIGTERM does, and start another."""
    assert couple.standby is not None
    couple.standby.stop()
    await couple.stage.talk_until(lambda: couple.stage.daemon.publisher.precedence.follower is None)
    await couple.start(standby=True)
    await settled(couple)


async def test_a_replacement_of_the_active_daemon_leaves_the_standby_its_places(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Where nothing is left beside both, lines are replaced one after the other; where a place is, it overlaps."""
    for spare in (0, 1):
        folder = tmp_path / str(spare)
        folder.mkdir()
        async with coupled(folder, **limited(100, 3 + spare)) as couple:
            standby = couple.standby
            assert standby is not None
            for daemon in (couple.stage.daemon, standby):
                daemon.feeds[BTC].crew.rotate()
            await couple.stage.talk_until(
                partial(has_connected, couple, len(couple.named("line_connected")) + 3)
            )
            await settled(couple)
            await couple.arrived()
            couple.assert_exact()
            replaced = [one for one in couple.named("replacement_begun") if one["by"] != one["line"]]
            assert bool(replaced) == bool(spare)
            assert couple.stage.exchange.gate.compliance.connections_max[BTC] == 3 + spare


async def test_lines_of_a_killed_daemon_count_for_a_while(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Where nothing is left, the heir opens the rest of its lines only when the exchange must have seen the end."""
    async with coupled(tmp_path, **limited(100, 3)) as couple:
        couple.kill(couple.stage.daemon)
        daemon = couple.promote()
        await couple.stage.talk_until(lambda: daemon.standby is None)
        took_over_s = trio.current_time()
        await couple.stage.talk_until(couple.stage.all_up)
        assert trio.current_time() - took_over_s >= UNANSWERED_S - 1
        await couple.arrived()
        couple.assert_exact()


async def test_a_pause_that_the_exchange_asks_for_is_for_both(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(11) ``Retry-After`` told to one daemon is obeyed by the other one, and by the heir."""
    async with coupled(tmp_path, **limited(100, 5)) as couple:
        stage = couple.stage
        stage.exchange.behaviour = Behaviour(handshake_status=503, retry_after_s=25)
        stage.strike("reset", 0, market=BTC)
        await stage.talk_until(lambda: bool(couple.named("attempts_paused")))
        paused_s = trio.current_time()
        stage.exchange.behaviour = Behaviour(connections_per_minute=100, connections_per_market=5)
        await replace(couple)
        await stage.talk_until(stage.all_up)
        assert trio.current_time() - paused_s >= 24
        await couple.arrived()
        couple.assert_exact()


def with_tokens(**more: Any) -> dict[str, Any]:
    """Return what a stage needs where every connection has a token."""
    return {**limited(1000, 8), "behaviour": Behaviour(token_required=True, **more), "token": True}


async def test_token_requests_of_a_minute_are_shared(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(11, 12) One standby after another asks for a token: they leave half of the requests to the active daemon."""
    async with coupled(tmp_path, **with_tokens()) as couple:
        compliance = couple.stage.exchange.gate.compliance
        for _ in range(2 * REQUESTS_PER_MINUTE):
            assert couple.standby is not None
            couple.kill(couple.standby)
            await couple.start(standby=True)
            await trio.sleep(0.2)
        assert compliance.token_requests_per_minute_max == REQUESTS_PER_MINUTE // 2
        couple.stage.exchange.gate.revoke()
        couple.stage.strike("reset", "all")
        began_s = trio.current_time()
        await couple.stage.talk_until(lambda: not active_connections(couple))
        await couple.stage.talk_until(lambda: active_connections(couple) == 2)
        assert trio.current_time() - began_s < 5
        assert compliance.token_requests_per_minute_max == REQUESTS_PER_MINUTE // 2 + 1
        await settled(couple)


async def test_a_restarted_daemon_remembers_its_token_requests(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(11, 12) One daemon alone, killed again and again: the minute is that of the exchange."""
    async with coupled(tmp_path, standby=False, **with_tokens()) as couple:
        for _ in range(REQUESTS_PER_MINUTE + 2):
            couple.kill(couple.stage.daemon)
            await trio.sleep(0.1)
            await couple.start()
            await trio.sleep(0.1)
        await couple.stage.talk_until(couple.stage.all_connected)
        assert trio.current_time() > MINUTE_S
        assert couple.stage.exchange.gate.compliance.token_requests_per_minute_max == REQUESTS_PER_MINUTE


async def test_a_pause_that_the_token_endpoint_asks_for_is_for_both(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(12) ``Retry-After`` of a 429 told to one daemon is obeyed by the other one, and by one that is started anew."""
    async with coupled(tmp_path, **with_tokens()) as couple:
        stage = couple.stage
        stage.exchange.behaviour = Behaviour(token_required=True, token_status=429, retry_after_s=25)
        assert couple.standby is not None
        couple.kill(couple.standby)
        standby = await couple.start(standby=True)
        await stage.talk_until(lambda: bool(couple.named("token_refused")))
        paused_s = trio.current_time()
        stage.exchange.behaviour = Behaviour(token_required=True)
        couple.kill(standby)
        await couple.start(standby=True)
        await settled(couple)
        assert trio.current_time() - paused_s >= 24


async def test_a_restarted_daemon_remembers_its_attempts(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(11) One daemon alone, killed again and again by whatever it is: the minute is that of the exchange."""
    async with coupled(tmp_path, standby=False, **limited(4, 5)) as couple:
        for _ in range(4):
            couple.kill(couple.stage.daemon)
            await trio.sleep(0.1)
            await couple.start()
            await couple.stage.talk_until(couple.stage.all_connected)
        assert couple.stage.exchange.gate.compliance.handshakes_per_minute_max == 4
        assert trio.current_time() > WINDOW_S
