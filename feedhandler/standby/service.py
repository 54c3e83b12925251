"""The standby's course: follow the active daemon as long as there is one, and have the lock as soon as there is none.

    waiting ──the socket answers──▶ replaying ──level──▶ level ──the connection ends──▶ waiting
       └──the lock is free──▶ this daemon is the active one (`run` returns)

The lock is tried whenever this daemon is not connected, at least every `LOOK_S`. While it is connected the other one
lives: a frozen daemon keeps its connection and its lock, so nobody takes over from it until it is killed.

What was followed is **whole** if the lock's file still names this following (`publish.lock`): then all is known that
any consumer knows, and the session goes on. Else another session begins; but where the file names somebody else, that
one is given `YIELD_S` to take the lock first: of two standbys only one follows.

The other daemon goes on without waiting for this one where this one is too slow for a moment: then nobody relies on
what is known here, until it has caught up.

A connection that ends while the lock is held is one that the other daemon gave up: it was too slow by a whole backlog,
or cannot be followed. This daemon begins anew after a pause that grows up to `PAUSE_MOST_S`; what it has is kept until
then, for the lock may fall free meanwhile. Where its own feeds are to be others it begins anew at once. One that is
*refused* will not be accepted later either; so that is the end, with the reason.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from typing import Final

import msgspec
import trio

from feedhandler.core.notes import Notify, note
from feedhandler.errors import OperationalError
from feedhandler.publish.endpoint import Peer, peer_of
from feedhandler.publish.lock import Lock
from feedhandler.publish.records import FOLLOW, PROTOCOL
from feedhandler.standby.mirror import Mirror
from feedhandler.standby.records import Head, Record, read

LOOK_S: Final = 0.01
"""Between two attempts to get the lock."""

READY_LOOK_S: Final = 0.25
"""Between two looks at whether this daemon could take over."""

PAUSE_S: Final = 1.0
"""Before the first new beginning; doubled each time, unless the last following has lasted `LASTING_S`."""

PAUSE_MOST_S: Final = 30.0
LASTING_S: Final = 60.0

YIELD_S: Final = 2.0
"""For another standby, which knows more, to take the lock."""

GREETING_S: Final = 30.0
"""For the other daemon to greet; a frozen one does not, and is asked again."""

READ_BYTES: Final = 1024 * 1024
LINE_BYTES: Final = 256 * 1024 * 1024
"""The longest line; a longer one is none that a daemon sends."""

FINAL_CODES: Final = frozenset({"protocol", "forbidden", "bad_request"})
"""Refusals that no repetition changes."""


class Standby:
    """Follows; ``begin`` makes a mirror of a session, ``level`` hears that it is level, ``missing`` says what lacks."""

    def __init__(
        self,
        path: Path,
        lock: Lock,
        *,
        begin: Callable[[str], Mirror],
        level: Callable[[], None],
        missing: Callable[[], list[str]],
        notify: Notify,
    ) -> None:
        self._path = path
        self._lock = lock
        self._begin = begin
        self._level = level
        self._missing = missing
        self._notify = notify
        self._mirror: Mirror | None = None
        self._token = ""
        self._pause_s = PAUSE_S
        self._free_since: float | None = None
        self._following = trio.CancelScope()
        self._heard_at: float | None = None
        self._says_ready = False
        self.active_pid: int | None = None
        """The process that is followed; None while there is no connection."""

    def start_over(self) -> None:
        """Follow anew, and at once: the feeds here are to be others."""
        if self._mirror is not None:
            self._mirror.wrong = "the feeds have changed"
            self._mirror.is_level = self._mirror.is_heard = False
        self._following.cancel()

    @property
    def has_followed(self) -> bool:
        """Whether there was an active daemon to follow."""
        return self._mirror is not None

    @property
    def heard_s(self) -> float | None:
        """For how long nothing was heard of the active daemon (s); None where nothing was at all."""
        return None if self._heard_at is None else trio.current_time() - self._heard_at

    @property
    def is_level(self) -> bool:
        """Whether this daemon knows all that any consumer knows, and is told more."""
        return self._mirror is not None and self._mirror.is_level

    @property
    def is_heard(self) -> bool:
        """Whether the active daemon knows that this one is ready, and would hand over to it."""
        return self._mirror is not None and self._mirror.is_heard

    async def run(self) -> bool:
        """Follow until this daemon has the lock; tell whether what it knows is whole."""
        not_before = trio.current_time()
        while not self._has_lock():
            if trio.current_time() >= not_before:
                began = trio.current_time()
                if await self._follow_once():
                    not_before = trio.current_time() + self._pause(began)
                    continue  # the lock first
            await trio.sleep(LOOK_S)
        is_whole = self._is_whole()
        if is_whole and self._mirror is not None:
            self._mirror.finish()
        return is_whole

    def _has_lock(self) -> bool:
        """Try to have the lock; leave it for a while to whoever knows more."""
        if not self._lock.take():
            self._free_since = None
            return False
        if self._is_whole() or not self._lock.marked():
            return True
        now = trio.current_time()
        self._free_since = now if self._free_since is None else self._free_since
        if now - self._free_since >= YIELD_S:
            return True
        self._lock.release()
        return False

    def _is_whole(self) -> bool:
        mirror = self._mirror
        return mirror is not None and not mirror.wrong and self._lock.marked() == self._token != ""

    def _pause(self, began: float) -> float:
        """Return how long to wait before following again; not at all where the end was this daemon's own wish."""
        if self._following.cancel_called:
            return 0.0
        if trio.current_time() - began >= LASTING_S:
            self._pause_s = PAUSE_S
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, PAUSE_MOST_S)
        return pause_s

    async def _follow_once(self) -> bool:
        """Follow as long as there is a connection; tell whether there was any."""
        try:
            stream = await trio.open_unix_socket(os.fspath(self._path))
        except OSError:
            return False
        async with stream:
            with trio.CancelScope() as self._following:
                await self._follow(_Lines(stream))
        self.active_pid = None
        if self._mirror is not None:
            self._mirror.is_level = self._mirror.is_heard = False
            self._notify(note("following_ended", reason=self._mirror.wrong or _word(self._mirror.said)))
        return True

    async def _follow(self, lines: "_Lines") -> None:
        """Follow from the greeting to the end."""
        if lines.peer().uid not in {os.geteuid(), 0}:
            raise OperationalError(f"{self._path}: another user's process serves this socket")
        hello = None
        with trio.move_on_after(GREETING_S):
            hello = await lines.one()
        if hello is None or hello.head.type != "hello":
            return
        if hello.head.protocol != PROTOCOL:
            raise OperationalError(
                f"{self._path}: {hello.head.server} speaks protocol {hello.head.protocol}, this daemon {PROTOCOL}"
            )
        token = token_hex(16)
        wish = {"op": "follow", "protocol": PROTOCOL, "follow": FOLLOW, "token": token}
        await lines.say(wish)
        self._token = ""
        mirror = self._mirror = self._begin(hello.head.session)
        self._token = token
        self.active_pid = lines.peer().pid
        self._notify(note("following_began", session=hello.head.session, server=hello.head.server))
        await self._keep_up(lines, mirror)
        self._heed(mirror.said)

    async def _keep_up(self, lines: "_Lines", mirror: Mirror) -> None:
        """Take all that comes, and tell the other daemon whether this one is ready."""
        async with trio.open_nursery() as nursery:
            try:
                while not mirror.wrong and (some := await lines.some()):
                    self._heard_at = trio.current_time()
                    was_level, was_heard = mirror.is_level, mirror.is_heard
                    mirror.take(some)
                    if was_heard and not mirror.is_heard and self._says_ready:
                        self._notify(note("following_behind"))
                    if mirror.is_level and not was_level:
                        self._notify(note("following_level"))
                        self._level()
                        nursery.start_soon(self._tell_ready, lines)
            finally:
                nursery.cancel_scope.cancel()

    async def _tell_ready(self, lines: "_Lines") -> None:
        self._says_ready = False
        while True:
            ready = not self._missing()
            if ready != self._says_ready:
                self._says_ready = ready
                await lines.say({"ready": ready})
                self._notify(note("standby_ready" if ready else "standby_unready"))
            await trio.sleep(READY_LOOK_S)

    def _heed(self, said: Head | None) -> None:
        """End where the other daemon says what will not change."""
        if said is not None and said.type == "error" and said.code in FINAL_CODES:
            raise OperationalError(f"{self._path}: the active daemon cannot be followed: {said.detail}")


class _Lines:
    """The lines of one connection, both ways."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._rest = b""

    def peer(self) -> Peer:
        """Return which process the other side is, and whose."""
        return peer_of(self._stream.socket)

    async def some(self) -> list[bytes]:
        """Return the next lines, without their ends; none at the end, where a line without one is none."""
        while len(self._rest) < LINE_BYTES:
            data = b""
            with suppress(
                trio.BrokenResourceError
            ):  # a killed process may leave it so, behind all that it has sent
                data = await self._stream.receive_some(READ_BYTES)
            if not data:
                return []
            *lines, self._rest = (self._rest + data).split(b"\n")
            if lines:
                return lines
        return []

    async def one(self) -> Record | None:
        """Return the first record, before anything was asked for; None where it is none."""
        lines = await self.some()
        return read(lines[0]) if lines else None

    async def say(self, words: dict[str, object]) -> None:
        """Send a line; that it cannot be sent shows when reading."""
        with suppress(trio.BrokenResourceError):
            await self._stream.send_all(msgspec.json.encode(words) + b"\n")


def _word(said: Head | None) -> str:
    """Return why the other daemon has left, as far as it said so."""
    return "end" if said is None else said.reason or said.code
