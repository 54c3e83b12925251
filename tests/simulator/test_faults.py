"""How the random faults find out what a client has read."""

from typing import Any

import pytest
import trio

from feedhandler.simulator.faults import Trial


class Line:
    """A connection whose pongs come when the test says so."""

    def __init__(self) -> None:
        self.is_open = True
        self.answered = trio.Event()

    def probe(self) -> trio.Event:
        """Send nothing."""
        return self.answered


@pytest.fixture
def lines() -> list[Any]:
    """Give three connections of a market."""
    return [Line(), Line(), Line()]


def test_a_trial_is_passed_when_all_that_are_there_have_answered(lines: list[Any]) -> None:
    """The line itself must, one of the others must, and who has gone need not."""
    one, two, three = lines
    trial = Trial(one, [two, three])
    for line in (one, two):
        assert not trial.is_passed()
        line.answered.set()
    assert not trial.is_passed()
    three.is_open = False
    assert trial.is_passed()
    assert not trial.is_void()


def test_a_trial_without_its_witnesses_is_void(lines: list[Any]) -> None:
    """Where all others have gone without an answer nothing can be shown any more."""
    one, *others = lines
    trial = Trial(one, others)
    one.answered.set()
    assert not trial.is_void()
    for other in others:
        other.is_open = False
    assert trial.is_void()
    assert not trial.is_passed()
