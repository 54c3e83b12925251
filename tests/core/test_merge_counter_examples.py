"""Counter-examples to the merge: what random plays (`tests.soak.fuzz_merge`) found lost, doubled, or marked wrongly."""

import pytest

from feedhandler.config import Bounds
from tests.support.lines import World
from tests.support.transcripts import check_transcript

TIGHT = Bounds(hold_events=4)
SHORT = Bounds(window_events=16, settled_events=4)


def later(*, first: int = 30, count: int = 17) -> str:
    """Return so many events of one channel: more than a short window holds."""
    return " ".join(f"b{number}" for number in range(first, first + count))


def test_a_full_hold_is_proof_before_anything_of_it_goes() -> None:
    """R5: one read fills the hold; that it shares events tells more than its newest ones alone would."""
    check_transcript(
        World(2, bounds=TIGHT),
        """
        >> connect a b
        >> a: b1 t2 b4 b5 t6   # has dropped t3
        << b1 t2 b4 b5 t6
        >> b: b1 t2 t3 b4 b5 t6
        << t3!late
        """,
    )


def test_a_full_hold_is_proof_for_a_line_that_has_come_to_a_gap_in_the_same_read() -> None:
    """R5: likewise where the line had its place until that read."""
    check_transcript(
        World(2, bounds=TIGHT),
        """
        >> connect a b
        >> a: b1 b2 b3 b4
        << b1 b2 b3 b4
        >> b: b1
        >> wait 2
        == b suspect
        >> kill a
        >> connect a
        >> a: b6 b8 t9 t10     # has dropped b7
        >> wait 6
        << gap:unproven b6 b8 t9 t10
        >> b: b2 b3 b4 b6 b7 b8 t9 t10
        << b7!late
        """,
    )


@pytest.mark.parametrize("held", ["t3 b4 b6 b8 t9", "t3 b4 t7 b8 t9"])
def test_a_channel_of_which_a_full_hold_has_lost_events_gets_a_gap(held: str) -> None:
    """R8: a is the first to interleave channels differently, and dies; what b held of t would have shown a hole."""
    world = check_transcript(World(2, bounds=TIGHT), ">> connect a\n>> a: t1\n<< t1\n>> connect b")
    world.receive("b", *[word.encode() for word in held.split()])
    assert "hold_overflowed" in world.notes
    world.receive("a", b"b4", b"b6", b"b8")
    world.kill("a")
    assert [(gap.channel, gap.reason) for gap in world.gaps] == [("M/t", "unproven")]
    assert world.output[-1] == b"t9"


def test_what_an_anchor_holds_from_before_the_gap_comes_late_where_nobody_has_brought_it() -> None:
    """R5: b2 belongs before b3, so the gap behind b3 says nothing of it; its identity tells that it is new."""
    check_transcript(
        World(2),
        """
        >> connect a
        >> a: b1
        << b1
        >> connect b
        >> b: b2
        >> a: b3             # has dropped b2
        << b3
        >> kill a
        >> b: b4
        << b2!late gap:unproven b4
        """,
    )


def test_what_a_line_has_yet_to_bring_from_before_a_gap_is_no_news_though_none_has_interleaved_before() -> (
    None
):
    """R3: c is the first to interleave channels differently, and comes to the gap in b before it brings t2."""
    world = check_transcript(
        World(3),
        """
        >> connect a c
        >> a: b1 t2
        << b1 t2
        >> c: b1
        >> kill a
        >> connect a
        """,
    )
    world.receive("a", b"b4")
    world.wait(12)
    world.receive("c", b"b3", b"t2", b"b4")
    world.receive("a", b"b5", b"t6")
    world.receive("c", b"b5", b"t6")
    world.wait(12)
    assert world.output.count(b"t2") == 1
    assert world.output.count(b"b3") == 1


def test_a_line_that_comes_to_a_gap_may_bring_what_was_out_where_it_had_no_place() -> None:
    """R3: c has its place in b only; what it brings of t may have been released before it joined."""
    world = check_transcript(
        World(3),
        """
        >> connect a c
        >> a: t2 b1 b3 b4 b5
        << t2 b1 b3 b4 b5
        >> c: b1
        >> wait 2
        == c suspect
        >> kill a
        >> connect a
        >> a: b9
        >> wait 6
        << gap:unproven b9
        >> c: b3 b4 b5 b6      # b6 is from the gap
        """,
    )
    world.receive("c", b"t2", b"t7", b"b9", b"b10")
    world.receive("a", b"b10", b"t11")
    world.receive("c", b"t11")
    world.wait(12)
    assert world.output.count(b"t2") == 1
    assert sorted(world.output) == sorted(set(world.output))


