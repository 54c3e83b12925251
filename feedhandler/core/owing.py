"""What an aligned line owes, and what its next message therefore is (rule R3).

A line owes what was released since it was aligned and what it has not delivered itself. In order, that is simply the
window from the line's **position** on, so the position and a few exceptions say it all:

- ``position``: everything from here on is owed, except what is ``early``;
- ``early``: positions at or after it that the line has delivered already. Only late events get here: they were
  released out of their order, so a line brings them before what surrounds them in the window;
- ``behind``: positions before it that are still owed, because the line has jumped over them. Each is *open*: the line
  interleaves channels differently and will bring it; or *passed*: the line has brought a later event of the same
  channel, so by the exchange's promise it will not come any more.

Within a channel all lines deliver in one order; that is what "passed" rests on. Across channels no order is assumed.
Owing is counted by occurrence: each copy of the same bytes is a position of its own.

A message is looked for among the open events first, then from the position on, then among the late ones: where content
recurs, the first copy in its channel's order is the one that a line delivers. What was passed and comes all the same
is a duplicate if it has an identity. If it has none, it is another event with the same bytes: to take it for the one
that this line has dropped would lose it.

A gap is a **fence**: the same bytes on both sides of it need not be the same event. A line that brings something else
than what it owes from before the fence has to prove its place anew.

A late event belongs before an ordinary one of its channel. A line that has joined after that place does not owe it.
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from feedhandler.core.window import Window

NEAR_EVENTS = 64
"""How far a message is looked for before the window's index is asked, which has to be brought up to the head first."""


