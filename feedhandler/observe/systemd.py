"""What systemd hears of the daemon: that it is ready, how it is, that it is alive.

How it is told stands in `observe.manager`.

Ready
-----
``READY=1`` means that a consumer that is started now gets a connection and the truth. So it is told once the socket
listens and every feed is *covered*, by a line that is up, or *pending*: an attempt of it has failed, and the log says
why. An exchange that does not answer must not keep a service from starting that tells its consumers just that (their
channels are ``down``). `PENDING_S` after the socket every feed counts as pending.

A standby is ready when it could take over at once without a gap (`observe.readiness`), however long that takes: who
updates a daemon waits for that word before the old one may go.

Alive
-----
A keep-alive that a timer of the event loop sends proves that the loop turns and nothing else: readers may have stopped
for ever beside it. So it is tied to the data path, part by part (`core.motion`):

    a feed          it is told the time when something is due, so that a stalled line is found
    a line          while bytes wait in its socket, reads take them. A read is judged, numbered and delivered before
                    the next one, in one synchronous step: a delivery that does not return stops the loop itself,
                    and with it this task
    a consumer      while records wait for it and its socket takes them, they are sent
    the accepting   while somebody waits at the feed's socket, somebody is let in

These are all the steps from the wire to the consumer. What is slow moves; what has nothing to do, or cannot move since
the other side does not (an exchange that is silent, a consumer that does not read), is not its fault. A part that
has stood still for `STILL_S` with work before it stops the keep-alive until it moves, and ``WatchdogSec`` later
systemd ends the daemon and starts a new one. **It must be longer than what the daemon needs to help itself**: a line
whose reading is held up, say by an exchange that takes no pongs, is given up after
``health.ping_interval_s + health.pong_timeout_s``. That it is given up is no progress yet: until some line is seen to
read again, reading stands still.

``/healthz`` and ``progress_idle_seconds`` go by the same (`observe.liveness`), so Kubernetes and Prometheus see it,
too. While consumers are let go at the end, feeds and lines do not count any more, and the keep-alives go on.

Status
------
One line for people, at every `STATUS_S`, and only when it has changed. Names come from outside: what could begin a
new line of the protocol is escaped.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

import trio

from feedhandler.core.arbiter import DOWN, LIVE, QUIET, SYNCING
from feedhandler.core.following import OUTPUT
from feedhandler.core.motion import Motion, Part
from feedhandler.core.notes import Note, Notify
from feedhandler.ingest.feed import Feed
from feedhandler.observe.manager import STATUS_S, Manager, Watchdog

LOOK_S: Final = 1.0
"""Between two looks at the data path."""

STARTING_LOOK_S: Final = 0.1
"""Likewise until the daemon is ready."""

PENDING_S: Final = 10.0
"""After so long a feed that has no line yet counts as pending."""

STILL_S: Final = 5.0
"""A part that has stood still for so long with work before it stops the keep-alive."""

NAMES: Final = 3
"""Names that the status line tells of each kind; of further ones it tells the number."""

NAME_CHARACTERS: Final = 48
"""The longest name in it."""


class Watched(Protocol):
    """The daemon, as far as systemd is told of it."""

    @property
    def feeds(self) -> Mapping[str, Feed]:
        """All feeds, by their labels."""

    def parts(self) -> Iterable[Part]:
        """Return the parts of the data path that have to move now."""

    def consumer_count(self) -> int:
        """Return how many consumers are connected."""

    def standby_reasons(self) -> list[str] | None:
        """Return why the daemon could not take over; None where it is the active one."""

    def standby_in_words(self) -> str:
        """Return how the standby of the active daemon does; empty where there is none to be."""


class Systemd:
    """Looks at the daemon and tells systemd; `run` is its task, everything else is synchronous."""

    def __init__(self, environ: Mapping[str, str], notify: Notify) -> None:
        self._manager = Manager(environ.get("NOTIFY_SOCKET", ""))
        self._watchdog = Watchdog(self._manager, environ, notify)
        self._watched: Watched | None = None
        self._motion = Motion()
        self._failed: set[str] = (
            set()
        )  # labels of feeds that have had a failed attempt; "" for the list of markets
        self._gaps = 0
        self._refused = self._ready = self._stopping = self._key_refused = False
        self._status = ""
        self._status_at = -math.inf

    def hear(self, one: Note) -> None:
        """Take a note: some of them decide what systemd is told."""
        if one.name == "connect_failed":
            self._failed.add(str(one.fields["feed"]))
        elif one.name == "markets_failed":
            self._failed.add("")
        elif one.name == "gap_published":
            self._gaps += 1
        elif one.name == "daemon_draining":
            self._stop()
        elif one.name in {"config_refused", "config_reloaded"}:
            self._refused = one.name == "config_refused"
        elif one.name in {"key_refused", "token_renewed"}:
            self._key_refused = one.name == "key_refused"

    def still(self) -> list[str]:
        """Return the names of the parts that stand still."""
        return self._motion.standing(trio.current_time(), STILL_S)

    def standing_s(self) -> float:
        """Return for how long some part has stood still (s); 0 where all move."""
        return self._motion.longest_s(trio.current_time())

    async def run(self, watched: Watched) -> None:
        """Look at the daemon, whose socket listens, and tell, until cancelled."""
        self._watched = watched
        began = trio.current_time()
        every_s = self._watchdog.look_s(LOOK_S)
        try:
            while True:
                self._look(watched, trio.current_time(), began)
                await trio.sleep(every_s if self._ready else min(every_s, STARTING_LOOK_S))
        finally:
            self._manager.close()

    def _look(self, watched: Watched, now: float, began: float) -> None:
        self._motion.look(watched.parts(), now)
        still = self.still()
        self._watchdog.note_still(still)
        if not self._ready and self._may_be_ready(watched, now - began):
            self._ready = True
            self._tell_ready(watched, now)
        elif not self._stopping and now - self._status_at >= STATUS_S:
            self._tell_status(watched, now)
        self._watchdog.beat(now, still)
        self._manager.tell()

    def _may_be_ready(self, watched: Watched, age_s: float) -> bool:
        reasons = watched.standby_reasons()
        if reasons is not None:
            return not reasons
        return age_s >= PENDING_S or self._is_covered_or_pending(watched.feeds)

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Tell that the configuration is being read again, and when that is over."""
        if self._ready:
            self._manager.tell(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        try:
            yield
        finally:
            if self._ready and not self._stopping and self._watched is not None:
                self._tell_ready(self._watched, trio.current_time())

    def _stop(self) -> None:
        """Tell that the end has begun."""
        self._stopping = True
        self._manager.tell(STOPPING="1", STATUS="draining: the consumers get what is pending")

    def _is_covered_or_pending(self, feeds: Mapping[str, Feed]) -> bool:
        if not feeds:
            return "" in self._failed
        return all(label in self._failed or _is_covered(feed) for label, feed in feeds.items())

    def _tell_ready(self, watched: Watched, now: float) -> None:
        self._status_at, self._status = now, self._describe(watched)
        self._manager.tell(READY="1", STATUS=self._status)

    def _tell_status(self, watched: Watched, now: float) -> None:
        before, self._status_at, self._status = self._status, now, self._describe(watched)
        if self._status != before:
            self._manager.tell(STATUS=self._status)

    def _describe(self, watched: Watched) -> str:
        return status(
            watched.feeds.values(),
            consumers=watched.consumer_count(),
            gaps=self._gaps,
            refused=self._refused,
            key_refused=self._key_refused,
            still=self.still(),
            standby=watched.standby_reasons(),
            follower=watched.standby_in_words(),
        )


def fan_out(*hearers: Callable[[Note], None]) -> Notify:
    """Return what takes a note and gives it to each of these."""

    def give(one: Note) -> None:
        for hear in hearers:
            hear(one)

    return give


def status(
    feeds: Iterable[Feed],
    *,
    consumers: int,
    gaps: int,
    refused: bool = False,
    key_refused: bool = False,
    still: Iterable[str] = (),
    standby: Sequence[str] | None = None,
    follower: str = "",
) -> str:
    """Return the status line.

    ``standby`` says why a standby could not take over, ``follower`` how the standby of an active daemon does.
    """
    states: dict[str, list[str]] = {state: [] for state in (LIVE, QUIET, SYNCING, DOWN)}
    lines: Counter[bool] = Counter()
    for feed in feeds:
        states[feed.arbiter.state].append(feed.label)
        lines.update(line.up for name, line in feed.arbiter.lines.items() if name != OUTPUT)
    words = [
        _feeds(states),
        f"{lines[True]}/{lines.total()} lines up",
        _count(consumers, "consumer"),
        _count(gaps, "gap"),
        *([follower] if follower else []),
    ]
    if standby is not None:
        words[2:] = [f"standby, not ready: {_names(list(standby))}" if standby else "standby, ready"]
    text = ", ".join(words)
    if refused:
        text += "; the new configuration was refused, the old one stays"
    if key_refused:
        text += "; KEY REFUSED by the exchange"
    if names := list(still):
        text += f"; STANDING STILL, no keep-alive: {_names(names)}"
    return text


def _feeds(states: Mapping[str, list[str]]) -> str:
    """Return how many feeds are live, and which are not."""
    everything = sum(map(len, states.values()))
    text = f"{len(states[LIVE])}/{everything} feeds live"
    others = [f"{state}: {_names(names)}" for state, names in states.items() if names and state != LIVE]
    return f"{text} ({'; '.join(others)})" if others else text


def _names(names: list[str]) -> str:
    shown = ", ".join(map(_plain, names[:NAMES]))
    return f"{shown} and {len(names) - NAMES} more" if len(names) > NAMES else shown


def _plain(name: str) -> str:
    """Return a name that stays on its line."""
    plain = name if name.isprintable() else name.encode("unicode_escape").decode()
    return plain if len(plain) <= NAME_CHARACTERS else f"{plain[: NAME_CHARACTERS - 1]}…"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _is_covered(feed: Feed) -> bool:
    return any(line.up for line in feed.arbiter.lines.values())