def test_what_is_older_than_the_window_is_not_released_where_a_place_was_guessed() -> None:
    """R9: d may bring what was released and is gone from the window; that is left to a gap, and not doubled."""
    world = World(2, bounds=SHORT)
    world.connect("a", "b")
    world.emit(b"b26", lost_on="a")
    world.emit(b"b34", b"t36", b"b42", *[b"t%d" % number for number in range(43, 57)])
    world.receive("b", b"b26", b"t36")
    world.deliver("a")
    world.wait(6)
    world.receive("b", b"b34", b"b42")
    world.receive("b", b"b60")
    assert world.output.count(b"b34") == 1
    assert world.late in ([b"b26"], [])
    assert b"b26" in world.output or world.gaps


def test_what_is_older_than_all_of_its_channel_in_the_window_was_released_before_it() -> None:
    """R5: b has dropped t2; that t2 is in the window says nothing of t1, which is older and gone from there."""
    world = World(2, bounds=SHORT)
    world.connect("a", "b")
    world.receive("a", b"t1", b"t2", b"b3", b"t4", *[b"b%d" % number for number in range(5, 18)])
    world.wait(0.1)
    assert world.arbiter.window.payloads[0] == b"t2"
    world.receive("b", b"t1", b"b3", b"t4", b"b5")
    assert world.output.count(b"t1") == 1


def test_what_a_line_brought_after_the_window_had_passed_it_is_no_news_when_it_dies() -> None:
    """R5: b lags behind the window; the little that it has read when it dies was released long ago."""
    world = World(2, bounds=SHORT)
    world.connect("a", "b")
    world.receive("a", b"b1", *later().encode().split())
    world.wait(0.1)
    world.receive("b", b"b1")
    world.kill("b")
    world.receive("a", *later(first=50).encode().split())
    world.wait(12)
    assert world.output.count(b"b1") == 1


@pytest.mark.parametrize("aside", [b"", b"t36"])
def test_what_nobody_has_brought_before_the_window_dropped_its_place_is_new(aside: bytes) -> None:
    """R5: what a dead line held was compared with all of it; be it that it has its place in another channel."""
    world = World(2, bounds=SHORT)
    world.connect("a", "b")
    world.receive("a", b"b18", b"t19")
    world.receive("b", b"b26", *filter(None, [aside]))
    world.receive("a", b"t36", b"t37")
    world.kill("b")
    world.receive("a", *later().encode().split())
    world.wait(12)
    assert world.late == [b"b26"]
    assert not world.gaps
    assert world.output.count(b"t36") == 1


def test_what_stands_before_a_shared_event_without_identity_has_its_place_there() -> None:
    """R4: b42 is gone from the window, and by tells where b stands in that channel; it is not taken for new."""
    world = World(2, bounds=SHORT)
    world.connect("a", "b")
    world.receive("a", b"b42", b"by", b"t58", b"bx", b"bx", *[b"t%d" % number for number in range(60, 72)])
    world.wait(0.1)
    assert world.arbiter.window.payloads[0] == b"by"
    world.receive("b", b"b42", b"by", b"t58", b"bx", b"bx")
    assert world.output.count(b"b42") == 1


def test_where_nothing_behind_the_last_gap_carries_a_time_none_proves_that_a_line_is_past_it() -> None:
    """R9: b50 is newer than all that tells a time, and was before by; so time has to do, and it is noted."""
    world = check_transcript(
        World(3),
        """
        >> connect a b
        >> a: bx
        << bx
        >> kill a
        >> connect c
        >> wait 2
        << gap:unproven
        >> c: by
        << by
        >> kill c
        >> b: bx b50 by
        <<
        >> wait 2
        << gap:unproven by
        """,
    )
    assert world.blind


def test_what_a_line_brings_from_beyond_two_gaps_may_be_out_between_them() -> None:
    """R9: t42 is new, yet it may be from before tx; so that tx may be the one that is out is left to a gap."""
    check_transcript(
        World(2),
        """
        >> connect b
        >> connect a
        >> b: t18
        << t18
        >> kill b
        >> connect b
        >> b: tx
        >> wait 2
        << gap:unproven tx
        >> kill b
        >> connect b
        >> b: t60
        >> wait 2
        << gap:unproven t60
        >> a: t42 tx t60 t61
        <<
        >> b: t61
        << t61 t42!late gap:M/t:unproven
        """,
    )


