"""One line as the arbiter sees it, and what the arbiter orders to be done with it."""

import msgspec

from feedhandler.core.health import LineHealth
from feedhandler.core.holding import Held, Hold
from feedhandler.core.owing import Owing


class Restart(msgspec.Struct, frozen=True):
    """An order to end a line's connection and to open it anew."""

    line: str
    reason: str


class Quarantine(msgspec.Struct, frozen=True):
    """An order to disconnect a line that disagreed, to write its incident, and to keep it away for a while."""

    line: str
    incident: dict[str, object]


Order = Restart | Quarantine


class Line:
    """One line as the arbiter sees it."""

    def __init__(self, name: str, health: LineHealth, hold: Hold) -> None:
        self.name = name
        self.health = health
        self.hold = hold
        self.connected = False
        self.subscribed = 0
        self.connected_at = 0.0
        self.connected_recv = 0
        self.head_at_start = 0
        self.floor = 0
        self.owing: Owing | None = None
        self.added_at = self.joined_at = 0
        self.pinned: set[str] | None = None
        self.first: dict[str, int] = {}
        """Of the channels of which it has brought something from before it joined, the first of that in the window."""
        self.guessed: set[str] = set()
        self.cut: set[str] = set()
        self.left_out: dict[str, int] = {}
        """Of channels of which events were left to a gap, the newest event when it was written."""
        self.aside: list[Held] = []
        self.moved = 0.0
        self.restarting = False
        self.crossing = -1
        """The gap that the line has come to, after all that it owed from before it; -1 where it has come to none."""
        self.messages = self.wins = self.duplicates = self.garbage = 0

    def __repr__(self) -> str:
        place_ = self.owing or f"witness holding {len(self.hold.events)}"
        return f"<Line {self.name} {self.health.state} {place_}>"

    @property
    def up(self) -> bool:
        """Whether the line is aligned and others may rely on it."""
        return self.connected and self.owing is not None and self.health.up

    @property
    def placed(self) -> bool:
        """Whether all that the line has brought was released: nothing is held of it, nothing put aside."""
        return self.owing is not None and not self.aside

    @property
    def waiting(self) -> bool:
        """Whether the line keeps anything that has not been judged yet."""
        return bool(self.aside) or (self.owing is None and bool(self.hold.events))
