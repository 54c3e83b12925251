"""Streams that are added to live lines and dropped from them: the others do not notice, and the added one is exact."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.config import Bounds, Health
from feedhandler.core.messages import Gap, Release, Reply
from feedhandler.core.streams import Streams
from tests.support.lines import Connection, Words, World
from tests.support.scripts import steady

SUBSCRIBED = b">subscribed "
UNSUBSCRIBED = b">unsubscribed "


class Change(NamedTuple):
    """A request that the exchange has not carried out yet."""

    verb: bytes
    stream: str


class Exchange(Connection):
    """A connection with its own subscriptions."""

    def __init__(self, streams: set[str]) -> None:
        super().__init__()
        self.streams = streams
        self.asked: list[Change] = []
        self.reply_first = True


class StreamWorld(World):
    """A world whose lines subscribe and unsubscribe; channel ``M/b`` is the stream ``b``."""

    def __init__(self, lines: int, streams: str = "bt", *, bounds: Bounds | None = None) -> None:
        super().__init__(lines)
        self.streams = set(streams)
        self.began: dict[str, int] = {}
        self.ended: dict[str, list[int]] = {}
        self.arbiter: Streams = Streams(
            "M",
            self.names,
            Words(),
            streams=self.streams,
            bounds=bounds or Bounds(),
            limits=Health(),
            now=self.now,
        )

    # The exchange

    def emit(self, *payloads: bytes, **_: object) -> None:
        """Broadcast to who is subscribed."""
        for payload in payloads:
            self.source.append(payload)
            for connection in self.connections.values():
                assert isinstance(connection, Exchange)
                if payload[:1].decode() in connection.streams:
                    connection.send(payload)

    def carry_out(self, name: str, *, early: bytes = b"") -> None:
        """Let the exchange carry out what a line has asked for first; ``early`` is broadcast before the reply."""
        connection = self.connections[name]
        assert isinstance(connection, Exchange)
        if not connection.asked:
            return
        verb, stream = connection.asked.pop(0)
        if verb == SUBSCRIBED:
            connection.streams = connection.streams | {stream}
        else:
            connection.streams = connection.streams - {stream}
        if early:
            self.emit(early)
        connection.queue.append(verb + stream.encode())

    # The feed

    def connect(self, *names: str) -> None:
        """Connect lines, subscribed to what the feed has by now."""
        for name in names:
            self.arbiter.connecting(name, self.now)
            self.connections[name] = Exchange(set(self.streams))
            self.arbiter.connected(name, self.now, self.wall)
            for stream in self.arbiter.joining:
                self.arbiter.subscribed(stream, name, self.now, self.wall)
            self._take()

    def add_stream(self, stream: str) -> None:
        """Add a stream on every line."""
        self.streams.add(stream)
        self.arbiter.add(stream, self.now)
        self._ask(SUBSCRIBED, stream)
        for name in self.connections:
            self.arbiter.asked(stream, name, self.now)

    def drop_stream(self, stream: str) -> None:
        """Drop a stream on every line."""
        self.streams.discard(stream)
        self.arbiter.drop(stream, self.now)
        self._take()
        self._ask(UNSUBSCRIBED, stream)
        self.ended.setdefault(stream, []).append(len(self.released))

    def _ask(self, verb: bytes, stream: str) -> None:
        for connection in self.connections.values():
            assert isinstance(connection, Exchange)
            connection.asked.append(Change(verb, stream))

    def receive(self, name: str, *payloads: bytes) -> None:
        """Let a line read; it hears of its replies at once, after what it read with them."""
        super().receive(name, *payloads)
        replies, self.replies = self.replies, []
        self._hear(name, replies)

    def _hear(self, name: str, replies: Sequence[Reply]) -> None:
        """Hear that a line is subscribed, unless it has asked for something else of that stream since."""
        connection = self.connections[name]
        assert isinstance(connection, Exchange)
        pending = {change.stream.encode() for change in connection.asked}
        pending |= {word.partition(b" ")[2] for word in connection.queue if word.startswith(b">")}
        for reply in reversed(replies):
            verb, _, stream = reply.payload.partition(b" ")
            if verb + b" " == SUBSCRIBED and stream not in pending:
                self.arbiter.subscribed(stream.decode(), name, self.now, self.wall)
            pending.add(stream)
        self._take()

    def settle(self) -> None:
        """Let everything be carried out and read, and be followed by events that show every hole."""
        for name in self.names:
            if name not in self.connections:
                self.connect(name)
        for _ in range(8):
            for name in self.names:
                self.carry_out(name)
        self.deliver_all()
        base = 10**9 + len(self.source)
        for number in range(base, base + 4):
            self.emit(*(b"%s%d" % (stream.encode(), number) for stream in sorted(self.streams)))
            self.deliver_all()
        self.wait(12)
        self.deliver_all()

    # What came of it

    def of(self, stream: str) -> list[Release | Gap]:
        """Return what was released of a stream."""
        return [
            one
            for one in self.released
            if (one.channel == f"M/{stream}" if isinstance(one, Release) else one.stream in {"", stream})
        ]

    def truth(self, stream: str) -> list[bytes]:
        """Return what was broadcast of a stream."""
        return [payload for payload in self.source if payload[:1].decode() == stream]


def payloads(outputs: list[Release | Gap]) -> list[bytes]:
    """Return the events among outputs, without marks; assert that there is no mark."""
    assert all(isinstance(one, Release) and one.kind == "" for one in outputs), outputs
    return [one.payload for one in outputs if isinstance(one, Release)]


def assert_positions_rise(outputs: list[Release | Gap]) -> None:
    """Assert that the positions of a channel rise, whatever merge they come from."""
    positions = [one.position for one in outputs if isinstance(one, Release)]
    assert positions == sorted(set(positions))


def aligned(lines: int, streams: str = "bt") -> StreamWorld:
    """Return a world whose lines are aligned."""
    world = StreamWorld(lines, streams)
    world.connect(*world.names)
    for number in range(3):
        world.emit(b"b%d" % number, b"t%d" % number)
        world.deliver_all()
    world.wait(6)
    return world


@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("early", [b"", b"c100"])
def test_an_added_stream_is_exact_from_its_first_event(lines: int, early: bytes) -> None:
    """Lines subscribe one after the other, before or after their reply: one run of the truth; the rest untouched."""
    world = aligned(lines)
    world.add_stream("c")
    for index, name in enumerate(world.names):
        world.emit(b"b%d" % (10 + index), b"c%d" % (10 + index))
        world.deliver_all()
        world.carry_out(name, early=early and b"c%d" % (100 + index))
        world.emit(b"c%d" % (200 + index), b"t%d" % (20 + index))
        world.deliver_all()
    assert world.arbiter.joining == {"c"}
    for number in range(300, 306):
        world.emit(b"c%d" % number, b"b%d" % number)
        world.deliver_all()
        world.wait(0.2)
    assert world.arbiter.joining == frozenset()
    for number in range(400, 406):
        world.emit(b"c%d" % number, b"c%d" % number, b"b%d" % number)
        world.deliver_all()
    for stream in "bt":
        assert payloads(world.of(stream)) == world.truth(stream)
    added = payloads(world.of("c"))
    assert added == world.truth("c")[-len(added) :]
    assert added[0] == (early or b"c200")
    assert_positions_rise(world.of("c"))


def test_a_gap_behind_an_absorbed_stream_begins_where_that_ended() -> None:
    """Contract: ``since`` is the arrival of the last proven event, be it of the stream that was added."""
    world = aligned(2)
    world.add_stream("c")
    for name in world.names:
        world.carry_out(name)
    for number in range(10, 14):
        world.emit(b"c%d" % number)
        world.deliver_all()
    last = world.released[-1]
    assert isinstance(last, Release)
    world.wait(0.2)
    assert world.arbiter.joining == frozenset()
    for name in "ab":
        world.kill(name)
    world.connect("a", "b")
    world.emit(b"b50")
    world.deliver_all()
    (gap,) = world.gaps
    assert gap.since == last.recv


def test_a_line_that_is_asked_twice_keeps_what_it_may_have_brought() -> None:
    """What was released since the first request may come on the line: asking again does not hide it."""
    world = aligned(2)
    world.add_stream("c")
    for name in world.names:
        world.carry_out(name)
    world.emit(b"c1", b"c2", b"c3")
    world.deliver("a")
    for name in world.names:
        world.arbiter.asked("c", name, world.now)
    world.deliver("b")
    world.emit(b"c4")
    world.deliver_all()
    assert payloads(world.of("c")) == world.truth("c")


def test_what_a_lagging_line_brings_from_before_the_start_is_left_out() -> None:
    """A line that had subscribed earlier and lags brings older events: the start is no gap, and nothing comes late."""
    world = aligned(2)
    world.add_stream("c")
    world.carry_out("a")
    world.emit(b"c1", b"c2")
    world.carry_out("b")
    world.emit(b"c3", b"c4", b"c5")
    world.deliver("b")
    world.deliver("a")
    assert payloads(world.of("c")) == [b"c3", b"c4", b"c5"]
    assert world.notes.count("straggler_left_out") == 2
    world.emit(b"c6")
    world.deliver_all()
    world.wait(1)
    assert world.arbiter.joining == frozenset()
    assert payloads(world.of("c"))[-1] == b"c6"


def test_a_line_that_owes_in_both_is_waited_for() -> None:
    """As long as a line is behind in the feed and in the added stream, the two stay apart."""
    world = aligned(2)
    world.add_stream("c")
    for name in world.names:
        world.carry_out(name)
    for number in range(10, 14):
        world.emit(b"c%d" % number)
        world.deliver_all()
    world.emit(b"b20", b"c20", b"b21")
    world.deliver("a")
    world.wait(0.2)
    assert world.arbiter.joining == {"c"}
    world.deliver("b", 1)
    world.wait(0.1)
    assert world.arbiter.joining == {"c"}
    world.deliver("b", 1)
    world.wait(0.1)
    assert world.arbiter.joining == frozenset()
    world.deliver_all()
    world.emit(b"c30", b"b30")
    world.deliver_all()
    assert payloads(world.of("b")) == world.truth("b")
    assert payloads(world.of("c")) == world.truth("c")


def test_what_a_line_still_owes_goes_over() -> None:
    """The end of the added stream that a line has yet to bring is owed in the feed: it is not released again."""
    world = aligned(3)
    world.add_stream("c")
    for name in world.names:
        world.carry_out(name)
    for number in range(10, 14):
        world.emit(b"c%d" % number)
        world.deliver_all()
    world.emit(b"c20", b"c20", b"c21")
    world.deliver("a")
    world.deliver("b", 1)
    world.wait(0.1)
    assert world.arbiter.joining == frozenset()
    assert [world.arbiter.lines[name].owing.count for name in "abc"] == [0, 2, 3]  # type: ignore[union-attr]
    world.deliver_all()
    world.emit(b"c22")
    world.deliver_all()
    assert payloads(world.of("c")) == world.truth("c")
    world.kill("a")
    world.connect("a")
    for number in range(30, 34):
        world.emit(b"c%d" % number, b"b%d" % number)
        world.deliver_all()
    world.wait(1)
    assert all(line.up for line in world.arbiter.lines.values())
    assert payloads(world.of("c")) == world.truth("c")


def test_positions_go_on_where_the_added_stream_was() -> None:
    """However long the two were apart, a channel's positions rise, and a late event names a place that was given."""
    world = aligned(3)
    head = world.arbiter.window.head
    world.add_stream("c")
    world.carry_out("a")
    world.carry_out("c")
    for number in range(1000, 1000 + 5 * head):
        world.emit(b"c%d" % number)
        world.deliver_all()
    world.carry_out("b")
    for number in range(2000, 2006):
        world.emit(b"c%d" % number)
        world.deliver_all()
    world.wait(0.2)
    assert world.arbiter.joining == frozenset()
    assert all(line.pinned is None or "M/c" in line.pinned for line in world.arbiter.lines.values())
    assert any(line.pinned is not None for line in world.arbiter.lines.values())
    world.emit(b"c3000")
    world.deliver_all()
    for payload in (b"c3001", b"c3002", b"c3003"):
        world.source.append(payload)
        for name in "abc":
            if payload != b"c3002" or name == "c":
                world.connections[name].send(payload)
    for name in "abc":
        world.deliver(name)
    events = [one for one in world.of("c") if isinstance(one, Release)]
    late = events.pop()
    assert (late.payload, late.kind) == (b"c3002", "late")
    assert late.before == events[-1].position
    assert_positions_rise([*events, late])  # type: ignore[list-item]
    assert [one.payload for one in events] == [
        one for one in world.truth("c")[-len(events) - 1 :] if one != b"c3002"
    ]


