"""What systemd hears of a bridge: that it is ready, how it is, that it makes progress, that it ends.

Ready is a bridge that is connected to NATS, has created or checked its stream, knows what stands in it, and reads the
daemon's socket. However long that takes: until then the status line says what is waited for.

The keep-alive is tied to what moves (`core.motion`): the link, which goes round at least every `TICK_S` while it is
used and gives itself up where nothing comes back, and the reading of the socket, where bytes wait in it and there is
room. A part that has stood still for `STILL_S` stops the keep-alives, and ``WatchdogSec`` later systemd ends the bridge
and starts it again, which costs nothing: the stream is its position. Once the end has begun, it has a bound of its own.
"""

import asyncio
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from feedhandler.core.motion import Motion, Part
from feedhandler.core.notes import Notify, note
from feedhandler.observe.bridging import BridgeState
from feedhandler.observe.systemd import BEATS, STATUS_S, Manager, watchdog_s

LOOK_S: Final = 1.0

STILL_S: Final = 45.0
"""Longer than an attempt to connect to three servers, and the questions behind it, may take."""


class Supervised:
    """Looks at a bridge and tells systemd."""

    def __init__(
        self,
        environ: Mapping[str, str],
        notify: Notify,
        parts: Callable[[], Iterable[Part]],
        state: Callable[[], BridgeState],
    ) -> None:
        self._manager = Manager(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog_s = watchdog_s(environ, os.getpid())
        self._notify = notify
        self._parts = parts
        self._state = state
        self._motion = Motion()
        self._told_still: set[str] = set()
        self._ready = self._stopping = False
        self._status = ""
        self._status_at = self._beat_at = self._looked_at = -math.inf

    def still(self) -> list[str]:
        """Return the names of the parts that stood still at the last look."""
        return [] if self._stopping else self._motion.standing(self._looked_at, STILL_S)

    async def run(self) -> None:
        """Look and tell until cancelled."""
        every_s = min(LOOK_S, self._watchdog_s / BEATS or LOOK_S)
        try:
            while True:
                self.look(asyncio.get_running_loop().time())
                await asyncio.sleep(every_s)
        finally:
            self.close()

    def close(self) -> None:
        """Tell nothing more."""
        self._manager.close()

    def stop(self) -> None:
        """Tell that the end has begun."""
        self._stopping = True
        self._manager.tell(STOPPING="1", STATUS="ending: what is pending is written and confirmed")

    def look(self, now: float) -> None:
        """Look once, and tell what is new (s)."""
        self._looked_at = now
        self._motion.look(self._parts(), now)
        self._note_still(set(self.still()))
        state = self._state()
        if not self._ready and not self._stopping and not state.reasons():
            self._ready = True
            self._status_at, self._status = now, state.line()
            self._manager.tell(READY="1", STATUS=self._status)
        elif not self._stopping and now - self._status_at >= STATUS_S:
            self._tell_status(state.line(), now)
        self._beat(now)
        self._manager.tell()

    def _tell_status(self, line: str, now: float) -> None:
        self._status_at, before, self._status = now, self._status, line
        if line != before:
            self._manager.tell(STATUS=line)

    def _beat(self, now: float) -> None:
        """Send a keep-alive where one is due and deserved."""
        if self._watchdog_s and now - self._beat_at >= self._watchdog_s / BEATS and not self.still():
            self._beat_at = now
            self._manager.tell(WATCHDOG="1")

    def _note_still(self, still: set[str]) -> None:
        """Note each part once that stands still, and once that it does not any more."""
        for name in sorted(still - self._told_still):
            self._notify(note("progress_stopped", part=name))
        for name in sorted(self._told_still - still):
            self._notify(note("progress_resumed", part=name))
        self._told_still = still
