"""Trades behind a gap: each row once, in order, marked; and no gap where the snapshot proves that there is none."""

import json
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from feedhandler.config import Bounds, Recovery
from feedhandler.core.audit import Pulse
from feedhandler.core.messages import Gap, Output, Release
from feedhandler.core.notes import Note
from feedhandler.core.trades import ATTEMPTS, RECENT_EVENTS, WATCHED_EVENTS, Row, Rows, TradeKeeper

CHANNEL = "M/publicTrades"
GAP = Gap(CHANNEL, "outage", 1, 2)


class Numbers:
    """A desk whose messages are lists of numbers; a number is its row's identity and its time."""

    def rows(self, payload: bytes) -> Rows | None:
        """Read a list, oldest first; a text is not readable."""
        try:
            return Rows(
                [Row(number, b"%d" % number, number) for number in json.loads(payload)], newest_first=False
            )
        except (ValueError, TypeError):
            return None

    def backfill(self, raw: bytes) -> bytes:
        """Write a list of one."""
        return b"[%s]" % raw


class Channel:
    """A trade channel without a gap, as words: `gap`, `1 2` for an event, `+3` for a backfilled row, `4!` if late."""

    def __init__(self, *, hold_events: int = 100) -> None:
        self.now = 0.0
        self.notes: list[Note] = []
        self.pulse = Pulse()
        self.keeper = TradeKeeper(
            "M",
            CHANNEL,
            Numbers(),
            settings=Recovery(),
            bounds=Bounds(repair_events=hold_events),
            notify=self.notes.append,
            pulse=self.pulse,
        )

    def event(self, *numbers: int) -> list[str]:
        """Let a live event of these rows come, as recovery hands it on."""
        release = event(*numbers)
        if self.keeper.passing:
            self.keeper.follow(release)
            return shown([release])
        return shown(list(self.keeper.take(release, self.now)))

    def gap(self, since: int = 1, until: int = 2) -> list[str]:
        """Let a gap begin."""
        return shown(list(self.keeper.open_gap(Gap(CHANNEL, "outage", since, until), self.now)))

    def answer(self, *numbers: int, asked_at: float = 0.0) -> list[str]:
        """Let a snapshot of these rows come."""
        payload = json.dumps(numbers).encode()
        return shown(self.keeper.answer(payload, "b", asked_at, self.now, 9))

    def in_vain(self) -> list[str]:
        """Let no answer come."""
        return shown(self.keeper.in_vain("silence", self.now))


def event(*numbers: int) -> Release:
    """Return a live event of these rows."""
    return Release(CHANNEL, json.dumps(numbers).encode(), "a", 7, "")


def shown(outputs: Sequence[Output]) -> list[str]:
    """Return outputs as words."""
    words = []
    for output in outputs:
        if isinstance(output, Release):
            numbers = " ".join(map(str, json.loads(output.payload)))
            mark = {"backfilled": "+{}", "late": "{}!"}.get(output.kind, "{}")
            words.append(mark.format(numbers))
        else:
            words.append("gap")
    return words


def test_a_snapshot_with_rows_of_both_sides_proves_that_there_is_no_gap() -> None:
    """(4) The rows between the last released one and the first held one are backfilled, oldest first (R8)."""
    channel = Channel()
    assert channel.event(1, 2) == ["1 2"]
    assert channel.gap() == []
    assert channel.event(5) == []
    assert channel.keeper.syncing
    assert channel.answer(0, 1, 2, 3, 4, 5) == ["+3", "+4", "5"]
    assert not channel.keeper.syncing
    assert channel.keeper.in_vain("silence", 0.0) == []
    assert "live" in repr(channel.keeper)


def test_a_snapshot_that_does_not_reach_back_leaves_the_gap() -> None:
    """(4) One gap record, then what the snapshot still holds, then live events (R9)."""
    channel = Channel()
    channel.event(1)
    channel.gap()
    channel.event(9)
    assert channel.answer(5, 6, 9) == ["gap", "+5", "+6", "9"]


def test_a_snapshot_that_shows_nothing_from_behind_the_gap_proves_nothing() -> None:
    """R8: it may come from a source that lags; what it holds comes all the same."""
    channel = Channel()
    channel.event(1)
    channel.gap()
    assert channel.answer(1, 2) == ["gap", "+2"]


def test_a_snapshot_that_lags_is_asked_for_again() -> None:
    """(6) One that does not know what came before it was asked for is too old, up to the last attempt."""
    channel = Channel()
    channel.event(1)
    channel.gap()
    channel.event(5)
    assert channel.answer(1, 2, asked_at=1.0) == []
    assert channel.notes[-1].fields["reason"] == "too_old"
    assert not channel.keeper.wants(0.5)
    assert channel.keeper.wants(1.0)
    assert channel.answer(1, 2, asked_at=1.0) == []
    assert channel.answer(1, 2, asked_at=1.0) == ["gap", "+2", "5"]


def test_nothing_is_backfilled_that_is_older_than_the_stream() -> None:
    """The baseline tells what was there before the first event; without it, nothing does."""
    channel = Channel()
    assert channel.keeper.wants(0.0)
    assert channel.answer(1, 2) == []
    assert not channel.keeper.wants(9.0)
    channel.gap()
    assert channel.answer(1, 2, 3) == ["gap", "+3"]
    other = Channel()
    other.gap()
    assert other.answer(1, 2) == ["gap"]


