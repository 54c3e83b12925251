"""Tokens over many lives, as the exchange sees them: never one in its margin, one refresh where one is refused."""

from pathlib import Path
from random import Random

from trio.testing import MockClock

from feedhandler.simulator.settings import Behaviour
from tests.support.stage import BTC, staged

LIFE_S, LIVES = 60.0, 20
BEHAVIOUR = Behaviour(token_required=True, token_life_s=LIFE_S, token_margin_s=14.0)
"""The daemon keeps a quarter of a life as its margin; a second of it is left to the way."""


async def test_twenty_lives_with_random_drops(
    tmp_path: Path,
    autojump_clock: MockClock,  # noqa: ARG001 - by name
) -> None:
    """(12) Lines break at random and tokens are revoked: no token in its margin, one refresh, no failed attempt."""
    lots, revoked = Random(12), 0
    async with staged(tmp_path, behaviour=BEHAVIOUR, token=True) as stage:
        compliance = stage.exchange.gate.compliance
        for life in range(LIVES):
            for _ in range(6):
                await stage.talk(LIFE_S / 6, every_s=0.5)
                stage.strike("reset", lots.choice([0, 1]), market=BTC)
            if life % 4 == 3:
                revoked += 1
                stage.exchange.gate.revoke()
                stage.strike("reset", "all")
        await stage.talk_until(stage.all_up)
        failed = stage.named("connect_failed", "token_refused", "key_refused")
    assert failed == []
    assert compliance.breaches == []
    assert compliance.expired_tokens_used == 0
    assert compliance.token_life_left_min_s is not None
    assert compliance.token_life_left_min_s >= 14.0
    assert 0 < compliance.refusals[401] <= 2 * revoked
    assert set(compliance.refusals) == {401}
    assert compliance.handshakes > 100
    assert LIVES <= compliance.token_requests <= 2 * LIVES + 2 * revoked
    assert compliance.token_requests_per_minute_max <= 5
