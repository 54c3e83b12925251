"""The backlog: the most recent records of all channels together, as the bytes that consumers get.

Records lie in one sequence, in the order of their release; a record's *place* is its index in that sequence
since the start of the session, so a place stays the same while older records go. A consumer is a place;
nothing is copied for it. Records belong to *tracks*: each track remembers the places of its records, and
since a track's records are counted from one, the n-th record of a track is found at once, and so is the
count at any place.

**The backlog is bounded in bytes** (each record counts with what it costs in memory, see
`RECORD_COST_BYTES`). Beyond the bound the oldest records go, whatever consumers have read: a reader that is
too slow finds out through `lost`. The newest record always stays, be it larger than the bound.

Two places follow the head. `base` is the oldest record that is kept. `reach` lies between the two: what is
older is *out of reach*, further behind the head than a consumer may fall. A consumer that is compared with
`reach` costs one comparison, whoever else there is; and since records that are out of reach are still kept
for a while, one that was too slow can come back for them.

Both move in batches (`TRIM_SHARE` of their bounds), so that an append costs one comparison, too, and the
freed fronts of the lists are cut off once they are longer than a part of them (`COMPACT_SHARE`).
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

RECORD_COST_BYTES = 72  # of a record beside its text: the bytes object's head and its entries in the lists
TRIM_SHARE = (
    256  # a place moves by at least this part of its bound, so that a trim costs some 50 us at 64 MiB
)
COMPACT_SHARE = 16  # moving the rest costs a millisecond at 64 MiB, and some ns for each record freed


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
    """The kept records: from `base`, the oldest one, to before `head`, the one to come; `reach` is in between.

    ``reach_bytes`` are at most ``limit_bytes``, and by default as many.
    """

    def __init__(self, limit_bytes: int, reach_bytes: int = 0) -> None:
        self._limit = limit_bytes
        self._reach_limit = reach_bytes or limit_bytes
        self.base = 0
        self.reach = 0
        self.head = 0
        self._offset = 0  # the place of the lists' first entries, freed ones included
        self._records: list[bytes] = []
        self._owners: list[int] = []
        self._ends = array("q")  # bytes appended since the start, after each record
        self._total = 0
        self._freed = 0
        self._due = self._reach_limit  # the total beyond which a place has to move
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

    def renew(self, track: int, first: int) -> None:
        """Give a track of which nothing is kept to others; its first record will be its `first`-th."""
        self._tracks[track] = _Track(first)

    def newest(self, track: int) -> int:
        """Return where the track's newest record lies or lay; -1 where there was none."""
        owned = self._tracks[track]
        return owned.places[-1] if owned.places else owned.lost_place

    def append(self, record: bytes, track: int) -> None:
        """Take the next record, and let the oldest ones go where the bound is passed."""
        self._records.append(record)
        self._owners.append(track)
        self._tracks[track].places.append(self.head)
        self.head += 1
        self._total += len(record) + RECORD_COST_BYTES
        self._ends.append(self._total)
        if self._total > self._due:
            self._follow()

    def extend(self, records: Sequence[bytes], tracks: Sequence[int]) -> None:
        """Take the next records, each of its track, as `append` does one after the other."""
        self._records += records
        self._owners += tracks
        keep = {track: self._tracks[track].places.append for track in set(tracks)}
        for place, track in enumerate(tracks, self.head):
            keep[track](place)
        self.head += len(records)
        ends = list(accumulate([len(record) + RECORD_COST_BYTES for record in records], initial=self._total))
        self._total = ends[-1]
        self._ends.extend(ends[1:])
        if self._total > self._due:
            self._follow()

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

    def place_from(self, track: int, place: int) -> int:
        """Return where the track's first kept record at or after `place` lies; `head` for the one to come."""
        places = self._tracks[track].places
        index = bisect_left(places, max(place, self.base))
        return places[index] if index < len(places) else self.head

    def lost(self, track: int, place: int) -> bool:
        """Tell whether a record of the track at or after `place` has gone."""
        owned = self._tracks[track]
        gone = bisect_left(owned.places, self.base)
        newest = owned.places[gone - 1] if gone else owned.lost_place
        return newest >= place

    def end_of(self, place: int, most_bytes: int) -> int:
        """Return the end of a stretch of at most that many bytes, but one record at least."""
        end = bisect_right(self._ends, self._before(place) + most_bytes, place - self._offset)
        return min(max(end + self._offset, place + 1), self.head)

    def rest(self, start: int, most_bytes: int) -> bytes | None:
        """Return the records from a place on as one; None where that is out of reach, or they are more than that."""
        if start < self.reach or self._total - self._before(start) > most_bytes:
            return None
        records = self._records
        return records[-1] if start == self.head - 1 else b"".join(records[start - self._offset :])

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

    def owners(self, start: int, end: int) -> list[int]:
        """Return the tracks of the records of a kept stretch."""
        return self._owners[start - self._offset : end - self._offset]

    def size(self, start: int, end: int) -> int:
        """Return the bytes of the records of a kept stretch."""
        if start >= end:
            return 0
        return self._before(end) - self._before(start) - RECORD_COST_BYTES * (end - start)

    def _before(self, place: int) -> int:
        """Return the bytes appended before a kept place."""
        index = place - self._offset
        return self._ends[index - 1] if index else self._freed

    def _follow(self) -> None:
        """Move the places that are too far behind the head."""
        if self._total - self._freed > self._limit:
            self._trim()
        self.reach = max(self.reach, self.base)
        if self._total - self._before(self.reach) > self._reach_limit:
            self.reach = self._within(self._reach_limit, self.reach)
        self._due = min(self._freed + self._limit, self._before(self.reach) + self._reach_limit)

    def _within(self, limit: int, place: int) -> int:
        """Return the place to which one moves that is too far behind: a batch beyond, at most the newest record."""
        index, newest = place - self._offset, len(self._ends) - 1
        least = self._total - limit + limit // TRIM_SHARE
        return self._offset + max(index, min(bisect_left(self._ends, least, index, newest) + 1, newest))

    def _trim(self) -> None:
        """Free the oldest records: what is too much and a batch beyond it, but never the newest record."""
        dead, self.base = self.base - self._offset, self._within(self._limit, self.base)
        count = self.base - self._offset
        self._records[dead:count] = [b""] * (count - dead)
        self._freed = self._before(self.base)
        if count > len(self._records) // COMPACT_SHARE:
            self._compact(count)

    def _compact(self, count: int) -> None:
        """Cut off the freed fronts of the lists."""
        del self._records[:count]
        del self._owners[:count]
        del self._ends[:count]
        self._offset += count
        for track in self._tracks:
            track.cut(self.base)