def test_an_absorbed_stream_has_begun() -> None:
    """All its events are delivered when it is absorbed: who joins then and goes on alone in it proves nothing of it."""
    world = aligned(2)
    world.add_stream("c")
    for name in world.names:
        world.carry_out(name)
    for number in range(10, 14):
        world.emit(b"c%d" % number)
        world.deliver_all()
    world.wait(0.2)
    assert world.arbiter.joining == frozenset()
    world.receive("a", b"b20", b"t20")
    world.receive("b", b"t20", b"b20")
    world.emit(b"c21")
    name = world.add()
    world.connect(name)
    for number in range(30, 33):
        world.connections[name].send(b"b%d" % number)
        world.receive("a", b"b%d" % number)
        world.receive("b", b"b%d" % number)
        world.deliver(name)
    world.kill("a")
    world.kill("b")
    world.emit(b"c33")
    world.deliver_all()
    world.wait(6)
    *_, before, gap, after = world.of("c")
    assert isinstance(gap, Gap)
    assert (before.payload, after.payload) == (b"c13", b"c33")  # type: ignore[union-attr]


def test_lines_come_and_go_while_a_stream_is_added() -> None:
    """A line that is replaced meanwhile is spared only when its successor has its place in the added stream, too."""
    world = aligned(2)
    world.add_stream("c")
    world.carry_out("a")
    for number in range(10, 14):
        world.emit(b"c%d" % number, b"b%d" % number, b"t%d" % number)
        world.deliver_all()
    assert not world.arbiter.can_spare("a")
    assert world.arbiter.can_spare("b")
    world.connect(world.add())
    for number in range(20, 30):
        world.emit(b"c%d" % number, b"b%d" % number, b"t%d" % number)
        world.deliver_all()
        world.wait(1)
    assert world.arbiter.joining == {"c"}
    assert world.arbiter.can_spare("a")
    world.remove("a")
    world.remove("b")
    world.emit(b"c40", b"b40", b"t40")
    world.deliver_all()
    world.wait(0.2)
    assert world.arbiter.joining == frozenset()
    for stream in "bt":
        assert payloads(world.of(stream)) == world.truth(stream)
    assert payloads(world.of("c")) == world.truth("c")


