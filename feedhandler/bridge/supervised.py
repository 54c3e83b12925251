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
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from feedhandler.core.motion import Motion, Part
from feedhandler.core.notes import Notify
from feedhandler.observe.bridging import BridgeState
from feedhandler.observe.manager import STATUS_S, Manager, Watchdog

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
        self._watchdog = Watchdog(self._manager, environ, notify)
        self._parts = parts
        self._state = state
        self._motion = Motion()
        self._ready = self._stopping = False
        self._status = ""
        self._status_at = self._looked_at = -math.inf

    def still(self) -> list[str]:
        """Return the names of the parts that stood still at the last look."""
        return [] if self._stopping else self._motion.standing(self._looked_at, STILL_S)

    async def run(self) -> None:
        """Look and tell until cancelled."""
        every_s = self._watchdog.look_s(LOOK_S)
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
        still = self.still()
        self._watchdog.note_still(still)
        state = self._state()
        if not self._ready and not self._stopping and not state.reasons():
            self._ready = True
            self._status_at, self._status = now, state.line()
            self._manager.tell(READY="1", STATUS=self._status)
        elif not self._stopping and now - self._status_at >= STATUS_S:
            self._tell_status(state.line(), now)
        self._watchdog.beat(now, still)
        self._manager.tell()

    def _tell_status(self, line: str, now: float) -> None:
        self._status_at, before, self._status = now, self._status, line
        if line != before:
            self._manager.tell(STATUS=line)
