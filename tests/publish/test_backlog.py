"""The backlog against a list that keeps everything."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.publish.backlog import RECORD_COST_BYTES, Backlog


class Kept(NamedTuple):
    """A record as the model keeps it."""

    record: bytes
    track: int
    ordinal: int


class Model:
    """All records ever appended, and where the backlog says that it begins."""

    def __init__(self, limit_bytes: int, tracks: int, reach_bytes: int = 0) -> None:
        self.backlog = Backlog(limit_bytes, reach_bytes)
        self.tracks = [self.backlog.track() for _ in range(tracks)]
        self.all: list[Kept] = []

    def append(self, size: int, track: int) -> None:
        """Append to both."""
        ordinal = self.next(track)
        record = b"%d:%d:" % (track, ordinal) + b"x" * size
        self.all.append(Kept(record, track, ordinal))
        self.backlog.append(record, track)

    def next(self, track: int) -> int:
        """Count a track."""
        return 1 + sum(kept.track == track for kept in self.all)

    def held_bytes(self) -> int:
        """Weigh what should be kept."""
        return self.bytes_from(self.backlog.base)

    def bytes_from(self, place: int) -> int:
        """Weigh all records from a place on."""
        return sum(len(kept.record) + RECORD_COST_BYTES for kept in self.all[place:])

    def first_of(self, track: int, place: int) -> int:
        """Return the ordinal of the track's first record from a place on."""
        later = (kept.ordinal for kept in self.all[place:] if kept.track == track)
        return next(later, self.next(track))


appends = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 2)), max_size=120)


