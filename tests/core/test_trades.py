"""Trades behind a gap: each row once, in order, marked; and no gap where the snapshot proves that there is none."""

import json
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core.messages import Gap, Output, Release
from feedhandler.core.trades import RECENT_EVENTS, Row, Trades

CHANNEL = "M/publicTrades"
GAP = Gap(CHANNEL, "outage", 1, 2)


class Numbers:
    """A desk whose messages are lists of numbers; a number is its row's identity and its time."""

    def rows(self, payload: bytes) -> Sequence[Row]:
        """Read a list; a text is not readable."""
        try:
            return [Row(number, b"%d" % number, number) for number in sorted(json.loads(payload))]
        except (ValueError, TypeError):
            return ()

    def backfill(self, raw: bytes) -> bytes:
        """Write a list of one."""
        return b"[%s]" % raw


def trades(*, hold_events: int = 100) -> Trades:
    """Return a channel without a gap."""
    return Trades(CHANNEL, Numbers(), hold_events=hold_events, hold_bytes=10_000)


def event(*numbers: int) -> Release:
    """Return a live event of these rows."""
    return Release(CHANNEL, json.dumps(numbers).encode(), "a", 7, "")


def shown(outputs: Sequence[Output]) -> list[str]:
    """Return the outputs as words: `gap`, `1 2` for an event, `+3` for a backfilled row."""
    words = []
    for output in outputs:
        if isinstance(output, Release):
            numbers = " ".join(map(str, json.loads(output.payload)))
            words.append(f"+{numbers}" if output.kind == "backfilled" else numbers)
        else:
            words.append("gap")
    return words


def test_a_snapshot_that_reaches_back_proves_that_there_is_no_gap() -> None:
    """(4) The rows between the last released one and the first held one are backfilled, oldest first (R8)."""
    channel = trades()
    assert shown(list(channel.take(event(1, 2)))) == ["1 2"]
    assert shown(list(channel.open_gap(GAP))) == []
    assert shown(list(channel.take(event(5)))) == []
    assert channel.repairing
    assert shown(channel.repair(b"[0, 1, 2, 3, 4, 5]", 9) or []) == ["+3", "+4", "5"]
    assert not channel.repairing


def test_a_snapshot_that_does_not_reach_back_leaves_the_gap() -> None:
    """(4) One gap record, then what the snapshot still holds, then live events (R9)."""
    channel = trades()
    channel.take(event(1))
    channel.open_gap(GAP)
    channel.take(event(9))
    assert shown(channel.repair(b"[5, 6, 9]", 9) or []) == ["gap", "+5", "+6", "9"]


def test_nothing_is_backfilled_where_nothing_was_released_before() -> None:
    """Rows from before the first event belong to the start, not to the gap."""
    channel = trades()
    channel.open_gap(GAP)
    assert shown(channel.repair(b"[1, 2]", 9) or []) == ["gap"]


def test_a_backfilled_row_that_comes_live_as_well_comes_once() -> None:
    """A snapshot may be newer than its place on the line: its rows are left out of the live events."""
    channel = trades()
    channel.take(event(1))
    channel.open_gap(GAP)
    assert shown(channel.repair(b"[1, 2, 3, 4]", 9) or []) == ["+2", "+3", "+4"]
    assert shown(list(channel.take(event(3)))) == []
    assert shown(list(channel.take(event(4, 5)))) == ["+5"]
    assert shown(list(channel.take(event(4)))) == ["4"]
    assert channel.suppressed == 2


def test_a_repair_ends_without_its_snapshot() -> None:
    """A time-out, a full hold and another gap each let the held events go on behind the gap record."""
    channel = trades(hold_events=2)
    channel.take(event(1))
    channel.open_gap(GAP)
    channel.take(event(5))
    assert shown(list(channel.give_up())) == ["gap", "5"]
    assert shown(list(channel.give_up())) == []
    channel.open_gap(GAP)
    assert shown([out for number in (6, 7, 8) for out in channel.take(event(number))]) == [
        "gap",
        "6",
        "7",
        "8",
    ]
    channel.open_gap(GAP)
    channel.take(event(9))
    assert shown(list(channel.open_gap(GAP))) == ["gap", "9"]
    assert channel.repairing


def test_what_cannot_be_read_repairs_nothing() -> None:
    """A broken snapshot, and one that nobody waits for, change nothing."""
    channel = trades()
    assert channel.repair(b"[1]", 9) is None
    channel.open_gap(GAP)
    assert channel.repair(b"broken", 9) is None
    assert channel.repairing
    assert "repairing" in repr(channel)


@given(
    st.integers(1, 30),
    st.integers(0, 30),
    st.integers(0, 10),
    st.integers(0, 10),
    st.integers(0, 80),
)
def test_each_trade_comes_once_and_in_order(
    before: int, lost: int, held: int, unread: int, reach: int
) -> None:
    """(4) Whatever an outage hides: once each, and a gap exactly where the snapshot does not reach back.

    A snapshot reaches at least over what is on its way on the line; that is a few rows of some hundreds.
    """
    channel = trades()
    released: list[Output] = []
    for number in range(before):
        released += channel.take(event(number))
    released += channel.open_gap(GAP)
    live = before + lost
    for number in range(live, live + held):
        released += channel.take(event(number))
    newest = live + held + unread
    snapshot = list(range(max(0, newest - unread - reach), newest))
    repaired = channel.repair(json.dumps(snapshot).encode(), 9)
    released += channel.give_up() if repaired is None else repaired
    for number in range(live + held, newest + 3):
        released += channel.take(event(number))
    words = shown(released)
    numbers = [int(word.strip("+")) for word in words if word != "gap"]
    proven = bool(snapshot) and snapshot[0] < before
    assert numbers == sorted(set(numbers))
    assert set(numbers) >= set(range(before)) | set(range(live, newest + 3))
    assert words.count("gap") == (not proven)
    if proven:
        assert numbers == list(range(newest + 3))
    assert RECENT_EVENTS > 100