class Owing:
    """The state of one aligned line against the window of its feed."""

    def __init__(self, window: Window, position: int, fence: int | None = None) -> None:
        self._window = window
        self.fence = fence
        self.position = position
        self.early: set[int] = set()
        self.open: set[int] = set()
        self._open_of: dict[str, list[int]] = {}
        self.passed: dict[int, float] = {}
        self.interleaves = False

    def __repr__(self) -> str:
        return f"<Owing from {self.position}, open {sorted(self.open)}, passed {sorted(self.passed)}>"

    @property
    def count(self) -> int:
        """How many released events the line may still bring; passed ones are not among them."""
        return self._window.head - self.position - len(self.early) + len(self.open)

    def first(self) -> int | None:
        """Return the oldest position that the line may still bring."""
        if self.open:
            return min(positions[0] for positions in self._open_of.values())
        return self.position if self.position < self._window.head else None

    def deliver_run(self, payloads: Sequence[bytes], start: int) -> int:
        """Take what continues the window in order from ``payloads[start]`` on; return how many messages that were.

        This is the hot path of rule R3.1: whole slices are compared, nothing is looked up. It does not apply while
        open events stand behind the position, for they come first.
        """
        if self.open or self.early:
            return 0
        window = self._window
        place = self.position - window.base
        end = len(window.payloads) if self.fence is None else self.fence - window.base
        count = min(len(payloads) - start, end - place)
        if count <= 0:
            return 0
        expected = window.payloads[place : place + count]
        given = payloads[start : start + count] if start or count < len(payloads) else payloads
        if given != expected:
            count = next(i for i in range(count) if given[i] != expected[i])
        self.position += count
        return count

    def deliver(self, payload: bytes, now: float) -> int | None:
        """Take one message if it is owed: return the position that it delivers, else None."""
        window = self._window
        if not self.open and not self.early and self.fence is None and self.position < window.head:
            if window.payload(self.position) == payload:
                self.position += 1
                return self.position - 1
            near = self._find_near(payload)
            if near is not None:
                self.take(near, now)
                return near
        elif self.count == 0:
            return None
        positions = window.find(payload)
        if self.fence is not None:
            positions = positions[: bisect_left(positions, self.fence)]
        return self._look_up(positions, now)

    def _find_near(self, payload: bytes) -> int | None:
        """Return where a message stands a little further on, without the index: lines mostly differ by a few events."""
        window = self._window
        if window.late or window.canonical:
            return None
        place = self.position - window.base
        try:
            return window.base + window.payloads.index(payload, place, place + NEAR_EVENTS)
        except ValueError:
            return None

    def _look_up(self, positions: Sequence[int], now: float) -> int | None:
        late = self._window.late
        for position in self._open_among(positions):
            if position not in late:
                self.interleaves = True
                self.take(position, now)
                return position
        for index in range(bisect_left(positions, self.position), len(positions)):
            position = positions[index]
            if position not in self.early and position not in late:
                self.take(position, now)
                return position
        return self._take_late(positions, now)

    def _open_among(self, positions: Sequence[int]) -> list[int]:
        """Return which of the positions of one content are open, oldest first."""
        if not positions or not self.open:
            return []
        open_ = self._open_of.get(self._window.channel(positions[-1]), ())
        if not open_:
            return []
        found = positions[bisect_left(positions, open_[0]) : bisect_left(positions, self.position)]
        return [position for position in found if position in self.open]

    def deliver_late(self, payload: bytes, now: float) -> bool:
        """Take one message if it is a late event that is owed; tell whether it was."""
        return self._take_late(self._window.find(payload), now) is not None

    def _take_late(self, positions: Sequence[int], now: float) -> int | None:
        late = self._window.late
        for position in positions if late else ():
            if position in late and self.owes(position):
                self.take(position, now)
                return position
        return None

    def take_passed(self, payload: bytes) -> int | None:
        """Take one message if the line has passed it before; return its position.

        Only what has an identity may be asked for: of anything else that was passed, a copy is another event.
        """
        for position in self._window.find(payload):
            if self.passed.pop(position, None) is not None:
                return position
        return None

    def owes(self, position: int) -> bool:
        """Tell whether the line may still bring what stands at a position."""
        return position in self.open or (position >= self.position and position not in self.early)

    def skip(self, position: int) -> None:
        """Owe a position not at all: the line has got past the place where its event belongs."""
        if position == self.position:
            self._jump(position)
        elif position > self.position:
            self.early.add(position)

    def forget(self, channel: str, end: int) -> None:
        """Owe nothing of a channel any more that stands before a position."""
        window = self._window
        for position in list(self.owed_of(channel)):
            if position >= end:
                break
            if position in self.open:
                self._close(position)
            else:
                self.skip(position)
        self.passed = {
            position: since
            for position, since in self.passed.items()
            if position >= window.base and (position >= end or window.channel(position) != channel)
        }

    def take(self, position: int, now: float) -> None:
        """Note that the line has delivered what stands at ``position``, which it owed."""
        late = position in self._window.late
        if position < self.position:
            self._close(position)
        elif late and position > self.position:
            self.early.add(position)
        else:
            self._jump(position)
        if not late:
            self.pass_before(self._window.channel(position), position, now)

    def _jump(self, position: int) -> None:
        """Move the position past a delivered one; what lies between is owed still."""
        for between in range(self.position, position):
            if between in self.early:
                self.early.discard(between)
            else:
                self._open(between)
        position += 1
        while position in self.early:
            self.early.discard(position)
            position += 1
        self.position = position

    def reopen(self, position: int) -> None:
        """Owe a position that was not owed."""
        if position >= self.position:
            self.early.discard(position)
        else:
            self._open(position)

    def _open(self, position: int) -> None:
        self.open.add(position)
        insort(self._open_of.setdefault(self._window.channel(position), []), position)

    def _close(self, position: int) -> None:
        """Owe an open position no longer."""
        channel = self._window.channel(position)
        positions = self._open_of[channel]
        del positions[bisect_left(positions, position)]
        if not positions:
            del self._open_of[channel]
        self.open.discard(position)

    def pass_before(self, channel: str, before: int, now: float) -> None:
        """Mark as passed what the line owes of a channel before a position that it has delivered."""
        positions = self._open_of.get(channel)
        if positions is None or positions[0] > before:
            return
        count = bisect_left(positions, before)
        for position in positions[:count]:
            self.open.discard(position)
            self.passed[position] = now
        del positions[:count]
        if not positions:
            del self._open_of[channel]

    def delivered_after(self, position: int) -> list[int]:
        """Return what the line has delivered of a position's channel beyond it, late events left out."""
        window = self._window
        channel = window.channel(position)
        end = max(self.position, max(self.early, default=0) + 1)
        return [
            later
            for later in range(position + 1, end)
            if window.channel(later) == channel
            and later not in window.late
            and later not in self.passed
            and not self.owes(later)
        ]

    def owed_ordinary(self, channel: str) -> Iterator[int]:
        """Yield the ordinary events of a channel that the line may still bring, oldest first."""
        if self.owes(self._window.ordinary.get(channel, -1)):
            yield from (position for position in self.owed_of(channel) if position not in self._window.late)

    def owed_of(self, channel: str) -> Iterator[int]:
        """Yield the positions of a channel that the line may still bring, oldest first."""
        window = self._window
        yield from tuple(self._open_of.get(channel, ()))
        for position in range(self.position, window.head):
            if window.channel(position) == channel and position not in self.early:
                yield position

    def missed(self, now: float, *, events: int, seconds: float) -> list[int]:
        """Give up on what was passed so many events *and* so many seconds ago; return those positions."""
        given_up = [
            position
            for position, since in self.passed.items()
            if now - since >= seconds and self._window.head - position >= events
        ]
        for position in given_up:
            del self.passed[position]
        return given_up

    def outrun(self) -> bool:
        """Forget what the window has dropped; tell whether the line owes more than the window holds."""
        base = self._window.base
        self.passed = {position: since for position, since in self.passed.items() if position >= base}
        first = self.first()
        return self.position < base or (first is not None and first < base)
