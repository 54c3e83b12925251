"""Counter-examples that the fuzzer of takeovers (`tests.soak.fuzz_takeover`) has found, in its smallest form each."""

import pytest

from feedhandler.config import Bounds
from feedhandler.core.following import Following
from tests.core.test_following import Pair, begun
from tests.soak.fuzz_takeover import ordered


def following(pair: Pair, *words: bytes) -> None:
    """Let the output bring ordinary events one by one; a dash stands for a gap. What comes of it nobody hears."""
    arbiter: Following = pair.arbiter
    for word in words:
        if word == b"-":
            arbiter.followed_gap(pair.standby.now)
        else:
            arbiter.followed([f"M/{word[:1].decode()}"], [word], pair.standby.now, pair.standby.wall)
    arbiter.outputs.clear()


def brought(pair: Pair, *words: bytes) -> None:
    """Let the own line bring these."""
    for word in words:
        pair.standby.connections["x"].send(word)
    pair.standby.deliver("x")


def test_what_was_brought_within_a_gap_is_not_one_of_behind_it() -> None:
    """Before its join the line had an event of the gap: its bytes come again behind it, and that is another one.

    What the output has passed stays left out; it was put aside, and struck out the later one.
    """
    pair = Pair()
    pair.standby.connect("x")
    brought(pair, b"bx", b"by", b"t28", b"by", b"bx", b"b51", b"t52")
    following(pair, b"bx", b"by", b"t28", b"by", b"-", b"b51", b"t52", b"bx", b"by", b"bx")
    brought(pair, b"bx", b"by", b"bx")
    pair.take_over()
    assert pair.standby.output == []
    brought(pair, b"b77", b"bx")
    assert pair.standby.output == [b"b77", b"bx"]


def test_what_the_output_has_passed_does_not_come_in_order() -> None:
    """A line that joins brings events from before the output's gap: at the takeover they are not the newest ones."""
    pair = Pair()
    pair.standby.connect("x")
    following(pair, b"b1", b"t1", b"-", b"t58", b"t59", b"b66")
    brought(pair, b"b26", b"b27", b"t28", b"t58", b"t59", b"b66", b"t70")
    pair.take_over()
    assert pair.standby.output == [b"t70"]
    assert pair.standby.late == []


def test_a_dead_line_does_not_bring_what_is_behind_a_gap() -> None:
    """What a line had put aside when it died is from before the gap that the output writes then."""
    pair = begun(own="xy")
    brought(pair, b"bx", b"bx")
    pair.standby.kill("x")
    following(pair, b"-", b"b74", b"bx", b"t76")
    pair.standby.connections["y"].queue.extend([b"b74", b"bx", b"t76", b"b77"])
    pair.standby.deliver("y")
    pair.take_over()
    assert pair.standby.output[len(pair.active.output) :] == [b"b77"]


def test_what_a_line_brought_before_its_proof_does_not_stand_behind_it() -> None:
    """An event of a gap was put aside for the output to bring; at the takeover it is not the copy from behind the gap.

    Where it stood on the line is known: before what the line shares. So it is left to the gap.
    """
    pair = Pair()
    pair.standby.connect("x")
    brought(pair, b"b42", b"by", b"t58", b"bx", b"t60", b"bx", b"t68")
    following(pair, b"b1", b"t1", b"-", b"t58", b"bx", b"t60", b"bx", b"t68", b"by")
    pair.take_over()
    brought(pair, b"by", b"b77")
    assert pair.standby.output == [b"b42", b"b77"]
    assert pair.standby.late == [b"b42"]
    assert [gap.channel for gap in pair.standby.gaps] == ["M/b"]


def test_what_the_output_has_passed_is_no_later_copy() -> None:
    """What was kept should it come late has no identity: the next event of the same bytes is another one."""
    pair = Pair()
    pair.standby.connect("x")
    following(pair, b"b1", b"t1", b"-", b"by", b"tx", b"tx")
    brought(pair, b"b34", b"tx", b"by", b"bx", b"by", b"tx", b"tx", b"b69")
    following(pair, b"b69", b"by")
    pair.standby.wait(0.1)
    brought(pair, b"by", b"t83", b"b84")
    pair.take_over()
    assert pair.standby.output == [b"t83", b"b84"]


def test_what_a_book_stands_for_does_not_come_behind_it() -> None:
    """(5) The output has begun with a book; what a line brings from before what is out is in there."""
    pair = Pair()
    pair.standby.connect("x")
    following(pair, b"t1", b"t4")
    pair.arbiter.followed_book("M/b", pair.standby.now)
    pair.take_over()
    brought(pair, b"t1", b"b2", b"bx", b"t4")
    assert pair.standby.output == []
    brought(pair, b"b5")
    assert pair.standby.output == [b"b5"]


def test_behind_nothing_but_a_book_comes_a_gap() -> None:
    """(4) Nothing proves what of it the book stands for."""
    pair = Pair()
    pair.standby.connect("x")
    pair.arbiter.followed_book("M/b", pair.standby.now)
    brought(pair, b"bx")
    pair.take_over()
    pair.standby.wait(3)
    assert [gap.reason for gap in pair.standby.gaps] == ["unproven"]
    assert pair.standby.output == [b"bx"]


