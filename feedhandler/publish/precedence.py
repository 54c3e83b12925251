"""Another daemon that follows, and is served first: so that it knows all that any consumer knows.

A standby that takes over goes on with the numbering. It may do so only if it has every record that any consumer has
been sent; else two records would have the same number. So **what is sent to consumers has been handed to the kernel
for the follower before**. What the kernel has taken it delivers, whatever becomes of this process. Of a record that
was handed over in part no consumer has anything yet, so it may be as if it had never been.

    replaying ──level for the first time──▶ first ──not level for `PATIENCE_S`, or gone──▶ nobody
                (its token is written down)        (the token is wiped out, then consumers go on)

While the follower is not level, consumers wait: this is the one case in which anybody does, for `PATIENCE_S` at most.
After that the follower has to begin anew, and is not ready meanwhile. A process that reads all the time, as a standby
does, is level again within a fraction of a millisecond.

A follower says whether it is ready, and that is confirmed: it calls itself ready to others only when this daemon would
hand over to it. Otherwise this one could be told to end a moment too early, and say goodbye to its consumers.

What is opened while a follower cannot be told so in its place makes it begin anew, too.
"""

from collections.abc import Callable
from typing import Final, Protocol

import trio

PATIENCE_S: Final = 0.25
"""The longest that consumers wait for a follower that does not take what there is."""


class Follower(Protocol):
    """The consumer that follows."""

    @property
    def is_level(self) -> bool:
        """Whether the kernel has taken all that there is for it."""

    def flush_all(self) -> None:
        """Send at once all that the kernel takes."""

    def tell(self, record: bytes) -> None:
        """Send a record for it alone, behind all that was taken for it before."""

    def start_over(self) -> None:
        """Be disconnected, to begin anew."""


class Precedence:
    """Who is served first; ``mark`` writes down its token, ``opened`` sends to the consumers that had to wait."""

    def __init__(self, mark: Callable[[str], None], opened: Callable[[], None], level: bytes) -> None:
        self._mark = mark
        self._opened = opened
        self._level = level
        self._follower: Follower | None = None
        self._token = ""
        self._first = False
        self._closed = trio.Event()
        self._open = trio.Event()
        self.ready = False
        """Whether the follower says that it could take over at once."""

    @property
    def follower(self) -> Follower | None:
        """Who follows, be it that it is still replaying."""
        return self._follower

    @property
    def is_first(self) -> bool:
        """Whether there is a follower that is served first."""
        return self._first

    @property
    def waits(self) -> bool:
        """Whether consumers have to wait."""
        return self._closed.is_set()

    def take(self, follower: Follower, token: str) -> bool:
        """Let somebody follow; False where another one does already."""
        if self._follower is not None:
            return False
        self._follower, self._token = follower, token
        return True

    def serve(self) -> bool:
        """Send to the follower what is pending; tell whether it may be sent to the consumers now."""
        follower = self._follower
        if follower is None or not self._first:
            return True
        follower.flush_all()
        if self._follower is follower and not follower.is_level:
            self._closed.set()
        return not self.waits

    def is_level(self, follower: Follower) -> None:
        """Hear that a follower has all that there is."""
        if follower is not self._follower:
            return
        if not self._first:
            self._first = True
            self._mark(self._token)
            follower.tell(self._level)
        if self.waits:
            self._let_go_on()

    def announce(self, record: bytes) -> None:
        """Tell the follower what has been opened, in its place among all that is published."""
        follower = self._follower
        if follower is None:
            return
        if self._first:
            follower.flush_all()
        if self._first and follower.is_level:
            follower.tell(record)
        else:
            self.lose()

    def lose(self) -> None:
        """Go on without the follower."""
        follower = self._follower
        if follower is not None:
            self.leave(follower)
            follower.start_over()

    def end(self) -> None:
        """Let the follower's token stand, whatever comes: nothing more is published."""
        self._mark = lambda _: None

    def leave(self, follower: Follower) -> None:
        """Hear that a follower is gone."""
        if follower is not self._follower:
            return
        if self._first:
            self._mark("")
        self._follower, self._token = None, ""
        self._first = self.ready = False
        if self.waits:
            self._let_go_on()

    def _let_go_on(self) -> None:
        self._closed = trio.Event()
        self._open.set()
        self._open = trio.Event()
        self._opened()

    def hear(self, follower: Follower, ready: bool) -> bool:
        """Hear whether a follower is ready; tell whether that was of interest."""
        if follower is not self._follower:
            return False
        self.ready = ready
        return True

    async def turn(self) -> None:
        """Wait until consumers may be sent to."""
        while self.waits:
            await self._open.wait()

    async def watch(self) -> None:
        """See to it that consumers do not wait for long, until cancelled."""
        while True:
            await self._closed.wait()
            with trio.move_on_after(PATIENCE_S) as patience:
                await self.turn()
            if patience.cancelled_caught:
                self.lose()
