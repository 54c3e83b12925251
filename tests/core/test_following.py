"""A feed that follows another daemon's output, and takes over: the two outputs together are the exchange's sequence."""

from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feedhandler.config import Bounds, Health
from feedhandler.core.following import OUTPUT, PATIENCE_S, SILENCE_S, Following
from feedhandler.core.messages import Gap, Release
from tests.support.lines import Connection, Words, World

OWN = "xy"
"""The standby's own lines."""


class Pair:
    """An active feed, and one that follows it: what the first releases, the second is told at once."""

    def __init__(self, lines: int = 2, *, bounds: Bounds | None = None) -> None:
        self.active = World(lines)
        self.standby = World(0)
        self.standby.names = OWN
        self.standby.arbiter = self.arbiter = Following(
            "M", OWN, Words(), streams=(), bounds=bounds or Bounds(settled_events=4), limits=Health()
        )
        self.standby.source = self.active.source
        self.told = 0
        self.arbiter.follow(0.0)

    def emit(self, *payloads: bytes, ahead: int = 0) -> None:
        """Broadcast; each event overtakes up to so many of other channels on the standby's lines."""
        for payload in payloads:
            self.active.emit(payload)
            for connection in self.standby.connections.values():
                connection.send(payload, ahead)

    def tell(self) -> None:
        """Let the standby have all that the active feed has released."""
        standby, arbiter = self.standby, self.arbiter
        for one in self.active.released[self.told :]:
            if isinstance(one, Gap):
                arbiter.followed_gap(standby.now)
            elif one.kind == "late":
                arbiter.followed_late(one.channel, one.payload, standby.now, standby.wall)
            else:
                arbiter.followed([one.channel], [one.payload], standby.now, standby.wall)
        self.told = len(self.active.released)

    def wait(self, seconds: float) -> None:
        """Let time pass for both."""
        for world in (self.active, self.standby):
            world.wait(seconds)
            self.tell()

    def own(self, name: str) -> Connection | None:
        """Return an own line's connection, if it is connected."""
        return self.standby.connections.get(name)

    def take_over(self) -> None:
        """Let the active feed be gone."""
        self.tell()
        self.standby.orders.clear()
        assert self.standby.released == [one for one in self.standby.released if isinstance(one, Gap)]
        self.standby.released = list(self.active.released)
        self.arbiter.take_over(self.standby.now, self.standby.wall)
        self.standby.wait(0.1)

    @property
    def aligned(self) -> bool:
        """Whether an own line has its place."""
        return any(line.up for name, line in self.arbiter.lines.items() if name != OUTPUT)

    def settle(self) -> None:
        """Let the standby's lines, all connected by now, bring everything, and more that shows every hole."""
        self.active.connections.clear()
        self.standby.settle()


def begun(lines: int = 2, own: str = OWN) -> Pair:
    """Return a pair that is in step: all lines are aligned."""
    pair = Pair(lines)
    pair.active.connect(*pair.active.names)
    pair.standby.connect(*own)
    for number in range(1, 4):
        pair.emit(b"b%d" % number, b"t%d" % number)
        pair.active.deliver_all()
        pair.tell()
        pair.standby.deliver_all()
    assert pair.aligned
    assert pair.arbiter.lines.keys() == {OUTPUT, *OWN}
    return pair


def test_while_it_follows_it_releases_nothing() -> None:
    """What an own line brings first is put aside until the output has it; nothing of it comes out."""
    pair = begun()
    pair.emit(b"b4", b"t4")
    pair.standby.deliver_all()
    assert [held.payload for held in pair.arbiter.lines["x"].aside] == [b"b4", b"t4"]
    pair.active.deliver_all()
    pair.tell()
    assert pair.arbiter.lines["x"].aside == []
    assert pair.arbiter.lines["x"].up
    assert pair.standby.released == []


