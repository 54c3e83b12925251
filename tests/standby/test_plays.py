"""Takeovers through all that they go through: whatever happens, a consumer that comes back has each event once.

What is played is in `tests.support.pairs`; `tests.soak.fuzz_pair` plays many thousand of the same.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedhandler.config import Bounds
from tests.soak.fuzz_pair import KINDS, ROOMS, WORDS, judge
from tests.soak.fuzz_takeover import Play, Step
from tests.support.scripts import steady

TAKEOVERS = 20
"""All examples of a kind together have at least so many."""


def steps(kind: str) -> st.SearchStrategy[list[Step]]:
    """Return what may happen in plays of a kind."""
    interleaved = kind != "ordered"
    one = st.builds(
        Step,
        st.sampled_from(KINDS),
        st.integers(0, 7),
        st.integers(0, 7),
        st.booleans(),
        st.lists(st.sampled_from(WORDS[kind]), min_size=1, max_size=4).map(tuple),
        st.tuples(*[st.integers(0, 3)] * 4) if interleaved else st.just(()),
        st.sampled_from([-1, -1, -1, 0, 1, 2, 3]) if kind == "dropping" else st.just(-1),
    )
    return st.lists(one, min_size=10, max_size=60)


@pytest.mark.parametrize("kind", WORDS)
def test_any_play_is_exact_or_marked(kind: str) -> None:
    """(3) Each trade once and in order, the book the true one at every seq; what is not so is marked."""
    takeovers = 0

    @settings(steady, max_examples=60)
    @given(steps(kind), st.sampled_from([8, 400]), st.sampled_from([4, 16]), st.sampled_from(ROOMS))
    def play(happens: list[Step], hold_events: int, settled_events: int, sizes: tuple[int, int]) -> None:
        nonlocal takeovers
        bounds = Bounds(hold_events=hold_events, settled_events=settled_events, window_events=16)
        outcome = judge(kind, 0, Play(bounds, sizes[0], happens, sizes[1]))
        takeovers += outcome.takeovers
        assert outcome.wrong == ""

    play()
    assert takeovers >= TAKEOVERS


@pytest.mark.parametrize(
    ("kind", "seed"),
    [
        ("ordered", 180),
        ("ordered", 194),
        ("ordered", 292),
        ("ordered", 585),
        ("mixed", 1587),
        ("mixed", 1603),
    ],
)
def test_plays_that_were_wrong(kind: str, seed: int) -> None:
    """(4, 5) Books that stand for deltas, repairs under way, channels of books alone, at the moment of a takeover."""
    assert judge(kind, seed).wrong == ""
