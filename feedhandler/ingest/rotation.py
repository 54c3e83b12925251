"""The replacement of a feed's lines, one at a time: by age, where one is stalled, or because somebody asked for it.

    due or wanted ──▶ a place is free ──▶ a new line beside the old one ──aligned, good──▶ the old one goes
                  │                              └──lost, or no place found──▶ the new one goes, the old one stays
                  └─▶ none is free ────▶ when another line stands in: the same line anew

Rules:

- One replacement of a feed is under way at a time; so the lines of a feed never share a fate.
- Make before break where the limits leave a place for one line more. The old line is let go when the feed loses nothing
  with it: a good one has its place in every channel. In a channel where nothing happens it cannot show that; one that
  is good for `SETTLE_S` need not, unless lines have been seen to mix the channels differently.
- Break before make where they do not; never the last aligned line, and only where a good one stands in.
- A replacement that is refused or lost is given up, and so is one that finds no place within `PATIENCE_S` although the
  feed moves. Where nothing moves, it waits.
- An old line that is lost meanwhile leaves its place to its successor, if that is connected.
- A line whose token ends is replaced only when there is a newer token.
- In a market that is silent for a whole life of a token, at an exchange that closes at its end, the lines end without
  a successor that is aligned, and a gap is written. Nothing can prove it away (R8): a line that hears pongs only is the
  same to look at in a silent market as one that is mute or behind, and what it would have brought is gone with it.
- What was wanted or put off concerns a connection. With its end it is done with: the next one of that letter is new.
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

import trio

from feedhandler.core.arbiter import Arbiter
from feedhandler.core.arbiter import Line as State
from feedhandler.core.health import GOOD, SUSPECT
from feedhandler.core.notes import Notify, note
from feedhandler.ingest.line import Line

STEP_S: Final = 0.1
"""How often a replacement under way is looked at."""
LOOK_S: Final = 1.0
"""How often a line is looked at that is due and cannot be replaced yet."""
LOOK_AGAIN_S: Final = 60.0
"""The longest that nobody looks which line is due next."""
PATIENCE_S: Final = 20.0
"""The longest that a replacement may look for its place, and that a good line is waited for that stands in."""
CHANCES: Final = 16
"""Events that a replacement must hold before it can be said to find no place."""
SETTLE_S: Final = 10.0
"""A line that is good for so long stands in for another in channels where it has not brought anything yet."""
RETRY_S: Final = 10.0
"""The longest random wait after a replacement that was given up."""

AGE: Final = "age"
STALLED: Final = "stalled"
BY_HAND: Final = "by_hand"


class Crew(Protocol):
    """The lines of a feed, as far as their replacement goes."""

    label: str

    @property
    def arbiter(self) -> Arbiter:
        """The merge of the lines."""

    @property
    def lines(self) -> Mapping[str, Line]:
        """The lines by their names."""

    def hire(self, old: str) -> str | None:
        """Add a line that is to replace another; None where the limits leave no place for it."""

    def dismiss(self, line: str, reason: str) -> None:
        """Let a line go for good."""


class Rotation:
    """Replaces the lines of one feed."""

    def __init__(self, crew: Crew, notify: Notify) -> None:
        self._crew = crew
        self._notify = notify
        self._wanted: dict[str, str] = {}
        self._not_before_s: dict[str, float] = {}
        self._news = trio.Event()
        self.busy = False
        """Whether a replacement is under way."""

    def __repr__(self) -> str:
        return f"<Rotation of {self._crew.label}: {list(self._wanted)} wanted>"

    def want(self, line: str, reason: str) -> None:
        """Replace the connection that a line has as soon as it is its turn; once is enough."""
        if self._is_open(line):
            self._wanted.setdefault(line, reason)
            self.look()

    def forget(self, line: str) -> None:
        """Hear that a line's connection has ended: it is not to be replaced any more."""
        self._wanted.pop(line, None)
        self._not_before_s.pop(line, None)

    def look(self) -> None:
        """Hear that lines have come or gone."""
        self._news.set()

    def spare(self) -> str | None:
        """Return the connected line that the feed can best do without now; None while one is being replaced."""
        if self.busy:
            return None
        states = self._crew.arbiter.lines
        names = [name for name in sorted(self._crew.lines, reverse=True) if self._is_open(name)]
        names.sort(key=lambda name: states[name].up)
        return next((name for name in names if self._can_spare(name)), None)

    async def run(self) -> None:
        """Replace what is due or wanted until cancelled."""
        while True:
            found = await self._next()
            self.busy = True
            await self._replace(*found)
            self.busy = False

    async def _next(self) -> tuple[str, str]:
        """Wait until a line is to be replaced; return it with the reason."""
        while True:
            found = self._wanted_now() or self._due_now()
            if found is not None:
                return found
            self._news = trio.Event()
            with trio.move_on_at(self._next_s()):
                await self._news.wait()

    def _wanted_now(self) -> tuple[str, str] | None:
        if not self._wanted:
            return None
        name = next(iter(self._wanted))
        return name, self._wanted.pop(name)

    def _due_now(self) -> tuple[str, str] | None:
        now_s = trio.current_time()
        due = [(self._due_s(line), name) for name, line in self._crew.lines.items() if line.is_open]
        due = [
            (due_s, name) for due_s, name in due if due_s <= now_s and self._crew.lines[name].is_renewable()
        ]
        return (min(due)[1], AGE) if due else None

    def _next_s(self) -> float:
        """Return when a line is due next; one that is due already is looked at again soon.

        With more lines to be replaced it may be due sooner than it seems now.
        """
        now_s = trio.current_time()
        times = [self._due_s(line) for line in self._crew.lines.values() if line.is_open]
        return max(now_s + LOOK_S, min(now_s + LOOK_AGAIN_S, *times)) if times else float("inf")

    def _due_s(self, line: Line) -> float:
        return max(line.due_s, self._not_before_s.get(line.name, line.due_s))

    def _is_open(self, name: str) -> bool:
        return name in self._crew.lines and self._crew.lines[name].is_open

    # One replacement

    async def _replace(self, old: str, reason: str) -> None:
        new = self._crew.hire(old)
        if new is None:
            done = await self._renew(old, reason)
        else:
            self._note("replacement_begun", line=old, by=new, reason=reason)
            done = await self._overlap(old, new, reason)
        if not done and self._is_open(old):
            lot = self._crew.lines[old].draw()
            self._not_before_s[old] = trio.current_time() + LOOK_S + lot * RETRY_S

    async def _overlap(self, old: str, new: str, reason: str) -> bool:
        """Wait for what becomes of a new line beside the old one; tell whether it has replaced it."""
        while True:
            await trio.sleep(STEP_S)
            trouble = self._trouble(old, new)
            if trouble:
                await self._give_up(old, new, reason, trouble)
                return False
            if self._may_go(old, new):
                self._note("line_replaced", line=old, by=new, reason=reason)
                self._crew.dismiss(old, reason)
                await self._wait_gone(old)
                return True

    def _trouble(self, old: str, new: str) -> str:
        """Return why a replacement is to be given up; "" where it is not."""
        lines = self._crew.lines
        if new not in lines or lines[new].has_failed:
            return "failed"
        if old not in lines or lines[old].is_paused or not (lines[old].is_open or lines[new].is_open):
            return "needless"
        return "unplaced" if self._is_lost(self._crew.arbiter.lines[new]) else ""

    def _is_lost(self, state: State) -> bool:
        """Tell whether a line has had its chance to find a place: it brings nothing, or nothing that fits."""
        held = state.hold.events
        if state.owing is not None or not state.connected:
            return False
        late = bool(held) and trio.current_time() - held[0].at >= PATIENCE_S
        return state.health.state == SUSPECT or (late and len(held) >= CHANCES)

    def _may_go(self, old: str, new: str) -> bool:
        """Tell whether the old line is not needed any more."""
        arbiter = self._crew.arbiter
        state = arbiter.lines[new]
        if not self._crew.lines[old].is_open:
            return state.connected
        if not state.up or not state.placed:
            return False
        if not arbiter.lines[old].up:
            return True
        return state.health.state == GOOD and self._can_spare(old)

    def _can_spare(self, name: str) -> bool:
        return self._crew.arbiter.can_spare(name, settled=trio.current_time() - SETTLE_S)

    async def _give_up(self, old: str, new: str, reason: str, trouble: str) -> None:
        """Let the replacement go; a stalled line that it was for begins anew, since it brings nothing anyway."""
        self._note("replacement_given_up", line=old, by=new, reason=trouble)
        if new in self._crew.lines:
            self._crew.dismiss(new, "given_up")
            await self._wait_gone(new)
        if reason == STALLED and self._is_open(old) and not self._crew.arbiter.lines[old].up:
            self._crew.lines[old].restart(reason)

    async def _wait_gone(self, name: str) -> None:
        """Wait until a line has said goodbye, so that its place and its name are free; that is bounded."""
        await self._wait_until(lambda: name not in self._crew.lines)

    async def _renew(self, name: str, reason: str) -> bool:
        """End a line and let it begin anew, when another stands in for it; tell whether that came about."""
        line = self._crew.lines[name]
        if reason == STALLED:
            line.restart(reason)
            return True
        with trio.move_on_after(PATIENCE_S):
            await self._wait_until(lambda: not line.is_open or self._can_spare(name))
        if not line.is_open or not self._can_spare(name):
            return False
        self._note("replacement_begun", line=name, by=name, reason=reason)
        line.restart(reason, at_once=True)
        await self._wait_up(name)
        return True

    async def _wait_up(self, name: str) -> None:
        """Wait until a line that begins anew is aligned, or clearly will not be so soon."""
        with trio.move_on_after(PATIENCE_S):
            await trio.sleep(STEP_S)
            await self._wait_until(lambda: name not in self._crew.lines or self._crew.arbiter.lines[name].up)

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait for what nobody announces."""
        while True:
            if condition():
                return
            await trio.sleep(STEP_S)

    def _note(self, name: str, *, line: str, by: str, reason: str) -> None:
        self._notify(note(name, feed=self._crew.label, line=line, by=by, reason=reason))