def test_health_is_judged_by_new_limits_in_both() -> None:
    """Other limits hold for the added stream as well: a line that is mute there is stalled after the new time."""
    world = aligned(2)
    world.add_stream("c")
    world.arbiter.retune(Health(stall_min_s=30.0))
    for name in world.names:
        world.carry_out(name)
    for number in range(10, 14):
        world.emit(b"c%d" % number)
        world.deliver_all()
    assert world.arbiter.joining == {"c"}
    for number in range(20, 30):
        world.emit(b"b%d" % number, b"c%d" % number)
        world.deliver("a")
    world.wait(10)
    assert world.arbiter.joining == {"c"}
    assert world.orders == []
    world.wait(30)
    assert [order.line for order in world.orders] == ["b", "b"]


def test_what_a_line_has_passed_goes_over() -> None:
    """An event that a line has dropped is missed by it, whichever of the two merges it was released by."""
    world = aligned(3)
    world.add_stream("c")
    for name in world.names:
        world.carry_out(name)
    for number in range(10, 14):
        world.emit(b"c%d" % number)
        world.deliver_all()
    world.source.append(b"c20")
    for name in "ab":
        world.connections[name].send(b"c20")
    world.emit(b"c21")
    world.deliver_all()
    world.wait(0.1)
    assert world.arbiter.joining == frozenset()
    for number in range(100):
        world.emit(b"c%d" % (100 + number))
        world.deliver_all()
    world.wait(5)
    assert world.notes.count("event_missed") == 1
    assert payloads(world.of("c")) == world.truth("c")


