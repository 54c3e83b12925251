"""The feeds that are wanted, and what is done so that they are those that run.

    configuration ─┐
    listed markets ├─▶ what is wanted ─▶ the difference to what runs ─▶ feeds opened, given up, changed
    ctl ───────────┘

What has not changed is not touched: the same feed object, the same connections, the same seqs. What ctl has changed
holds until the configuration is read again.

Until the exchange has told its markets, those of the feeds that run are taken for them: who changes the markets to all
that are listed loses none meanwhile.

Everything here is done at once and without waiting; a feed carries out in its own time what its lines have to do.
"""

from bisect import bisect_left
from collections.abc import Callable

from feedhandler.config import ALL, LISTED, Config, Wanted, changes, clashes, is_market, plan, wanted
from feedhandler.core.channels import split
from feedhandler.core.notes import Notify, note
from feedhandler.exchange.messages import ORDERS, OTHER
from feedhandler.ingest.feed import Feed
from feedhandler.ingest.feeds import Feeds


class Fleet:
    """What runs, and what is wanted instead."""

    def __init__(self, config: Config, make: Callable[[str, Wanted], Feed], notify: Notify) -> None:
        self.feeds = Feeds()
        self._config = config
        self._make = make
        self._notify = notify
        self._listed: tuple[str, ...] = ()
        self._left_out = ""
        self._running: dict[str, Wanted] = {}
        self._by_hand: dict[str, Wanted | None] = {}
        self._running = self._target()
        for label, feed in self._running.items():
            self.feeds.open(make(label, feed))

    @property
    def running(self) -> dict[str, Wanted]:
        """What runs, by label."""
        return self._running

    def may_bring(self, channel: str) -> bool:
        """Tell whether a channel that is not open may be opened by the feeds that are wanted, and nobody knows when.

        Over all markets a channel is opened with its first event, and so is one for messages of unknown type; and what
        the exchange lists is not known at the start.
        """
        market, stream = split(channel)
        if not is_market(market) or market == LISTED:
            return False
        named = market != ALL or stream == ORDERS
        if any(
            (stream in feed.streams and feed.market == ALL and named)
            or (stream == OTHER and feed.market in {market, ALL})
            for feed in self._running.values()
        ):
            return True
        coming = [] if self._listed else [feed for feed in self._config.feeds if LISTED in feed.markets]
        return market != ALL and any(stream in feed.streams for feed in coming)

    def renew(self, config: Config) -> None:
        """Begin anew with all feeds by a configuration: each is given up, and another one of its label begins."""
        self._config, self._by_hand = config, {}
        self._running, before = self._target(), self._running
        for label in before:
            self.feeds.retire(label)
        for label, feed in self._running.items():
            self.feeds.open(self._make(label, feed))

    def replace(self, label: str) -> None:
        """Begin anew with one feed."""
        self.feeds.retire(label)
        self.feeds.open(self._make(label, self._running[label]))

    def configure(self, config: Config) -> None:
        """Go by another configuration; what was changed by hand is forgotten."""
        self._config = config
        self._by_hand = {}
        self.converge()

    def is_changed_by(self, config: Config) -> bool:
        """Tell whether another configuration wants other feeds, or of any of them something else."""
        before = self._config, self._by_hand
        self._config, self._by_hand = config, {}
        difference = changes(self._running, self._target())
        self._config, self._by_hand = before
        return any(difference)

    def list_markets(self, markets: tuple[str, ...]) -> None:
        """Take the markets of ``["*"]``; as many of them get feeds as the limits allow lines for."""
        self._listed = markets
        self.converge()

    def converge(self) -> None:
        """Open, give up and change feeds until those run that are wanted."""
        target = self._target()
        difference = changes(self._running, target)
        self._running = target
        for label in difference.gone:
            self.feeds.retire(label)
            self._notify(note("feed_retired", feed=label))
        for label in difference.changed:
            self.feeds[label].change(target[label].streams, target[label].lines)
            self._notify(note("feed_changed", feed=label))
        for label in difference.added:
            self.feeds.open(self._make(label, target[label]))
            self._notify(note("feed_opened", feed=label))

    def _target(self) -> dict[str, Wanted]:
        target = wanted(self._config.feeds, self._allowed())
        for label, by_hand in self._by_hand.items():
            target.pop(label, None)
            if by_hand is not None:
                target[label] = by_hand
        return target

    # The listed markets and the limits

    def _allowed(self) -> tuple[str, ...]:
        """Return the listed markets that the limits allow lines for."""
        all_of = [feed for feed in self._config.feeds if LISTED in feed.markets]
        if not all_of:
            return ()
        listed = self._listed or tuple(
            now.market
            for label, now in self._running.items()
            if any(feed.label(now.market) == label for feed in all_of)
        )
        count = len(listed)
        most = bisect_left(range(1, count + 1), True, key=self._is_above_limits)
        limit = plan(self._config, count).above_limits[0] if most < count else ""
        if limit != self._left_out and limit:
            self._notify(note("markets_left_out", markets=count - most, limit=limit))
        self._left_out = limit
        return listed[:most]

    def _is_above_limits(self, markets: int) -> bool:
        return bool(plan(self._config, markets).above_limits)

    # What is changed by hand

    def set_by_hand(self, label: str, by_hand: Wanted | None) -> str:
        """Want a feed as it is given, or not at all; return what speaks against it, and then nothing is done."""
        before = dict(self._by_hand)
        self._by_hand[label] = by_hand
        if by_hand is None and label not in wanted(self._config.feeds, self._allowed()):
            del self._by_hand[label]
        against = next(clashes(self._target(), self._config.limits), "")
        if against:
            self._by_hand = before
        else:
            self.converge()
        return against

    def sections(self) -> dict[str, int]:
        """Return the sections that a market can be added to, by what they are called, and their index.

        A section is called by its name; one without a name by its place, as in ``feed[0]``.
        """
        return {
            feed.name or f"feed[{index}]": index
            for index, feed in enumerate(self._config.feeds)
            if ALL not in feed.markets
        }

    def section_feed(self, index: int, market: str) -> tuple[str, Wanted]:
        """Return the label and the feed that a market would have in a section."""
        feed = self._config.feeds[index]
        return feed.label(market), Wanted(market, feed.streams, feed.lines)
