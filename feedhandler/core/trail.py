"""The trail: the newest events of a feed's window as they came over the wire, to compare a line that is behind.

    the line that leads    ──read──▶ frames ──▶ messages ──▶ window
                                └─▶ trail
    a line that is behind  ──read──▶ the same bytes? ──yes──▶ as many duplicates, nothing is looked into
                                            └──no──▶ frames ──▶ messages ──▶ compared with the window

The exchange's frames are unmasked, so identical lines bring identical bytes. A read of a line that is behind is
compared **whole** with what the leading line had read; equal frames hold equal messages, so all that they hold is owed
and in order. That costs a comparison of memory instead of a look at each message.

- **Only whole frames are taken.** The beginning of a frame at the end of a read stays with the line's splitter, as does
  everything from the first difference on: a control frame in between, a fragment, another form of header, an event that
  others have not brought, or brought in another order. Splitter and arbiter judge it message by message, and the
  comparison takes over again with the line's next read. Nothing is remembered here of how far a line was compared: its
  position says where to begin.
- What is kept of a read are its events that were new, if they are `LEAST_EVENTS` or more: for a few the way through the
  frames costs no more. A **stretch** is such a part of one read, and knows where each of its frames ends.
- The trail is bounded in bytes (``bounds.trail_mib``, each stretch counting with the whole read that it is from): the
  oldest stretches go first, and a line further behind is compared message by message. What every line is past goes
  with the next tick, so that a burst leaves nothing behind.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final, NamedTuple

LEAST_EVENTS: Final = 8
"""Fewer new events of one read are not kept."""


class Frames(NamedTuple):
    """How the messages of one read came.

    ``wire`` begins with their frames and nothing in between, the i-th ending at ``ends[i]``; both are empty where they
    did not come so. Before them ``known`` messages were recognised, which were not split.
    """

    known: int = 0
    wire: bytes = b""
    ends: Sequence[int] = ()


class Known(NamedTuple):
    """So many messages that a read begins with, and their size with all of their frames (bytes)."""

    events: int
    size: int


NONE_KNOWN: Final = Known(0, 0)
NO_FRAMES: Final = Frames()


class _Stretch(NamedTuple):
    """Events from ``position`` on, and their frames in one read: from ``start`` on, the i-th ending at ``ends[i]``."""

    position: int
    wire: memoryview
    start: int
    ends: Sequence[int]

    def place(self, position: int) -> int:
        """Return where the frame of a position begins; that of the position behind the last is the end of all."""
        index = position - self.position
        return self.ends[index - 1] if index else self.start


class Trail:
    """The newest stretches of a feed, in the order of their positions."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._stretches: list[_Stretch] = []
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._stretches)

    def add(self, position: int, frames: Frames, first: int, count: int) -> None:
        """Keep ``count`` events from ``position`` on: they are the messages of a read from the ``first`` on."""
        size = len(frames.wire)
        if count < LEAST_EVENTS or not 0 < size <= self._limit:
            return
        start = frames.ends[first - 1] if first else 0
        ends = frames.ends[first : first + count]
        self._stretches.append(_Stretch(position, memoryview(frames.wire), start, ends))
        self.bytes += size
        while self.bytes > self._limit:
            self.bytes -= len(self._stretches.pop(0).wire)

    def forget(self, before: int) -> None:
        """Drop the stretches that end before a position: no line is there any more."""
        count = bisect_right(self._stretches, before, key=_end)
        self.bytes -= sum(len(one.wire) for one in self._stretches[:count])
        del self._stretches[:count]

    def match(self, position: int, end: int, rest: bytes | bytearray, data: bytes) -> Known:
        """Return how many whole frames of the events from ``position`` to before ``end`` the bytes begin with.

        The bytes are ``rest``, which is less than a frame, and ``data`` behind it.
        """
        first, place = position, -len(rest)
        for stretch in self._stretches[max(0, self._index(position)) :]:
            last = min(end, stretch.position + len(stretch.ends))
            if not stretch.position <= position < last:
                break
            found = _equal(stretch, position, last, rest if place < 0 else b"", data, max(place, 0))
            place += stretch.place(found) - stretch.place(position)
            position = found
            if found < last:
                break
        return Known(position - first, place + len(rest)) if position > first else NONE_KNOWN

    def _index(self, position: int) -> int:
        """Return the last stretch that begins at a position or before it; -1 where there is none."""
        return bisect_right(self._stretches, position, key=_first) - 1


def _first(stretch: _Stretch) -> int:
    return stretch.position


def _end(stretch: _Stretch) -> int:
    return stretch.position + len(stretch.ends)


def _equal(
    stretch: _Stretch, position: int, last: int, rest: bytes | bytearray, data: bytes, place: int
) -> int:
    """Return up to which position the frames of a stretch are ``rest`` and what ``data`` holds from ``place`` on."""
    wire, start = stretch.wire, stretch.place(position)
    behind = start + len(rest)
    stop = min(stretch.place(last), behind + len(data) - place)
    if stop < behind or bytes(wire[start:behind]) != rest:
        return position

    def differs(end: int) -> bool:
        return not data.startswith(wire[behind:end], place)

    index = position - stretch.position
    count = bisect_right(stretch.ends, stop, index)
    if differs(stop):
        count = bisect_left(stretch.ends, True, index, count, key=differs)
    return stretch.position + count