def test_what_comes_late_behind_the_start_is_late() -> None:
    """Only what is from before the start is left out: an event that others have dropped comes late, as ever."""
    world = aligned(3)
    world.add_stream("c")
    for name in world.names:
        world.carry_out(name)
    for number in range(10, 14):
        world.emit(b"c%d" % number)
        world.deliver_all()
    world.source.append(b"c20")
    world.connections["c"].send(b"c20")
    world.emit(b"c21")
    for name in world.names:
        world.deliver(name)
    assert world.arbiter.joining == {"c"}
    assert world.late == [b"c20"]
    assert sorted(world.output) == sorted(world.source)


def test_a_gap_of_one_channel_is_passed_on() -> None:
    """What only one line of the added stream brought is contradicted by the others: that channel's gap."""
    world = aligned(3)
    world.add_stream("c")
    for name in world.names:
        world.carry_out(name)
    world.emit(b"c10", b"c11", b"c12")
    for name in world.names:
        world.deliver(name, 3)
    world.connections["a"].send(b"c13")
    world.emit(*(b"c%d" % (100 + number) for number in range(100)), b"b90")
    for name in world.names:
        world.deliver(name, 90)
    world.emit(b"b91")
    world.deliver("a", 20)
    world.wait(5)
    world.deliver_all()
    world.wait(5)
    assert [(gap.channel, gap.reason) for gap in world.gaps] == [("M/c", "divergence")]


