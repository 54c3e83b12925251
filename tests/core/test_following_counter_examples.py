"""Counter-examples that the fuzzer of takeovers (`tests.soak.fuzz_takeover`) has found, in its smallest form each."""

from feedhandler.core.following import Following
from tests.core.test_following import Pair, begun


def following(pair: Pair, *words: bytes) -> None:
    """Let the output bring ordinary events one by one; a dash stands for a gap."""
    arbiter: Following = pair.arbiter
    for word in words:
        if word == b"-":
            arbiter.followed_gap(pair.standby.now)
        else:
            arbiter.followed([f"M/{word[:1].decode()}"], [word], pair.standby.now, pair.standby.wall)


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
