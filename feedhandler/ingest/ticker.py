"""The daemon's ticker: it tells the feeds the time, and lets the books follow what was published.

    run
    ├── the time       at every `TICK_S`, in step with the lines: each feed that is due (`ingest.pace`) is told it
    └── the books      of the feeds that were told, `BOOKS_DELTAS` at a time; then all other tasks have their turn

A book is needed when somebody joins or asks, and whoever needs one that is behind waits for it. So they are kept near
the head; but nothing that is on its way to the consumers waits for a book.

Each round is a ``beat``: it tells whoever watches that the feeds are told the time.
"""

from collections.abc import Callable, Mapping
from typing import Final

import trio

from feedhandler.ingest.beat import sleep_in_step
from feedhandler.ingest.feed import Feed
from feedhandler.ingest.pace import TICK_S

BOOKS_DELTAS: Final = 64
"""Deltas that a book follows at a time; then all other tasks have their turn."""


class Ticker:
    """Tells these feeds the time."""

    def __init__(self, feeds: Mapping[str, Feed], beat: Callable[[], None]) -> None:
        self.moved_s = 0.0
        """When anything was released last, to a tick (monotonic)."""
        self._feeds = feeds
        self._beat = beat
        self._moving: dict[Feed, None] = {}
        self._movement = trio.Event()

    async def run(self) -> None:
        """Tick until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick)
            nursery.start_soon(self._follow_books)

    async def _tick(self) -> None:
        while True:
            await sleep_in_step(TICK_S)
            now = trio.current_time()
            for feed in [feed for feed in self._feeds.values() if feed.is_due(now)]:
                if feed.tick():
                    self.moved_s = now
                self._moving[feed] = None
                self._movement.set()
            self._beat()

    async def _follow_books(self) -> None:
        """Keep the books near the head, so that who needs one does not wait for it."""
        while True:
            await self._movement.wait()
            self._movement = trio.Event()
            moving, self._moving = self._moving, {}
            for track in [track for feed in moving for track in feed.recovery.behind()]:
                waiting = track.waiting
                while waiting:
                    waiting = track.catch_up(BOOKS_DELTAS)
                    await trio.lowlevel.checkpoint()
