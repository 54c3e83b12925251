"""Reads of lines behind, compared whole and message by message: the same bytes through both ways (core.trail).

Two worlds read the same bytes with the same cuts. One keeps a trail, the other keeps none, so there every message goes
through the splitter and the arbiter. After every step all that is known of them has to be the same.
"""

from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from feedhandler.config import Bounds
from feedhandler.core import trail
from feedhandler.core.line import Line
from feedhandler.core.trail import Frames
from feedhandler.ingest import dataplane
from feedhandler.ingest.dataplane import DataPlaneStream
from feedhandler.ingest.frames import BINARY, PING, PONG
from feedhandler.simulator import frames
from tests.support.lines import World
from tests.support.scripts import DISTINCT, REPEATED, Script, Step, play, scripts, steady

PADDING = b"0" * 120
KINDS = ("emit",) * 9 + ("read",) * 8 + ("kill", "connect", "connect", "wait", "drop")
STORY = [b"b%d" % n if n % 3 else b"t" + PADDING + b"%d" % n for n in range(10)]


class WireWorld(World):
    """A world whose lines read bytes: frames in every form, with other frames between, cut anywhere."""

    def __init__(self, lines: int, *, trail_mib: int, seed: int = 0, strange: float = 0.0) -> None:
        super().__init__(lines, bounds=Bounds(window_events=64, trail_mib=trail_mib))
        self._random = Random(seed)
        self._strange = strange
        self._unread: dict[str, bytes] = {}
        self._planes: dict[str, DataPlaneStream] = {}
        self.known = 0
        self.control: list[bytes] = []
        self.rejected: list[str] = []

    def connect(self, *names: str) -> None:
        """Connect lines, each with a splitter of its own."""
        for name in names:
            self._unread[name] = b""
            self._planes[name] = DataPlaneStream(
                None,  # type: ignore[arg-type] # nothing is read from it
                check=lambda _: None,
                deliver=partial(self._delivered, name),
                recognise=partial(self.arbiter.recognise, name),
                rejected=self.rejected.append,
                read_bytes=1,
                max_message_bytes=10_000,
            )
        super().connect(*names)

    def receive(self, name: str, *payloads: bytes) -> None:
        """Let a line read these messages and what stands between them, up to a cut somewhere."""
        self._unread[name] += b"".join(self._wire(payload) for payload in payloads)
        size = len(self._unread[name])
        cut = size if self._random.random() < 0.5 else self._random.randint(0, size)
        self.read_bytes(name, cut)

    def read_bytes(self, name: str, size: int) -> None:
        """Let a line read so many bytes of what was sent to it."""
        data, self._unread[name] = self._unread[name][:size], self._unread[name][size:]
        if data:
            self.control.append(self._planes[name]._take(data))
        self._take()

    def write(self, name: str, data: bytes) -> None:
        """Send bytes on a line."""
        self._unread[name] += data

    def _delivered(self, name: str, payloads: list[bytes], came: Frames) -> None:
        self.known += came.known
        self.replies += self.arbiter.receive(name, payloads, self.now, self.wall, came)

    def _wire(self, payload: bytes) -> bytes:
        """Return a message as it may come."""
        if self._random.random() >= self._strange:
            return frames.text(payload)
        return self._random.choice(
            [
                frames.text(payload, 2),
                long_header(payload),
                frames.frame(PING, b"?") + frames.text(payload),
                frames.text(b">pong") + frames.text(payload),
                frames.text(b"!") + frames.text(payload),
                frames.frame(BINARY, b"x") + frames.text(payload),
                frames.text(payload[:1], 1)[:2]
                + frames.text(payload),  # breaks the protocol unless it is cut
            ][: 6 if self._random.random() < 0.95 else 7]
        )

    def facts(self) -> dict[str, Any]:
        """Return all that is known of the world, except how it came to know."""
        window = self.arbiter.window
        columns = (window.payloads, window.channels, window.released, window.lines, window.late, window.gaps)
        return {
            "released": self.released,
            "notes": self.notes,
            "orders": self.orders,
            "replies": self.replies,
            "states": self.states,
            "control": self.control,
            "rejected": self.rejected,
            "leader": self.arbiter.leader,
            "window": columns,
            "lines": {name: _line(line) for name, line in self.arbiter.lines.items()},
            "ghosts": [_line(ghost) for ghost in self.arbiter.ghosts],
            "planes": {name: (p.reason, bytes(p._splitter.rest)) for name, p in self._planes.items()},
        }


def _line(line: Line) -> tuple[object, ...]:
    owing, health = line.owing, line.health
    return (
        owing and (owing.position, owing.fence, owing.early, owing.open, owing.passed, owing.interleaves),
        (health.state, health.since, list(health._lags)),
        (line.messages, line.wins, line.duplicates, line.garbage, line.moved),
        (line.hold.events, line.aside, line.pinned, line.guessed, line.joined_at, line.floor),
    )


def long_header(payload: bytes) -> bytes:
    """Return a text frame whose length takes more bytes than it needs."""
    return b"\x81\x7f" + len(payload).to_bytes(8, "big") + payload


