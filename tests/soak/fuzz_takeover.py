"""Many thousand random plays of a chain of daemons, each following the one before: how many are wrong, or marked.

    .venv/bin/python -m tests.soak.fuzz_takeover [KIND]... [--seeds 2000] [--first 0] [--shrink]

Not one of the tests that always run; what was found here stands in `tests/core/test_following_counter_examples.py` by
name. Each seed is one play, the same on every machine. A feed is published by one merge, and followed by another one
that has lines of its own and hears of each record some time later; the first is killed at any moment, the second goes
on, and a third begins to follow. What a consumer has in the end is judged against the exchange's sequence:

    ordered     all lines keep one order; contents recur; lines die and join on both sides
    mixed       lines interleave two channels differently and drop events; all events are distinct

The bounds of window and hold are drawn, their smallest among them. Printed is for each kind how many plays there were,
how many takeovers they had, how many plays had any mark (a gap or a late event), and how many were wrong, with the
seeds and what was wrong; with ``--shrink`` the shortest play that still is. The exit code is 0 if none was wrong.
"""

import argparse
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from feedhandler.config import Bounds, Health
from feedhandler.core.following import Following
from feedhandler.core.messages import Gap
from tests.support.lines import Words, World
from tests.support.scripts import DISTINCT, REPEATED

ACTIVE, STANDBY = "ab", "xy"
KINDS: Final = (
    *(("emit",) * 8),
    *(("read",) * 8),
    *(("own",) * 8),
    *(("tell",) * 6),
    *("wait", "kill", "kill own", "connect", "connect", "connect own", "connect own"),
    *("all", "all own", "take over"),
)
NAMED_SEEDS: Final = 12
"""So many wrong seeds of a kind are named."""


class Step(NamedTuple):
    """One thing that happens: with a line, a size, a flag, words to broadcast, who overtakes what, who gets nothing."""

    kind: str
    line: int
    size: int
    flag: bool
    words: tuple[bytes, ...]
    ahead: tuple[int, ...]
    lost_on: int


@dataclass
class Play:
    """The bounds, how many records a backlog keeps, and what happens."""

    bounds: Bounds
    backlog: int
    steps: list[Step]
    room: int = sys.maxsize
    """Bytes that a connection takes; of plays that have any."""


def drawn(
    seed: int, *, words: tuple[bytes, ...], kinds: tuple[str, ...] = KINDS, mixed: bool = False
) -> Play:
    """Return the play of a seed."""
    draw = random.Random(seed)
    interleaves, drops = mixed and draw.random() < 0.6, mixed and draw.random() < 0.4
    bounds = Bounds(
        settled_events=draw.choice([4, 16]),
        window_events=draw.choice([16, 32, 4096]),
        hold_events=400 if drops else draw.choice([8, 16, 400]),
    )
    calm = draw.random() < 0.4
    happening = [kind for kind in kinds if not (calm and kind.startswith("kill"))]
    steps = [
        Step(
            draw.choice(happening),
            draw.randrange(8),
            draw.randint(0, 7),
            draw.random() < 0.3,
            tuple(draw.choice(words) for _ in range(draw.randint(1, 4))),
            tuple(draw.randint(0, 3) if interleaves else 0 for _ in range(8)),
            draw.randrange(8) if drops and draw.random() < 0.2 else -1,
        )
        for _ in range(draw.randint(20, 200))
    ]
    return Play(bounds, draw.choice([8, 10_000]), steps)


