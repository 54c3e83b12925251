"""The health of a line: its table and its patience."""

import pytest

from feedhandler.config import Health
from feedhandler.core.health import LAG_SAMPLES, STATES, LineHealth


def test_every_state_can_be_reached_and_left() -> None:
    """The table leads through all states and back."""
    health = LineHealth(Health(), 0.0)
    seen = [health.state]
    for second, event in enumerate(
        ("connecting", "connected", "joined", "kept_up", "stalled", "quarantined", "connecting", "lost")
    ):
        assert health.on(event, float(second))
        assert health.since == second
        seen.append(health.state)
    assert set(seen) == set(STATES)


@pytest.mark.parametrize("event", ["kept_up", "joined", "stalled", "lost", "nonsense"])
def test_what_the_table_does_not_name_changes_nothing(event: str) -> None:
    """An event that makes no sense in a state is passed over."""
    health = LineHealth(Health(), 0.0)
    assert not health.on(event, 5.0)
    assert (health.state, health.since, health.up) == ("backoff", 0.0, False)


def test_the_usual_lag_is_the_99th_percentile_of_the_newest() -> None:
    """One outlier in a hundred does not stretch the patience; old lags are forgotten."""
    health = LineHealth(Health(stall_min_s=1, stall_lag_factor=3), 0.0)
    assert health.patience() == 1
    for lag in [9.0, *[0.5] * 99]:
        health.lagged(lag)
    assert health.usual_lag() == 0.5
    assert health.patience() == 1.5
    for _ in range(LAG_SAMPLES):
        health.lagged(2.0)
    assert health.usual_lag() == 2.0


def test_lags_are_counted_for_good() -> None:
    """What is forgotten for the patience stays in the histogram; percentiles are of the newest."""
    health = LineHealth(Health(), 0.0)
    assert health.percentiles(50, 99) == [0.0, 0.0]
    for number in range(2 * LAG_SAMPLES):
        health.lagged(float(number))
    assert health.lags.count == 2 * LAG_SAMPLES
    assert health.percentiles(50, 100) == [1.5 * LAG_SAMPLES - 1, 2 * LAG_SAMPLES - 1.0]