@pytest.mark.parametrize("read", [0, 1, 2, 3])
@pytest.mark.parametrize("own", [0, 1, 2, 3])
def test_what_the_output_had_not_yet_goes_on_without_a_seam(read: int, own: int) -> None:
    """(3) Wherever the active daemon and the own line had got to: each event once, in order, without a mark."""
    pair = begun(own="x")
    pair.emit(b"b4", b"t4", b"b5")
    pair.standby.deliver("x", own)
    pair.active.deliver("a", read)
    pair.take_over()
    pair.settle()
    pair.standby.assert_exact()
    assert "failed_over" in pair.standby.notes


def test_without_a_line_of_its_own_a_gap_says_so() -> None:
    """Where no own line had found its place nothing proves that all was seen."""
    pair = Pair()
    pair.active.connect("a", "b")
    pair.emit(b"b1", b"t1")
    pair.active.deliver_all()
    pair.take_over()
    pair.emit(b"b2")
    pair.standby.connect("x")
    pair.emit(b"b3", b"t3")
    pair.settle()
    assert [gap.reason for gap in pair.standby.gaps] == ["outage"]
    assert b"b3" in pair.standby.output


def test_a_line_that_dies_leaves_what_the_output_lacks() -> None:
    """What a dead line had put aside is released when the output is gone, too, if another line carries on."""
    pair = begun()
    pair.emit(b"b4", b"t4")
    pair.standby.deliver("x")
    pair.standby.kill("x")
    pair.take_over()
    pair.settle()
    pair.standby.assert_exact()


def test_a_silent_output_is_nobodys_fault() -> None:
    """An output that stands still is not judged, and what the lines bring meanwhile is kept (a frozen daemon)."""
    pair = begun()
    for number in range(10, 60):
        pair.emit(b"b%d" % number)
        pair.standby.deliver_all()
        pair.standby.wait(1)
    assert pair.aligned
    assert pair.standby.orders == []
    pair.take_over()
    pair.settle()
    pair.standby.assert_exact()


def test_what_is_put_aside_is_bounded() -> None:
    """A line that has put aside more than a witness may hold is a witness again; the takeover says what that costs."""
    pair = Pair(bounds=Bounds(settled_events=4, hold_events=100))
    pair.active.connect("a", "b")
    pair.standby.connect("x")
    for number in range(1, 200):
        pair.emit(b"b%d" % number)
        pair.standby.deliver_all()
        if number < 4:
            pair.active.deliver_all()
            pair.tell()
    assert pair.aligned
    pair.standby.wait(0.1)
    line = pair.arbiter.lines["x"]
    assert not pair.aligned
    assert line.aside == []
    assert 0 < len(line.hold.events) <= 100
    assert "hold_overflowed" in pair.standby.notes
    pair.take_over()
    pair.settle()
    assert len(pair.standby.gaps) == 1
    assert not Counter(pair.standby.output) - Counter(pair.standby.source)


def test_what_the_active_daemon_has_missed_is_left_to_it() -> None:
    """An event that the output has passed is kept for a while, and then left out: it is not for us to publish."""
    pair = begun()
    pair.active.emit(b"b5")
    for name in OWN:
        pair.standby.connections[name].send(b"b4")
        pair.standby.connections[name].send(b"b5")
    pair.standby.deliver_all()
    pair.active.deliver_all()
    pair.tell()
    pair.wait(1)
    assert [held.payload for line in pair.arbiter._missed for held, _ in pair.arbiter._missed[line]] == [
        b"b4",
        b"b4",
    ]
    assert all(not line.aside for line in pair.arbiter.lines.values())
    pair.wait(10)
    assert pair.standby.notes.count("output_lacked") == 2
    pair.take_over()
    pair.settle()
    pair.standby.assert_exact()


