"""The arbiter as a state machine against a reference model that knows where each connection stands in the source.

All lines keep the exchange's one order here, so the model is simple: as long as nothing is marked, the merged sequence
is a run of the source, and an aligned line stands in it exactly where its connection stands.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from feedhandler.config import Bounds
from feedhandler.core.arbiter import GHOSTS
from tests.support.lines import World
from tests.support.scripts import MOST_LINES, steady

BOUNDS = Bounds(window_events=24, settled_events=4, hold_events=12, window_s=3600)
LINES = st.sampled_from("abcdef")


class Merge(RuleBasedStateMachine):
    """Lines that come and go over one source, and what must hold after every step."""

    @initialize()
    def start(self) -> None:
        """Begin with nothing connected."""
        self.world = World(3, bounds=BOUNDS)
        self.next: dict[str, int] = {}

    @rule(word=st.sampled_from([b"b#", b"b#", b"t#", b"bx", b"tx"]), count=st.integers(1, 4))
    def emit(self, word: bytes, count: int) -> None:
        """Broadcast."""
        for _ in range(count):
            self.world.emit(word.replace(b"#", b"%d" % len(self.world.source)))

    @rule(name=LINES)
    def connect(self, name: str) -> None:
        """Connect a line that is not connected."""
        if name in self.world.names and name not in self.next:
            self.next[name] = len(self.world.source)
            self.world.connect(name)

    @rule(name=LINES, count=st.integers(1, 8), each=st.booleans())
    def read(self, name: str, count: int, *, each: bool) -> None:
        """Let a line read some of what it was sent."""
        if name in self.next:
            self.next[name] = min(self.next[name] + count, len(self.world.source))
            self.world.deliver(name, count, each=each)

    @rule(name=LINES, count=st.integers(0, 3))
    def kill(self, name: str, count: int) -> None:
        """End a connection."""
        if name in self.next:
            del self.next[name]
            self.world.kill(name, reads=count)

    @precondition(lambda self: len(self.world.names) < MOST_LINES)
    @rule(connected=st.booleans())
    def add(self, *, connected: bool) -> None:
        """Let a new line take part under the next free letter."""
        name = self.world.add()
        if connected:
            self.connect(name)

    @precondition(lambda self: len(self.world.names) > 1)
    @rule(name=LINES, count=st.integers(0, 3))
    def remove(self, name: str, count: int) -> None:
        """Let a line go for good."""
        if name in self.world.names:
            self.next.pop(name, None)
            self.world.remove(name, reads=count)

    @rule(seconds=st.sampled_from([0.1, 0.3, 1.5]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.world.wait(seconds)
        window = self.world.arbiter.window
        assert len(window.payloads) <= BOUNDS.window_events * 9 // 8 + 1

    @precondition(lambda self: self.next)
    @rule()
    def catch_up(self) -> None:
        """Let every line read everything."""
        self.world.deliver_all()
        self.next = dict.fromkeys(self.next, len(self.world.source))

    @property
    def marked(self) -> bool:
        """Whether the output says of itself that it is not simply the source."""
        return bool(self.world.gaps or self.world.late)

    @invariant()
    def positions_are_contiguous(self) -> None:
        """Check that the window holds the newest of what was released, position by position."""
        window = self.world.arbiter.window
        assert window.head == len(self.world.output)
        assert window.payloads == self.world.output[window.base :]
        assert len({len(window.payloads), len(window.channels), len(window.released), len(window.lines)}) == 1

    @invariant()
    def nothing_is_doubled_or_made_up(self) -> None:
        """Check that what carries no mark is a run of the source."""
        if not self.marked and self.world.output:
            start = self.source_start()
            assert self.world.output == self.world.source[start : start + len(self.world.output)]

    def source_start(self) -> int:
        """Return a place in the source where the output can begin."""
        output, source = self.world.output, self.world.source
        return next(
            (i for i in range(len(source)) if source[i : i + len(output)] == output),
            0,
        )

    @invariant()
    def aligned_lines_stand_where_their_connections_stand(self) -> None:
        """Check that an aligned line owes exactly what its connection has not delivered."""
        distinct = [p for p in self.world.output if p[1:].isdigit()]
        if self.marked or not distinct:
            return
        start = self.world.source.index(distinct[0]) - self.world.output.index(distinct[0])
        for name, line in self.world.arbiter.lines.items():
            if line.owing is not None and not line.aside:
                assert not line.owing.open
                assert not line.owing.early
                assert line.owing.position == self.next[name] - start

    @invariant()
    def bounds_hold(self) -> None:
        """Check that what is held and kept stays within its bounds, and that the dead have no place."""
        arbiter = self.world.arbiter
        assert len(arbiter.ghosts) <= GHOSTS
        assert set(arbiter.lines) == set(self.world.names)
        for name, line in arbiter.lines.items():
            assert len(line.hold.events) <= BOUNDS.hold_events
            assert line.connected == (name in self.next)
            assert line.connected or (line.owing is None and not line.waiting)

    def teardown(self) -> None:
        """Show every hole at the end."""
        self.world.settle()
        self.world.assert_exact_or_marked()


Merge.TestCase.settings = settings(steady, max_examples=150, stateful_step_count=50)
TestMerge = Merge.TestCase
