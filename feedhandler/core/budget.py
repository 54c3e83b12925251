"""Connections as a budget: attempts in any minute, connections at once, and who goes first.

The exchange counts new connections of the last minute and bans who goes above its limit. It counts an
attempt at some moment between our decision and its end, so an attempt keeps its slot while it lasts and for
a minute after: then no minute holds more than the limit, wherever the exchange's begin.

Who waits is served by priority (the lower the more urgent), then in the order of asking. A priority is
asked for at the moment of choice and not remembered: a feed that gets its first line while another of its
lines waits is less urgent from then on. For the same reason a chosen request is told so before the next one
is chosen.

    waiting ──grant──▶ under way ──finish──▶ (counted for a minute more)
       │                  │
       └──withdraw        └─▶ opened ──▶ open ──release──▶ (the exchange may still count it for a moment)
                                                                  a place among the connections, from grant to there

**Places.** The exchange limits how many connections are open at once: of one market, of all markets together, and
over ``market=ALL``. A place is taken from the moment of the choice until the exchange must have seen the end.
Every line **claims** a place for as long as there is such a line, connected or not. A replacement that overlaps its
predecessor may claim one more only where all lines together leave one free, so that it never keeps a lost line out.

**Another daemon at the same socket** has its places, too: an active daemon and its standby, by one configuration. The
active one is first: its own lines have their places in any case, and it leaves the standby what that is to have, as far
as the limits go. The standby takes no more than what all lines of the active one leave, and never one more than it has
lines, so that a place that is left for a replacement is the active one's.

**What is learnt.** The limits may be lower than the configuration says; browsers share them. A refusal for no other
reason, while others of the market are connected, teaches a **cap**: as many as are connected. Who waits above it
goes on waiting; one more is tried every `CAP_RETRY_S`, and a success raises the cap. A feed without any line is let
through in any case: what was learnt may be wrong, and a learnt cap must not take a feed's last line.

**Coverage comes before redundancy**, also where the exchange allows fewer connections in all than there are lines. A
feed without any line that is refused for no other reason is **starved**. After `STARVED_REFUSALS` in a row another feed
is to give up a place that it can do without: one on the same market, which helps against either limit, or else any
that counts with it. What was connected is taken for the cap of all of them, and the place is kept for `KEPT_S`, so that
nobody takes it again who has a line. A refusal while that place is free says that the exchange had another reason: what
was learnt so is forgotten, and that feed is not believed for `DISBELIEF_S`, which doubles up to `DISBELIEF_MAX_S`.

**Pauses.** ``Retry-After`` of a refusal is meant for the client as a whole: nobody tries before it is over, and the
first attempt after it goes alone.

Time is handed in (monotonic, seconds).
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from feedhandler.config import ALL
from feedhandler.core.backoff import RETRY_AFTER_MAX_S

WINDOW_S: Final = 60.5
"""A minute, and a little, since the exchange's clock is another one."""

CAP_RETRY_S: Final = 300.0
"""How long a learnt cap holds before one connection more is tried."""

STARVED_REFUSALS: Final = 2
"""How often a feed without any line is refused before another one gives up a place for it."""

KEPT_S: Final = 90.0
"""How long a place that was given up is kept from all who have a line."""

DISBELIEF_S: Final = 300.0
"""How long no place is given up for a feed that the last one did not help; doubled each time."""
DISBELIEF_MAX_S: Final = 4800.0

EVERY: Final = "*"
"""The scope of all per-market connections together; the other scopes are markets, ``ALL`` among them."""

NO_LINE: Final = 0
"""Priority of a feed without any line."""
ONE_LINE: Final = 1
"""Priority of a feed with a single line."""
REDUNDANCY: Final = 2
"""Priority of everything else."""

RATE: Final = "rate"
"""What a request waits for: that an attempt of the last minute is forgotten."""
PAUSE: Final = "pause"
"""... that a ``Retry-After`` is over."""
CAP: Final = "cap"
"""... that a connection ends, or that the exchange allows more."""


