"""What one connection still has to send, and what can go wrong with it.

An outbox is a queue of frames with the times at which they may go. Its writer takes everything that is due
in one piece. Two kinds of things are put in: events, which faults delay, drop, hold back or disorder; and
replies, which keep their place among the events, except on a muted line, where they overtake: a mute
exchange still answers. Control frames are urgent always.

An `Ending` stands in the queue like a frame, so that a connection that is to die at an event dies behind it.

Bounds: who puts events and replies in watches ``backlog_bytes``, clears the outbox over its limit and closes
the connection as slow; `URGENT_MAX` replies and control frames overtake.
"""

import math
from collections import deque
from collections.abc import Callable
from random import Random
from typing import NamedTuple

import trio

TAKE_MAX_BYTES = 256 * 1024
"""How much a writer takes at once."""

URGENT_MAX = 10_000
"""Replies and control frames that overtake; what would be more is left unsaid."""


class Ending(NamedTuple):
    """How a connection ends."""

    how: str
    """``close``: with a close frame; ``reset``: with a TCP reset; ``drop``: without another word."""
    code: int = 1000
    reason: str = ""
    half_frame: bool = False
    cut_bytes: int | None = None


Queued = tuple[float, bytes | Ending]


class Interleaver:
    """Puts events of different streams in another relative order; within a stream the order stays.

    An event is overtaken by at most ``depth`` later ones.
    """

    def __init__(self, depth: int, random: Random) -> None:
        self._depth = depth
        self._random = random
        self._held: list[tuple[int, str, Queued]] = []
        self._number = 0

    def push(self, stream: str, queued: Queued) -> list[Queued]:
        """Take one event; return those that go now."""
        self._held.append((self._number, stream, queued))
        self._number += 1
        out: list[Queued] = []
        while self._held and self._number - self._held[0][0] > self._depth:
            out.append(self._held.pop(0)[2])
        if self._held and self._random.random() < 0.5:
            out.append(self._first_of(self._random.choice(self._held)[1]))
        return out

    def _first_of(self, stream: str) -> Queued:
        index = next(index for index, held in enumerate(self._held) if held[1] == stream)
        return self._held.pop(index)[2]

    def flush(self) -> list[Queued]:
        """Return all that is held."""
        held, self._held = self._held, []
        return [queued for _, _, queued in held]


