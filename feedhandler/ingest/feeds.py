"""The feeds that run: they come and go, and none of it touches another.

    run
    └── a feed each        in a scope of its own: given up, its lines say goodbye and it is gone
        └── its lines

A feed that is given up is silent at once; its lines take a moment to part from the exchange. One of the same label
begins when that is over, so that the exchange never sees the lines of both.
"""

from collections.abc import Iterator, Mapping

import trio

from feedhandler.ingest.feed import Feed


class Feeds(Mapping[str, Feed]):
    """The feeds by their labels."""

    def __init__(self) -> None:
        self._feeds: dict[str, Feed] = {}
        self._scopes: dict[Feed, trio.CancelScope] = {}
        self._parting: dict[str, trio.Event] = {}
        self._nursery: trio.Nursery | None = None
        self._scope = trio.CancelScope()
        self._begun = False

    def __getitem__(self, label: str) -> Feed:
        return self._feeds[label]

    def __iter__(self) -> Iterator[str]:
        return iter(self._feeds)

    def __len__(self) -> int:
        return len(self._feeds)

    def open(self, feed: Feed) -> None:
        """Add a feed; its label is no other's. It runs from now on, or from the beginning of `run`."""
        assert feed.label not in self._feeds
        self._feeds[feed.label] = feed
        if self._nursery is not None:
            self._nursery.start_soon(self._live, feed)

    def retire(self, label: str) -> None:
        """Give a feed up: nothing more is published of it, and its lines say goodbye."""
        feed = self._feeds.pop(label)
        feed.retire()
        if feed in self._scopes:
            self._scopes[feed].cancel()

    def begin(self, nursery: trio.Nursery) -> None:
        """Let them `run`, unless they do already."""
        if not self._begun:
            self._begun = True
            nursery.start_soon(self.run)

    async def run(self) -> None:
        """Run what is open, and what will be, until cancelled or halted."""
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for feed in self._feeds.values():
                    nursery.start_soon(self._live, feed)
                await trio.sleep_forever()

    def halt(self) -> None:
        """End `run`: what runs says goodbye, and what is open then waits for the next one."""
        self._begun = False
        self._nursery = None
        self._scope.cancel()

    async def _live(self, feed: Feed) -> None:
        """Run one feed until it is given up; wait first until another one of its label is gone."""
        predecessor = self._parting.get(feed.label)
        gone = self._parting[feed.label] = trio.Event()
        with trio.CancelScope() as scope:
            self._scopes[feed] = scope
            if self._feeds.get(feed.label) is not feed:
                scope.cancel()
            try:
                if predecessor is not None:
                    await predecessor.wait()
                await feed.run()
            finally:
                del self._scopes[feed]
                with trio.CancelScope(shield=True):  # bounded: it is saying goodbye
                    if predecessor is not None:
                        await predecessor.wait()
                gone.set()
                if self._parting.get(feed.label) is gone:
                    del self._parting[feed.label]
