"""A book that follows its channel: lazily, through snapshots, late deltas, bounds and damage."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core import book_track as module
from feedhandler.core.book import Book
from feedhandler.core.book_track import BookTrack, each_by_itself
from feedhandler.core.levels import Broken, Level, Levels, keyed
from feedhandler.core.notes import Note, note

CHANNEL = "BTC-USD/publicOrderBook"

Rows = list[tuple[str, str, str]]


def delta(*rows: tuple[str, str, str]) -> bytes:
    """Encode a delta for `read`."""
    return msgspec.json.encode(rows)


def read(payload: bytes) -> Levels | Broken:
    """Read what `delta` encodes."""
    try:
        return keyed([Level(*row) for row in msgspec.json.decode(payload, type=Rows)])  # type: ignore[arg-type]
    except msgspec.DecodeError:
        return Broken("json")


def levels_of(*rows: tuple[str, str, str]) -> Levels:
    """Key levels that are known to be good."""
    levels = read(delta(*rows))
    assert isinstance(levels, dict)
    return levels


def bid(price: int, quantity: int) -> tuple[str, str, str]:
    """Make a bid's row."""
    return "buy", str(price), str(quantity)


class Tracked:
    """A track with the notes that it made and the deltas that it read, by themselves or as runs."""

    def __init__(self, *, runs: bool) -> None:
        self.notes: list[Note] = []
        self.reads = 0
        read_run = self._read_run if runs else each_by_itself
        self.track = BookTrack(CHANNEL, self._read, self.notes.append, read_run)

    def _read(self, payload: bytes) -> Levels | Broken:
        self.reads += 1
        return read(payload)

    def _read_run(self, payloads: Sequence[bytes]) -> Levels | None:
        merged: Levels = {}
        for levels in map(read, payloads):
            if isinstance(levels, Broken):
                return None
            merged.update(levels)
        self.reads += len(payloads)
        return merged

    def shown(self) -> list[tuple[str, str]] | None:
        """Return the book's levels as prices and quantities."""
        book = self.track.book()
        return None if book is None else [(level.price, level.quantity) for level in book.levels()]


@pytest.fixture(params=[False, True], ids=["each", "runs"])
def tracked(request: pytest.FixtureRequest) -> Tracked:
    """Return a track with nothing in it."""
    return Tracked(runs=request.param)


def test_appending_decodes_nothing_until_something_needs_the_book(tracked: Tracked) -> None:
    """Deltas wait; asking for the book applies them all."""
    tracked.track.reset(levels_of(bid(1, 1)), 9)
    tracked.track.append(10, delta(bid(2, 5)))
    tracked.track.append(12, delta(bid(1, 0)))
    assert (tracked.reads, tracked.track.waiting) == (0, 2)
    assert tracked.shown() == [("2", "5")]
    assert (tracked.reads, tracked.track.waiting) == (2, 0)


def test_idle_time_is_used_in_slices(tracked: Tracked) -> None:
    """Catching up a few at a time says how many are left, and applies the oldest first."""
    tracked.track.reset({}, -1)
    for position in range(5):
        tracked.track.append(position, delta(bid(position, 1)))
    assert [tracked.track.catch_up(2) for _ in range(4)] == [3, 1, 0, 0]
    assert tracked.reads == 5


def test_without_a_snapshot_there_is_no_book(tracked: Tracked) -> None:
    """Deltas alone make no book, they wait for one."""
    tracked.track.append(0, delta(bid(1, 1)))
    assert tracked.shown() is None
    assert tracked.track.waiting == 1
    assert repr(tracked.track) == f"<BookTrack {CHANNEL} sound None, 1 waiting>"


def test_a_snapshot_is_followed_by_the_deltas_behind_it_only(tracked: Tracked) -> None:
    """What is at or before the snapshot's position is in it; what is behind goes on top, applied before or not."""
    for position in range(4):
        tracked.track.append(position, delta(bid(7, position)))
    assert tracked.track.reset(levels_of(bid(7, 9), bid(8, 9)), 3)
    assert tracked.shown() == [("8", "9"), ("7", "9")]
    assert tracked.track.reset(levels_of(bid(7, 9), bid(8, 9)), 1)
    assert tracked.shown() == [("8", "9"), ("7", "3")]