class Caps(NamedTuple):
    """The most connections at once: of one market, of all markets together, over ``market=ALL``; 0: no limit."""

    per_market: int = 0
    total: int = 0
    agnostic: int = 0

    def of(self, scope: str) -> float:
        """Return the limit of a scope."""
        limit = self.total if scope == EVERY else self.agnostic if scope == ALL else self.per_market
        return limit or float("inf")


class Learnt(NamedTuple):
    """A cap that the exchange has taught, and when one more is tried."""

    connections: int
    retry_s: float


class Starving:
    """A feed without any line: how often it was refused, and what was given up for it."""

    __slots__ = ("connections", "disbelief_s", "kept_until_s", "not_before_s", "refusals", "scope", "taught")

    def __init__(self) -> None:
        self.refusals = 0
        self.scope = ""
        self.connections = 0
        self.taught = False
        self.kept_until_s = 0.0
        self.not_before_s = 0.0
        self.disbelief_s = DISBELIEF_S


class Request:
    """One wish to connect; ``granted`` once it may."""

    __slots__ = ("granted", "market", "on_grant", "priority")

    def __init__(self, priority: Callable[[], int], on_grant: Callable[[], None], market: str = "") -> None:
        self.priority = priority
        self.on_grant = on_grant
        self.market = market
        self.granted = False


