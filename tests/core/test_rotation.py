"""When lines are replaced although nothing is wrong with them."""

from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core.rotation import LONGEST_SHARE, ROUND_ROOM, due_s, span_s
from tests.support.scripts import steady

LIFE_S, LEAST_S = 1800.0, 360.0
seconds = st.floats(0.0, 10_000.0)


@steady
@given(round_s=seconds, life_s=st.floats(1.0, 86_400.0), share=st.floats(0.01, 0.5))
def test_the_span_is_as_long_as_a_round_needs(round_s: float, life_s: float, share: float) -> None:
    """At least the least, at most a part of the life, and between these a round and a fourth behind the rest."""
    least_s = share * life_s
    span = span_s(life_s, least_s, round_s)
    assert least_s <= span <= LONGEST_SHARE * life_s
    if span < LONGEST_SHARE * life_s:
        lots_s = due_s(0.0, life_s, span, least_s, 1.0) - due_s(0.0, life_s, span, least_s, 0.0)
        assert lots_s >= ROUND_ROOM * round_s - 1e-6 * life_s


@steady
@given(born_s=st.floats(0.0, LIFE_S), round_s=seconds, lot=st.floats(0.0, 1.0))
def test_a_connection_is_due_within_the_span(born_s: float, round_s: float, lot: float) -> None:
    """Never before it was made, and with time left before its end."""
    span = span_s(LIFE_S, LEAST_S, round_s)
    due = due_s(born_s, LIFE_S, span, LEAST_S, lot)
    assert max(born_s, LIFE_S - span) <= due <= LIFE_S
    assert LIFE_S - due >= min(LIFE_S - born_s, LEAST_S) / 2 - 1e-6
