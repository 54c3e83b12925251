"""The trail: which of the bytes that a line reads are frames that others have brought before."""

from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core import trail as module
from feedhandler.core.trail import LEAST_EVENTS, NONE_KNOWN, Frames, Known, Trail

FRAMES = [b"%c" % (97 + n) * (1 + n % 4) for n in range(24)]
MIB = 2**20


def came(frames: Sequence[bytes], *, behind: bytes = b"") -> Frames:
    """Return how frames came that were read at once, with something behind them."""
    return Frames(0, b"".join(frames) + behind, list(accumulate(map(len, frames))))


def filled(*counts: int, limit_bytes: int = MIB) -> Trail:
    """Return a trail with reads of so many frames each, one after the other."""
    trail, position = Trail(limit_bytes), 0
    for count in counts:
        trail.add(position, came(FRAMES[position : position + count], behind=b"rest"), 0, count)
        position += count
    return trail


@pytest.fixture
def _all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAST_EVENTS", 1)


@pytest.mark.usefixtures("_all_kept")
@given(st.data())
def test_whole_frames_are_known_up_to_the_first_difference(data: st.DataObject) -> None:
    """Wherever reads were cut on either side, as many frames are known as are equal, in order, and whole."""
    counts = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4).filter(lambda one: sum(one) <= 24))
    have, start = sum(counts), data.draw(st.integers(0, sum(counts) - 1))
    end = data.draw(st.integers(start, have))
    wire = bytearray(b"".join(FRAMES[start:]))
    if data.draw(st.booleans()):
        wire[data.draw(st.integers(0, len(wire) - 1))] = 0
    wire = wire[: data.draw(st.integers(1, len(wire)))]
    cut = data.draw(st.integers(0, min(len(wire), len(FRAMES[start])) - 1))
    sizes = list(accumulate(map(len, FRAMES[start:end])))
    wanted = b"".join(FRAMES[start:end])
    events = sum(size <= len(wire) and wanted[:size] == wire[:size] for size in sizes)
    known = filled(*counts).match(start, end, wire[:cut], bytes(wire[cut:]))
    assert known == (Known(events, sizes[events - 1]) if events else NONE_KNOWN)


def test_a_rest_longer_than_what_is_left_of_a_read_is_not_known() -> None:
    """A rest that begins as the last frame does, and goes on as what stood behind it, is the beginning of another."""
    trail = filled(8)
    assert trail.match(7, 8, FRAMES[7] + b"re", b"st") == NONE_KNOWN
    assert trail.match(7, 8, FRAMES[7][:-1], FRAMES[7][-1:] + b"rest") == Known(1, len(FRAMES[7]))


def test_what_is_not_in_the_trail_is_not_known() -> None:
    """Before its first stretch, between two, and behind the last there is nothing to compare with."""
    trail = Trail(MIB)
    assert trail.match(0, 8, b"", b"".join(FRAMES)) == NONE_KNOWN
    for position in (8, 17):
        trail.add(position, came(FRAMES[position:]), 0, LEAST_EVENTS - (position == 17))
        trail.add(position, came(FRAMES[position:]), 0, len(FRAMES) - position if position == 17 else 8)
    assert trail.match(0, 24, b"", b"".join(FRAMES)) == NONE_KNOWN
    assert trail.match(8, 24, b"", b"".join(FRAMES[8:])).events == 8
    assert trail.match(16, 24, b"", b"".join(FRAMES[16:])) == NONE_KNOWN


def test_the_events_of_a_read_may_begin_behind_others() -> None:
    """Of a read whose first messages were no news the rest is kept."""
    trail = Trail(MIB)
    trail.add(5, came([b"old", b"older", *FRAMES[:9]]), 2, 8)
    assert trail.match(5, 13, b"", b"".join(FRAMES[:9])) == Known(8, sum(map(len, FRAMES[:8])))


def test_few_events_and_reads_of_another_form_are_not_kept() -> None:
    """Fewer than `LEAST_EVENTS` of them cost less by the frame; a read with anything between its frames has no wire."""
    trail = Trail(MIB)
    trail.add(0, came(FRAMES[: LEAST_EVENTS - 1]), 0, LEAST_EVENTS - 1)
    trail.add(0, Frames(), 0, LEAST_EVENTS)
    assert len(trail) == 0


def test_the_oldest_reads_go_at_the_bound() -> None:
    """The bound in bytes: each stretch counts with all of its read, and one that is larger is not kept at all."""
    size = len(b"".join(FRAMES[:8])) + 4
    trail = filled(8, 8, 8, limit_bytes=2 * size + 2)
    assert len(trail) == 2
    assert trail.bytes <= 2 * size + 2
    assert trail.match(0, 24, b"", b"".join(FRAMES)) == NONE_KNOWN
    assert trail.match(8, 24, b"", b"".join(FRAMES[8:])).events == 16
    assert len(filled(8, limit_bytes=size - 1)) == 0
    assert len(filled(8, limit_bytes=0)) == 0


def test_what_all_are_past_is_forgotten() -> None:
    """Whole stretches go; what a line may still stand in stays, and counts."""
    trail = filled(8, 8, 8)
    trail.forget(7)
    assert len(trail) == 3
    trail.forget(17)
    assert len(trail) == 1
    assert trail.bytes == len(b"".join(FRAMES[16:])) + len(b"rest")
    assert trail.match(16, 24, b"", b"".join(FRAMES[16:])).events == 8
    trail.forget(24)
    assert (len(trail), trail.bytes) == (0, 0)
