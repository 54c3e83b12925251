"""The lines of one feed: who there is, who is to come, and who may go.

    crew
    ├── line a, line b, line c      a task each (`ingest.line`)
    └── rotation                    replaces them, one at a time (`ingest.rotation`)

Rules:

- Each line holds a claim at the gate for as long as it lives. A line that is to replace another needs a spare place
  there, and is not hired without one.
- A line has the first letter that is free: one that is about to leave keeps its own until its goodbye is over.
- The number of lines is brought to what is wanted while no replacement is under way. The superfluous go one after the
  other, the unconnected first; one that the others have not proven yet that they can do without is kept for
  `SURPLUS_S`, and the last aligned one for ever.
- Nobody takes the last aligned line away by hand; the arbiter's orders are obeyed at once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Final
from zlib import crc32

import trio

from feedhandler.config import Health
from feedhandler.core.arbiter import Arbiter, Quarantine, Restart
from feedhandler.core.notes import note
from feedhandler.errors import LineNeeded, NoSuchLine
from feedhandler.ingest.handshake import Target
from feedhandler.ingest.line import Hub, Line
from feedhandler.ingest.rotation import BY_HAND, STALLED, Rotation
from feedhandler.ingest.surroundings import Surroundings

SURPLUS_S: Final = 30.0
"""The longest that a line too many is kept because the others have not proven yet that they can do without it."""

LINE_NAMES: Final = "abcdefghijklmnop"
"""A line has the first letter that is free: those that are to be, a replacement, and who is about to leave."""


class Crew:
    """The lines of one feed; ``gone`` hears of each that has ended for good."""

    def __init__(
        self,
        label: str,
        market: str,
        around: Surroundings,
        *,
        arbiter: Arbiter,
        hub: Hub,
        target: Target,
        gone: Callable[[str], None],
    ) -> None:
        self.label = label
        self.arbiter = arbiter
        self.attempting: set[str] = set()
        """Lines that try to connect."""
        self._market = market
        self._around = around
        self._means = around.means
        self._health = around.means.health
        self._hub = hub
        self._target = target
        self._gone = gone
        self._count = len(arbiter.lines)
        self._surplus_since = 0.0
        self._nursery: trio.Nursery | None = None
        self._path = crc32(label.encode())
        self._lines = {name: self._line(name, self._first_path(name)) for name in arbiter.lines}
        self.rotation = Rotation(self, around.notify)

    def __repr__(self) -> str:
        return f"<Crew of {self.label}: {list(self._lines.values())}>"

    @property
    def lines(self) -> Mapping[str, Line]:
        """The lines by their names, always the present ones; those that are about to leave are among them."""
        return self._lines

    @property
    def complete(self) -> bool:
        """Whether there are as many lines as are wanted."""
        return len(self._lines) == self._count

    async def run(self) -> None:
        """Keep all lines up until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for line in self._lines.values():
                self._means.gate.claim(self._market)
                nursery.start_soon(self._keep, line)
            self.adjust()
            await self.rotation.run()

    def _line(self, name: str, path: int) -> Line:
        line = Line(
            name,
            self._target,
            self._hub,
            self._means,
            priority=self.priority,
            market=self._market,
            path=path,
        )
        line.retune(self._health)
        return line

    def _first_path(self, name: str) -> int:
        return self._path + LINE_NAMES.index(name)

    async def _keep(self, line: Line) -> None:
        """Let a line live, and then see it off."""
        try:
            await line.run()
        finally:
            self._means.gate.unclaim(self._market)
        self.attempting.discard(line.name)
        del self._lines[line.name]
        self._gone(line.name)
        self.rotation.look()

    def priority(self) -> int:
        """Rank a connection of this feed: 0 for its first, 1 for its second, 2 for more (core.budget)."""
        connected = {name for name, line in self.arbiter.lines.items() if line.connected}
        return min(len(connected | self.attempting), 2)

    def askable(self) -> list[str]:
        """Return the lines that can be asked for a snapshot, the good ones if there are any.

        What a witness brings is not released yet: its snapshot would be ahead of the stream.
        """
        lines = self.arbiter.lines
        placed = [name for name, line in self._lines.items() if line.is_open and lines[name].placed]
        return [name for name in placed if lines[name].up] or placed

    def connected(self, line: str) -> None:
        """Hear that a line is connected."""
        self.attempting.discard(line)
        self.rotation.look()

    def retune(self, health: Health) -> None:
        """Let the lines, and those to come, go by other settings from now on."""
        self._health = health
        for line in self._lines.values():
            line.retune(health)

    def retarget(self, target: Target) -> None:
        """Have further connections made to another target."""
        self._target = target
        for line in self._lines.values():
            line.retarget(target)

    # Replaced, paused, restarted

    def replace(self, line: str, reason: str) -> None:
        """Have a line replaced as soon as it is its turn."""
        self.rotation.want(line, reason)

    def hire(self, old: str) -> str | None:
        """Add a line that is to replace another; None where the limits leave no place for it."""
        free = self._free_name()
        if free is None or self._nursery is None or not self._means.gate.claim_spare(self._market):
            return None
        self._take_on(free, self._lines[old].path)
        return free

    def dismiss(self, line: str, reason: str) -> None:
        """Let a line go for good."""
        self._find(line).retire(reason)

    def restart(self, line: str) -> None:
        """Have a line replaced by hand, or tried at once where it is not connected.

        Raise `NoSuchLine`, or `LineNeeded` where it is the last aligned one and the limits leave no place beside it.
        """
        one = self._find(line)
        if not one.is_open:
            one.restart(BY_HAND, at_once=True)
            return
        if self._is_last(line) and not self._means.gate.has_spare(self._market):
            raise LineNeeded(self.label, line)
        self.rotation.want(line, BY_HAND)

    def rotate(self) -> None:
        """Have all connected lines replaced, one at a time."""
        for name in self._lines:
            self.rotation.want(name, BY_HAND)

    def pause(self, line: str) -> None:
        """Let a line be without a connection until `resume`.

        Raise `NoSuchLine`, or `LineNeeded` where it is the last aligned one.
        """
        one = self._find(line)
        if self._is_last(line):
            raise LineNeeded(self.label, line)
        if not one.is_paused:
            one.pause("paused")
            self._around.notify(note("line_paused", feed=self.label, line=line))

    def resume(self, line: str) -> None:
        """Let a paused line connect again; raise `NoSuchLine`."""
        one = self._find(line)
        if one.is_paused:
            one.resume()
            self._around.notify(note("line_resumed", feed=self.label, line=line))

    def obey(self, order: Restart | Quarantine) -> None:
        """Carry out what the arbiter orders about a line."""
        if isinstance(order, Quarantine):
            self._around.notify(note("line_quarantined", feed=self.label, line=order.line))
            self._around.incident(order.incident)
            self._lines[order.line].restart("quarantined", self._means.health.quarantine_s)
            return
        self._around.notify(note("line_restarted", feed=self.label, line=order.line, reason=order.reason))
        if order.reason == STALLED and not self.rotation.busy:
            self.rotation.want(order.line, STALLED)
        else:
            self._lines[order.line].restart(order.reason)

    def _find(self, line: str) -> Line:
        if line not in self._lines:
            raise NoSuchLine(self.label, line)
        return self._lines[line]

    def _is_last(self, line: str) -> bool:
        """Tell whether a line is aligned, and no other that could carry the feed."""
        lines = self.arbiter.lines
        others = any(other.up for name, other in lines.items() if name != line)
        return lines[line].owing is not None and not others

    # How many

    def resize(self, count: int) -> None:
        """Have so many lines from now on."""
        self._count = count
        self._surplus_since = trio.current_time()
        self.adjust()

    def adjust(self) -> None:
        """Have as many lines as are wanted; while a replacement is under way, later."""
        if self.complete or self._nursery is None or self.rotation.busy:
            return
        staying = [name for name, line in self._lines.items() if not line.is_leaving]
        for _ in range(self._count - len(staying)):
            self._hire_more()
        if len(staying) > self._count:
            leaving = self._superfluous(staying)
            if leaving is not None:
                self.dismiss(leaving, "superfluous")

    def _hire_more(self) -> None:
        """Add a line for good."""
        free = self._free_name()
        if free is None:
            return  # too many are still saying goodbye
        self._means.gate.claim(self._market)
        self._take_on(free, self._first_path(free))

    def _take_on(self, name: str, path: int) -> None:
        """Let a line more take part, whose claim is made."""
        assert self._nursery is not None
        line = self._lines[name] = self._line(name, path)
        self.arbiter.add_line(name, trio.current_time())
        self._nursery.start_soon(self._keep, line)

    def _free_name(self) -> str | None:
        return next((name for name in LINE_NAMES if name not in self._lines), None)

    def _superfluous(self, staying: Sequence[str]) -> str | None:
        """Choose a line that the feed can do without, the unconnected and the last ones first; None for none yet."""
        lines = self.arbiter.lines
        patient = trio.current_time() - self._surplus_since < SURPLUS_S
        for name in sorted(staying, key=lambda name: (not lines[name].connected, name), reverse=True):
            if not lines[name].connected or self.arbiter.can_spare(name):
                return name
            if not patient and not self._is_last(name):
                return name
        return None
