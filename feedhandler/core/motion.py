"""Motion: whether each part of the data path moves while there is something for it to do.

A part is whatever works by itself: the tick of a feed, the reading of a line, the sending to a consumer. At a look it
tells its *place*, which changes with every step that it makes, and, asked only where the place is the old one,
whether work waits for it. **A part stands still from the first look at which its place is the old one and work waits,
until a look finds it moved or idle**. Being idle is no fault, and being slow is none: what moves by one step between
two looks moves.

A part that ends while it stands still has not moved by that. Where it belongs to a *kind*, it is remembered until
another part of its kind moves, which shows that such parts can move at all; else it is forgotten.

Time is handed in (monotonic, seconds).
"""

from collections.abc import Callable, Hashable, Iterable
from typing import Final, NamedTuple

ENDED: Final = 64
"""Parts that are remembered although they have ended; one would do, and further ones are forgotten."""


class Part(NamedTuple):
    """One part at the moment of a look."""

    key: Hashable
    """Tells it from all others; a part made anew has a new one."""
    name: str
    """For people."""
    place: Hashable
    waits: Callable[[], bool]
    """Whether work waits for it."""
    kind: str = ""
    """What is shown by its moving; "": nothing but itself."""


class Standing(NamedTuple):
    """A part that stands still, and since when."""

    name: str
    since: float
    kind: str


class Motion:
    """What a row of looks has shown."""

    def __init__(self) -> None:
        self._places: dict[Hashable, Hashable] = {}
        self._standing: dict[Hashable, Standing] = {}

    def look(self, parts: Iterable[Part], now: float) -> None:
        """Look at all parts there are."""
        places: dict[Hashable, Hashable] = {}
        standing: dict[Hashable, Standing] = {}
        moved: set[str] = set()
        for part in parts:
            places[part.key] = part.place
            before = self._places.get(part.key, part.place)
            if before != part.place:
                moved.add(part.kind)
            elif part.key in self._places and part.waits():
                fresh = Standing(part.name, now, part.kind)
                standing[part.key] = self._standing.get(part.key, fresh)
        self._keep_ended(places, standing, moved)
        self._places, self._standing = places, standing

    def _keep_ended(
        self, places: dict[Hashable, Hashable], standing: dict[Hashable, Standing], moved: set[str]
    ) -> None:
        """Go on to count what has ended while it stood still, unless its kind was seen to move."""
        ended = [(key, part) for key, part in self._standing.items() if key not in places]
        kept = [(key, part) for key, part in ended if part.kind and part.kind not in moved]
        standing.update(kept[:ENDED])

    def standing(self, now: float, longer_than_s: float) -> list[str]:
        """Return the names of the parts that have stood still for so long."""
        return [part.name for part in self._standing.values() if now - part.since >= longer_than_s]

    def longest_s(self, now: float) -> float:
        """Return for how long the part has stood still that has done so for longest (s); 0 where all move."""
        return max((now - part.since for part in self._standing.values()), default=0.0)
