"""Many thousand random plays of the pure merge, each judged against its source: how many are wrong, or marked.

    .venv/bin/python -m tests.soak.fuzz_merge [KIND]... [--seeds 2000] [--first 0] [--shrink]

Not one of the tests that always run: those play a few hundred of the same, and what was found here stands among them
by name. Each seed is one play, the same on every machine:

    ordered     all lines keep one order; contents recur; lines die, join, are added and removed
    mixed       lines interleave two channels differently and drop events; all events are distinct
    quarrels    all lines keep one order and drop many events: who is blamed, quarantined, and when the check gives up
    streams     streams are added and dropped besides, while lines come and go
    chunks      the same as bytes, cut anywhere: reads that are compared whole against the same reads frame by frame

The bounds of window and hold are drawn, their smallest among them. Printed is for each kind how many plays there were,
how many had any mark (a gap or a late event), and how many were wrong, with the seeds and what was wrong; with
``--shrink`` the shortest play that still is. The exit code is 0 if none was wrong.
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from feedhandler.config import Bounds, Health
from feedhandler.core import trail
from feedhandler.core.messages import Gap, Release
from feedhandler.core.trail import NONE_KNOWN, Frames
from feedhandler.ingest.frames import FrameSplitter
from tests.core.test_streams import StreamWorld
from tests.support.lines import World
from tests.support.scripts import DISTINCT, MOST_LINES, REPEATED

USUAL: Final = ("emit",) * 8 + ("read",) * 8 + ("wait", "kill", "connect", "connect", "add", "remove", "all")
CHANGING: Final = (*USUAL, "carry", "carry", "carry", "take up", "give up")
NAMED_SEEDS: Final = 12
"""So many wrong seeds of a kind are named."""


class Step(NamedTuple):
    """One thing that happens: ``kind`` to ``line``, with a size, a flag, words to broadcast, and who overtakes what."""

    kind: str
    line: int
    size: int
    flag: bool
    words: tuple[bytes, ...]
    ahead: tuple[int, ...]
    lost_on: int


@dataclass
class Play:
    """So many lines, the bounds, and what happens."""

    lines: int
    bounds: Bounds
    steps: list[Step]
    health: Health = field(default_factory=Health)


def drawn(seed: int, *, words: tuple[bytes, ...], kinds: tuple[str, ...], mixed: bool = False) -> Play:
    """Return the play of a seed."""
    draw = random.Random(seed)
    lines, interleaves, drops = (
        draw.randint(1, 4),
        mixed and draw.random() < 0.6,
        mixed and draw.random() < 0.4,
    )
    bounds = Bounds(
        settled_events=draw.choice([4, 16]),
        window_events=draw.choice([16, 32, 4096]),
        hold_events=400 if drops else draw.choice([8, 16, 400]),
    )
    steps = [
        Step(
            draw.choice(kinds),
            draw.randrange(8),
            draw.randint(0, 7),
            draw.random() < 0.3,
            tuple(draw.choice(words) for _ in range(draw.randint(1, 4))),
            tuple(draw.randint(0, 3) if interleaves else 0 for _ in range(8)),
            draw.randrange(8) if drops and draw.random() < 0.2 else -1,
        )
        for _ in range(draw.randint(10, 160))
    ]
    return Play(lines, bounds, steps)


def perform(world: World, play: Play) -> None:
    """Let a play happen; what cannot happen, such as a death of the dead, is left out."""
    for number, step in enumerate(play.steps):
        name = world.names[step.line % len(world.names)]
        if name in world.connections:
            _happen_to_a_live_line(world, name, step)
        elif step.kind == "connect":
            world.connect(name)
        if step.kind == "emit":
            _broadcast(world, step, 8 * number + 10)
        elif step.kind == "wait":
            world.wait((0.1, 0.3, 1, 2, 3, 6, 8, 12)[step.size])
        elif step.kind == "all":
            world.deliver_all()
        elif step.kind in {"add", "remove"}:
            _change_lines(world, name, step)
        elif isinstance(world, StreamWorld):
            _change_streams(world, step)


def _broadcast(world: World, step: Step, number: int) -> None:
    lost_on = world.names[step.lost_on % len(world.names)] if step.lost_on >= 0 else ""
    for index, word in enumerate(step.words, number):
        world.emit(word.replace(b"#", b"%d" % index), lost_on=lost_on, ahead=step.ahead)


def _change_lines(world: World, name: str, step: Step) -> None:
    if step.kind == "remove" and len(world.names) > 1:
        world.remove(name, reads=step.size)
    elif step.kind == "add" and len(world.names) < MOST_LINES:
        added = world.add()
        if step.flag:
            world.connect(added)


def _happen_to_a_live_line(world: World, name: str, step: Step) -> None:
    if step.kind == "read":
        world.deliver(name, step.size + 1, each=step.flag)
    elif step.kind == "kill" and (len(world.connections) > 1 or step.flag):
        world.kill(name, reads=step.size)
    elif step.kind == "carry" and isinstance(world, StreamWorld):
        world.carry_out(name)


def _change_streams(world: StreamWorld, step: Step) -> None:
    stream = step.words[0][:1].decode()
    if step.kind == "take up" and stream not in world.streams:
        world.add_stream(stream)
    elif step.kind == "give up" and stream in world.streams and stream != "b":
        world.drop_stream(stream)


# What a play came to


class Outcome(NamedTuple):
    """What a play came to: whether it had marks, and what was wrong."""

    marked: bool
    wrong: str


def _marked(world: World) -> bool:
    return bool(world.gaps or world.late)


def ordered(seed: int, play: Play | None = None) -> Outcome:
    """Judge a play in one order, whose contents recur."""
    play = play or draw_ordered(seed)
    world = World(play.lines, bounds=play.bounds)
    perform(world, play)
    world.settle()
    return _judged(world, world.assert_exact_or_marked)


def mixed(seed: int, play: Play | None = None) -> Outcome:
    """Judge a play of distinct events in different interleavings."""
    play = play or draw_mixed(seed)
    world = World(play.lines, bounds=play.bounds)
    perform(world, play)
    world.settle()
    return _judged(world, world.assert_complete_and_marked)


def quarrels(seed: int, play: Play | None = None) -> Outcome:
    """Judge a play whose lines disagree."""
    play = play or draw_quarrels(seed)
    world = World(play.lines, bounds=play.bounds, health=play.health)
    try:
        perform(world, play)
        world.settle()
    except Exception as error:
        return Outcome(_marked(world), f"raises {error!r}")
    return _judged(world, world.assert_complete_and_marked)


def _judged(world: World, check: Callable[[], None]) -> Outcome:
    try:
        check()
    except AssertionError as error:
        return Outcome(_marked(world), str(error).partition("\n")[0][:160])
    return Outcome(_marked(world), "")


def streams(seed: int, play: Play | None = None) -> Outcome:
    """Judge a play whose streams change."""
    play = play or draw_streams(seed)
    world = StreamWorld(play.lines, "bct"[: 1 + seed % 3], bounds=play.bounds)
    perform(world, play)
    world.settle()
    return Outcome(_marked(world), "; ".join(fault for stream in "bct" for fault in _faults(world, stream)))


def _faults(world: StreamWorld, stream: str) -> Iterator[str]:
    """Yield what is wrong with one stream: doubled, out of order, or a hole without a mark."""
    truth = world.truth(stream)
    events = [one for one in world.of(stream) if isinstance(one, Release)]
    doubled = Counter(one.payload for one in events) - Counter(truth)
    if doubled:
        yield f"doubled {set(doubled)}"
        return
    place = {payload: index for index, payload in enumerate(truth)}
    came = {place[one.payload] for one in events}
    ends = set(world.ended.get(stream, ()))
    newest, broken = -1, True
    for index, one in enumerate(world.released):
        broken = broken or index in ends
        if isinstance(one, Gap):
            broken = broken or (
                one.channel == f"M/{stream}" or (not one.channel and one.stream in {"", stream})
            )
        elif one.channel == f"M/{stream}":
            here = place[one.payload]
            if one.kind == "" and here < newest:
                yield f"{one.payload!r} is out of order"
            if one.kind == "" and not broken and not came.issuperset(range(newest + 1, here)):
                yield f"a hole before {one.payload!r}"
            broken = broken and one.kind != ""
            newest = max(newest, here)
    if stream in world.streams and truth[-1] not in {one.payload for one in events}:
        yield f"the end of {stream} is missing"


# Reads as bytes


class WireWorld(StreamWorld):
    """A world whose lines read bytes, which are compared whole where that is possible."""

    def __init__(self, lines: int, streams: str, bounds: Bounds) -> None:
        super().__init__(lines, streams, bounds=bounds)
        self._splitters: dict[str, FrameSplitter] = {}
        self._unread: dict[str, bytes] = {}

    def connect(self, *names: str) -> None:
        """Connect lines: nothing of an earlier connection is left."""
        for name in names:
            self._splitters[name], self._unread[name] = FrameSplitter(2**16), b""
        super().connect(*names)

    def receive(self, name: str, *payloads: bytes) -> None:
        """Let a line read these messages, of which the end may come with the next ones only."""
        wire = self._unread[name] + b"".join(b"\x81%c%b" % (len(one), one) for one in payloads)
        if len(payloads) % 5 == 4:
            wire += b"\x89\x00"
        left = len(payloads[0]) % 3 if name in self.connections else 0
        wire, self._unread[name] = wire[: len(wire) - left], wire[len(wire) - left :]
        self._read(name, wire)

    def _read(self, name: str, data: bytes) -> None:
        splitter, known = self._splitters[name], NONE_KNOWN
        if splitter.is_between:
            known = self.arbiter.recognise(name, splitter.rest, data)
        payloads, _ = splitter.feed(data, known.size)
        frames = Frames(known.events, *splitter.frames())
        if payloads or known.events:
            replies = self.arbiter.receive(name, payloads, self.now, self.wall, frames)
            self._take()
            self._hear(name, replies)

    def settle(self) -> None:
        """Let everything be read to the last byte besides."""
        super().settle()
        for name, unread in self._unread.items():
            if name in self.connections and unread:
                self._unread[name] = b""
                self._read(name, unread)


def chunks(seed: int, play: Play | None = None) -> Outcome:
    """Judge what chunks make of a play against what single frames do."""
    play = play or draw_streams(seed)
    least, trail.LEAST_EVENTS = trail.LEAST_EVENTS, 1 + seed % 2  # type: ignore[misc]
    try:
        worlds = [
            WireWorld(play.lines, "bct"[: 1 + seed % 3], _with_trail(play.bounds, mib)) for mib in (1, 0)
        ]
        for world in worlds:
            perform(world, play)
            world.settle()
    finally:
        trail.LEAST_EVENTS = least  # type: ignore[misc]
    first, second = ([one.released, one.notes, one.orders, one.states] for one in worlds)
    return Outcome(_marked(worlds[0]), "" if first == second else "chunks and frames differ")


def _with_trail(bounds: Bounds, mib: int) -> Bounds:
    return Bounds(
        settled_events=bounds.settled_events,
        window_events=bounds.window_events,
        hold_events=bounds.hold_events,
        trail_mib=mib,
    )


def draw_ordered(seed: int) -> Play:
    """Return a play in one order."""
    return drawn(seed, words=DISTINCT + REPEATED, kinds=USUAL)


def draw_mixed(seed: int) -> Play:
    """Return a play of distinct events in different interleavings."""
    return drawn(seed, words=DISTINCT, kinds=USUAL, mixed=True)


def draw_quarrels(seed: int) -> Play:
    """Return a play in one order whose lines often lack events, and are soon blamed for it."""
    draw = random.Random(f"quarrel {seed}")
    play = drawn(seed, words=DISTINCT, kinds=("emit", *USUAL))
    play.lines = draw.randint(2, 4)
    play.steps = [step._replace(lost_on=draw.choice([-1, -1, 0, 1, 2, 3])) for step in play.steps]
    play.health = Health(quarantine_divergences=draw.choice([1, 2, 4]))
    play.bounds = Bounds(
        settled_events=play.bounds.settled_events, passed_events=draw.choice([1, 3]), passed_s=0.2
    )
    return play


def draw_streams(seed: int) -> Play:
    """Return a play whose streams change."""
    return drawn(seed, words=(*DISTINCT, b"c#"), kinds=CHANGING)


JUDGES: Final = {
    "ordered": ordered,
    "mixed": mixed,
    "quarrels": quarrels,
    "streams": streams,
    "chunks": chunks,
}
DRAWS: Final = {
    "ordered": draw_ordered,
    "mixed": draw_mixed,
    "quarrels": draw_quarrels,
    "streams": draw_streams,
    "chunks": draw_streams,
}


def shrunk(kind: str, seed: int) -> Play:
    """Return the shortest play that is wrong in the same way: as the first word of what was wrong says."""
    judge, play = JUDGES[kind], DRAWS[kind](seed)
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
    for word in ("raises", "doubled", "is missing", "is marked", "no run", "hole", "out of order", "differ"):
        if word in wrong:
            return word
    return wrong


def main() -> int:
    """Play what the command line asks for; return 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kinds", nargs="*", choices=[*JUDGES, []], metavar="KIND", help=", ".join(JUDGES))
    parser.add_argument("--seeds", type=int, default=2000, help="plays of each kind (default: 2000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument("--shrink", action="store_true", help="show the shortest play of each wrong one")
    given = parser.parse_args()
    wrong = sum(_report(kind, given) for kind in given.kinds or JUDGES)
    return 1 if wrong else 0


def _report(kind: str, given: argparse.Namespace) -> int:
    """Play the seeds of one kind; say and return how many were wrong."""
    outcomes = {seed: JUDGES[kind](seed) for seed in range(given.first, given.first + given.seeds)}
    faults = {seed: outcome for seed, outcome in outcomes.items() if outcome.wrong}
    marked = sum(outcome.marked for outcome in outcomes.values())
    _say(f"{kind}: {len(outcomes)} plays, {marked} with marks, {len(faults)} wrong")
    for seed, outcome in list(faults.items())[:NAMED_SEEDS]:
        _say(f"  seed {seed}: {outcome.wrong}")
        if given.shrink:
            play = shrunk(kind, seed)
            _say(f"    {play.lines} lines, {play.bounds}", *(f"    {step}" for step in play.steps))
    return len(faults)


def _say(*lines: str) -> None:
    print(*lines, sep="\n", flush=True)  # noqa: T201 - a script speaks


if __name__ == "__main__":
    sys.exit(main())
