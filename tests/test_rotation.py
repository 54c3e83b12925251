# ruff: noqa: ARG001 - the clock works by being asked for
"""Lines that are replaced while they run: by age and token, within the limits of an exchange that enforces them."""

from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from feedhandler.config import Health, Limits
from feedhandler.simulator.settings import Behaviour, Kind
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
        if stage.all_up() and not feed.rotation.busy and not is_due:
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
