"""Many thousand random plays of pairs of daemons, made of the pieces that a takeover goes through.

    .venv/bin/python -m tests.soak.fuzz_pair [KIND]... [--seeds 2000] [--first 0] [--shrink]

Like `tests.soak.fuzz_takeover`, which plays the pure merge alone, and not one of the tests that always run either. What
is played, and how it is judged, stands in `tests.support.pairs`; what was found, in `tests/standby/test_plays.py`.

    ordered     all lines keep one order; deltas of the book have no time, and their contents recur
    mixed       lines interleave trades and book differently, as the first daemon has seen; events have an identity
    dropping    the same, and lines drop events

Bounds, the backlog and the room of the follower's connection are drawn, their smallest among them.
"""

import random
import sys
from functools import partial
from typing import Final

import trio
from trio.testing import MockClock

from tests.soak.fuzz_takeover import Outcome, Play, Step, command, drawn
from tests.support.pairs import ENDLESS, LINES, Host, Pair

KINDS: Final = (
    *(("emit",) * 8),
    *(("read",) * 8),
    *(("own",) * 8),
    *(("tell",) * 5),
    *(("answer",) * 3),
    *("wait", "wait", "kill", "kill own", "connect", "connect", "connect own", "connect own"),
    *("all", "all own", "take over", "take over", "resume", "resume", "leave", "follow anew"),
)
BYTES: Final = 30
"""A daemon that dies in the middle has handed over some multiple of so many bytes."""


def perform(pair: Pair, play: Play) -> None:
    """Let a play happen; what cannot happen is left out."""
    for step in play.steps:
        if step.kind in {"emit", "answer", "tell", "wait"}:
            _happen(pair, step)
        elif step.kind in {"take over", "resume", "leave", "follow anew"}:
            _happen_to_a_daemon(pair, step)
        else:
            host = pair.standby if step.kind.endswith("own") else pair.active
            _happen_to_a_line(host, LINES[step.line % len(LINES)], step)
        pair.look()
        pair.check_image()


def _happen(pair: Pair, step: Step) -> None:
    if step.kind == "emit":
        pair.emit(*step.words, ahead=step.ahead, lost_on=step.lost_on % 4 if step.lost_on >= 0 else -1)
    elif step.kind == "answer":
        pair.answer()
    elif step.kind == "tell":
        pair.tell(100 * (step.size + 1))
    else:
        pair.wait((0.1, 0.1, 0.1, 0.3, 1, 3, 6, 12)[step.size])


def _happen_to_a_daemon(pair: Pair, step: Step) -> None:
    if step.kind == "take over":
        last_bytes = BYTES * step.line * step.size if step.flag else 0
        pair.take_over(LINES[step.line % len(LINES)], reads=step.size, last_bytes=last_bytes)
        if step.size:
            pair.client.connect(pair.active)
    elif step.kind == "resume":
        pair.client.connect(pair.active)
    elif step.kind == "leave":
        pair.client.leave()
    elif step.kind == "follow anew" and step.flag:
        pair.follow()


def _happen_to_a_line(host: Host, name: str, step: Step) -> None:
    kind = "read" if step.kind == "own" else step.kind.partition(" own")[0]
    if kind == "all":
        for one in host.links:
            host.deliver(one)
    elif kind == "connect" and name not in host.links:
        host.connect(name)
    elif kind == "read" and name in host.links:
        host.deliver(name, step.size + 1, each=step.flag)
    elif kind == "kill" and name in host.links:
        host.kill(name, step.size)


ROOMS: Final = ((3_000, ENDLESS), (1_000_000, 600), (1_000_000, 5_000), (1_000_000, ENDLESS))
"""The backlog, and what the follower's connection takes, in bytes."""


DISTINCT: Final = (b"b#", b"t#")
WORDS: Final = {
    "ordered": (b"b#", b"t#", b"t#", b"bx", b"by", b"bz"),
    "mixed": DISTINCT,
    "dropping": DISTINCT,
}
"""What is broadcast in plays of each kind."""


def draw(kind: str, seed: int) -> Play:
    """Return the play of a seed."""
    play = drawn(seed, words=WORDS[kind], kinds=KINDS, mixed=kind != "ordered")
    if kind == "mixed":
        play.steps = [step._replace(lost_on=-1) for step in play.steps]
    play.backlog, play.room = random.Random(~seed).choice(ROOMS)
    return play


def judge(kind: str, seed: int, play: Play | None = None) -> Outcome:
    """Judge a play."""
    clock = MockClock()
    return trio.run(_played, kind, play or draw(kind, seed), clock, clock=clock)


async def _played(kind: str, play: Play, clock: MockClock) -> Outcome:
    pair, wrong = None, ""
    try:
        pair = Pair(
            clock,
            dated=kind != "ordered",
            bounds=play.bounds,
            backlog_bytes=play.backlog,
            room=play.room,
            interleaved=kind != "ordered",
        )
        perform(pair, play)
        pair.settle()
        pair.check(dropped=kind == "dropping")
    except Exception as error:  # whatever it is, it is wrong
        wrong = f"{type(error).__name__}: {error}".partition("\n")[0]
    await trio.lowlevel.checkpoint()
    return Outcome(pair.takeovers if pair else 0, bool(pair and pair.is_marked), wrong)


if __name__ == "__main__":
    judges = {kind: partial(judge, kind) for kind in WORDS}
    sys.exit(command(__doc__, judges, {kind: partial(draw, kind) for kind in WORDS}))