def test_a_gap_of_the_output_is_a_gap_here() -> None:
    """What is aligned proves its place behind it anew, and then the takeover is without a seam."""
    pair = begun()
    for name in "ab":
        pair.active.kill(name)
    pair.emit(b"b4")
    pair.wait(1)
    pair.active.connect("a")
    pair.emit(b"b5", b"t5")
    pair.active.deliver_all()
    pair.wait(3)
    assert len(pair.active.gaps) == 1
    for number in range(6, 9):
        pair.emit(b"b%d" % number, b"t%d" % number)
        pair.active.deliver_all()
        pair.tell()
        pair.standby.deliver_all()
        pair.wait(0.2)
    assert pair.aligned
    pair.emit(b"b9")
    pair.standby.deliver_all()
    pair.take_over()
    pair.settle()
    assert pair.standby.gaps == pair.active.gaps
    assert not Counter(pair.standby.output) - Counter(pair.standby.source)
    assert pair.standby.output[-1] == pair.standby.source[-1]


def test_a_late_event_of_the_output_is_owed_where_it_belongs() -> None:
    """A line that brings it in its order, before or behind its coming late, has delivered it, and is in step."""
    pair = begun(own="x")
    for name in "xy":
        if pair.own(name):
            for word in (b"b10", b"b11", b"b12"):
                pair.standby.connections[name].send(word)
    pair.standby.deliver("x", 2)
    arbiter, standby = pair.arbiter, pair.standby
    arbiter.followed(["M/b", "M/b"], [b"b10", b"b12"], standby.now, standby.wall)
    assert arbiter.followed_late("M/b", b"b11", standby.now, standby.wall) == (8, 7)
    standby.deliver("x")
    standby.wait(0.1)
    line = arbiter.lines["x"]
    assert line.up
    assert line.aside == []
    assert line.owing is not None
    assert line.owing.count == 0


def test_a_late_event_of_a_channel_without_any_is_an_ordinary_one() -> None:
    """Where the window knows nothing that it belongs before, it stands at the end."""
    pair = begun(own="x")
    assert pair.arbiter.followed_late("M/q", b"q5", pair.standby.now, pair.standby.wall)[1] == -1
    assert pair.arbiter.window.late == {}


def test_what_came_too_late_is_not_kept_for_ever() -> None:
    """An event that was taken for missed, and comes late after all, is no news at the takeover."""
    pair = begun(own="x")
    for word in (b"b10", b"b11"):
        pair.standby.connections["x"].send(word)
    pair.standby.deliver("x")
    arbiter, standby = pair.arbiter, pair.standby
    arbiter.followed(["M/b"], [b"b11"], standby.now, standby.wall)
    pair.standby.wait(0.2)
    assert [held.payload for held, _ in arbiter._missed[arbiter.lines["x"]]] == [b"b10"]
    arbiter.followed_late("M/b", b"b10", standby.now, standby.wall)
    pair.standby.wait(0.2)
    assert arbiter._missed == {}
    standby.released.clear()
    arbiter.take_over(standby.now, standby.wall)
    standby.wait(0.1)
    assert standby.output == []


def test_what_a_dead_line_lacked_is_forgotten_with_it() -> None:
    """A line that is gone keeps nothing that the output has missed."""
    pair = begun()
    pair.standby.connections["x"].send(b"b10")
    pair.standby.connections["x"].send(b"b11")
    pair.standby.deliver("x")
    pair.arbiter.followed(["M/b"], [b"b11"], pair.standby.now, pair.standby.wall)
    pair.standby.wait(0.1)
    pair.standby.remove("x")
    pair.standby.wait(0.1)
    assert pair.arbiter._missed == {}


def test_unknown_messages_come_out_once_all_in_all() -> None:
    """What the output has released is not released again when an own line brings it behind the takeover."""
    pair = begun()
    pair.arbiter.followed_unknown(b"?u")
    pair.standby.receive("x", b"?u")
    pair.take_over()
    pair.standby.receive("y", b"?u")
    assert pair.standby.output.count(b"?u") == 0
    pair.standby.receive("y", b"?u")
    assert pair.standby.output.count(b"?u") == 1


