"""The window: the most recent part of a feed's merged sequence.

Every released event stands here under its **position**, counted from the feed's first event and never reused. The
window is bounded in events, bytes and age; the oldest go first, in batches, so that appending costs the same
always. A few events stay whatever their age, so that a line can join a quiet market. What every line has delivered,
and no line that joins can ask for, is **settled**: of that ``bounds.settled_events`` stay, and no more.

Looking an event up by its content is the slow path: the index is built when first asked for and then follows the
head, so that lines in step never pay for it. It maps a key to the positions that hold it, in order. The key is the
payload itself until a line has been seen to bring equal JSON values in other bytes (rule R1); then the whole index
changes to canonical forms.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from feedhandler.config import Bounds
from feedhandler.core.canonical import canonical

KEPT_EVENTS = 256
"""Events that stay in the window whatever their age."""

TRIM_SHARE = 64
"""The window is trimmed when it is over its bound by one part in so many, so that one takes half a millisecond."""


class Window:
    """The released events of one feed: their payloads as received, channels, arrivals and classes."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.base = self.head = 0
        """The oldest position, and the next one."""
        self.gaps: list[int] = []
        self.payloads: list[bytes] = []
        self.channels: list[str] = []
        self.released: list[float] = []
        self.lines: list[str] = []
        self.late: dict[int, int] = {}
        self.bytes = 0
        self.ordinary: dict[str, int] = {}
        self.newest: dict[str, int] = {}
        self.displaced: dict[str, int] = {}
        """The last event of each channel that came out of its order and was the newest of its channel all the same."""
        self.gone: dict[str, int] = {}
        """The newest ordinary event of each channel that is no longer here."""
        self.gone_last: dict[str, bytes] = {}
        """The last event of each channel that is no longer here; empty where that one came late."""
        self.canonical = False
        self._index: dict[bytes, list[int]] = {}
        self._indexed = 0

    def append(
        self, payload: bytes, channel: str, line: str, now: float, *, before: int | None = None
    ) -> int:
        """Add one released event at the head; return its position.

        A late event belongs ``before`` the position of an ordinary one of its channel.
        """
        position = self.head
        self.head += 1
        self.payloads.append(payload)
        self.channels.append(channel)
        self.released.append(now)
        self.lines.append(line)
        self.bytes += len(payload)
        self.newest[channel] = position
        if before is not None:
            self.late[position] = before
        else:
            self.ordinary[channel] = position
        return position

    def extend(self, payloads: Sequence[bytes], channels: Sequence[str], line: str, now: float) -> int:
        """Add a run of ordinary events at the head; return the position of the first."""
        count = len(payloads)
        if count == 1:
            return self.append(payloads[0], channels[0], line, now)
        position = self.head
        self.head += count
        self.payloads += payloads
        self.channels += channels
        self.released += [now] * count
        self.lines += [line] * count
        self.bytes += sum(map(len, payloads))
        places = dict(zip(channels, range(position, position + count), strict=True))
        self.newest.update(places)
        self.ordinary.update(places)
        return position

    def payload(self, position: int) -> bytes:
        """Return what stands at a position inside the window."""
        return self.payloads[position - self.base]

    def channel(self, position: int) -> str:
        """Return the channel of a position inside the window."""
        return self.channels[position - self.base]

    def released_at(self, position: int) -> float:
        """Return when a position inside the window was released (monotonic, s)."""
        return self.released[position - self.base]

    def line(self, position: int) -> str:
        """Return the line that brought a position inside the window."""
        return self.lines[position - self.base]

    def key(self, payload: bytes) -> bytes:
        """Return what the index knows a payload by."""
        return canonical(payload) if self.canonical else payload

    def find(self, payload: bytes) -> Sequence[int]:
        """Return every position inside the window that holds ``payload``, in order."""
        self._follow()
        positions = self._index.get(self.key(payload))
        if positions is None:
            return ()
        if positions[0] < self.base:
            del positions[: bisect_left(positions, self.base)]
        return positions

    def find_from(self, payload: bytes, start: int) -> Sequence[int]:
        """Return the positions from ``start`` on that hold ``payload``, in order."""
        positions = self.find(payload)
        return positions[bisect_left(positions, start) :] if positions and positions[0] < start else positions

    def compare_values(self) -> None:
        """Index by JSON value from now on: a line brings equal values in other bytes."""
        self.canonical = True
        self._index.clear()
        self._indexed = self.base

    def proven_from(self, position: int) -> int:
        """Return where the stretch without a gap begins that ``position`` belongs to."""
        index = bisect_right(self.gaps, position)
        return max(self.base, self.gaps[index - 1]) if index else self.base

    def gap_from(self, position: int) -> int | None:
        """Return the first event behind a gap at ``position`` or later."""
        index = bisect_left(self.gaps, position)
        return self.gaps[index] if index < len(self.gaps) else None

    def _follow(self) -> None:
        """Bring the index up to the head."""
        index = self._index
        start = max(self._indexed, self.base)
        for position, payload in enumerate(self.payloads[start - self.base :], start):
            index.setdefault(self.key(payload), []).append(position)
        self._indexed = self.head

    def settle(self, before: int) -> bool:
        """Drop what is settled, which is all before a position, up to its bound; tell whether anything went."""
        drop = min(before, self.head - self._bounds.settled_events) - self.base
        if drop > 0:
            self.drop(drop)
        return drop > 0

    def drop(self, drop: int) -> None:
        """Drop so many of the oldest events."""
        end = self.base + drop
        self._note_gone(drop)
        for position in range(self.base, min(end, self._indexed)):
            key = self.key(self.payloads[position - self.base])
            positions = self._index.get(key)
            if positions is not None and positions[-1] < end:
                del self._index[key]
        self.bytes -= sum(map(len, self.payloads[:drop]))
        self.base = end
        for column in (self.payloads, self.channels, self.released, self.lines):
            del column[:drop]
        self.gaps = [position for position in self.gaps if position > end]
        if self.late:
            self.late = {position: before for position, before in self.late.items() if position >= end}

    def _note_gone(self, drop: int) -> None:
        """Note which is the newest event of each channel among the oldest ``drop``, and the newest ordinary one."""
        left = {channel for channel, position in self.ordinary.items() if position >= self.base}
        last = {channel for channel, position in self.newest.items() if position >= self.base}
        for index in range(drop - 1, -1, -1):
            if not left and not last:
                break
            channel, is_late = self.channels[index], self.base + index in self.late
            if channel in last:
                self.gone_last[channel] = b"" if is_late else self.payloads[index]
                last.discard(channel)
            if channel in left and not is_late:
                self.gone[channel] = self.base + index
                left.discard(channel)

    def excess(self, now: float) -> int:
        """Count the oldest events that are over the bounds: none until a worthwhile batch is due."""
        bounds = self._bounds
        size = len(self.payloads)
        drop = 0
        if size > bounds.window_events + bounds.window_events // TRIM_SHARE:
            drop = size - bounds.window_events
        limit = bounds.window_bytes
        if self.bytes > limit + limit // TRIM_SHARE:
            kept, drop = self.bytes, 0
            while kept > limit:
                kept -= len(self.payloads[drop])
                drop += 1
        aged = min(bisect_left(self.released, now - bounds.window_s), size - KEPT_EVENTS)
        return max(drop, aged if aged > size // TRIM_SHARE else 0)