class Pair:
    """Two worlds to which the same happens; whatever is asked of them has to be the same."""

    def __init__(self, lines: int, *, seed: int = 0, strange: float = 0.0) -> None:
        self.whole = WireWorld(lines, trail_mib=1, seed=seed, strange=strange)
        self.each = WireWorld(lines, trail_mib=0, seed=seed, strange=strange)
        for world in self:
            world.connect(*world.names)
            world.emit(b"b1000", b"t1001", b"b1002", b"t1003")
            for name in world.names:
                world.write(name, b"".join(map(frames.text, world.connections[name].queue)))
                world.connections[name].queue.clear()
                world.read_bytes(name, 10_000)

    def __iter__(self) -> Iterator[WireWorld]:
        return iter((self.whole, self.each))

    def check(self) -> None:
        """Check that both know the same."""
        assert self.whole.facts() == self.each.facts()
        assert self.each.known == 0


@pytest.fixture(autouse=True)
def every_event() -> Iterator[None]:
    """Keep reads of a single event, too."""
    with patch.object(trail, "LEAST_EVENTS", 1), patch.object(dataplane, "COMPARED_BYTES", 0):
        yield


@settings(steady, max_examples=250)
@given(
    scripts(
        words=(*DISTINCT, *REPEATED, b"b" + PADDING + b"#"),
        kinds=KINDS,
        interleaved=True,
        lines=st.integers(2, 4),
    ),
    st.integers(0, 1000),
    st.sampled_from([0.0, 0.1, 0.4]),
)
def test_both_ways_tell_the_same(script: Script, seed: int, strange: float) -> None:
    """Any cuts, pongs and fragments between, drops, interleavings, kills and joins: no difference after any step."""
    pair = Pair(script.lines, seed=seed, strange=strange)
    for number, step in enumerate(script.steps):
        word = step.word.replace(b"#", b"%d" % number)
        for world in pair:
            play(world, Script(script.lines, [Step(*step[:4], word, step.ahead)]))
        pair.check()
    for world in pair:
        for name in world.connections:
            world.read_bytes(name, 100_000)
        world.settle()
    pair.check()
    event(f"recognised: {min(pair.whole.known, 20) // 5 * 5}")


def test_lines_in_step_are_recognised_whole() -> None:
    """The comparison is what is tested: of lines without any difference every message is taken by it."""
    pair = Pair(3, seed=1)
    for number in range(50):
        for world in pair:
            world.emit(b"b%d" % number, b"t" + PADDING + b"%d" % number)
            world.deliver_all()
        pair.check()
    for world in pair:
        for name in world.connections:
            world.read_bytes(name, 100_000)
    pair.check()
    assert pair.whole.known >= 150


def test_a_burst_leaves_nothing_behind() -> None:
    """What was read is kept while a line is behind it, and goes with the next tick after that."""
    world = Pair(2, seed=1).whole
    for name in ("a", "b"):
        world.write(name, b"".join(map(frames.text, STORY)))
    world.read_bytes("a", 10_000)
    world.wait(0.1)
    assert world.arbiter.trail_bytes > 0
    world.read_bytes("b", 10_000)
    world.wait(0.1)
    assert world.known >= len(STORY)
    assert world.arbiter.trail_bytes == 0


@pytest.mark.parametrize(
    "strange",
    [
        b"",
        frames.frame(PONG, b"?"),
        frames.text(b">pong"),
        frames.text(b"b77", 1),
        long_header(b"b77"),
        frames.text(b"b77"),
        frames.frame(BINARY, b"x"),
        frames.close(1000),
        b"\xff\xff",
    ],
    ids=["nothing", "pong", "reply", "fragments", "long header", "event", "binary", "close", "fault"],
)
@pytest.mark.parametrize("leader", [False, True], ids=["behind", "leading"])
def test_a_read_may_be_cut_anywhere(strange: bytes, *, leader: bool) -> None:
    """At every byte offset, with anything between, on the line that leads or on the one behind: nothing is lost."""
    plain = b"".join(map(frames.text, STORY))
    marked = b"".join(map(frames.text, STORY[:5])) + strange + b"".join(map(frames.text, STORY[5:]))
    first, second = (marked, plain) if leader else (plain, marked)
    for cut in range(len(second)):
        pair = Pair(2)
        for world in pair:
            world.write("a", first)
            world.read_bytes("a", len(first))
            world.write("b", second)
            world.read_bytes("b", cut)
        pair.check()
        for world in pair:
            world.read_bytes("b", len(second))
        pair.check()
        assert leader or pair.whole.known >= 5


@pytest.mark.parametrize("cut", range(1, 12))
def test_the_leader_changes_within_frames(cut: int) -> None:
    """Lines that read pieces of one size in turn, each a little ahead of the other at times."""
    pair, wire = Pair(3), b"".join(map(frames.text, STORY * 4))
    sizes = {"a": 37 * cut, "b": 61 * cut, "c": 83 * cut}
    for world in pair:
        for name in world.names:
            world.write(name, wire)
    for _ in range(len(wire) // (37 * cut) + 1):
        for name, size in sizes.items():
            for world in pair:
                world.read_bytes(name, size)
            pair.check()
    assert pair.whole.known > 0
    assert pair.whole.output[4:] == STORY * 4