def test_a_gap_before_anything_is_none() -> None:
    """Where the output has released nothing there is nothing to prove."""
    pair = Pair()
    pair.arbiter.followed_gap(pair.standby.now)
    assert pair.arbiter.window.gaps == []


def test_two_gaps_at_one_place_are_one() -> None:
    """Each channel writes its own; the window has one."""
    pair = begun()
    pair.arbiter.followed_gap(pair.standby.now)
    pair.arbiter.followed_gap(pair.standby.now)
    assert pair.arbiter.window.gaps == [6]


def test_what_the_output_has_passed_is_not_released_at_a_takeover() -> None:
    """A snapshot or a backfilled row may stand for it; only what comes behind the output's end is new."""
    pair = begun(own="x")
    for word in (b"b10", b"b11", b"b12"):
        pair.standby.connections["x"].send(word)
    pair.standby.deliver("x")
    pair.arbiter.followed(["M/b"], [b"b11"], pair.standby.now, pair.standby.wall)
    pair.arbiter.take_over(pair.standby.now, pair.standby.wall)
    pair.standby.wait(0.1)
    assert pair.standby.output == [b"b12"]
    assert pair.standby.late == []


def test_who_is_ahead_when_a_gap_comes_proves_its_place_behind_it() -> None:
    """What it has put aside is held, and finds its place when the output brings what follows the gap."""
    pair = begun(own="x")
    pair.emit(b"b4", b"t4")
    pair.standby.deliver_all()
    arbiter, standby = pair.arbiter, pair.standby
    arbiter.followed_gap(standby.now)
    line = arbiter.lines["x"]
    assert line.owing is None
    assert [held.payload for held in line.hold.events] == [b"b4", b"t4"]
    arbiter.followed(["M/b", "M/t", "M/b"], [b"b4", b"t4", b"b5"], standby.now, standby.wall)
    standby.receive("x", b"b5")
    assert line.up
    assert line.aside == []


def test_it_is_in_step_when_a_line_is_aligned_or_there_is_nothing_to_share() -> None:
    """Without lines nothing is to be found; a line that only listens is in step when nothing is said for a while."""
    pair = Pair()
    arbiter, standby = pair.arbiter, pair.standby
    assert not arbiter.in_step(standby.now)
    standby.connect("x")
    assert not arbiter.in_step(standby.now)
    assert not arbiter.in_step(standby.now + 0.9 * SILENCE_S)
    assert arbiter.in_step(standby.now + SILENCE_S)
    pair.active.connect("a")
    pair.emit(b"b1")
    pair.active.deliver_all()
    pair.tell()
    assert not arbiter.in_step(standby.now + SILENCE_S)
    for name in OWN:
        standby.remove(name)
    assert arbiter.in_step(standby.now)


def test_it_waits_no_longer_for_a_market_that_proves_nothing_and_is_silent() -> None:
    """(3) The only event came while the line was connecting; a takeover then has its gap, with the next event."""
    pair = Pair()
    arbiter, standby = pair.arbiter, pair.standby
    pair.active.connect("a")
    arbiter.connecting("x", standby.now)
    pair.emit(b"b1")
    pair.active.deliver_all()
    pair.tell()
    standby.connections["x"] = Connection()
    arbiter.connected("x", standby.now, standby.wall)
    pair.wait(0.9 * PATIENCE_S)
    assert not arbiter.in_step(standby.now)
    pair.wait(0.2 * PATIENCE_S)
    assert arbiter.in_step(standby.now)
    pair.take_over()
    pair.emit(b"b2", b"b3")
    pair.settle()
    assert standby.output[:3] == [b"b1", b"b2", b"b3"]
    assert len(standby.gaps) == 1
    standby.assert_exact_or_marked()


