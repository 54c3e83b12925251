# ruff: noqa: ARG001 - the clock works by being asked for
"""Waits that end on common moments."""

import pytest
import trio
from trio.testing import MockClock

from feedhandler.ingest.beat import BEAT_S, sleep_in_step


@pytest.mark.parametrize("step_s", [BEAT_S, 0.25])
async def test_who_waits_in_step_wakes_together(autojump_clock: MockClock, step_s: float) -> None:
    """Waits that begin within half a step of each other end at one moment, no further off than that."""
    woken_s: list[float] = []

    async def wait(after_s: float) -> None:
        await trio.sleep(after_s)
        began_s = trio.current_time()
        await sleep_in_step(5.0, step_s)
        woken_s.append(trio.current_time())
        assert woken_s[-1] - began_s == pytest.approx(5.0, abs=step_s / 2 + 1e-9)

    first_s = (round(trio.current_time() / step_s) + 1) * step_s - trio.current_time()
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(wait, first_s + number * step_s / 11)
    assert len(set(woken_s)) == 1


async def test_a_wait_too_short_for_a_beat_is_what_it_says(autojump_clock: MockClock) -> None:
    """It never ends before it began, and never skips the wait."""
    for _ in range(7):
        began_s = trio.current_time()
        await sleep_in_step(0.03)
        assert trio.current_time() - began_s == pytest.approx(0.03, abs=BEAT_S / 2 + 1e-9)
        assert trio.current_time() > began_s
