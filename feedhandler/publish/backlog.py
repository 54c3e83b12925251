"""The backlog: the most recent records of all channels together, as the bytes that consumers get.

Records lie in one sequence, in the order of their release; a record's *place* is its index in that sequence
since the start of the session, so a place stays the same while older records go. A consumer is a place;
nothing is copied for it. Records belong to *tracks*: each track remembers the places of its records, and
since a track's records are counted from one, the n-th record of a track is found at once, and so is the
count at any place.

**The backlog is bounded in bytes** (each record counts with what it costs in memory, see
`RECORD_COST_BYTES`). Beyond the bound the oldest records go, whatever consumers have read: a reader that is
too slow finds out through `lost`. The newest record always stays, be it larger than the bound.

Trimming is cheap on average: it frees a batch at a time (`TRIM_SHARE` of the bound), and the freed fronts
of the lists are cut off only once they are longer than what is kept.
"""

from array import array
from bisect import bisect_left, bisect_right

RECORD_COST_BYTES = 72  # of a record beside its text: the bytes object's head and its entries in the lists
TRIM_SHARE = 256  # a trim frees at least this part of the bound, so that one costs some 50 us at 64 MiB


class _Track:
    """The places of one track's records; `first` is the ordinal of the record at `places[0]`."""

    __slots__ = ("first", "lost_place", "places")

    def __init__(self, first: int) -> None:
        self.first = first
        self.places = array("q")
        self.lost_place = -1  # of the newest record that was cut off

    def cut(self, base: int) -> None:
        """Forget the places below `base`."""
        count = bisect_left(self.places, base)
        if count:
            self.lost_place = self.places[count - 1]
            self.first += count
            del self.places[:count]


class Backlog:
    """The kept records, `base` the place of the oldest one and `head` that of the next one to come."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self.base = 0
        self.head = 0
        self._offset = 0  # the place of the lists' first entries, freed ones included
        self._records: list[bytes] = []
        self._owners: list[int] = []
        self._ends = array("q")  # bytes appended since the start, after each record
        self._total = 0
        self._freed = 0
        self._tracks: list[_Track] = []

    def __len__(self) -> int:
        return self.head - self.base

    @property
    def held_bytes(self) -> int:
        """What the kept records cost."""
        return self._total - self._freed

    def track(self, first: int = 1) -> int:
        """Open a track whose first record will be its `first`-th; return its number."""
        self._tracks.append(_Track(first))
        return len(self._tracks) - 1

    def append(self, record: bytes, track: int) -> None:
        """Take the next record, and let the oldest ones go where the bound is passed."""
        self._records.append(record)
        self._owners.append(track)
        self._tracks[track].places.append(self.head)
        self.head += 1
        self._total += len(record) + RECORD_COST_BYTES
        self._ends.append(self._total)
        if self._total - self._freed > self._limit:
            self._trim()

    def count_at(self, track: int, place: int) -> int:
        """Return the ordinal of the track's first record at or after a kept place."""
        owned = self._tracks[track]
        return owned.first + bisect_left(owned.places, place)

    def oldest(self, track: int) -> int:
        """Return the ordinal of the track's oldest kept record, or of its next one where none is kept."""
        return self.count_at(track, self.base)

    def next(self, track: int) -> int:
        """Return the ordinal of the track's next record."""
        owned = self._tracks[track]
        return owned.first + len(owned.places)

    def place(self, track: int, ordinal: int) -> int:
        """Return where the track's record of that ordinal lies; `head` for the one to come."""
        owned = self._tracks[track]
        index = ordinal - owned.first
        return owned.places[index] if index < len(owned.places) else self.head

    def lost(self, track: int, place: int) -> bool:
        """Tell whether a record of the track at or after `place` has gone."""
        owned = self._tracks[track]
        gone = bisect_left(owned.places, self.base)
        newest = owned.places[gone - 1] if gone else owned.lost_place
        return newest >= place

    def end_of(self, place: int, most_bytes: int) -> int:
        """Return the end of a stretch of at most that many bytes, but one record at least."""
        start = place - self._offset
        before = self._ends[start - 1] if start else self._freed
        end = bisect_right(self._ends, before + most_bytes, start)
        return min(max(end + self._offset, place + 1), self.head)

    def join(self, start: int, end: int) -> bytes:
        """Return the records of a kept stretch as one."""
        return b"".join(self._records[start - self._offset : end - self._offset])

    def join_chosen(self, start: int, end: int, since: list[int]) -> bytes:
        """Return the records of a kept stretch as one, of each track those from `since[track]` on."""
        first, last = start - self._offset, end - self._offset
        owners = self._owners[first:last]
        pairs = zip(self._records[first:last], owners, strict=True)
        return b"".join(
            [record for place, (record, owner) in enumerate(pairs, start) if place >= since[owner]]
        )

    def size(self, start: int, end: int) -> int:
        """Return the bytes of the records of a kept stretch."""
        if start >= end:
            return 0
        first, last = start - self._offset, end - self._offset
        before = self._ends[first - 1] if first else self._freed
        return self._ends[last - 1] - before - RECORD_COST_BYTES * (end - start)

    def _trim(self) -> None:
        """Free the oldest records: what is too much and a batch beyond it, but never the newest record."""
        least = self._total - self._limit + self._limit // TRIM_SHARE
        dead = self.base - self._offset
        count = bisect_left(self._ends, least, dead, len(self._ends) - 1) + 1
        count = min(count, len(self._records) - 1)
        if count <= dead:
            return
        self._records[dead:count] = [b""] * (count - dead)
        self._freed = self._ends[count - 1]
        self.base = self._offset + count
        if count > len(self._records) - count:
            self._compact(count)

    def _compact(self, count: int) -> None:
        """Cut off the freed fronts of the lists."""
        del self._records[:count]
        del self._owners[:count]
        del self._ends[:count]
        self._offset += count
        for track in self._tracks:
            track.cut(self.base)
