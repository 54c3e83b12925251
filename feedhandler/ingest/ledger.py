"""The attempts to connect of all daemons at one socket, in a file beside it (`PATH.attempts`).

Their requests for tokens, which the exchange limits likewise for each key, stand in another one of the same kind
(`PATH.token-requests`); what is said here of attempts is true of these.

The exchange counts the attempts of the last minute, whichever process made them: the active daemon, its standby, one
that was killed a moment ago. So each writes down an attempt before it begins it, and begins none where the file holds
as many as are allowed.

    takeover  when a daemon took over last: for a while the exchange may count the lines of the one before it
    pause     until when the exchange has asked to be left alone (`Retry-After`)
    entries   until when each attempt counts; one that is over is free, and taken by the next

An entry stands for the longest that an attempt may last and a minute more; when the attempt is over it is cut down to
that minute. So what a killed process had under way is not forgotten too early. Times are the host's monotonic ones:
all processes share them, and a step of the wall clock changes nothing. One that is too far ahead is from before a boot,
and counts as none.

The file has a fixed size, and a lock that is held for a few system calls. Who finds it held looks again in `BUSY_S`.
Limits above `ATTEMPTS` are each process's own affair, and so is every limit where there can be no such file: that is
noted. This is beside the process's own `core.budget`, and not instead of it.
"""

import fcntl
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio
import trio.lowlevel

from feedhandler.core.budget import WINDOW_S
from feedhandler.core.notes import Notify, note

ATTEMPTS: Final = 1024
"""The most attempts that the file holds."""

HORIZON_S: Final = 700.0
"""The longest that an attempt counts: ten minutes for it, the longest that the configuration allows, and a minute."""

BUSY_S: Final = 0.05
"""Until the next look at a file that another process is just changing."""

LOOK_S: Final = 1.0
"""The longest between two looks at a full one: attempts of other processes may be over earlier than it seemed."""

MARGIN_S: Final = 0.001
"""Added to what is written down: the file's clock and the exchange's do not agree to the last digit."""

ATTEMPTS_TO_CONNECT: Final = "attempts"
REQUESTS_FOR_TOKENS: Final = "token-requests"

UNCOUNTED: Final = -1
"""The entry of an attempt that is not written down."""

_TAKEOVER: Final = 0
_PAUSE: Final = 1
_ENTRIES: Final = 2
_TIMES: Final = struct.Struct(f"<{_ENTRIES + ATTEMPTS}d")
_TIME: Final = struct.Struct("<d")


_ahead_s: Final[trio.lowlevel.RunVar[float]] = trio.lowlevel.RunVar("host clock")


def host_s() -> float:
    """Return the time by the clock that all processes of the host share."""
    try:
        ahead_s = _ahead_s.get()
    except LookupError:
        ahead_s = time.monotonic() - trio.current_time()
        _ahead_s.set(ahead_s)
    return trio.current_time() + ahead_s


class Ledger:
    """The file beside a socket, for what it counts; one of this process takes at most ``longest_s``."""

    def __init__(
        self, socket: Path, longest_s: Callable[[], float], notify: Notify, *, of: str = ATTEMPTS_TO_CONNECT
    ) -> None:
        self._name = f"{socket}.{of}"
        self._longest_s = longest_s
        self._notify = notify
        self._descriptor = -1
        self._is_lost = False
        self.retry_s = float("inf")
        """When it is worth while to ask again (the process's clock), after an attempt was not to begin."""

    def begin(self, most: int, *, despite_pause: bool = False) -> int | None:
        """Write down an attempt, at most so many at once, and return its entry; None where it must not begin yet."""
        self.retry_s = float("inf")
        if most > ATTEMPTS:
            return UNCOUNTED
        try:
            with self._held() as times:
                return None if times is None else self._enter(times, most, despite_pause=despite_pause)
        except OSError as error:
            self._lose(error)
            return UNCOUNTED

    def _enter(self, times: list[float], most: int, *, despite_pause: bool) -> int | None:
        now_s = host_s()
        waits = [until_s for until_s in times[_ENTRIES:] if _counts(until_s, now_s)]
        pauses = _counts(times[_PAUSE], now_s) and not despite_pause
        if pauses or len(waits) >= most:
            self.retry_s = trio.current_time() + min(
                LOOK_S, *(until_s - now_s for until_s in times if until_s > now_s)
            )
            return None
        entry = next(index for index in range(_ENTRIES, len(times)) if not _counts(times[index], now_s))
        self._write(entry, now_s + self._longest_s() + WINDOW_S + MARGIN_S)
        return entry

    def finish(self, entry: int) -> None:
        """Hear that an attempt is over: it counts for a minute more."""
        if entry != UNCOUNTED and not self._is_lost:
            try:
                self._write(entry, host_s() + WINDOW_S + MARGIN_S)
            except OSError as error:
                self._lose(error)

    def counted(self) -> int:
        """Return how many attempts count now, whoever made them."""
        now_s = host_s()
        return sum(_counts(until_s, now_s) for until_s in self._look()[_ENTRIES:])

    def note_takeover(self) -> None:
        """Write down that this daemon takes over now."""
        self._note_time(_TAKEOVER, host_s())

    def pause(self, pause_s: float) -> None:
        """Write down that nobody is to begin an attempt for so long."""
        self._note_time(_PAUSE, host_s() + min(pause_s + MARGIN_S, HORIZON_S))

    def _note_time(self, index: int, time_s: float) -> None:
        try:
            self._open()
            self._write(index, time_s)
        except OSError as error:
            self._lose(error)

    def since_takeover_s(self) -> float:
        """Return how long ago a daemon took over at this socket; infinite where that is not known."""
        took_over_s, now_s = self._look()[_TAKEOVER], host_s()
        return now_s - took_over_s if 0 < took_over_s <= now_s else float("inf")

    # The file

    def _look(self) -> tuple[float, ...]:
        try:
            self._open()
            return self._read()
        except OSError as error:
            self._lose(error)
            return (0.0,) * (_ENTRIES + ATTEMPTS)

    @contextmanager
    def _held(self) -> Iterator[list[float] | None]:
        """Have the file's lock, and what it holds; None where another process has the lock."""
        self._open()
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.retry_s = trio.current_time() + BUSY_S
            yield None
            return
        try:
            yield list(self._read())
        finally:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _open(self) -> None:
        if self._descriptor < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._descriptor = os.open(self._name, flags, 0o600)

    def _read(self) -> tuple[float, ...]:
        """Return all times; what the file does not have yet is zero."""
        return _TIMES.unpack(os.pread(self._descriptor, _TIMES.size, 0).ljust(_TIMES.size, b"\0"))

    def _write(self, index: int, time_s: float) -> None:
        os.pwrite(self._descriptor, _TIME.pack(time_s), index * _TIME.size)

    def _lose(self, error: OSError) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._notify(note("attempts_unshared", detail=f"{self._name}: {error.strerror}"))

    def close(self) -> None:
        """Leave the file to others."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _counts(until_s: float, now_s: float) -> bool:
    """Tell whether an entry stands for an attempt that counts; what is no time is none."""
    return now_s < until_s <= now_s + HORIZON_S