def test_a_snapshot_older_than_memory_is_refused(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot behind which a delta was forgotten changes nothing; the oldest possible one is taken."""
    monkeypatch.setattr(module, "REMEMBERED", 8)
    for position in range(10):
        tracked.track.append(position, delta(bid(position, 1)))
    tracked.track.catch_up()
    assert tracked.track.waiting == 8
    assert not tracked.track.reset({}, 0)
    assert tracked.shown() is None
    assert tracked.track.reset({}, 1)
    assert tracked.shown() == [(str(price), "1") for price in range(9, 1, -1)]


def test_an_unreadable_delta_damages_the_book_until_a_later_snapshot(tracked: Tracked) -> None:
    """It is skipped and noted; a snapshot before it does not heal the book, one behind it does."""
    tracked.track.reset({}, -1)
    tracked.track.append(0, delta(bid(1, 1)))
    tracked.track.append(1, b"{")
    tracked.track.append(2, delta(bid(2, 1)))
    assert tracked.shown() == [("2", "1"), ("1", "1")]
    assert tracked.track.damaged
    assert "damaged" in repr(tracked.track)
    assert tracked.notes == [note("delta_refused", channel=CHANNEL, position=1, reason="json")]
    tracked.track.reset({}, 0)
    assert tracked.track.damaged
    tracked.track.reset({}, 1)
    assert not tracked.track.damaged


def test_a_book_that_grows_beyond_its_bound_is_damaged(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A delta that might lead beyond the bound is refused, and so is a late one."""
    monkeypatch.setattr(module, "BOOK_LEVELS_MOST", 3)
    tracked.track.reset(levels_of(bid(1, 1)), -1)
    tracked.track.append(0, delta(bid(2, 1)))
    tracked.track.append(1, delta(bid(3, 1)))
    tracked.track.append(2, delta(bid(4, 1)))
    assert tracked.shown() == [("3", "1"), ("2", "1"), ("1", "1")]
    assert tracked.track.insert_late(delta(bid(5, 1)), 1) == "refused"
    assert [(one.fields["position"], one.fields["reason"]) for one in tracked.notes] == [
        (2, "levels"),
        (1, "levels"),
    ]


@pytest.mark.parametrize("synced", [True, False])
def test_queue_and_memory_stay_within_their_bounds(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch, synced: bool
) -> None:
    """The delta that is one too many has the oldest applied; without a book they are forgotten instead."""
    size = len(delta(bid(1, 1)))
    monkeypatch.setattr(module, "WAITING_BYTES", 4 * size)
    monkeypatch.setattr(module, "REMEMBERED", 16)
    if synced:
        tracked.track.reset({}, -1)
    waiting, kept = [], []
    for position in range(200):
        tracked.track.append(position, delta(bid(position % 7, 1)))
        waiting.append(tracked.track.waiting)
        kept.append(tracked.track.remembered_bytes // size)
    assert max(waiting) == (4 if synced else max(kept))
    assert 16 < max(kept) <= 16 + 16 // 8 + 4


def test_no_append_applies_more_than_it_has_to(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the bound a small part is applied, then nothing for a while; a large delta has as much applied as it needs."""
    payload = delta(bid(1, 1))
    monkeypatch.setattr(module, "WAITING_BYTES", 100 * len(payload))
    monkeypatch.setattr(module, "WAITING_PARTS", 10)
    tracked.track.reset({}, -1)
    reads = []
    for position in range(133):
        tracked.track.append(position, payload)
        reads.append(tracked.reads)
    assert reads == [0] * 100 + [11] * 11 + [22] * 11 + [33] * 11
    tracked.track.append(133, delta(*[bid(price, 1) for price in range(50)]))
    assert 40 <= tracked.track.waiting <= 60
    assert tracked.track._waiting_bytes == sum(map(len, tracked.track._payloads[tracked.track._applied :]))


def test_one_broken_delta_costs_its_run_nothing_else(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those before and behind it in its run, and in the runs around it, are applied."""
    monkeypatch.setattr(module, "RUN_DELTAS", 3)
    tracked.track.reset({}, -1)
    for position in range(9):
        tracked.track.append(position, delta(bid(position, 1)) if position != 4 else b"{")
    assert [price for price, _ in tracked.shown() or ()] == ["8", "7", "6", "5", "3", "2", "1", "0"]
    assert tracked.notes == [note("delta_refused", channel=CHANNEL, position=4, reason="json")]


def test_slices_that_never_finish_do_not_lift_the_bound(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where idle time applies less than comes in, the queue is applied at its bound all the same."""
    monkeypatch.setattr(module, "WAITING_BYTES", 8 * len(delta(bid(1, 1))))
    tracked.track.reset({}, -1)
    waiting = []
    for position in range(100):
        tracked.track.append(position, delta(bid(position % 7, 1)))
        waiting.append(tracked.track.waiting)
        if position % 2:
            tracked.track.catch_up(1)
    assert max(waiting) <= 8


def test_what_waits_is_not_forgotten_while_idle_time_is_short(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However small the slices and the memory, every delta reaches the book."""
    monkeypatch.setattr(module, "REMEMBERED", 8)
    tracked.track.reset({}, -1)
    for position in range(20):
        tracked.track.append(position, delta(bid(position, 1)))
    assert tracked.track.catch_up(2) == 18
    assert len(tracked.shown() or ()) == 20
    assert tracked.track.remembered_bytes == 8 * len(delta(bid(10, 1)))


@pytest.mark.parametrize("synced", [True, False])
def test_memory_is_bounded_in_bytes(tracked: Tracked, monkeypatch: pytest.MonkeyPatch, synced: bool) -> None:
    """Over the bound the older half goes; a single payload above it goes altogether."""
    payload = delta(bid(1, 1))
    monkeypatch.setattr(module, "WAITING_BYTES", 0)
    monkeypatch.setattr(module, "MEMORY_BYTES", 10 * len(payload))
    if synced:
        tracked.track.reset({}, -1)
    for position in range(11):
        tracked.track.append(position, payload)
    assert tracked.track.remembered_bytes == 5 * len(payload)
    tracked.track.append(11, delta(*[bid(price, 1) for price in range(20)]))
    assert tracked.track.remembered_bytes == 0
    assert (tracked.shown() is not None) is synced


def test_deltas_that_come_at_once_are_taken_as_one_by_one() -> None:
    """The book, what waits and what is remembered are the same."""
    at_once, one_by_one = Tracked(runs=True).track, Tracked(runs=True).track
    payloads = [delta(bid(price % 5, price)) for price in range(20)]
    at_once.extend(range(3, 23), payloads)
    for position, payload in enumerate(payloads, 3):
        one_by_one.append(position, payload)
    assert (at_once.waiting, at_once.remembered_bytes) == (one_by_one.waiting, one_by_one.remembered_bytes)
    for track in (at_once, one_by_one):
        assert track.reset({}, 2)
    assert at_once.newest == one_by_one.newest == 22
    mine, others = at_once.book(), one_by_one.book()
    assert mine is not None
    assert others is not None
    assert mine.levels() == others.levels()


def test_a_late_delta_counts_where_nothing_later_has_set_the_level(tracked: Tracked) -> None:
    """Its levels count at its place: later deltas win, earlier ones lose."""
    tracked.track.reset(levels_of(bid(1, 1), bid(2, 1), bid(3, 1)), -1)
    tracked.track.append(0, delta(bid(1, 10)))
    tracked.track.append(1, delta(bid(2, 11)))
    tracked.track.append(2, delta(bid(4, 12)))
    assert tracked.track.insert_late(delta(bid(1, 90), bid(2, 90), bid(3, 0)), 1) == "folded"
    assert tracked.shown() == [("4", "12"), ("2", "11"), ("1", "90")]
    assert tracked.track.insert_late(delta(bid(1, 95)), 0) == "folded"
    assert tracked.shown() == [("4", "12"), ("2", "11"), ("1", "90")]
    assert tracked.track.remembered_bytes == 3 * len(delta(bid(1, 10))) + len(
        delta(bid(1, 90), bid(2, 90), bid(3, 0)) + delta(bid(1, 95))
    )


def test_late_deltas_of_one_place_follow_one_another(tracked: Tracked) -> None:
    """The second of two late deltas for the same place comes after the first, also for a snapshot before both."""
    for position in range(3):
        tracked.track.append(position, delta(bid(5, position)))
    tracked.track.reset({}, -1)
    assert tracked.track.insert_late(delta(bid(1, 1), bid(2, 1)), 2) == "folded"
    assert tracked.track.insert_late(delta(bid(1, 2)), 2) == "folded"
    assert tracked.shown() == [("5", "2"), ("2", "1"), ("1", "2")]
    tracked.track.reset({}, 1)
    assert tracked.shown() == [("5", "2"), ("2", "1"), ("1", "2")]


def test_a_late_delta_from_before_the_snapshot_is_in_it(tracked: Tracked) -> None:
    """What belongs before the snapshot's position changes nothing, readable or not, in memory or not."""
    tracked.track.append(5, delta(bid(1, 5)))
    tracked.track.reset(levels_of(bid(9, 9)), 5)
    assert tracked.track.insert_late(delta(bid(2, 2)), 5) == "included"
    assert tracked.track.insert_late(delta(bid(2, 2)), 3) == "included"
    assert tracked.track.insert_late(b"{", 5) == "included"
    assert tracked.shown() == [("9", "9")]
    assert not tracked.track.damaged


def test_a_late_delta_without_a_book_waits_at_its_place(tracked: Tracked) -> None:
    """The snapshot that comes finds it where it belongs."""
    tracked.track.append(0, delta(bid(1, 1)))
    tracked.track.append(1, delta(bid(1, 2)))
    assert tracked.track.insert_late(delta(bid(1, 3), bid(2, 3)), 1) == "folded"
    tracked.track.reset({}, 0)
    assert tracked.shown() == [("2", "3"), ("1", "2")]


def test_a_late_delta_older_than_memory_is_a_guess(tracked: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place is forgotten: it is put before the oldest delta in memory, and the answer says so."""
    monkeypatch.setattr(module, "REMEMBERED", 8)
    tracked.track.reset({}, -1)
    for position in range(10):
        tracked.track.append(position, delta(bid(position, 1)))
    tracked.track.catch_up()
    assert tracked.track.insert_late(delta(bid(1, 7), bid(9, 7)), 1) == "guessed"
    shown = dict(tracked.shown() or [])
    assert (shown["1"], shown["9"]) == ("7", "1")


def test_an_unreadable_late_delta_damages_the_book(tracked: Tracked) -> None:
    """It is refused like any other; unreadable ones behind the place of a late one are skipped."""
    tracked.track.reset({}, -1)
    tracked.track.append(0, delta(bid(1, 1)))
    assert tracked.track.insert_late(b"{", 0) == "refused"
    assert tracked.track.damaged
    assert tracked.notes == [note("delta_refused", channel=CHANNEL, position=0, reason="json")]
    tracked.track.append(1, b"{")
    assert tracked.track.insert_late(delta(bid(1, 3), bid(2, 2)), 0) == "folded"
    assert tracked.shown() == [("2", "2"), ("1", "1")]


def test_the_deltas_of_a_stretch_are_had_from_memory(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came behind a position, what it has set; and nothing where memory reaches back less."""
    tracked.track.reset({}, 4)
    assert tracked.track.newest == 4
    for position in (5, 7, 9):
        tracked.track.append(position, delta(bid(position, 1)))
    assert tracked.track.newest == 9
    assert tracked.track.deltas(5, 9) == [delta(bid(7, 1)), delta(bid(9, 1))]
    assert tracked.track.deltas(4, 8) == [delta(bid(5, 1)), delta(bid(7, 1))]
    assert tracked.track.set_by(-1, 7) == levels_of(bid(5, 1), bid(7, 1)).keys()
    tracked.track.append(10, b"broken")
    assert len(list(tracked.track.readable(tracked.track.deltas(7, 10) or ()))) == 1
    monkeypatch.setattr(module, "MEMORY_BYTES", 1)
    tracked.track.catch_up()
    assert tracked.track.deltas(5, 10) is None
    assert tracked.track.deltas(10, 10) == []


def test_the_first_delta_behind_the_snapshot_is_known_when_it_is_forgotten(
    tracked: Tracked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deltas up to the snapshot do not count, nor does what is in memory; a new snapshot begins anew."""
    monkeypatch.setattr(module, "REMEMBERED", 8)
    tracked.track.append(2, delta(bid(1, 1)))
    tracked.track.reset({}, 3)
    assert tracked.track.first is None
    for position in range(5, 25):
        tracked.track.append(position, delta(bid(position, 1)))
        assert tracked.track.first == 5
        tracked.track.catch_up()
    assert tracked.track.deltas(4, 25) is None
    assert tracked.track.first == 5
    tracked.track.reset({}, 22)
    assert tracked.track.first == 23


PIECES = st.lists(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 3)), max_size=4), min_size=1, max_size=14
)


@given(PIECES, st.data())
def test_any_history_ends_in_the_book_of_the_true_order(
    pieces: list[list[tuple[int, int]]], data: st.DataObject
) -> None:
    """Whatever comes late, whenever snapshots come, whoever looks in between: the book is that of the true order."""
    tracked = Tracked(runs=data.draw(st.booleans()))
    payloads = [delta(*(bid(*row) for row in piece)) for piece in pieces]
    late = data.draw(st.sets(st.integers(0, len(pieces) - 2)) if len(pieces) > 1 else st.just(set()))
    in_time = [place for place in range(len(pieces)) if place not in late]
    if data.draw(st.booleans()):
        tracked.track.reset({}, -1)
    waiting = sorted(late)
    for place in in_time:
        tracked.track.append(place, payloads[place])
        while waiting and waiting[0] < place and data.draw(st.booleans()):
            insert(tracked, payloads, waiting.pop(0), in_time)
        wiggle(tracked, payloads, place, data)
    for place in waiting:
        insert(tracked, payloads, place, in_time)
    if tracked.shown() is None:
        snapshot(tracked, payloads, in_time[-1], data)
    assert tracked.shown() == [
        (level.price, level.quantity) for level in Book(true_book(payloads, len(pieces))).levels()
    ]
    assert (tracked.track.waiting, tracked.track._waiting_bytes) == (0, 0)
    assert tracked.track.remembered_bytes == sum(map(len, payloads))


def insert(tracked: Tracked, payloads: list[bytes], place: int, in_time: list[int]) -> None:
    """Bring the late delta of a place."""
    before = min(position for position in in_time if position > place)
    assert tracked.track.insert_late(payloads[place], before) in {"folded", "included"}


def snapshot(tracked: Tracked, payloads: list[bytes], newest: int, data: st.DataObject) -> None:
    """Bring a snapshot of some earlier moment, known to be not older than some still earlier one."""
    taken = data.draw(st.integers(-1, newest))
    known = data.draw(st.integers(-1, taken))
    assert tracked.track.reset(true_book(payloads, taken), known)


def wiggle(tracked: Tracked, payloads: list[bytes], newest: int, data: st.DataObject) -> None:
    """Do one of the things that must not change what the book becomes."""
    match data.draw(st.integers(0, 3)):
        case 0:
            tracked.track.catch_up(data.draw(st.integers(0, 3)))
        case 1:
            tracked.shown()
        case 2:
            snapshot(tracked, payloads, newest, data)


def true_book(payloads: list[bytes], last: int) -> Levels:
    """Return the levels after all deltas of the true order up to ``last``."""
    book = Book()
    for payload in payloads[: last + 1]:
        levels = read(payload)
        assert isinstance(levels, dict)
        book.apply(levels)
    levels = keyed(book.levels())
    assert isinstance(levels, dict)
    return levels