def test_rows_that_lines_cut_into_different_messages_are_different_events() -> None:
    """R1, R6: b23 of a is b2 and b3 of b; equality is of messages, so all come out, marked, and the lines disagree."""
    world = check_transcript(
        World(2),
        """
        >> connect a b
        >> a: b1 b23 b40
        << b1 b23 b40
        >> b: b1 b2 b3 b40
        << b2!late b3!late
        """,
    )
    for number in range(50, 120):
        world.receive("a", b"b%d" % number)
        world.receive("b", b"b%d" % number)
    world.wait(3)
    assert world.notes.count("event_missed") == 3
    assert "line_diverged" in world.notes


@pytest.mark.parametrize("bounds", [TIGHT, SHORT], ids=["hold", "window"])
def test_what_is_lost_beyond_a_bound_and_dropped_by_the_others_is_lost(bounds: Bounds) -> None:
    """The residue: a has dropped t2, and b keeps it no longer, or comes with it when the window has left its place."""
    world = World(2, bounds=bounds)
    world.connect("a", "b")
    behind = [b"t4", *(b"b%d" % number for number in range(5, 25))]
    if bounds is TIGHT:
        world.receive("b", b"t1", b"t2", *behind)
        assert "hold_overflowed" in world.notes
    world.receive("a", b"t1", *behind, b"t30")
    world.wait(0.1)
    if bounds is SHORT:
        world.receive("b", b"t1", b"t2", *behind)
        assert world.arbiter.window.base > 0
    world.receive("b", b"t30", b"b31")
    world.receive("a", b"b31")
    assert world.output == [b"t1", *behind, b"t30", b"b31"]
    assert not world.gaps


def test_an_event_older_than_one_that_was_displaced_is_late() -> None:
    """R3.3: b9 belongs before t1, which is out, and is ordinary; c brings what is older than that."""
    check_transcript(
        World(3),
        """
        >> connect a b c
        >> a: t1
        << t1
        >> b: b9 t1
        >> kill b
        >> kill a
        << b9
        >> c: t1 b8 b9 b10
        << b8!late b10
        """,
    )


def test_what_a_joining_line_shares_is_not_judged_again() -> None:
    """Its hold has an event of an unproven channel, and then one that came late: that one is known already."""
    world = World(3)
    world.connect("a", "c")
    for number in (1, 2):
        world.emit(b"b%d" % number, b"t%d" % number)
        world.deliver_all()
    world.connect("b")
    world.emit(b"t4", lost_on="ac")
    world.emit(b"t9", lost_on="a")
    world.emit(b"b5", b"tx", b"b6")
    world.deliver("a")
    world.deliver("c")
    world.deliver("b", 3)
    world.kill("a")
    world.kill("c")
    world.wait(6)
    assert world.output.count(b"t9") == 1
    assert world.output.count(b"t4") == 1


def test_a_joining_line_owes_a_late_event_before_its_place() -> None:
    """R4: c has dropped b2, which b brings late; a has another order, joins behind it, and brings it as well."""
    check_transcript(
        World(3),
        """
        >> connect c a b
        >> b: b1 b2 b3 t1 t2
        >> c: b1 b3
        << b1 b3 b2!late
        >> c: b4 t1 t2
        << b4 t1 t2
        >> a: t1 t2 b1 t3
        << t3
        >> a: b2 b3 b4 b5
        << b5
        """,
    )


def test_a_line_that_has_brought_what_was_before_owes_a_late_event() -> None:
    """R3: b has joined with b2, and is behind when c brings b3 late, which a has dropped: b brings it as well."""
    check_transcript(
        World(3, bounds=Bounds(passed_events=4, passed_s=0.5)),
        """
        >> connect a b c
        >> a: b1 b2 b4 t5 t6 t7 t8
        << b1 b2 b4 t5 t6 t7 t8
        >> b: b2
        >> c: b1 b2 b3 b4 t5
        << b3!late
        >> a: b9 b10 b11 b12
        << b9 b10 b11 b12
        >> wait 1
        >> b: b3 b4 t5 t6 t7 t8 b9
        """,
    )