class Budget:
    """At most ``connections_per_minute`` attempts in any minute, and ``caps`` connections at once."""

    def __init__(self, connections_per_minute: int, caps: Caps = Caps()) -> None:  # noqa: B008 it can't change
        self.connections_per_minute = connections_per_minute
        self.caps = caps
        self._waiting: list[Request] = []
        self._under_way = 0
        self._counted_until: deque[float] = deque()
        self._taken: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
        self._claims: Counter[str] = Counter()
        self._left: Counter[str] = Counter()
        self._is_first = True
        self._leaving: list[tuple[float, str]] = []
        self._learnt: dict[str, Learnt] = {}
        self._starving: dict[str, Starving] = {}
        self._resume_s = 0.0
        self._alone = False

    def __repr__(self) -> str:
        return (
            f"<Budget {self.connections_per_minute}/min: {len(self._waiting)} waiting, "
            f"{self._under_way} under way, {len(self._counted_until)} counted>"
        )

    # Attempts

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    @property
    def resume_s(self) -> float:
        """When the last pause ends or has ended."""
        return self._resume_s

    def available(self, now_s: float) -> int:
        """Return how many attempts may begin at once, as far as the minute and pauses tell."""
        while self._counted_until and self._counted_until[0] <= now_s:
            self._counted_until.popleft()
        if now_s < self._resume_s or (self._alone and self._under_way):
            return 0
        left = max(0, self.connections_per_minute - self._under_way - len(self._counted_until))
        return min(left, 1) if self._alone else left

    def next_s(self, now_s: float) -> float:
        """Return a time before which nobody who waits has more of a chance, `grant` having served the others."""
        times = [until_s for until_s, _ in self._leaving]
        times += [learnt.retry_s for learnt in self._learnt.values()]
        times += [one.kept_until_s for one in self._starving.values()]
        times += [self._resume_s, *list(self._counted_until)[:1]]
        return min((time_s for time_s in times if time_s > now_s), default=now_s + WINDOW_S)

    def ask(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self._waiting.append(request)

    def withdraw(self, request: Request) -> None:
        """Forget a request that still waits."""
        self._waiting.remove(request)

    def grant(self, now_s: float, may_begin: Callable[[Request], bool] = lambda _: True) -> list[Request]:
        """Give the free slots to the most urgent requests, which are under way from now on.

        The last word on each has ``may_begin``, since others may use the same minute.
        """
        granted: list[Request] = []
        self._free(now_s)
        while self.available(now_s) > 0:
            request = min(self._admissible(now_s), key=_priority, default=None)
            if request is None or not may_begin(request):
                break
            self._waiting.remove(request)
            self._under_way += 1
            self._count(self._taken, request.market, 1)
            request.granted = True
            request.on_grant()
            granted.append(request)
        return granted

    def finish(self, now_s: float) -> None:
        """End an attempt, whatever came of it: it is counted for a minute more."""
        self._under_way -= 1
        self._alone = self._alone and now_s < self._resume_s
        self._counted_until.append(now_s + WINDOW_S)

    def pause(self, now_s: float, seconds: float) -> None:
        """Begin no attempt for so long."""
        self._resume_s = max(self._resume_s, now_s + min(max(seconds, 0.0), RETRY_AFTER_MAX_S))
        self._alone = True

    def _admissible(self, now_s: float) -> list[Request]:
        return [request for request in self._waiting if self._has_place(request, now_s)]

    def waits_for(self, request: Request, now_s: float) -> str:
        """Return what a request waits for: `RATE`, `PAUSE` or `CAP`."""
        if not self._has_place(request, now_s):
            return CAP
        return PAUSE if now_s < self._resume_s else RATE

    # Places

    def claim(self, market: str) -> None:
        """Count one more line of a market: a place is kept free for it."""
        self._count(self._claims, market, 1)

    @property
    def round_s(self) -> float:
        """How long it takes to connect every line once (s)."""
        return 60.0 * (self._claims[EVERY] + self._claims[ALL]) / self.connections_per_minute

    def claim_spare(self, market: str) -> bool:
        """Likewise for a line more than there are to be; False where the limits do not leave a place for it."""
        if not self.has_spare(market):
            return False
        self.claim(market)
        return True

    def has_spare(self, market: str) -> bool:
        """Tell whether all lines together leave a place."""
        return self._is_first and all(
            self._claims[scope] < self._most(scope)
            and self._claims[scope] + self._left[scope] < self.caps.of(scope)
            for scope in _scopes(market)
        )

    def leave(self, places: Mapping[str, int], *, is_first: bool) -> None:
        """Leave places to another daemon, by market; with ``is_first`` what this one's own lines do not need."""
        self._left.clear()
        for market, count in places.items():
            self._count(self._left, market, count)
        self._is_first = is_first

    def outlive(self, places: Mapping[str, int], now_s: float, hold_s: float) -> None:
        """Count places of another daemon that has ended for so long."""
        for market, count in places.items():
            self._count(self._taken, market, count)
            self._leaving += [(now_s + hold_s, market)] * count

    def _own(self, scope: str) -> float:
        """Return the most connections of a scope that are for this daemon."""
        cap, left = self.caps.of(scope), float(self._left[scope])
        if self._is_first:
            left = min(left, max(0.0, cap - self._claims[scope]))
        return max(0.0, cap - left)

    def unclaim(self, market: str) -> None:
        """Count a line out that is no more."""
        self._count(self._claims, market, -1)

    def opened(self, market: str, now_s: float) -> dict[str, int]:
        """Note that an attempt has become a connection; return the learnt caps that this has raised, by scope."""
        self._count(self._open, market, 1)
        known = [(scope, self._learnt[scope]) for scope in _scopes(market) if scope in self._learnt]
        raised = [scope for scope, learnt in known if self._open[scope] > learnt.connections]
        return {scope: self._learn(scope, now_s, enough=self._claims[scope]) for scope in raised}

    def closed(self, market: str) -> None:
        """Note that a connection has ended; its place is free when it is released."""
        self._count(self._open, market, -1)

    def release(self, market: str, now_s: float, hold_s: float = 0.0) -> None:
        """Give a place back, in so many seconds."""
        self._leaving.append((now_s + hold_s, market))
        self._free(now_s)

    def refused(self, market: str, now_s: float) -> int | None:
        """Learn from a refusal that was for no other reason than a limit; return a cap that is new.

        With nobody else of the market connected, or with one of whom the exchange may not know that it has left,
        a refusal teaches nothing. Where all markets together have reached what is known of them, it says that again.
        """
        self._free(now_s)
        if not self._open[market] or any(left == market for _, left in self._leaving):
            return None
        every = self._learnt.get(EVERY) if market != ALL else None
        if every is not None and self._open[EVERY] >= every.connections:
            self._learn(EVERY, now_s)
            return None
        known = self._learnt.get(market)
        cap = self._learn(market, now_s)
        return None if known and known.connections == cap else cap

    def learnt(self) -> dict[str, int]:
        """Return the caps that the exchange has taught, by market; `EVERY` stands for all of them together."""
        return {scope: learnt.connections for scope, learnt in self._learnt.items()}

    def _learn(self, scope: str, now_s: float, *, enough: int = 0) -> int:
        """Take as many connections as there are for the cap of a scope.

        There is none where the configuration allows no more, or all lines are connected: as many are ``enough``.
        """
        connections = self._open[scope]
        if connections >= self.caps.of(scope) or 0 < enough <= connections:
            self._learnt.pop(scope, None)
        else:
            self._learnt[scope] = Learnt(connections, now_s + CAP_RETRY_S)
        return connections

    # Coverage

    def starved(self, feed: str, market: str, now_s: float) -> bool:
        """Note that a feed without any line was refused; tell whether another one is to give up a place for it.

        As long as the exchange may still count one that has left, that is not known.
        """
        self._free(now_s)
        one = self._starving.setdefault(feed, Starving())
        one.refusals += 1
        if any(not set(_scopes(left)).isdisjoint(_scopes(market)) for _, left in self._leaving):
            return False
        if one.scope and self._open[one.scope] < one.connections:
            if not self._under_way:
                self._disbelieve(one, now_s)
            return False
        return one.refusals >= STARVED_REFUSALS and now_s >= one.not_before_s

    def _disbelieve(self, one: Starving, now_s: float) -> None:
        """Take back what a place was given up for that has not helped."""
        if one.taught:
            self._learnt.pop(one.scope, None)
        one.scope, one.taught = "", False
        one.not_before_s = now_s + one.disbelief_s
        one.disbelief_s = min(2 * one.disbelief_s, DISBELIEF_MAX_S)

    def given_up(self, feed: str, scope: str, now_s: float) -> int | None:
        """Note that a connection of a scope is being ended for a starving feed; return a cap that is new."""
        one = self._starving[feed]
        one.scope, one.connections, one.kept_until_s = scope, self._open[scope], now_s + KEPT_S
        if scope in self._learnt:
            return None
        one.taught = True
        return self._learn(scope, now_s)

    def served(self, feed: str) -> None:
        """Note that a feed has a line, or is no more."""
        self._starving.pop(feed, None)

    def _most(self, scope: str) -> float:
        """Return the most connections of a scope, as far as is known."""
        learnt = self._learnt.get(scope)
        return min(self.caps.of(scope), learnt.connections if learnt else float("inf"))

    def _has_place(self, request: Request, now_s: float) -> bool:
        if any(self._taken[scope] >= self._own(scope) for scope in _scopes(request.market)):
            return False
        is_full = any(self._is_full(scope, now_s) for scope in _scopes(request.market))
        return not is_full or request.priority() == NO_LINE

    def _is_full(self, scope: str, now_s: float) -> bool:
        """Tell whether a learnt cap is reached, and it is too early to try one more."""
        learnt = self._learnt.get(scope)
        if learnt is None:
            return False
        kept = sum(one.scope == scope and now_s < one.kept_until_s for one in self._starving.values())
        return self._taken[scope] + kept >= learnt.connections + (now_s >= learnt.retry_s)

    def _free(self, now_s: float) -> None:
        """Free the places whose connections the exchange must have seen the end of."""
        for until_s, market in self._leaving:
            if until_s <= now_s:
                self._count(self._taken, market, -1)
        self._leaving = [(until_s, market) for until_s, market in self._leaving if until_s > now_s]

    def _count(self, counter: Counter[str], market: str, step: int) -> None:
        for scope in _scopes(market):
            counter[scope] += step
            if not counter[scope]:
                del counter[scope]


def _scopes(market: str) -> tuple[str, ...]:
    """Return what a connection counts for."""
    return (market,) if market == ALL else (market, EVERY)


def _priority(request: Request) -> int:
    return request.priority()