class Outbox:
    """The frames that one connection still has to send."""

    def __init__(self) -> None:
        self.backlog_bytes = 0
        self.events = 0
        self.bytes_per_s = 0
        self.last_frame = b""
        self._queue: deque[Queued] = deque()
        self._urgent: deque[bytes | Ending] = deque()
        self._muted_until = -math.inf
        self._delay_s = 0.0
        self._drop = 0
        self._next_dress: deque[Callable[[bytes], bytes]] = deque()
        self._interleaver: Interleaver | None = None
        self._plain = True
        self._waker: trio.Event | None = None
        self._relief: trio.Event | None = None

    # What goes in

    def put_event(self, stream: str, queued: tuple[float, bytes]) -> None:
        """Queue a broadcast."""
        if not self._plain:
            self._put_faulty(stream, queued)
            return
        self.events += 1
        self._append(queued, len(queued[1]))

    def put_reply(self, now: float, frame: bytes) -> None:
        """Queue a reply behind the events before it, or ahead of all on a muted line."""
        if self.is_muted(now):
            self.put_urgent(frame)
        else:
            self._append((now + self._delay_s, frame), len(frame))

    def put_urgent(self, frame: bytes | Ending) -> None:
        """Queue something that overtakes everything."""
        if len(self._urgent) < URGENT_MAX or isinstance(frame, Ending):
            self._urgent.append(frame)
        self.wake()

    def put_ending(self, now: float, ending: Ending) -> None:
        """End the connection behind what is queued; at once on a muted line."""
        self.release_held()
        if self.is_muted(now):
            self.put_urgent(ending)
        else:
            self._append((now, ending), 0)

    def _append(self, queued: Queued, size: int) -> None:
        self._queue.append(queued)
        self.backlog_bytes += size
        if self._waker is not None:
            self._waker.set()

    def _put_faulty(self, stream: str, queued: tuple[float, bytes]) -> None:
        if self._drop:
            self._drop -= 1
            self._judge()
            return
        self.events += 1
        due, frame = queued
        if self._next_dress:
            frame = self._next_dress.popleft()(frame)
            self._judge()
        size = len(frame)
        late = (due + self._delay_s, frame)
        if self._interleaver is None:
            self._append(late, size)
            return
        self.backlog_bytes += size
        for freed in self._interleaver.push(stream, late):
            self._append(freed, 0)

    def _judge(self) -> None:
        self._plain = not (self._drop or self._delay_s or self._next_dress or self._interleaver)

    # What goes wrong

    def mute(self, until: float) -> None:
        """Hold all events until then; they are all delivered after it."""
        self._muted_until = until
        self.wake()

    def is_muted(self, now: float) -> bool:
        """Tell whether events are held."""
        return now < self._muted_until

    def delay(self, delay_s: float) -> None:
        """Let every event and reply go so much later from now on."""
        self._delay_s = delay_s
        self._judge()

    def throttle(self, bytes_per_s: int) -> None:
        """Send no faster than this; 0: as fast as it goes."""
        self.bytes_per_s = bytes_per_s

    def drop(self, count: int) -> None:
        """Lose the next ``count`` events."""
        self._drop += count
        self._judge()

    def dress_next(self, dress: Callable[[bytes], bytes]) -> None:
        """Send the next event as what ``dress`` makes of its frame."""
        self._next_dress.append(dress)
        self._judge()

    def interleave(self, interleaver: Interleaver | None) -> None:
        """Let the streams overtake each other, or stop that."""
        self.release_held()
        self._interleaver = interleaver
        self._judge()

    def release_held(self) -> None:
        """Let go what the interleaving holds back, so that a quiet moment does not keep it for long."""
        if self._interleaver is not None:
            for freed in self._interleaver.flush():
                self._append(freed, 0)

    # What comes out

    def take(self, now: float) -> bytes | Ending | None:
        """Return what is to be sent now, as one piece; None: nothing yet."""
        if self._urgent:
            return self._urgent.popleft()
        if now < self._muted_until:
            return None
        frames: list[bytes] = []
        size = 0
        queue = self._queue
        limit = 1 if self.bytes_per_s else TAKE_MAX_BYTES
        while queue and size < limit and queue[0][0] <= now:
            frame = queue[0][1]
            if isinstance(frame, Ending):
                if frames:
                    break
                queue.popleft()
                return frame
            queue.popleft()
            frames.append(frame)
            size += len(frame)
        if not frames:
            return None
        self._lighten(size, frames[-1])
        return b"".join(frames)

    def take_next_frame(self) -> bytes:
        """Return the next frame, whenever it is due, or the last that was sent."""
        return next((frame for _, frame in self._queue if isinstance(frame, bytes)), self.last_frame)

    def _lighten(self, size: int, last_frame: bytes) -> None:
        self.last_frame = last_frame
        self.backlog_bytes -= size
        self._relieve()

    def clear(self) -> None:
        """Throw away all that waits."""
        self._queue.clear()
        self.backlog_bytes = 0
        self._relieve()

    def _relieve(self) -> None:
        if self._relief is not None:
            self._relief.set()
            self._relief = None

    def wake(self) -> None:
        """Make the writer look again."""
        if self._waker is not None:
            self._waker.set()

    async def wait(self, now: float) -> None:
        """Wait until there may be something to take."""
        self._waker = trio.Event()
        due = self._queue[0][0] if self._queue else math.inf
        if self._muted_until > now:
            due = self._muted_until
        with trio.move_on_at(max(due, now)):
            await self._waker.wait()
        self._waker = None

    async def wait_below(self, backlog_bytes: int) -> None:
        """Wait until no more than this waits."""
        while self.backlog_bytes > backlog_bytes:
            if self._relief is None:
                self._relief = trio.Event()
            await self._relief.wait()
