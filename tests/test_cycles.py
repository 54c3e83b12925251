# ruff: noqa: ARG001 - the clock works by being asked for
"""When memory is searched for cycles."""

import gc
import weakref

import pytest
import trio
from trio.testing import MockClock

from feedhandler.cycles import CALM_S, EVERY_S, LONGEST_S, LOOK_S, sweep


class Ring:
    """An object that holds itself."""

    def __init__(self) -> None:
        self.own = self


def old_ring() -> weakref.ref[Ring]:
    """Make a cycle that only a search of all generations finds."""
    ring = Ring()
    gc.collect()
    return weakref.ref(ring)


async def passed(gone: weakref.ref[Ring], most_s: float) -> float:
    """Return how long the cycle stays, at most so long."""
    began_s = trio.current_time()
    while gone() is not None and trio.current_time() - began_s < most_s:
        await trio.sleep(LOOK_S / 2)
    return trio.current_time() - began_s


async def test_cycles_go_when_nothing_moves(nursery: trio.Nursery, autojump_clock: MockClock) -> None:
    """Once in a while, and no later than a look after the moment is good."""
    nursery.start_soon(sweep, lambda: -CALM_S)
    await trio.sleep(LOOK_S)
    for _ in range(3):
        assert await passed(old_ring(), 2 * EVERY_S) == pytest.approx(EVERY_S, abs=2 * LOOK_S)
    nursery.cancel_scope.cancel()


async def test_cycles_wait_while_something_moves_but_not_for_ever(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    """Events all the time put the search off up to its bound; as soon as they stop it comes."""
    busy = True
    nursery.start_soon(sweep, lambda: trio.current_time() if busy else 0.0)
    await trio.sleep(LOOK_S)
    assert await passed(old_ring(), 2 * LONGEST_S) == pytest.approx(LONGEST_S, abs=2 * LOOK_S)
    ring = old_ring()
    await trio.sleep(2 * EVERY_S)
    assert ring() is not None
    busy = False
    assert await passed(ring, EVERY_S) <= 2 * LOOK_S
    nursery.cancel_scope.cancel()


async def test_python_is_left_as_it_was(autojump_clock: MockClock) -> None:
    """While it runs the oldest generation is not searched by itself, nor what was there; then all is as before."""
    before = gc.get_threshold(), gc.get_freeze_count()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweep, trio.current_time)
        await trio.sleep(1)
        assert gc.get_freeze_count() > 10_000
        assert gc.get_threshold()[2] > 1_000_000
        nursery.cancel_scope.cancel()
    assert (gc.get_threshold(), gc.get_freeze_count()) == before