def test_asking_for_what_is_no_more_changes_nothing() -> None:
    """A stream that was dropped, or absorbed, before a line heard of it is none of the joiner's."""
    world = aligned(1)
    released = list(world.released)
    world.arbiter.asked("c", "a", world.now)
    world.arbiter.subscribed("c", "a", world.now, world.wall)
    world.wait(1)
    assert world.arbiter.joining == frozenset()
    assert world.released == released


def test_who_is_away_is_not_waited_for_and_who_is_about_to_come_is() -> None:
    """A line without a connection takes no part; one that is connecting may yet bring what only the joiner knows."""
    world = aligned(3)
    world.add_stream("c")
    for name in "ab":
        world.carry_out(name)
    for number in range(10, 14):
        world.emit(b"c%d" % number)
        world.deliver_all()
    world.wait(0.2)
    assert world.arbiter.joining == {"c"}
    world.kill("c")
    world.arbiter.connecting("c", world.now)
    world.wait(0.2)
    assert world.arbiter.joining == {"c"}
    world.arbiter.lost("c", world.now, world.wall)
    world.wait(0.2)
    assert world.arbiter.joining == frozenset()
    world.connect("c")
    for number in range(20, 24):
        world.emit(b"c%d" % number, b"b%d" % number)
        world.deliver_all()
    assert payloads(world.of("c")) == world.truth("c")


