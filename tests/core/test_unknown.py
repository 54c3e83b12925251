"""Unknown messages: published as often as any one line brings them, within a bound."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core.unknown import Unknowns


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([b"x", b"y"]))))
def test_copies_count_per_line(arrivals: list[tuple[str, bytes]]) -> None:
    """Requirement 13: what comes out is, for each content, the most that one line brought."""
    unknowns = Unknowns(most=10)
    released = Counter(payload for line, payload in arrivals if unknowns.admit(line, payload))
    brought = Counter(arrivals)
    assert released == Counter(
        {payload: max(brought[line, payload] for line in "abc") for payload in {p for _, p in arrivals}}
    )


def test_a_new_connection_is_counted_anew() -> None:
    """A line that has reconnected brings the next copies, not the first ones again."""
    unknowns = Unknowns(most=10)
    assert unknowns.admit("a", b"x")
    unknowns.forget("a")
    assert not unknowns.admit("a", b"x")
    assert unknowns.admit("a", b"x")


def test_the_longest_unseen_are_forgotten_first() -> None:
    """The bound: what was forgotten counts as new, for all lines alike."""
    unknowns = Unknowns(most=2)
    for payload in (b"x", b"y", b"z"):
        assert unknowns.admit("a", payload)
    assert not unknowns.admit("b", b"z")
    assert unknowns.admit("b", b"x")
