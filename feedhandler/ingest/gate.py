"""The budget of connections as lines see it: wait for a slot, use it, give it back.

    async with gate.attempt(…) as place:      waits for its turn; the body is the attempt
        …
        place.opened()                        the place stays taken
    …
    place.release(answered=…)                 after the goodbye

**Two daemons at one socket share what the exchange allows**: attempts of a minute over a file (`ingest.ledger`), and
places by the configuration that they share (`core.budget`). A standby begins an attempt only where that leaves as many
as the active one has lines, which may all be lost at once, but no more than half: where lines are many it would never
begin. So the active one finds them whenever it looks, and what nobody needs is not lost. Behind a takeover the lines of
the daemon before count for `UNANSWERED_S` more.

A feed that runs is a **holder** of places. Where one is left without any line for want of a place, the holder with most
lines that it can do without is told to give one up (`Gate.starved`); the last aligned line of a feed never goes so.

There is no task behind the gate. Whoever waits sleeps until a slot can be free and then serves all who
wait, the most urgent first; so a cancelled waiter takes nothing with it. Who gives something back serves, too.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import Final, NamedTuple, Protocol

import trio

from feedhandler.config import ALL
from feedhandler.core.budget import EVERY, Budget, Caps, Request
from feedhandler.core.notes import Note, Notify, note
from feedhandler.errors import HandshakeRefused
from feedhandler.ingest.ledger import BUSY_S, UNCOUNTED, Ledger

SETTLE_S: Final = 0.02
"""How long everyone waits at least, so that who asks at about the same time is weighed together."""

UNANSWERED_S: Final = 5.0
"""How long the exchange may go on counting a connection whose goodbye it has not answered."""

_FOR_ALL: Final = frozenset(
    {HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE}
)
"""Refusals whose ``Retry-After`` is meant for the client as a whole."""


class Other(NamedTuple):
    """The other daemon at the same socket: its places by market, and whether it takes them before this one does."""

    places: Mapping[str, int]
    is_first: bool


NOBODY: Final = Other({}, is_first=False)


def _ignore(_: Note) -> None:
    """Take no notice."""


class Holder(Protocol):
    """A feed, as far as its places go."""

    label: str
    market: str

    def redundancy(self) -> int:
        """Return how many connections there are beyond the first; 0 where none can be done without now."""

    def give_up_place(self) -> str:
        """End the connection that can best be done without; return the line."""


class Place:
    """One place among the concurrent connections, from the attempt on until it is released."""

    def __init__(self, gate: "Gate", market: str) -> None:
        self._gate = gate
        self._market = market
        self._is_open = False
        self._is_taken = True

    def opened(self) -> None:
        """Keep the place: the attempt has become a connection."""
        self._is_open = True
        self._gate.opened(self._market)

    def release(self, *, answered: bool = True) -> None:
        """Give the place back; unless the goodbye was answered it is free a little later. Once is enough."""
        if self._is_taken:
            self._is_taken = False
            self._gate.left(self._market, was_open=self._is_open, hold_s=0.0 if answered else UNANSWERED_S)


class Gate:
    """One for the process: every attempt to connect passes through it."""

    def __init__(
        self,
        connections_per_minute: int,
        caps: Caps = Caps(),  # noqa: B008 it can't change
        notify: Notify = _ignore,
        *,
        ledger: Ledger | None = None,
        other: Callable[[], Other] = lambda: NOBODY,
    ) -> None:
        self._budget = Budget(connections_per_minute, caps)
        self._notify = notify
        self._ledger = ledger
        self._other = other
        self._entries: dict[Request, int] = {}
        self._granted: dict[Request, trio.Event] = {}
        self._holders: dict[Holder, None] = {}

    def __repr__(self) -> str:
        return f"<Gate {self._budget!r}>"

    def available(self) -> int:
        """Return how many attempts may begin at once."""
        available = self._budget.available(trio.current_time())
        if self._ledger is None:
            return available
        return max(0, min(available, self._most() - self._ledger.counted()))

    def _most(self) -> int:
        """Return how many attempts of all daemons at the socket a minute may have when this one begins another."""
        limit, other = self.limit, self._other()
        if not other.is_first:
            return limit
        return max(1, limit // 2, limit - sum(other.places.values()))

    @property
    def waiting(self) -> int:
        """How many attempts wait for a slot."""
        return self._budget.waiting

    @property
    def limit(self) -> int:
        """How many attempts may begin in any minute."""
        return self._budget.connections_per_minute

    def paused_s(self) -> float:
        """Return for how long yet nobody tries, since the exchange asked for that."""
        return max(0.0, self._budget.resume_s - trio.current_time())

    def learnt_caps(self) -> dict[str, int]:
        """Return the limits that were learnt to be lower than configured: connections by market, ``*`` of all."""
        return self._budget.learnt()

    def set_limit(self, connections_per_minute: int, caps: Caps | None = None) -> None:
        """Change the limits, for the attempts that are yet to begin; those that wait look at them at once."""
        self._budget.connections_per_minute = connections_per_minute
        if caps is not None:
            self._budget.caps = caps
        self._wake()

    # Lines

    def claim(self, market: str) -> None:
        """Keep a place for a line, for as long as there is that line."""
        self._budget.claim(market)

    def round_s(self) -> float:
        """Return how long it takes to connect every line once (s)."""
        return self._budget.round_s

    def claim_spare(self, market: str) -> bool:
        """Likewise for a replacement that overlaps its predecessor; False where no place is left for one."""
        self._share()
        return self._budget.claim_spare(market)

    def has_spare(self, market: str) -> bool:
        """Tell whether the lines leave a place for one more."""
        self._share()
        return self._budget.has_spare(market)

    def _share(self) -> None:
        """Leave to the other daemon what is its."""
        other = self._other()
        self._budget.leave(other.places, is_first=not other.is_first)

    def outlive(self, places: Mapping[str, int], *, for_s: float = UNANSWERED_S) -> None:
        """Count places of a daemon that has ended, for as long as the exchange may go on counting them."""
        if for_s > 0:
            self._budget.outlive(places, trio.current_time(), for_s)
            self._wake()

    def unclaim(self, market: str) -> None:
        """Hear that a line is no more."""
        self._budget.unclaim(market)

    # Feeds

    @contextmanager
    def holding(self, holder: Holder) -> Iterator[None]:
        """Count a feed among those that may be asked for a place."""
        self._holders[holder] = None
        try:
            yield
        finally:
            del self._holders[holder]
            self._budget.served(holder.label)

    def served(self, feed: str) -> None:
        """Hear that a feed has a line."""
        self._budget.served(feed)

    def starved(self, feed: str, market: str) -> None:
        """Hear that a feed without any line was refused with 403: another one may have to give up a place for it."""
        now_s = trio.current_time()
        if not self._budget.starved(feed, market, now_s):
            self._wake()  # what was learnt may be forgotten
            return
        holder = self._most_redundant(market)
        if holder is None:
            return
        scope = market if holder.market == market else EVERY
        cap = self._budget.given_up(feed, scope, now_s)
        if cap is not None:
            self._notify(note("cap_learnt", market=scope, connections=cap))
        line = holder.give_up_place()
        self._notify(note("place_given_up", feed=holder.label, line=line, to=feed))

    def _most_redundant(self, market: str) -> Holder | None:
        """Return who can best give up a place that counts with a market, on the same market if possible."""
        others = [one for one in self._holders if (one.market == ALL) == (market == ALL)]
        able = [(one.market == market, one.redundancy(), one) for one in others]
        best = max((one for one in able if one[1]), key=lambda one: one[:2], default=None)
        return best and best[2]

    # Attempts

    @asynccontextmanager
    async def attempt(
        self,
        priority: Callable[[], int],
        on_grant: Callable[[], None] = lambda: None,
        *,
        market: str = "",
        on_wait: Callable[[Request], None] = lambda _: None,
    ) -> AsyncIterator[Place]:
        """Wait for a slot; the body is the attempt.

        ``on_grant`` is called at the moment of the choice, before any other request's priority is asked for.
        ``on_wait`` is given the request, of which `waits_for` tells what it waits for.
        """
        request = Request(priority, on_grant, market)
        on_wait(request)
        await self._wait(request)
        place = Place(self, market)
        kept = False
        try:
            yield place
            kept = True
        except HandshakeRefused as refusal:
            self._obey(refusal)
            raise
        finally:
            self._finish(request)
            if not kept:
                place.release()
            self._serve(trio.current_time())

    def _begin(self, request: Request) -> bool:
        """Write an attempt down for all daemons at the socket; tell whether it may begin."""
        entry = UNCOUNTED if self._ledger is None else self._ledger.begin(self._most())
        if entry is None:
            return False
        self._entries[request] = entry
        return True

    def _finish(self, request: Request) -> None:
        self._budget.finish(trio.current_time())
        entry = self._entries.pop(request)
        if self._ledger is not None:
            self._ledger.finish(entry)

    def waits_for(self, request: Request) -> str:
        """Return what a request waits for, in a word of `feedhandler.core.budget`."""
        self._share()
        return self._budget.waits_for(request, trio.current_time())

    def _obey(self, refusal: HandshakeRefused) -> None:
        """Let everyone wait for as long as the exchange asks for."""
        if refusal.retry_after and refusal.status in _FOR_ALL:
            self._budget.pause(trio.current_time(), refusal.retry_after)
            if self._ledger is not None:
                self._ledger.pause(self.paused_s())
            self._notify(note("attempts_paused", status=refusal.status, pause_s=round(self.paused_s(), 3)))

    def refused(self, market: str) -> None:
        """Hear of a 403 that a fresh token did not help against: there may be a limit."""
        cap = self._budget.refused(market, trio.current_time())
        if cap is not None:
            self._notify(note("cap_learnt", market=market, connections=cap))

    def opened(self, market: str) -> None:
        """Hear of a connection."""
        for scope, cap in self._budget.opened(market, trio.current_time()).items():
            self._notify(note("cap_raised", market=scope, connections=cap))

    def left(self, market: str, *, was_open: bool, hold_s: float) -> None:
        """Hear that a place is given back."""
        now_s = trio.current_time()
        if was_open:
            self._budget.closed(market)
        self._budget.release(market, now_s, hold_s)
        self._serve(now_s)
        if hold_s:
            self._wake()

    def _wake(self) -> None:
        """Let who waits look again for how long: what they went by has changed."""
        for request, event in list(self._granted.items()):
            self._granted[request] = trio.Event()
            event.set()

    async def _wait(self, request: Request) -> None:
        self._granted[request] = trio.Event()
        self._budget.ask(request)
        try:
            await trio.sleep(SETTLE_S)
            while not request.granted:
                now_s = trio.current_time()
                self._serve(now_s)
                with trio.move_on_at(self._next_s(now_s)):
                    await self._granted[request].wait()
        except trio.Cancelled:
            self._forget(request)
            raise
        finally:
            del self._granted[request]

    def _next_s(self, now_s: float) -> float:
        retry_s = float("inf") if self._ledger is None else self._ledger.retry_s
        return min(self._budget.next_s(now_s), max(retry_s, now_s + BUSY_S))

    def _serve(self, now_s: float) -> None:
        self._share()
        for request in self._budget.grant(now_s, self._begin):
            self._granted[request].set()

    def _forget(self, request: Request) -> None:
        """Undo a request whose waiter was cancelled; a slot that it held already stays counted."""
        if not request.granted:
            self._budget.withdraw(request)
            return
        now_s = trio.current_time()
        self._finish(request)
        self._budget.release(request.market, now_s)
        self._serve(now_s)