def test_a_dropped_stream_is_owed_by_nobody() -> None:
    """What is still on its way is left out, no line misses it, and nothing stands still for want of it."""
    world = aligned(2)
    world.emit(b"t10", b"b10", b"t11", b"b11")
    world.deliver("a")
    world.drop_stream("t")
    released = len(world.of("t"))
    assert world.arbiter.lines["b"].owing.count == 2  # type: ignore[union-attr]
    world.deliver("b")
    world.emit(b"t12", b"b12")
    for name in world.names:
        world.carry_out(name)
    world.emit(b"t13", b"b13")
    world.deliver_all()
    world.arbiter.dropped_everywhere("t")
    for number in range(100):
        world.emit(b"b%d" % (100 + number))
        world.deliver_all()
    world.wait(10)
    assert len(world.of("t")) == released
    assert payloads(world.of("b")) == world.truth("b")
    assert "event_missed" not in world.notes
    assert world.notes.count("straggler_left_out") == 4
    assert world.orders == []


def test_what_was_kept_of_a_dropped_stream_is_given_up() -> None:
    """What only a witness holds of it, nothing of it being released yet, is never judged, and holds nothing up."""
    world = aligned(2, "bc")
    world.kill("b")
    world.connect("b")
    world.emit(b"c10", b"b10", b"c11", b"b11")
    world.deliver("b")
    world.drop_stream("c")
    for number in range(12, 42):
        world.emit(b"b%d" % number)
        world.deliver_all()
        world.wait(0.5)
    assert world.arbiter.lines["b"].placed
    assert world.truth("c")[0] not in world.output
    assert payloads(world.of("b"))[-32:] == world.truth("b")[-32:]
    assert world.arbiter.lines["a"].owing.count == 0  # type: ignore[union-attr]


@pytest.mark.parametrize("reads", [1, 4])
def test_who_joins_after_a_drop_does_not_owe_what_was_dropped(reads: int) -> None:
    """What the window still has of a dropped stream is owed by nobody, and holds up no line that joins."""
    world = aligned(2)
    world.connect(world.add())
    world.emit(b"b11", b"t12", b"t13", b"b14")
    world.deliver("a")
    world.deliver("b", reads)
    world.drop_stream("t")
    for number in range(15, 45):
        world.emit(b"b%d" % number)
        world.deliver_all()
        world.wait(0.5)
    for line in world.arbiter.lines.values():
        assert line.up
        assert line.owing.count == 0  # type: ignore[union-attr]
        assert line.owing.passed == {}  # type: ignore[union-attr]
    assert payloads(world.of("b")) == world.truth("b")


def test_a_dropped_stream_may_come_again() -> None:
    """Dropped and added again, on top of what the window still has of it: one run of the truth each time."""
    world = aligned(2)
    for turn in range(3):
        world.drop_stream("t")
        first = len(world.of("t"))
        world.emit(b"t%d" % (1000 + turn))
        for name in world.names:
            world.carry_out(name)
        world.deliver_all()
        world.add_stream("t")
        for name in world.names:
            world.carry_out(name)
        for number in range(4):
            world.emit(b"t%d" % (2000 + 10 * turn + number), b"b%d" % (2000 + 10 * turn + number))
            world.deliver_all()
            world.wait(0.2)
        assert world.arbiter.joining == frozenset()
        added = payloads(world.of("t")[first:])
        assert added == world.truth("t")[-len(added) :]
        assert len(added) >= 3
    assert payloads(world.of("b")) == world.truth("b")


def test_an_outage_while_a_stream_is_added_is_one_gap_for_each() -> None:
    """All lines go while the joiner is there: a gap of each stream, the added one among them once."""
    world = aligned(2)
    world.add_stream("c")
    for name in world.names:
        world.carry_out(name)
    world.emit(b"b10", b"c10", b"b11", b"c11", b"b12", b"c12")
    world.deliver_all()
    for name in world.names:
        world.kill(name)
    world.connect(*world.names)
    world.emit(b"b20", b"c20", b"t20")
    world.deliver_all()
    assert sorted(gap.stream for gap in world.gaps) == ["b", "c", "t"]
    assert {gap.reason for gap in world.gaps} == {"outage"}