def test_a_baseline_that_does_not_come_is_done_without() -> None:
    """It is asked for a few times only, and not once an event has come."""
    channel = Channel()
    for _ in range(ATTEMPTS):
        assert channel.keeper.wants(channel.now)
        channel.keeper.asked(channel.now)
        assert channel.in_vain() == []
        channel.now += 1
    assert not channel.keeper.wants(channel.now)
    other = Channel()
    other.event(1)
    assert not other.keeper.wants(0.0)


def test_a_backfilled_row_that_comes_live_as_well_comes_once() -> None:
    """A snapshot may be newer than its place on the line: its rows are left out of the live events."""
    channel = Channel()
    channel.event(1)
    channel.gap()
    assert channel.answer(1, 2, 3, 4) == ["gap", "+2", "+3", "+4"]
    assert channel.event(3) == []
    assert channel.event(4, 5) == ["+5"]
    assert channel.event(2) == []
    assert channel.event(4) == ["4"]


def test_what_a_short_snapshot_has_overtaken_is_late() -> None:
    """It held the newest rows only; what is older, and on its way still, belongs before them."""
    channel = Channel()
    channel.event(1)
    channel.gap()
    assert channel.answer(7, 8) == ["gap", "+7", "+8"]
    assert channel.event(5) == ["5!"]
    assert channel.event(7) == []
    assert channel.event(9) == ["9"]


def test_rows_that_do_not_come_live_are_looked_out_for_in_vain_and_bounded() -> None:
    """After so many events behind a repair nothing is looked up any more."""
    channel = Channel()
    channel.event(1)
    channel.gap()
    channel.answer(1, 2)
    for number in range(WATCHED_EVENTS):
        assert not channel.keeper.passing
        channel.event(10 + number)
    assert channel.keeper.passing


def test_a_second_gap_is_part_of_the_repair() -> None:
    """Both are filled from one snapshot; with nothing held between them they are one."""
    channel = Channel()
    channel.event(1)
    channel.gap()
    channel.event(3)
    channel.gap()
    channel.event(6)
    assert channel.answer(1, 2, 3, 4, 5, 6) == ["+2", "3", "+4", "+5", "6"]
    channel.gap(10, 20)
    channel.gap(30, 40)
    channel.event(9)
    released = channel.keeper.answer(b"[8, 9]", "b", 0.0, 0.0, 9)
    assert released[0] == Gap(CHANNEL, "outage", 10, 40)
    assert shown(released) == ["gap", "+8", "9"]
    channel.gap()
    channel.event(11)
    channel.gap()
    channel.event(15)
    assert channel.answer(14, 15) == ["gap", "11", "gap", "+14", "15"]


def test_a_repair_ends_without_its_snapshot() -> None:
    """Attempts in vain, and a full hold, let the held events go on behind the gap record."""
    channel = Channel(hold_events=2)
    channel.event(1)
    channel.gap()
    channel.event(5)
    assert [channel.in_vain() for _ in range(ATTEMPTS)] == [[]] * (ATTEMPTS - 1) + [["gap", "5"]]
    channel.gap()
    assert [channel.event(number) for number in (6, 7, 8)] == [[], ["gap", "6", "7"], ["8"]]
    assert channel.notes[-1].name == "repair_overflowed"
    assert "live" in repr(channel.keeper)


def test_what_cannot_be_read_repairs_nothing() -> None:
    """A broken snapshot is as good as none, and one that nobody waits for changes nothing."""
    channel = Channel()
    channel.event(1)
    assert channel.answer(1, 2) == []
    channel.gap()
    assert channel.keeper.answer(b"broken", "b", 0.0, 0.0, 9) == []
    assert channel.notes[-1].fields["reason"] == "unreadable"
    assert channel.keeper.tick(0.0, 9) == []
    channel.keeper.audit_soon(0.0)
    assert not channel.keeper.auditing
    assert "repairing" in repr(channel.keeper)


@given(
    st.integers(1, 30),
    st.integers(0, 30),
    st.integers(0, 10),
    st.integers(0, 10),
    st.integers(0, 80),
)
def test_each_trade_comes_once(before: int, lost: int, held: int, unread: int, reach: int) -> None:
    """(4) Whatever an outage hides, and however far back the snapshot reaches: once each, and marked where it must be.

    There is no gap record exactly where the snapshot has rows of both sides. What comes out of order is late, and only
    behind a snapshot that is shorter than what is on its way on the line.
    """
    channel = Channel()
    words: list[str] = []
    for number in range(before):
        words += channel.event(number)
    channel.gap()
    live = before + lost
    for number in range(live, live + held):
        words += channel.event(number)
    newest = live + held + unread
    snapshot = range(max(0, newest - reach), newest)
    words += channel.answer(*snapshot)
    for number in range(live + held, newest + 3):
        words += channel.event(number)
    numbers = [int(word.strip("+!")) for word in words if word != "gap"]
    in_order = [int(word.strip("+")) for word in words if word != "gap" and not word.endswith("!")]
    both = bool(snapshot) and snapshot[0] < before and held > 0
    assert len(numbers) == len(set(numbers))
    assert in_order == sorted(in_order)
    assert set(numbers) >= set(range(before)) | set(range(live, newest + 3)) | set(snapshot)
    assert words.count("gap") == (not both)
    assert not [word for word in words if word.endswith("!")] or reach < unread
    assert RECENT_EVENTS > 100
