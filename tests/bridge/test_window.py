"""The newest events of a channel: how far back in time they reach."""

from feedhandler.bridge.entries import LATE, ORDINARY, SNAPSHOT, Stored
from feedhandler.bridge.window import MILESTONE_EVENTS, WINDOW_EVENTS, Window


def stored(number: int, kind: str = ORDINARY, newest_ms: int | None = None) -> Stored:
    """Make a record of the stream."""
    data = b"%d" % number
    return Stored(number, "M/publicTrades", kind, f"k{number}", 1, number, 0, "", data, 0, newest_ms)


def test_the_oldest_that_is_kept_whole_goes_with_the_window() -> None:
    """It is never older than the window, nor much newer than its beginning; few are kept."""
    window = Window()
    for number in range(WINDOW_EVENTS + 3 * MILESTONE_EVENTS + 2):
        window.add(stored(number))
        first = max(0, number + 1 - WINDOW_EVENTS)
        oldest = window.oldest
        assert isinstance(oldest, bytes)
        assert first <= int(oldest) < first + MILESTONE_EVENTS
    assert len(window._milestones) <= WINDOW_EVENTS // MILESTONE_EVENTS + 1
    assert "k0" not in window
    assert f"k{number}" in window


def test_what_is_no_ordinary_event_tells_the_time_if_it_says_it() -> None:
    """A late event has a time of its own, which is not the newest; so it counts only with what its record says."""
    window = Window()
    window.add(stored(1, LATE))
    assert window.oldest is None
    window.mark(stored(2, SNAPSHOT, 70))
    window.add(stored(3))
    assert window.oldest == 70
