# ruff: noqa: ARG001 - the clock works by being asked for
"""The gate: slots in their order, and nothing lost to a cancellation."""

import pytest
import trio
import trio.testing

from feedhandler.core.budget import WINDOW_S, Caps
from feedhandler.core.notes import Note
from feedhandler.errors import HandshakeRefused
from feedhandler.ingest.gate import SETTLE_S, UNANSWERED_S, Gate, Place


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


async def test_raised_limits_are_used_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """Who waits for a slot or for a place does not sleep on when there is one by a new limit."""
    gate = Gate(1, Caps(per_market=1))
    async with gate.attempt(lambda: 0, market="M") as place:
        place.opened()
    begun_s = autojump_clock.current_time()

    async def attempt() -> None:
        async with gate.attempt(lambda: 0, market="M"):
            assert autojump_clock.current_time() == begun_s + 5

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attempt)
        await trio.sleep(5)
        gate.set_limit(2, Caps(per_market=2))


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


async def opened(gate: Gate, market: str, priority: int = 2) -> Place:
    """Make an attempt that succeeds; return its place."""
    async with gate.attempt(lambda: priority, market=market) as place:
        place.opened()
    return place


@pytest.mark.parametrize(("answered", "wait_s"), [(True, 0.0), (False, UNANSWERED_S)])
async def test_who_waits_for_a_place_gets_it_when_the_end_must_have_been_seen(
    autojump_clock: trio.testing.MockClock, wait_s: float, *, answered: bool
) -> None:
    """A place is free with the answered goodbye; without an answer a little later, and whoever waits is woken then."""
    gate = Gate(1000, Caps(per_market=1))
    place = await opened(gate, "X")
    free_s: list[float] = []

    async def wait() -> None:
        await opened(gate, "X")
        free_s.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.sleep(10)
        assert free_s == []
        released_s = trio.current_time()
        place.release(answered=answered)
        place.release(answered=answered)
    assert free_s == pytest.approx([released_s + wait_s])


async def test_a_failed_attempt_gives_its_place_back(autojump_clock: trio.testing.MockClock) -> None:
    """The next one may try at once."""
    gate = Gate(1000, Caps(per_market=1))
    with pytest.raises(OSError, match="gone"):
        async with gate.attempt(lambda: 0, market="X"):
            raise OSError("gone")
    await opened(gate, "X")
    assert trio.current_time() == pytest.approx(2 * SETTLE_S)


@pytest.mark.parametrize(("status", "pause_s"), [(429, 30), (503, 30), (403, 30), (401, 0), (500, 0)])
async def test_a_named_time_holds_for_all(
    autojump_clock: trio.testing.MockClock, status: int, pause_s: int
) -> None:
    """(11) Retry-After of what concerns the client holds up everyone, and is noted; of the rest it does not."""
    notes: list[Note] = []
    gate = Gate(1000, notify=notes.append)
    with pytest.raises(HandshakeRefused):
        async with gate.attempt(lambda: 0, market="X"):
            raise HandshakeRefused(status, 30.0)
    assert gate.paused_s() == pause_s
    refused_s = trio.current_time()
    await opened(gate, "Y")
    assert trio.current_time() - refused_s == pytest.approx(max(pause_s, SETTLE_S))
    assert [one.name for one in notes] == ["attempts_paused"] * bool(pause_s)


async def test_what_is_learnt_is_noted_once(autojump_clock: trio.testing.MockClock) -> None:
    """A cap is told when it is new and when it is raised, and stands in the gate's state."""
    notes: list[Note] = []
    gate = Gate(1000, Caps(per_market=5), notes.append)
    await opened(gate, "X")
    for _ in range(2):
        gate.refused("X")
    assert gate.learnt_caps() == {"X": 1}
    await opened(gate, "X", priority=0)
    assert gate.learnt_caps() == {"X": 2}
    assert [(one.name, one.fields) for one in notes] == [
        ("cap_learnt", {"market": "X", "connections": 1}),
        ("cap_raised", {"market": "X", "connections": 2}),
    ]


async def test_lower_limits_hold_for_the_next_attempts(autojump_clock: trio.testing.MockClock) -> None:
    """Limits that change concern who connects from then on; a replacement finds no place under them."""
    gate = Gate(1000, Caps(per_market=2))
    gate.claim("X")
    await opened(gate, "X")
    assert gate.has_spare("X")
    gate.set_limit(1000, Caps(per_market=1))
    assert not gate.claim_spare("X")
    with trio.move_on_after(1000) as scope:
        await opened(gate, "X", priority=0)
    assert scope.cancelled_caught
    gate.unclaim("X")