class Chain:
    """A feed's merge that publishes, and one that follows it."""

    def __init__(self, play: Play) -> None:
        self._bounds = play.bounds
        self._backlog = play.backlog
        self.source: list[bytes] = []
        self.notes: list[str] = []
        self.dropped: set[bytes] = set()
        self.takeovers = 0
        self.active = World(len(ACTIVE), bounds=play.bounds)
        self.active.source = self.source
        self.active.connect(*ACTIVE)
        for payload in (b"b1", b"t1", b"b2", b"t2"):
            self.source.append(payload)
            for name in ACTIVE:
                self.active.connections[name].send(payload)
        self.active.deliver_all()
        self._begin_to_follow(STANDBY)

    def _begin_to_follow(self, names: str) -> None:
        world = self.standby = World(0)
        world.names = names
        self.arbiter = Following(
            "M", names, Words(), streams=(), bounds=self._bounds, limits=Health(), now=self.active.now
        )
        world.arbiter = self.arbiter
        world.now = self.active.now
        self.arbiter.follow(world.now)
        self.told = max(0, len(self.active.released) - self._backlog)
        self.level_at = len(self.active.released)

    def emit(self, step: Step, number: int) -> None:
        """Broadcast."""
        for index, word in enumerate(step.words, number):
            payload = word.replace(b"#", b"%d" % index)
            self.source.append(payload)
            place = 0
            for world in (self.active, self.standby):
                for name in world.names:
                    if place == step.lost_on:
                        self.dropped.add(payload)
                    elif name in world.connections:
                        world.connections[name].send(payload, step.ahead[place])
                    place += 1

    def tell(self, count: int | None = None) -> None:
        """Let the standby have the next records that the active feed has released."""
        arbiter, world = self.arbiter, self.standby
        end = len(self.active.released) if count is None else self.told + count
        for one in self.active.released[self.told : end]:
            if isinstance(one, Gap):
                arbiter.followed_gap(world.now)
            elif one.kind == "late":
                arbiter.followed_late(one.channel, one.payload, world.now, world.wall)
            else:
                arbiter.followed([one.channel], [one.payload], world.now, world.wall)
            self.told += 1
        if self.active.arbiter.interleaves:
            arbiter.followed_interleaving()
        arbiter.outputs.clear()

    def wait(self, seconds: float) -> None:
        """Let time pass for both."""
        for world in (self.active, self.standby):
            world.wait(seconds)
        self.hush()

    def hush(self) -> None:
        """Leave out what the standby says before its time."""
        self.standby.released.clear()

    def take_over(self) -> None:
        """Let the active feed be gone, and another standby begin to follow."""
        if self.told < self.level_at:
            return
        self.tell()
        self.hush()
        old, new = self.active, self.standby
        new.released = list(old.released)
        self.notes += old.notes
        new.source = self.source
        self.arbiter.take_over(new.now, new.wall)
        new._take()
        self.takeovers += 1
        self.active = new
        self._begin_to_follow(ACTIVE if new.names[0] in STANDBY else STANDBY)

    def settle(self) -> World:
        """Let the last active feed bring everything, and more that shows every hole; return its world."""
        world = self.active
        world.settle()
        world.notes = self.notes + world.notes
        world.read -= self.dropped
        return world


def perform(chain: Chain, play: Play) -> None:
    """Let a play happen; what cannot happen is left out."""
    for number, step in enumerate(play.steps):
        if step.kind == "emit":
            chain.emit(step, 8 * number + 10)
        elif step.kind == "tell":
            chain.tell(step.size + 1)
        elif step.kind == "wait":
            chain.wait((0.1, 0.1, 0.1, 0.3, 1, 3, 6, 12)[step.size])
        elif step.kind == "take over":
            chain.take_over()
        else:
            world = chain.standby if step.kind.endswith("own") else chain.active
            _happen_to_a_line(world, world.names[step.line % len(world.names)], step)
        chain.hush()


def _happen_to_a_line(world: World, name: str, step: Step) -> None:
    kind = "read" if step.kind == "own" else step.kind.partition(" own")[0]
    if kind == "all":
        world.deliver_all()
    elif kind == "connect" and name not in world.connections:
        world.connect(name)
    elif kind == "read" and name in world.connections:
        world.deliver(name, step.size + 1, each=step.flag)
    elif kind == "kill" and name in world.connections:
        world.kill(name, reads=step.size)


# What a play came to


class Outcome(NamedTuple):
    """What a play came to: its takeovers, whether it had marks, and what was wrong."""

    takeovers: int
    marked: bool
    wrong: str


