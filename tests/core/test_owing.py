"""What a line owes, against a plain list of everything that it has not delivered yet."""

from hypothesis import given
from hypothesis import strategies as st

from feedhandler.config import Bounds
from feedhandler.core.owing import Owing
from feedhandler.core.window import Window

words = st.lists(st.sampled_from([b"bx", b"by", b"tx", b"ty"]), max_size=30)


def window_of(payloads: list[bytes]) -> Window:
    """Return a window that holds these words."""
    window = Window(Bounds())
    for payload in payloads:
        window.append(payload, payload[:1].decode(), "a", 0.0)
    return window


@given(words, words, st.booleans())
def test_a_message_is_a_duplicate_exactly_when_a_copy_is_owed(
    released: list[bytes], brought: list[bytes], chunks: bool
) -> None:
    """Rule R3: counted by occurrence; the first copy in its channel's order goes, what stands before it is passed."""
    owing, owed = Owing(window_of(released), 0), list(enumerate(released))
    index = 0
    while index < len(brought):
        run = owing.deliver_run(brought, index) if chunks else 0
        for payload in brought[index : index + max(1, run)]:
            copies = [one for one in owed if one[1] == payload]
            if not run:
                assert (owing.deliver(payload, 0.0) is not None) == bool(copies)
            if copies:
                owed = [
                    one for one in owed if one != copies[0] and (one > copies[0] or one[1][:1] != payload[:1])
                ]
        index += max(1, run)
        assert owing.count == len(owed)
        assert owing.first() == (owed[0][0] if owed else None)
        assert all(owing.owes(place) for place, _ in owed)


def test_what_is_passed_comes_back_only_by_its_identity() -> None:
    """Rule R3: of what has been passed, the caller says which may be taken."""
    owing = Owing(window_of([b"b1", b"b2"]), 0)
    assert owing.deliver(b"b2", 1.0) == 1
    assert list(owing.passed) == [0]
    assert owing.deliver(b"b1", 1.0) is None
    assert owing.take_passed(b"b3") is None
    assert owing.take_passed(b"b1") == 0
    assert not owing.passed


def test_missed_needs_count_and_time() -> None:
    """Rule R3: a bound in events and one in seconds, both over."""
    owing = Owing(window_of([b"b1", b"b2", b"b3"]), 0)
    owing.deliver(b"b2", 1.0)
    assert owing.missed(9.0, events=4, seconds=1) == []
    assert owing.missed(1.5, events=3, seconds=1) == []
    assert owing.missed(2.0, events=3, seconds=1) == [0]
    assert not owing.passed


def test_a_fence_ends_what_may_be_compared() -> None:
    """Rule R8: equal bytes behind a gap are not taken for what is owed before it."""
    owing = Owing(window_of([b"bx", b"by", b"bx"]), 1, fence=2)
    assert owing.deliver(b"bx", 0.0) is None
    assert owing.deliver_run([b"by", b"bx"], 0) == 1
    assert owing.deliver_run([b"bx"], 0) == 0


def test_its_repr_tells_where_a_line_stands() -> None:
    """The test instrument of those who debug a merge."""
    owing = Owing(window_of([b"b1", b"t2", b"b3"]), 0)
    owing.deliver(b"b3", 0.0)
    assert repr(owing) == "<Owing from 3, open [1], passed [0]>"
