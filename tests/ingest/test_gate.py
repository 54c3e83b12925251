"""The gate: slots in their order, and nothing lost to a cancellation."""

import pytest
import trio
import trio.testing

from feedhandler.core.budget import WINDOW_S
from feedhandler.ingest.gate import SETTLE_S, Gate


async def test_waiters_are_served_by_priority(autojump_clock: trio.testing.MockClock) -> None:
    """The first minute's slots go to the most urgent, the others wait for a minute."""
    gate = Gate(2)
    served: list[tuple[str, float]] = []
    priorities = {"c": 2, "b": 1, "a": 0, "d": 2}

    async def attempt(name: str) -> None:
        async with gate.attempt(
            lambda: priorities[name], lambda: served.append((name, autojump_clock.current_time()))
        ):
            await trio.lowlevel.checkpoint()

    async with gate.attempt(lambda: 0), gate.attempt(lambda: 0), trio.open_nursery() as nursery:
        start_s = autojump_clock.current_time()
        for name in priorities:
            nursery.start_soon(attempt, name)
            await trio.testing.wait_all_tasks_blocked()
        assert not served
        assert repr(gate) == "<Gate <Budget 2/min: 4 waiting, 2 under way, 0 counted>>"
        nursery.cancel_scope.deadline = start_s + 10
    assert gate.available() == 0
    async with trio.open_nursery() as nursery:
        for name in priorities:
            nursery.start_soon(attempt, name)
            await trio.testing.wait_all_tasks_blocked()
    assert [name for name, _ in served] == ["a", "b", "c", "d"]
    minutes = [(at_s - start_s - 10) / WINDOW_S for _, at_s in served]
    assert minutes == pytest.approx([1, 1, 2, 2])


async def test_a_cancelled_waiter_takes_no_slot(autojump_clock: trio.testing.MockClock) -> None:
    """Who gives up waiting leaves its turn to the next."""
    gate = Gate(1)
    async with gate.attempt(lambda: 0):
        pass
    with trio.move_on_after(1) as scope:
        async with gate.attempt(lambda: 0):
            raise AssertionError  # pragma: no cover
    assert scope.cancelled_caught
    assert repr(gate) == "<Gate <Budget 1/min: 0 waiting, 0 under way, 1 counted>>"
    async with gate.attempt(lambda: 1):
        assert autojump_clock.current_time() == WINDOW_S + SETTLE_S


async def test_an_attempt_cancelled_at_its_grant_is_counted() -> None:
    """A slot granted to a task that is cancelled at that moment is given back, not leaked."""
    gate = Gate(1)
    with trio.CancelScope() as scope:
        async with gate.attempt(lambda: 0, scope.cancel):
            raise AssertionError  # pragma: no cover
    assert scope.cancelled_caught
    assert repr(gate) == "<Gate <Budget 1/min: 0 waiting, 0 under way, 1 counted>>"


async def test_a_failed_attempt_counts_as_well(autojump_clock: trio.testing.MockClock) -> None:
    """The exchange counts attempts, whatever came of them."""
    gate = Gate(1)
    try:
        async with gate.attempt(lambda: 0):
            await trio.open_unix_socket("/nowhere")
    except OSError:
        assert gate.available() == 0
    gate.set_limit(2)
    assert gate.available() == 1
    autojump_clock.jump(WINDOW_S)
    assert gate.available() == 2


async def test_every_feed_is_covered_before_redundancy(autojump_clock: trio.testing.MockClock) -> None:
    """(11) Fifty feeds of three lines: each has a line in time, and none has two before."""
    gate = Gate(20)
    lines = [0] * 50
    covered_s = [0.0] * 50

    async def line(feed: int) -> None:
        def connecting() -> None:
            lines[feed] += 1
            covered_s[feed] = covered_s[feed] or autojump_clock.current_time()
            assert lines[feed] == 1 or min(lines) >= 1

        async with gate.attempt(lambda: min(lines[feed], 2), connecting):
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        for feed in range(50):
            for _ in range(3):
                nursery.start_soon(line, feed)
    assert lines == [3] * 50
    assert max(covered_s) <= 50 / 20 * 60 + 60