Judge = Callable[[int, Play], Outcome]


def ordered(seed: int, play: Play | None = None) -> Outcome:
    """Judge a play in one order, whose contents recur."""
    return _judged(play or draw_ordered(seed), _assert_exact_or_marked)


def mixed(seed: int, play: Play | None = None) -> Outcome:
    """Judge a play of distinct events in different interleavings."""
    return _judged(play or draw_mixed(seed), World.assert_complete_and_marked)


def _assert_exact_or_marked(world: World) -> None:
    """Check what `World` does of one daemon; the two outputs may interleave the channels differently."""
    world.assert_exact_or_marked(channels=(b"b", b"t"))


def _judged(play: Play, check: Callable[[World], None]) -> Outcome:
    chain = Chain(play)
    perform(chain, play)
    world = chain.settle()
    wrong = ""
    try:
        check(world)
    except AssertionError as error:
        wrong = str(error).partition("\n")[0]
    return Outcome(chain.takeovers, bool(world.gaps or world.late), wrong)


def draw_ordered(seed: int) -> Play:
    """Return a play in one order."""
    return drawn(seed, words=DISTINCT + REPEATED)


def draw_mixed(seed: int) -> Play:
    """Return a play of distinct events in different interleavings."""
    return drawn(seed, words=DISTINCT, mixed=True)


JUDGES: Final = {"ordered": ordered, "mixed": mixed}
DRAWS: Final = {"ordered": draw_ordered, "mixed": draw_mixed}


def shrunk(judge: Judge, seed: int, play: Play) -> Play:
    """Return the shortest play that is wrong in the same way: as the first word of what was wrong says."""
    fault = _sort(judge(seed, play).wrong)
    size = len(play.steps) // 2
    while size:
        start = 0
        while start < len(play.steps):
            fewer = replace(play, steps=play.steps[:start] + play.steps[start + size :])
            if _sort(judge(seed, fewer).wrong) == fault:
                play = fewer
            else:
                start += size
        size //= 2
    return play


def _sort(wrong: str) -> str:
    for word in ("doubled", "is missing", "is marked", "no run", "hole", "out of order", "differ"):
        if word in wrong:
            return word
    return wrong


def command(told: str, judges: Mapping[str, Judge], draws: Mapping[str, Callable[[int], Play]]) -> int:
    """Play what the command line asks for, of these kinds; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=told.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", choices=[*judges, []], metavar="KIND", help=", ".join(judges))
    parser.add_argument("--seeds", type=int, default=2000, help="plays of each kind (default: 2000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--shrink", action="store_true", help="show the shortest play of each wrong one")
    given = parser.parse_args()
    wrong = sum(_report(kind, judges[kind], draws[kind], given) for kind in given.kinds or judges)
    return 1 if wrong else 0


def _report(kind: str, judge: Judge, draw: Callable[[int], Play], given: argparse.Namespace) -> int:
    """Play the seeds of one kind; say and return how many were wrong."""
    outcomes = {seed: judge(seed, draw(seed)) for seed in range(given.first, given.first + given.seeds)}
    faults = {seed: outcome for seed, outcome in outcomes.items() if outcome.wrong}
    marked = sum(outcome.marked for outcome in outcomes.values())
    takeovers = sum(outcome.takeovers for outcome in outcomes.values())
    _say(
        f"{kind}: {len(outcomes)} plays, {takeovers} takeovers, {marked} plays with marks, {len(faults)} wrong"
    )
    for seed, outcome in list(faults.items())[:NAMED_SEEDS]:
        _say(f"  seed {seed}: {outcome.wrong[:200]}")
        if given.shrink:
            play = shrunk(judge, seed, draw(seed))
            _say(f"    {replace(play, steps=[])}", *(f"    {step}" for step in play.steps))
    return len(faults)


def _say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)  # noqa: T201 - a script speaks


if __name__ == "__main__":
    sys.exit(command(__doc__, JUDGES, DRAWS))
