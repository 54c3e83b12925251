"""The feeds for all that the exchange lists: it is asked for its markets again and again, and they come and go with it.

It is asked as long as any feed is for all listed markets: at the start every `MARKETS_RETRY_S` until it has told them,
then every ``exchange.markets_refresh_s``; and whenever the configuration has changed. What an answer is worth is for
`exchange.markets` to say. One that fails or is doubtful changes nothing, and is noted.
"""

import ssl
from collections.abc import Callable
from typing import Final

import trio

from feedhandler.config import LISTED, Config
from feedhandler.control.fleet import Fleet
from feedhandler.core.notes import Notify, note
from feedhandler.errors import ConnectionFailed, OperationalError
from feedhandler.exchange.markets import MARKETS_MAX, Change, Listing, fetch_markets

MARKETS_RETRY_S: Final = 5.0
"""Between two attempts to learn the markets at the start."""


class Markets:
    """What is listed, for a fleet; ``changed`` hears that feeds have come or gone by it."""

    def __init__(
        self,
        config: Callable[[], Config],
        ssl_context: ssl.SSLContext,
        fleet: Fleet,
        changed: Callable[[], None],
        notify: Notify,
    ) -> None:
        self._config = config
        self._ssl = ssl_context
        self._fleet = fleet
        self._changed = changed
        self._notify = notify
        self._listing = Listing()
        self._surplus = 0
        self._sooner = trio.Event()

    @property
    def pending(self) -> bool:
        """Whether feeds are still to be opened: the exchange has not told its markets yet."""
        return not self._listing.markets and self._are_wanted()

    def ask_again(self) -> None:
        """Ask now, if at all: the configuration has changed."""
        self._sooner.set()

    async def run(self) -> None:
        """Ask the exchange for its markets until cancelled."""
        while True:
            wait_s = float("inf")
            if self._are_wanted():
                wait_s = self._config().exchange.markets_refresh_s or float("inf")
                if not await self._ask() and not self._listing.markets:
                    wait_s = min(wait_s, MARKETS_RETRY_S)
            with trio.move_on_after(wait_s):
                await self._sooner.wait()
            self._sooner = trio.Event()

    def _are_wanted(self) -> bool:
        return any(LISTED in feed.markets for feed in self._config().feeds)

    async def _ask(self) -> bool:
        """Ask once, and take what is answered; tell whether it was of use."""
        try:
            answer = await fetch_markets(self._config().exchange.markets_url, self._ssl)
        except OperationalError as failure:
            reason = failure.reason if isinstance(failure, ConnectionFailed) else "answer"
            self._notify(note("markets_failed", reason=reason, detail=str(failure)))
            return False
        self._note_surplus(len(answer))
        change = self._listing.take(answer)
        if change.doubtful:
            listed = len(self._listing.markets)
            self._notify(note("markets_doubted", markets=len(answer), listed=listed))
            return False
        self._note_change(change)
        before = set(self._fleet.feeds)
        self._fleet.list_markets(self._listing.markets)
        if before != set(self._fleet.feeds):
            self._changed()
        return True

    def _note_surplus(self, listed: int) -> None:
        """Say that an answer names more markets than are taken, where that was not said of the last one."""
        surplus = max(0, listed - MARKETS_MAX)
        if surplus and surplus != self._surplus:
            limit = f"{listed} listed, {MARKETS_MAX} are taken"
            self._notify(note("markets_left_out", markets=surplus, limit=limit))
        self._surplus = surplus

    def _note_change(self, change: Change) -> None:
        appeared, vanished = len(change.appeared), len(change.vanished)
        if appeared or vanished:
            listed = len(self._listing.markets)
            self._notify(note("markets_listed", markets=listed, appeared=appeared, vanished=vanished))
