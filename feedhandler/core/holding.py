"""What a witness holds, and where it joins the window (rule R4).

The position of a **witness** is not known yet, so its messages are held. It joins on proof: one event with identity
that occurs once in the window and once in the hold. What it held before that event is then laid against the window
backwards, channel by channel, to find the first event that both share; from there on the line owes the window.

Cause comes before effect: what a line brings was broadcast after the line had begun to connect, so nobody can have
released it before that. The head at that moment is the line's **floor**. Below it nothing is looked for; so contents
that the exchange has repeated are not taken for their earlier copies, and an event occurs once if it does so above.

The hold is bounded in events and bytes. When it is full, and no proof of a place, its oldest quarter goes: the line
then joins later, and a channel of which events have gone (``cut``) is complete only where it has a proof of its own.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from feedhandler.config import Bounds
from feedhandler.core.messages import Event, Identity
from feedhandler.core.window import Window

MISSING = -1
"""In a placement: this event comes before something that the window holds, and is not there itself."""

OPEN = -2
"""In a placement: this event is still to be judged."""


class Held(NamedTuple):
    """One held event: as received, as read, its identity, its arrival (wall clock ns; monotonic s).

    ``floor`` is the position from which on it is to be looked for: before that nobody has released it. One that is
    ``early`` stands on its line before the event that has shown where the line stands.
    """

    payload: bytes
    event: Event
    identity: Identity
    recv: int
    at: float
    floor: int
    early: bool = False


class Hold:
    """The held events of one witness, oldest first."""

    def __init__(self, bounds: Bounds, window: Window, floor: int = 0) -> None:
        self.floor = floor
        self._bounds = bounds
        self._window = window
        self.events: list[Held] = []
        self.bytes = 0
        self.cut: set[str] = set()
        """The channels of which events had to go."""
        self._canonical = window.canonical
        self._places: dict[bytes, list[int]] = {}
        self._keyed = 0
        self._seen_head = window.base
        self._shared: dict[int, int] = {}

    def has_room(self, payload: bytes) -> bool:
        """Tell whether one more event can be held without an old one having to go for it."""
        bounds = self._bounds
        return len(self.events) < bounds.hold_events and self.bytes + len(payload) <= bounds.hold_bytes

    def add(self, held: Held) -> int:
        """Hold one more event; return how many old ones had to go for it."""
        has_room = self.has_room(held.payload)
        self.events.append(held)
        self.bytes += len(held.payload)
        if has_room:
            return 0
        drop = len(self.events) // 4 + 1
        self.cut.update(one.event.channel for one in self.events[:drop])
        self.drop(drop)
        return drop

    def drop(self, count: int) -> None:
        """Forget the oldest events."""
        self._keep(self.events[count:])

    def forget(self, channels: Collection[str]) -> None:
        """Forget the events of some channels."""
        self._keep([held for held in self.events if held.event.channel not in channels])

    def _keep(self, events: list[Held]) -> None:
        self.events = events
        self.bytes = sum(len(held.payload) for held in events)
        self._look_again()

    def compare_before(self, end: int) -> None:
        """Compare with what the window is about to drop before ``end``, as far as an identity tells."""
        if self.events:
            self._keep(compared(self.events, self._window, end))

    def _look_again(self) -> None:
        self._canonical = self._window.canonical
        self._places.clear()
        self._shared.clear()
        self._keyed = 0
        self._seen_head = self._window.base

    def shared(self, *, newest_too: bool) -> tuple[int, int] | None:
        """Return the first proof of a place: an index into the hold and its position in the window.

        Without ``newest_too`` an event that is still the newest of its channel is no proof yet: lines may interleave
        channels differently, and one event more tells where this one really stands. Nor is it one behind an event that
        the window holds further on: within a channel lines keep the exchange's order, so the exchange has repeated it.
        """
        window = self._window
        self._compare()
        reached: dict[tuple[str, int], int] = {}
        for index, position in sorted(self._shared.items(), key=self._newest_stretch_first):
            held = self.events[index]
            once = len(self._places[window.key(held.payload)]) == 1
            if position in window.late or not once or len(window.find_from(held.payload, self.floor)) != 1:
                continue
            channel = held.event.channel
            stretch = channel, window.proven_from(position)
            if position < reached.get(stretch, 0):
                continue  # a later copy of what stands here: the line has brought what comes behind it before
            reached[stretch] = position
            if newest_too or window.newest[channel] != position:
                return index, position
        return None

    def _newest_stretch_first(self, shared: tuple[int, int]) -> tuple[int, int]:
        index, position = shared
        return self._window.proven_from(position), index

    def _compare(self) -> None:
        """Look for events with identity on both sides, among what is new on either side since the last time."""
        window = self._window
        if window.canonical != self._canonical:
            self._look_again()
        start = max(self._seen_head, window.base, self.floor)
        for position, payload in enumerate(window.payloads[start - window.base :], start):
            places = self._places.get(window.key(payload), ())
            if len(places) == 1:
                self._shared[places[0]] = position
        for index in range(self._keyed, len(self.events)):
            held = self.events[index]
            if held.identity.distinct:
                self._places.setdefault(window.key(held.payload), []).append(index)
                for position in window.find_from(held.payload, self.floor)[:1]:
                    self._shared[index] = position
        self._shared = {
            index: position for index, position in self._shared.items() if position >= window.base
        }
        self._keyed, self._seen_head = len(self.events), window.head


def compared(events: Sequence[Held], window: Window, end: int) -> list[Held]:
    """Return the events that are not among what the window holds before ``end``, and know it when that is gone.

    An event that is there was released. Where events recur, or one may have been released before the window, nothing is
    known for good.
    """
    kept = []
    for held in events:
        if held.identity.distinct and window.base <= held.floor < end:
            positions = window.find_from(held.payload, held.floor)
            if positions and positions[0] < end:
                continue
            kept.append(held._replace(floor=end))
        else:
            kept.append(held)
    return kept


def place(events: Sequence[Held], window: Window, index: int, position: int, floor: int) -> list[int]:
    """Lay held events against the window from ``floor`` on, of which ``index`` stands at ``position``.

    Return for each event its position in the window, or `MISSING` where it comes before something that the window
    holds but is not there itself, or `OPEN` where that is still to be judged.

    Each channel has its own proof: the first of its events that both sides surely share. Backwards from there each
    event takes the latest free position of its bytes. A channel without a proof is taken to keep the lines' common
    order: what stands before ``index`` is looked for before ``position``. Only what has an identity is looked for
    beyond the last gap, and a late event's position says nothing about the others'.
    """
    proofs = _proofs(events, window, index, position, floor)
    places = [OPEN] * len(events)
    limits: dict[str, int] = {}
    for place_ in range(len(events) - 1, -1, -1):
        held = events[place_]
        channel = held.event.channel
        proof = proofs.get(channel)
        if proof is None:
            if place_ >= index or (held.identity.distinct and _may_be_later(window, held, limits, floor)):
                continue
        elif place_ > proof[0]:
            continue
        elif place_ == proof[0]:
            places[place_] = limits[channel] = proof[1]
            continue
        end = limits.get(channel, position)
        start = floor if held.identity.distinct else max(floor, window.proven_from(end))
        places[place_] = _latest(window, held.payload, start, end)
        if places[place_] != MISSING:
            limits[channel] = places[place_]
    _place_late(events, window, places, floor)
    return places


def _may_be_later(window: Window, held: Held, limits: Mapping[str, int], floor: int) -> bool:
    """Tell whether nothing that follows an event on its line has told where its channel stands, or that was wrong."""
    return held.event.channel not in limits or bool(window.find_from(held.payload, floor))


def _latest(window: Window, payload: bytes, start: int, end: int) -> int:
    """Return the last position in order that holds ``payload`` in a stretch of the window, else `MISSING`."""
    positions = window.find(payload)
    for index in range(bisect_left(positions, end) - 1, -1, -1):
        if positions[index] < start:
            break
        if positions[index] not in window.late:
            return positions[index]
    return MISSING


def _proofs(
    events: Sequence[Held], window: Window, index: int, position: int, floor: int
) -> dict[str, tuple[int, int]]:
    """Return the first event of each channel that both sides share, as its index and its position."""
    counts = Counter(held.payload for held in events if held.identity.distinct)
    start, fence = window.proven_from(position), window.gap_from(position + 1)
    end = window.head if fence is None else fence
    proofs = {events[index].event.channel: (index, position)}
    for place_, held in enumerate(events):
        if held.identity.distinct and held.event.channel not in proofs and counts[held.payload] == 1:
            positions = window.find_from(held.payload, floor)
            if len(positions) == 1 and start <= positions[0] < end and positions[0] not in window.late:
                proofs[held.event.channel] = (place_, positions[0])
    return proofs


def _place_late(events: Sequence[Held], window: Window, places: list[int], floor: int) -> None:
    """Let what is missing in order take the place of late events, each of them once, the newest first."""
    if not window.late:
        return
    taken: set[int] = set()
    for index in range(len(places) - 1, -1, -1):
        if places[index] < 0:
            copies = window.find_from(events[index].payload, floor)
            found = [p for p in copies if p in window.late and p not in taken]
            if found and (places[index] == MISSING or events[index].identity.distinct):
                places[index] = found[-1]
                taken.add(found[-1])
