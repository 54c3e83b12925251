"""The service manager: how systemd is told anything, and when it gets a keep-alive.

The protocol is a datagram of ``KEY=VALUE`` lines to the socket that ``$NOTIFY_SOCKET`` names (a path, or with ``@`` an
abstract name). It is spoken here in full, since it is a few lines. **A missing or failing socket hurts nothing**: what
could not be told is told at the next look, the newest value of each key.

What is told is the business of each program: of the daemon (`observe.systemd`) and of the bridge (`bridge.supervised`).
"""

import math
import os
import socket
from collections.abc import Collection, Mapping
from typing import Final

from feedhandler.core.notes import Notify, note

STATUS_S: Final = 5.0
"""Between two status lines."""

BEATS: Final = 4
"""Keep-alives in the time after which systemd misses one."""


class Manager:
    """The service manager's ear; with no address it hears nothing."""

    def __init__(self, address: str) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._untold: dict[str, str] = {}
        self._socket: socket.socket | None = None
        if address.startswith(("/", "@")):
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def close(self) -> None:
        """Tell nothing more."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def tell(self, **words: str) -> None:
        """Tell it at once, with what could not be told before."""
        if "READY" in words:  # the reload that could not be told is over
            self._untold.pop("RELOADING", None)
        self._untold |= words
        if self._socket is None or not self._untold:
            return
        text = "\n".join(f"{key}={value}" for key, value in self._untold.items())
        try:
            self._socket.sendto(text.encode(), socket.MSG_DONTWAIT, self._address)
        except OSError:  # nobody listens, or its queue is full: the next look tries again
            return
        self._untold.clear()


class Watchdog:
    """Keep-alives, sent while no part of a program stands still; each part that does is noted."""

    def __init__(self, manager: Manager, environ: Mapping[str, str], notify: Notify) -> None:
        self._manager = manager
        self._patience_s = watchdog_s(environ, os.getpid())
        self._notify = notify
        self._beat_at = -math.inf
        self._told_still: set[str] = set()

    def look_s(self, usual_s: float) -> float:
        """Return how often to look (s), so that no keep-alive is late."""
        return min(usual_s, self._patience_s / BEATS or usual_s)

    def beat(self, now: float, still: Collection[str]) -> None:
        """Send a keep-alive where one is due and no part stands still."""
        if self._patience_s and now - self._beat_at >= self._patience_s / BEATS and not still:
            self._beat_at = now
            self._manager.tell(WATCHDOG="1")

    def note_still(self, still: Collection[str]) -> None:
        """Note each part once that stands still, and once that it does not any more."""
        for name in sorted({*still} - self._told_still):
            self._notify(note("progress_stopped", part=name))
        for name in sorted(self._told_still - {*still}):
            self._notify(note("progress_resumed", part=name))
        self._told_still = {*still}


def watchdog_s(environ: Mapping[str, str], pid: int) -> float:
    """Return after how long systemd misses a keep-alive of this process (s); 0: never."""
    usec = environ.get("WATCHDOG_USEC", "")
    if not (usec.isascii() and usec.isdigit()) or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return 0.0
    return int(usec) / 1e6