def test_what_the_output_has_hidden_by_a_gap_keeps_nobody_waiting() -> None:
    """(3) A line holds an event that the active daemon has left to a gap; nothing else was said."""
    pair = Pair()
    arbiter, standby = pair.arbiter, pair.standby
    arbiter.followed(["M/b"], [b"b1"], standby.now, standby.wall)
    standby.connect("x")
    pair.active.source += [b"b1", b"b2"]
    pair.active.released.append(Release("M/b", b"b1", "a", 0, "", 0))
    pair.told = 1
    standby.receive("x", b"b2")
    arbiter.followed_gap(standby.now)
    pair.wait(0.9 * PATIENCE_S)
    assert not arbiter.in_step(standby.now)
    pair.wait(0.2 * PATIENCE_S)
    assert arbiter.in_step(standby.now)
    pair.take_over()
    pair.emit(b"b3")
    pair.settle()
    standby.assert_exact_or_marked()
    assert standby.gaps


def test_it_waits_for_what_it_could_double() -> None:
    """(3) A line holds nothing with an identity: only the next event that has one tells whether that is out."""
    pair = Pair()
    arbiter, standby = pair.arbiter, pair.standby
    standby.connect("x")
    arbiter.followed(["M/b"], [b"bx"], standby.now, standby.wall)
    standby.receive("x", b"bx")
    pair.wait(10 * PATIENCE_S)
    assert not arbiter.in_step(standby.now)
    standby.receive("x", b"b2")
    assert not arbiter.in_step(standby.now)
    arbiter.followed(["M/b"], [b"b2"], standby.now, standby.wall)
    assert arbiter.in_step(standby.now)


def test_what_would_be_proof_at_a_takeover_is_enough_to_be_in_step() -> None:
    """(3) An event that is the newest of its channel aligns no line yet, and does as soon as the output is gone."""
    pair = Pair()
    arbiter, standby = pair.arbiter, pair.standby
    pair.active.connect("a")
    standby.connect("x")
    pair.emit(b"b1")
    standby.deliver_all()
    assert not arbiter.in_step(standby.now)
    pair.active.deliver_all()
    pair.tell()
    assert not pair.aligned
    assert arbiter.in_step(standby.now)
    pair.emit(b"b2")
    pair.take_over()
    pair.settle()
    standby.assert_exact()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("emit"), st.sampled_from("bt"), st.integers(0, 2)),
        st.tuples(st.just("read"), st.sampled_from("ab"), st.integers(1, 4)),
        st.tuples(st.just("own"), st.sampled_from(OWN), st.integers(1, 4)),
        st.tuples(st.just("drop"), st.sampled_from(OWN), st.integers(0, 2)),
        st.tuples(st.just("wait"), st.sampled_from([0.1, 1.0, 3.0]), st.just(0)),
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=300)
@given(steps, st.booleans())
@example([("emit", "b", 0), ("own", "x", 1), ("drop", "x", 0), ("read", "a", 1)], False)
def test_any_takeover_is_exact_or_marked(story: list[tuple[str, str, int]], ahead: bool) -> None:
    """(3) Whatever had been read where, and whichever own lines died: each event once, in its order, or a gap.

    With own lines that interleave the channels differently the order holds within each channel.
    """
    pair = begun()
    number = 3
    for what, which, count in story:
        if what == "emit":
            number += 1
            pair.emit(b"%b%d" % (which.encode(), number), ahead=count if ahead else 0)
        elif what == "read":
            pair.active.deliver(which, count)
            pair.tell()
        elif what == "own" and pair.own(which) is not None:
            pair.standby.deliver(which, count)
        elif what == "drop" and pair.own(which) is not None:
            pair.standby.kill(which, reads=count)
        elif what == "drop":
            pair.standby.connect(which)
        elif what == "wait":
            pair.wait(float(which))
    aligned = pair.aligned
    pair.take_over()
    pair.settle()
    released = [one for one in pair.standby.released if isinstance(one, Release)]
    assert not Counter(one.payload for one in released) - Counter(pair.standby.source)
    if aligned and not ahead:
        pair.standby.assert_exact_per_channel()
    elif not pair.standby.gaps:
        assert Counter(pair.standby.output) == Counter(pair.standby.source)
    else:
        pair.standby.assert_exact_or_marked()
