"""Waits after failures."""

from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core.backoff import RETRY_AFTER_MAX_S, Backoff

lots = st.floats(0, 1, exclude_max=True)


def test_the_ceiling_doubles_up_to_its_cap() -> None:
    """With the worst lot the waits are min, 2 min, 4 min … and then the cap for ever."""
    backoff = Backoff(1.0, 10.0)
    assert [backoff.failed(1.0) for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_good_data_starts_over() -> None:
    """After a reset the first wait is the shortest again, and only then."""
    backoff = Backoff(1.0, 10.0)
    backoff.failed(1.0)
    backoff.failed(1.0)
    backoff.reset()
    assert backoff.failed(1.0) == 1.0


@given(st.lists(lots, max_size=200))
def test_waits_are_full_jitter(draws: list[float]) -> None:
    """A wait is its lot's share of the ceiling, never above the cap, however many failures there were."""
    backoff = Backoff(0.5, 30.0)
    for lot in draws:
        ceiling_s = backoff.ceiling_s
        assert backoff.failed(lot) == lot * ceiling_s
        assert ceiling_s <= 30.0


@given(lots, st.floats(0, RETRY_AFTER_MAX_S))
def test_retry_after_is_obeyed(lot: float, retry_after_s: float) -> None:
    """Nobody comes back before the time that the exchange named, nor all at that very time."""
    wait_s = Backoff(1.0, 30.0).failed(lot, retry_after_s)
    assert retry_after_s <= wait_s <= retry_after_s + 1.0


def test_an_absurd_retry_after_is_capped() -> None:
    """A Retry-After of years does not mean to give up, and a negative one means none."""
    assert Backoff(1.0, 30.0).failed(0.0, 1e12) == RETRY_AFTER_MAX_S
    assert Backoff(1.0, 30.0).failed(0.5, -5.0) == 0.5


def test_a_cap_below_the_first_wait_wins() -> None:
    """The cap holds for the first wait as well."""
    assert Backoff(5.0, 2.0).failed(1.0) == 2.0