def test_a_gap_whose_beginning_nobody_knows_does_not_begin_behind_its_end() -> None:
    """(4) Nothing but a book was published, nobody knows when: before now, and so before the line was connected."""
    pair = Pair()
    pair.standby.connect("x")
    connected_recv = pair.standby.wall
    pair.standby.wait(3)
    pair.arbiter.followed_book("M/b", pair.standby.now)
    pair.arbiter.go_on(pair.standby.wall)
    pair.take_over()
    [gap] = pair.standby.gaps
    assert gap.since == gap.until == connected_recv


def test_what_the_other_daemon_kept_is_not_known() -> None:
    """(5) It had deltas and no book yet: an early one of the same bytes as a later one is not that."""
    pair = Pair()
    pair.standby.connect("x", "y")
    following(pair, b"t1", b"t4", b"t7", b"t8")
    pair.standby.receive("x", b"t7")
    pair.standby.receive("x", b"t8")
    pair.tell()
    pair.arbiter.take_over(pair.standby.now, pair.standby.wall, ["M/b"])
    pair.standby.wait(0.1)
    pair.standby.receive("x", b"by", b"bx", b"t12")
    pair.standby.receive("y", b"t1", b"bx", b"t4", b"t7", b"t8", b"by", b"bx", b"t12")
    pair.standby.receive("x", b"b13", b"t14")
    pair.standby.receive("y", b"b13", b"t14", b"b15")
    assert pair.standby.output == [b"by", b"bx", b"t12", b"b13", b"t14", b"b15"]
    assert pair.standby.gaps == []


def test_what_two_lines_brought_before_their_proof_comes_once() -> None:
    """(3) Both keep it for the output to bring; released for the one, it is what the other has kept."""
    pair = Pair()
    following(pair, b"b1", b"t1")
    pair.standby.connect("x", "y")
    following(pair, b"-")
    for name in "xy":
        pair.standby.receive(name, b"t59", b"tx", b"tx", b"b82", b"b90")
    following(pair, b"b82", b"b90")
    pair.take_over()
    assert pair.standby.output == [b"t59", b"tx", b"tx"]
    pair.standby.receive("y", b"tx", b"b91")
    pair.standby.receive("x", b"tx", b"b91")
    assert pair.standby.output == [b"t59", b"tx", b"tx", b"tx", b"b91"]


def test_a_copy_that_one_line_alone_brought_before_its_proof_is_not_owed_by_the_other() -> None:
    """(3) The younger line has kept one of two copies; its next one is another event."""
    pair = Pair()
    following(pair, b"b1", b"t1")
    pair.standby.connect("x", "y")
    following(pair, b"-")
    pair.standby.receive("x", b"t58", b"tx", b"t59", b"tx", b"b82", b"b90")
    pair.standby.receive("y", b"t59", b"tx", b"b82", b"b90")
    following(pair, b"b82", b"b90")
    pair.take_over()
    pair.standby.receive("y", b"tx", b"b91")
    pair.standby.receive("x", b"tx", b"b91")
    assert pair.standby.output == [b"t58", b"tx", b"t59", b"tx", b"tx", b"b91"]


def test_a_place_guessed_beside_the_output_has_its_gap_at_the_takeover() -> None:
    """(3) The hold was too small for what the line brought of trades; while another publishes, no gap is written."""
    pair = Pair(bounds=Bounds(settled_events=4, hold_events=4))
    pair.standby.connect("x")
    following(pair, b"b1", b"t1")
    brought(pair, b"t34", b"b35", b"b36", b"t59", b"b44")
    following(pair, b"b35", b"b36", b"b44")
    pair.standby.wait(6)
    brought(pair, b"b45")
    pair.take_over()
    assert pair.standby.output == [b"t59", b"b45"]
    assert [gap.channel for gap in pair.standby.gaps] == ["M/t"]


def test_a_place_guessed_beside_the_output_that_it_has_shown_since_is_no_gap() -> None:
    """(3) The output has brought what the line waited for."""
    pair = Pair(bounds=Bounds(settled_events=4, hold_events=4))
    pair.standby.connect("x")
    following(pair, b"b1", b"t1")
    brought(pair, b"t34", b"b35", b"b36", b"t59", b"b44")
    following(pair, b"b35", b"b36", b"b44")
    pair.standby.wait(6)
    following(pair, b"t34", b"t59")
    brought(pair, b"b45")
    pair.take_over()
    assert pair.standby.output == [b"b45"]
    assert pair.standby.gaps == []


@pytest.mark.parametrize("seed", [446, 452, 1399, 100923, 102145])
def test_plays_that_were_wrong(seed: int) -> None:
    """(3) Contents from within a gap that came again behind it; the last two need a hold that is full, or given up."""
    assert ordered(seed).wrong == ""
