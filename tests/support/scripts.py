"""Scripts for a `World`: what the exchange, the connections and time do, as values that hypothesis can shrink."""

from collections.abc import Sequence
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st

from tests.support.lines import World

DISTINCT = (b"b#", b"t#")
REPEATED = (b"bx", b"by", b"tx")

MOST_LINES = 6
"""Lines that a script has at once; more are not added."""

steady = settings(derandomize=True, database=None)
"""The profile of these tests: the same examples every time, however slow the machine."""


class Step(NamedTuple):
    """One thing that happens: ``kind`` to ``line``, with a size, a flag and, for events, a word and overtakings."""

    kind: str
    line: int
    size: int
    flag: bool
    word: bytes
    ahead: tuple[int, ...]


class Script(NamedTuple):
    """So many lines, and what happens to them."""

    lines: int
    steps: list[Step]


def scripts(
    *,
    words: Sequence[bytes],
    kinds: Sequence[str],
    interleaved: bool = False,
    lines: st.SearchStrategy[int] | None = None,
    most: int = 80,
) -> st.SearchStrategy[Script]:
    """Return scripts made of ``words`` and steps of these ``kinds``, which may recur to happen more often."""
    ahead = st.tuples(*[st.integers(0, 3)] * 5) if interleaved else st.just((0,) * 5)
    step = st.builds(
        Step,
        st.sampled_from(kinds),
        st.integers(0, 4),
        st.integers(0, 6),
        st.booleans(),
        st.sampled_from(words),
        ahead,
    )
    return st.builds(
        Script, st.integers(1, 5) if lines is None else lines, st.lists(step, min_size=5, max_size=most)
    )


def play(world: World, script: Script, *, clock_steps_ns: int = 0) -> World:
    """Let a script happen; what cannot happen, such as a death of the dead, is left out.

    With ``clock_steps_ns`` the wall clock is stepped so far before every step, forth and back in turn.
    """
    for number, step in enumerate(script.steps):
        world.wall_ns += clock_steps_ns * (-1) ** number
        name = world.names[step.line % len(world.names)]
        up = name in world.connections
        if step.kind in {"emit", "drop"}:
            lost_on = name if step.kind == "drop" else ""
            world.emit(step.word.replace(b"#", b"%d" % number), lost_on=lost_on, ahead=step.ahead)
        elif step.kind == "wait":
            world.wait((0.1, 0.5, 2, 8)[step.size % 4])
        elif step.kind == "connect" and not up:
            world.connect(name)
        elif step.kind == "read" and up:
            world.deliver(name, step.size + 1, each=step.flag)
        elif step.kind == "kill" and up:
            world.kill(name, reads=step.size)
        elif step.kind == "add" and len(world.names) < MOST_LINES:
            world.connect(world.add())
        elif step.kind == "remove" and len(world.names) > 1:
            world.remove(name, reads=step.size)
    return world