def test_a_stream_that_goes_on_begins_with_a_gap() -> None:
    """What was released of a stream before it was dropped is not continuous with what comes when it is added again."""
    world = aligned(1)
    world.arbiter.add("c", world.now, last_recv=7)
    world.arbiter.asked("c", "a", world.now)
    world.connections["a"].streams.add("c")  # type: ignore[attr-defined]
    world.emit(b"c1")
    world.deliver_all()
    gap, event = world.of("c")
    assert isinstance(gap, Gap)
    assert (gap.stream, gap.reason, gap.since) == ("c", "unproven", 7)
    assert isinstance(event, Release)


KINDS = ("emit",) * 8 + ("read",) * 7 + ("carry", "carry", "carry", "add", "drop", "wait")
LIVELY = (*KINDS, "kill", "connect", "connect")

steps = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, 2), st.integers(0, 5), st.sampled_from(["b", "c", "t"])),
    min_size=10,
    max_size=90,
)
lively = st.lists(
    st.tuples(
        st.sampled_from(LIVELY), st.integers(0, 2), st.integers(0, 5), st.sampled_from(["b", "c", "t"])
    ),
    min_size=10,
    max_size=90,
)
Steps = list[tuple[str, int, int, str]]


def play(world: StreamWorld, script: Steps, check: Callable[[], None] = lambda: None) -> None:
    """Let a script happen; the stream ``b`` is never dropped."""
    for number, (kind, line, size, stream) in enumerate(script, 10):
        name = world.names[line % len(world.names)]
        up = name in world.connections
        if kind == "emit":
            world.emit(stream.encode() + b"%d" % number)
        elif kind == "read" and up:
            world.deliver(name, size + 1)
        elif kind == "carry" and up:
            world.carry_out(name, early=b"%s%d" % (stream.encode(), number) if size == 0 else b"")
        elif kind == "add" and stream != "b" and stream not in world.streams:
            world.add_stream(stream)
        elif kind == "drop" and stream != "b" and stream in world.streams:
            world.drop_stream(stream)
        elif kind == "wait":
            world.wait((0.1, 0.3, 1.0)[size % 3])
        elif kind == "kill" and up and len(world.connections) > 1:
            world.kill(name, reads=size)
        elif kind == "connect" and not up:
            world.connect(name)
        check()


def assert_runs(world: StreamWorld, stream: str) -> None:
    """Assert that each life of a stream is one run of the truth, each after the one before."""
    truth, start = world.truth(stream), 0
    ends = [*world.ended.get(stream, []), len(world.released)]
    begin = 0
    for end in ends:
        life = [
            one
            for one in world.released[begin:end]
            if not isinstance(one, Release) or one.channel == f"M/{stream}"
        ]
        run, begin = payloads(life), end
        if run:
            assert run[0] in truth[start:], f"{run} again, or never sent"
            at = truth.index(run[0], start)
            assert truth[at : at + len(run)] == run
            start = at + len(run)
    if stream in world.streams:
        assert world.source[-1][:1].decode() not in world.streams or truth[-1] in run


@steady
@given(st.integers(1, 3), steps)
def test_streams_that_come_and_go_are_exact(lines: int, script: Steps) -> None:
    """Lines subscribe and read as they like: `b` is the truth, and each life of another stream is a run of it."""
    world = aligned(lines)
    play(world, script)
    world.settle()
    assert payloads(world.of("b")) == world.truth("b")
    for stream in "ct":
        assert_runs(world, stream)
        assert_positions_rise([one for one in world.of(stream) if isinstance(one, Release)][-4:])


@steady
@given(lively)
def test_streams_that_come_and_go_while_lines_die(script: Steps) -> None:
    """Requirement 3: with lines killed meanwhile nothing is doubled, and what lines stayed for is lost by none."""
    world = aligned(3)
    play(world, script)
    world.settle()
    for stream in "bct":
        ordinary = [one for one in world.of(stream) if isinstance(one, Release)]
        events = [one.payload for one in ordinary]
        assert len(set(events)) == len(events)
        assert set(events) <= set(world.truth(stream))