@given(runs=st.lists(appends, max_size=6), limit=st.integers(1, 12_000))
def test_a_run_is_kept_as_its_records_one_by_one(runs: list[list[tuple[int, int]]], limit: int) -> None:
    """Places, tracks, sizes and texts are the same; after each run the bounds hold, but for one newest record."""
    model, at_once = Model(limit, 3, limit // 2 + 1), Backlog(limit, limit // 2 + 1)
    tracks = [at_once.track() for _ in model.tracks]
    for run in runs:
        first = len(model.all)
        for size, track in run:
            model.append(size, track)
        new = model.all[first:]
        at_once.extend([kept.record for kept in new], [kept.track for kept in new])
        assert at_once.head == model.backlog.head
        assert at_once.held_bytes == model.bytes_from(at_once.base)
        assert at_once.held_bytes <= limit or len(at_once) <= 1
        assert at_once.base <= at_once.reach <= at_once.head
        assert model.bytes_from(at_once.reach) <= limit // 2 + 1 or at_once.head - at_once.reach <= 1
        kept = b"".join(one.record for one in model.all[at_once.base :])
        assert at_once.join(at_once.base, at_once.head) == kept
        assert [at_once.next(track) for track in tracks] == [model.next(track) for track in tracks]
        assert [at_once.oldest(track) for track in tracks] == [
            model.first_of(track, at_once.base) for track in tracks
        ]


@given(appends=appends, limit=st.integers(1, 12_000))
def test_the_bound_is_kept_and_the_oldest_go_first(appends: list[tuple[int, int]], limit: int) -> None:
    """After each append the bound holds, but for one newest record, and no more went than a batch needs."""
    model = Model(limit, 3)
    for size, track in appends:
        base = model.backlog.base
        model.append(size, track)
        assert model.backlog.head == len(model.all)
        assert model.backlog.held_bytes == model.held_bytes()
        assert model.backlog.held_bytes <= limit or len(model.backlog) == 1
        if model.backlog.base > base:
            newest_gone = len(model.all[model.backlog.base - 1].record) + RECORD_COST_BYTES
            assert model.backlog.held_bytes + newest_gone > limit - limit // 256 - 1


@given(appends=appends, limit=st.integers(1, 12_000), share=st.floats(0.01, 1))
def test_what_is_out_of_reach_is_further_behind_than_allowed(
    appends: list[tuple[int, int]], limit: int, share: float
) -> None:
    """(9) After each append the reach is within its bound and a batch, but for one newest record, and kept."""
    reach = max(1, int(limit * share))
    model = Model(limit, 3, reach)
    backlog = model.backlog
    for size, track in appends:
        before = backlog.reach
        model.append(size, track)
        assert max(before, backlog.base) <= backlog.reach < backlog.head
        assert model.bytes_from(backlog.reach) <= reach or backlog.reach == backlog.head - 1
        if backlog.reach > before:
            assert model.bytes_from(backlog.reach - 1) > reach - reach // 256 - 1
        assert backlog.held_bytes == model.held_bytes()
        assert backlog.held_bytes <= limit or len(backlog) == 1


@given(appends=appends, limit=st.integers(500, 12_000))
def test_every_question_has_the_answer_of_the_model(appends: list[tuple[int, int]], limit: int) -> None:
    """Places, ordinals, losses, stretches and sizes are those of the list that keeps everything."""
    model = Model(limit, 3)
    backlog = model.backlog
    for size, track in appends:
        model.append(size, track)
    for track in model.tracks:
        assert backlog.next(track) == model.next(track)
        assert backlog.oldest(track) == model.first_of(track, backlog.base)
        for place in range(backlog.base, backlog.head + 1):
            assert backlog.count_at(track, place) == model.first_of(track, place)
        for place in range(backlog.head + 1):
            gone = any(kept.track == track for kept in model.all[place : backlog.base])
            assert backlog.lost(track, place) == gone
            later = enumerate(model.all[max(place, backlog.base) :], max(place, backlog.base))
            places = (at for at, kept in later if kept.track == track)
            assert backlog.place_from(track, place) == next(places, backlog.head)
    for place, kept in enumerate(model.all[backlog.base :], backlog.base):
        assert backlog.place(kept.track, kept.ordinal) == place
    for track in model.tracks:
        assert backlog.place(track, backlog.next(track)) == backlog.head


@given(appends=appends, limit=st.integers(500, 12_000), most_bytes=st.integers(1, 2_000), data=st.data())
def test_stretches_are_whole_records_within_their_bound(
    appends: list[tuple[int, int]], limit: int, most_bytes: int, data: st.DataObject
) -> None:
    """A walk over the kept records gives each once, within the bound or one at a time, chosen ones or all."""
    model = Model(limit, 3)
    backlog = model.backlog
    for size, track in appends:
        model.append(size, track)
    since = [data.draw(st.integers(0, backlog.head + 1)) for _ in model.tracks]
    place = backlog.base
    while place < backlog.head:
        end = backlog.end_of(place, most_bytes)
        stretch = model.all[place:end]
        assert (
            len(stretch) == 1 or sum(len(kept.record) + RECORD_COST_BYTES for kept in stretch) <= most_bytes
        )
        assert backlog.join(place, end) == b"".join(kept.record for kept in stretch)
        assert backlog.size(place, end) == sum(len(kept.record) for kept in stretch)
        assert backlog.owners(place, end) == [kept.track for kept in stretch]
        chosen = [kept.record for at, kept in enumerate(stretch, place) if at >= since[kept.track]]
        assert backlog.join_chosen(place, end, since) == b"".join(chosen)
        place = end
    assert backlog.end_of(backlog.head, most_bytes) == backlog.head


def test_a_record_larger_than_the_bound_is_kept_alone() -> None:
    """The newest record stays however large it is, and goes with the next one."""
    model = Model(1_000, 1)
    model.append(10, 0)
    model.append(5_000, 0)
    assert len(model.backlog) == 1
    model.append(10, 0)
    assert len(model.backlog) == 1
    assert model.backlog.oldest(0) == 3


def test_bookkeeping_stays_as_small_as_what_is_kept() -> None:
    """After many times the bound, the lists hold no more than twice the kept records, tracks included."""
    model = Model(20_000, 2)
    for number in range(5_000):
        model.backlog.append(b"x" * 50, number % 2)
    backlog = model.backlog
    assert len(backlog) < 200
    lists = [backlog._records, backlog._owners, backlog._ends, *(track.places for track in backlog._tracks)]
    assert max(map(len, lists)) <= 2 * len(backlog) + 2


@pytest.mark.parametrize("first", [1, 500])
def test_a_track_can_begin_with_any_ordinal(first: int) -> None:
    """A numbering that goes on from elsewhere counts from there."""
    backlog = Backlog(1_000_000)
    track = backlog.track(first)
    assert backlog.next(track) == backlog.oldest(track) == first
    backlog.append(b"x", track)
    assert backlog.place(track, first) == 0
    assert backlog.next(track) == first + 1
