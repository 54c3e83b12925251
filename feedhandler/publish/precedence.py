"""Another daemon that follows, and is served first: so that it knows all that any consumer knows.

A standby that takes over goes on with the numbering. It may do so only if it has every record that any consumer has
been sent; else two records would have the same number. So **what is sent to consumers has been handed to the kernel
for the follower before**. What the kernel has taken it delivers, whatever becomes of this process. Of a record that
was handed over in part no consumer has anything yet, so it may be as if it had never been.

    behind ──level──▶ first ──not level for `PATIENCE_S`──▶ behind
             (its token is written down)       (the token is wiped out, then consumers go on)

While the follower is first and not level, consumers wait: this is the one case in which anybody does, for `PATIENCE_S`
at most. After that **it loses its place, not its connection**: it is told that nobody relies on it, and is sent on like
any consumer, as far behind as the backlog reaches; beyond that it is disconnected, and has to begin anew. A process
that reads all the time, as a standby does, is level again within a fraction of a millisecond, or soon behind a burst.

It has its place again as soon as it is level, but not within `PAUSE_S` of losing it. That pause doubles each time up to
`PAUSE_MOST_S`, unless the place was kept for `LASTING_S`: a follower that is too slow for good costs consumers
`PATIENCE_S` in every `PAUSE_MOST_S`, and no more. The beat of its connection is what brings it back where nothing is
said. When nothing more is published, at the end, being level is enough.

A follower says whether it is ready, and that is confirmed: it calls itself ready to others only when this daemon would
hand over to it. Otherwise this one could be told to end a moment too early, and say goodbye to its consumers.

What is opened while a follower cannot be told so in its place makes it begin anew.
"""

from collections.abc import Callable
from typing import Final, Protocol

import trio

from feedhandler.publish import records

PATIENCE_S: Final = 0.25
"""The longest that consumers wait for a follower that does not take what there is."""

PAUSE_S: Final = 1.0
"""The least between losing the place and having it again; doubled each time."""

PAUSE_MOST_S: Final = 30.0
LASTING_S: Final = 60.0
"""Who has kept the place for so long waits for `PAUSE_S` again."""


class Follower(Protocol):
    """The consumer that follows."""

    @property
    def is_level(self) -> bool:
        """Whether the kernel has taken all that there is for it."""

    def flush_all(self) -> None:
        """Send at once all that the kernel takes."""

    def retry(self) -> None:
        """Likewise, with what the kernel did not take before."""

    def tell(self, record: bytes) -> None:
        """Send a record for it alone, behind all that was taken for it before."""

    def note_behind(self) -> None:
        """Note that nobody waits for it any more."""

    def note_caught_up(self) -> None:
        """Note that it is served first again."""

    def start_over(self) -> None:
        """Be disconnected, to begin anew."""


class Precedence:
    """Who is served first; ``mark`` writes down its token, ``opened`` sends to the consumers that had to wait."""

    def __init__(self, mark: Callable[[str], None], opened: Callable[[], None]) -> None:
        self._mark = mark
        self._opened = opened
        self._follower: Follower | None = None
        self._token = ""
        self._first = False
        self._says_ready = False
        self._has_lost = False
        self._is_over = False
        self._first_since_s = 0.0
        self._not_before_s = 0.0
        self._pause_s = PAUSE_S
        self._closed = trio.Event()
        self._open = trio.Event()
        self._moved = trio.Event()

    @property
    def follower(self) -> Follower | None:
        """Who follows, be it that it is behind."""
        return self._follower

    @property
    def is_first(self) -> bool:
        """Whether there is a follower that is served first."""
        return self._first

    @property
    def ready(self) -> bool:
        """Whether the follower could take over at once: it says so, and is served first."""
        return self._first and self._says_ready

    @property
    def waits(self) -> bool:
        """Whether consumers have to wait."""
        return self._closed.is_set()

    def take(self, follower: Follower, token: str) -> bool:
        """Let somebody follow; False where another one does already."""
        if self._follower is not None:
            return False
        self._follower, self._token = follower, token
        self._has_lost = False
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
        if not self._first and self._may_be_first():
            self._put_first(follower)
        if self.waits:
            self._let_go_on()

    def _may_be_first(self) -> bool:
        return self._is_over or not self._has_lost or trio.current_time() >= self._not_before_s

    def _put_first(self, follower: Follower) -> None:
        """Write down that it has everything, and tell it so."""
        self._first = True
        self._first_since_s = trio.current_time()
        self._mark(self._token)
        self._move()
        if self._has_lost:
            follower.note_caught_up()
        follower.tell(records.level() + (records.heard(ready=True) if self._says_ready else b""))

    def _put_back(self, follower: Follower) -> None:
        """Let consumers go on before a follower that does not take what there is."""
        self._wipe()
        now_s = trio.current_time()
        if now_s - self._first_since_s >= LASTING_S:
            self._pause_s = PAUSE_S
        self._not_before_s, self._has_lost = now_s + self._pause_s, True
        self._pause_s = min(2 * self._pause_s, PAUSE_MOST_S)
        follower.note_behind()
        follower.tell(records.heard(ready=False))
        if self.waits:
            self._let_go_on()

    def _wipe(self) -> None:
        """Write down that nobody is known to have everything; at the end what stands there is true."""
        self._first = False
        if not self._is_over:
            self._mark("")

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

    def tell(self, record: bytes) -> None:
        """Tell the follower, if there is one, what is true from now on, wherever it stands."""
        if self._follower is not None:
            self._follower.tell(record)

    def lose(self) -> None:
        """Go on without the follower."""
        follower = self._follower
        if follower is not None:
            self.leave(follower)
            follower.start_over()

    def end(self) -> None:
        """Let the follower's token stand, whatever comes: nothing more is published."""
        self._is_over = True
        if self._follower is not None and self._follower.is_level:
            self.is_level(self._follower)

    async def settled(self) -> None:
        """Wait until a follower has everything, or there is none."""
        while self._follower is not None and not self._first:
            await self._moved.wait()

    def leave(self, follower: Follower) -> None:
        """Hear that a follower is gone."""
        if follower is not self._follower:
            return
        if self._first:
            self._wipe()
        self._follower, self._token = None, ""
        self._says_ready = False
        self._move()
        if self.waits:
            self._let_go_on()

    def _move(self) -> None:
        self._moved.set()
        self._moved = trio.Event()

    def _let_go_on(self) -> None:
        self._closed = trio.Event()
        self._open.set()
        self._open = trio.Event()
        self._opened()

    def hear(self, follower: Follower, *, ready: bool) -> None:
        """Hear whether a follower is ready, and confirm it."""
        if follower is self._follower:
            self._says_ready = ready
            follower.tell(records.heard(ready=self.ready))

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
            if patience.cancelled_caught and self._follower is not None:
                self._follower.retry()  # it was this process, maybe, that stood still
                if self.waits and self._follower is not None:
                    self._put_back(self._follower)
