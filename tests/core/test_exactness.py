"""Exactness: whatever lines do, the output is the source, or says where it is not."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedhandler.config import Bounds
from tests.support.lines import World
from tests.support.scripts import DISTINCT, REPEATED, Script, play, scripts, steady

TINY = Bounds(window_events=16, settled_events=4, window_s=3600)

CHAOS = ("emit",) * 8 + ("read",) * 7 + ("kill", "connect", "connect", "wait")
CHANGE = (*CHAOS, "add", "add", "remove")
QUICK = ("emit",) * 8 + ("read",) * 7 + ("kill", "connect", "connect")
THERE = ("emit",) * 8 + ("read",) * 7


def connected(lines: int) -> World:
    """Return a world whose lines are all there from the start."""
    world = World(lines)
    world.connect(*world.names)
    return world


def aligned(lines: int, *, bounds: Bounds | None = None) -> World:
    """Return a world whose lines have shared some events of each channel."""
    world = World(lines, bounds=bounds)
    world.connect(*world.names)
    world.emit(b"b1000", b"t1001", b"b1002", b"t1003")
    world.deliver_all()
    assert all(line.up for line in world.arbiter.lines.values())
    return world


@pytest.mark.parametrize(
    "words", [DISTINCT, REPEATED, DISTINCT + REPEATED], ids=["distinct", "repeated", "mixed"]
)
def test_one_order_on_all_lines_is_exact_or_marked(words: tuple[bytes, ...]) -> None:
    """Requirements 3, 4 and 7: any partial reads, joins, deaths and waits leave the source, or a mark."""

    @settings(steady, max_examples=250)
    @given(scripts(words=words, kinds=CHAOS))
    def check(script: Script) -> None:
        world = play(World(script.lines), script)
        world.settle()
        world.assert_exact_or_marked()

    check()


@pytest.mark.parametrize("words", [DISTINCT, DISTINCT + REPEATED], ids=["distinct", "mixed"])
def test_lines_that_come_and_go_for_good_are_exact_or_marked(words: tuple[bytes, ...]) -> None:
    """Requirements 3, 4 and 12: with lines added and removed under letters that come again, likewise."""

    @settings(steady, max_examples=250)
    @given(scripts(words=words, kinds=CHANGE))
    def check(script: Script) -> None:
        world = play(World(script.lines), script)
        world.settle()
        world.assert_exact_or_marked()

    check()


@settings(steady, max_examples=300)
@given(scripts(words=DISTINCT, kinds=(*CHANGE, "drop"), interleaved=True))
def test_lines_that_come_and_go_for_good_lose_nothing_that_was_read(script: Script) -> None:
    """Rules R3 to R5 and R8: the same with different interleavings and drops."""
    world = play(World(script.lines), script)
    world.settle()
    world.assert_complete_and_marked()


@settings(steady, max_examples=150)
@given(
    scripts(words=REPEATED, kinds=THERE, interleaved=True),
    st.integers(1, 12),
    st.sampled_from([b"bx", b"bx by", b"bx tx", b"bx bx by tx"]),
)
def test_repeats_and_cycles_come_out_as_often_as_they_came_in(
    script: Script, cycles: int, cycle: bytes
) -> None:
    """Requirement 7: equal bytes and cycles longer than the window, 1 to 5 lines, any interleaving of channels."""
    world = aligned(script.lines, bounds=TINY)
    play(world, script)
    for _ in range(cycles):
        world.emit(*cycle.split())
        world.deliver_all()
        world.wait(0.1)
    play(world, script)
    world.deliver_all()
    world.assert_exact_per_channel()


@settings(steady, max_examples=150)
@given(scripts(words=DISTINCT + REPEATED, kinds=THERE, interleaved=True))
def test_lines_that_interleave_channels_differently_cost_nothing_and_mark_nothing(script: Script) -> None:
    """Rule R3.2: each channel comes out exactly, nothing doubled, nothing late, no gap, nobody blamed."""
    world = play(aligned(script.lines), script)
    world.deliver_all()
    world.wait(12)
    world.assert_exact_per_channel()
    assert "event_missed" not in world.notes


RECORDED = [
    b"b%d" % n if n % 5 else b"t%d" % n if n % 10 else (b"bx" if n % 20 else b"b%d" % n) for n in range(1, 41)
]


@pytest.mark.parametrize("lines", [2, 3])
@pytest.mark.parametrize("share", [0, 1, 3])
@pytest.mark.parametrize("each", [False, True])
def test_any_line_may_die_at_any_event(lines: int, share: int, *, each: bool) -> None:
    """Requirement 3: kill one line at every index of a recording, then the next: the output is the source."""
    for index, victim in product(range(len(RECORDED)), range(lines)):
        world = aligned(lines)
        names = world.names
        numbers = iter(range(2000, 3000))
        for at, word in enumerate(RECORDED):
            world.emit(word.rstrip(b"0123456789") + b"%d" % next(numbers) if word[-1:].isdigit() else word)
            if at == index:
                world.kill(names[victim], reads=share)
                world.connect(names[victim])
            if at == index + 8:
                world.kill(names[(victim + 1) % lines], reads=share)
                world.connect(names[(victim + 1) % lines])
            for place, name in enumerate(names):
                if (at + place) % 3 == 0:
                    world.deliver(name, each=each)
        world.deliver_all()
        world.assert_exact()


@pytest.mark.parametrize("lag", [0, 2, 5])
def test_rotation_costs_nothing(lag: int) -> None:
    """Requirement 3: lines are replaced one at a time, the new one first; the output is the source."""
    world = World(4)
    world.connect("a", "b")
    pairs = iter([("a", "c"), ("b", "d"), ("c", "a"), ("d", "b")])
    for number in range(80):
        world.emit(b"%c%d" % (b"bt"[number % 5 == 0], number + 1))
        for place, name in enumerate(world.connections):
            if len(world.connections[name].queue) > (lag if place else 0):
                world.deliver(name, 1 + number % 3)
        if number % 20 == 5:
            old, new = next(pairs)
            world.connect(new)
        if number % 20 == 18:
            world.kill(old)
    world.deliver_all()
    world.assert_exact()


@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("ahead", [0, 3])
def test_a_line_may_be_replaced_at_any_event(lines: int, ahead: int) -> None:
    """Requirement 3: begin a planned replacement at every index of a recording; the output is the source.

    The old line goes when it can be spared, whichever channels the new one has seen by then.
    """
    for index, victim in product(range(len(RECORDED)), range(lines)):
        world = aligned(lines)
        world.wait(6)
        old = world.names[victim]
        numbers = iter(range(2000, 3000))
        new = ""
        for at, word in enumerate([*RECORDED, *RECORDED, *RECORDED]):
            fresh = word.rstrip(b"0123456789") + b"%d" % next(numbers) if word[-1:].isdigit() else word
            world.emit(fresh, ahead=(0, ahead, 1, 2))
            if at == index:
                new = world.add()
                world.connect(new)
            for place, name in enumerate(list(world.connections)):
                if (at + place) % 3 == 0:
                    world.deliver(name)
            world.wait(0.2)
            good = new and world.arbiter.lines[new].health.state == "good"
            if good and old in world.names and world.arbiter.can_spare(old):
                world.remove(old)
        assert old not in world.names
        world.deliver_all()
        world.assert_exact_per_channel()


def test_a_line_is_spared_only_where_another_stands_in_for_it() -> None:
    """A line that is alone, or the only one with a place in a channel, is needed."""
    world = World(1)
    world.connect("a")
    world.emit(b"b1", b"t2", b"b3")
    world.deliver_all()
    world.wait(6)
    assert not world.arbiter.can_spare("a")
    world.connect(world.add())
    world.emit(b"b4", b"b5")
    world.deliver_all()
    world.wait(6)
    assert world.arbiter.lines["b"].health.state == "good"
    assert not world.arbiter.can_spare("a")
    assert world.arbiter.can_spare("b")
    world.emit(b"t6")
    world.deliver_all()
    assert world.arbiter.can_spare("a")
    world.remove("a")
    world.emit(b"b7", b"t8")
    world.deliver_all()
    world.assert_exact()


@settings(steady, max_examples=300)
@given(scripts(words=DISTINCT, kinds=CHAOS, interleaved=True))
def test_distinct_events_survive_joins_and_deaths_under_any_interleaving(script: Script) -> None:
    """Rules R3 to R5: what any line has read comes out once, in order or late, or lies in a marked gap."""
    world = play(World(script.lines), script)
    world.settle()
    world.assert_complete_and_marked()


@settings(steady, max_examples=300)
@given(scripts(words=DISTINCT, kinds=(*THERE, "drop", "drop"), interleaved=True))
def test_what_single_lines_drop_is_not_lost(script: Script) -> None:
    """Rule R3.3: what one line drops another brings, late where the others are past it, and nothing is doubled."""
    world = play(connected(script.lines), script)
    world.settle()
    world.assert_complete_and_marked()
    assert not world.gaps


@settings(steady, max_examples=300)
@given(scripts(words=DISTINCT, kinds=(*QUICK, "drop", "drop"), interleaved=True))
def test_drops_joins_and_deaths_together_lose_nothing_that_was_read(script: Script) -> None:
    """Rules R3 to R5 and R8: the same with lines that come and go."""
    world = play(World(script.lines), script)
    world.settle()
    world.assert_complete_and_marked()


@pytest.mark.parametrize("lines", range(1, 6))
def test_a_cycle_longer_than_the_window_never_confuses_lines_in_step(lines: int) -> None:
    """Requirement 7: A-B-A-B for many windows, each line a different way behind."""
    world = aligned(lines, bounds=TINY)
    for number in range(200):
        world.emit(b"bx" if number % 2 else b"by")
        for place, name in enumerate(world.names):
            if number % (place + 2) == 0:
                world.deliver(name)
        world.wait(0.1)
    world.deliver_all()
    world.assert_exact()
