"""Recovery: between what a feed's arbiter releases and what is published (rules R7 to R9).

    arbiter ──outputs──▶ recovery ──outputs──▶ numbers, backlog, consumers
                            │ ▲
                         asks │ │ replies
                            ▼ │
                           lines

Trades and books are what can be repaired (`trades`, `bookkeeper`); everything else passes, and a gap is but a record
there. This module gives every channel of the feed its own gap, asks lines for snapshots, hands replies to whoever
waits for them, and announces the state of each channel: a book that is not there is `syncing`, whatever its feed is.

Asking has bounds: `MOST_ASKED` requests are under way in a feed at a time, one for each channel; a request without a
usable answer is repeated after ``retry_s``, each time on the next line that is up. Trades do without after
`TRADE_ATTEMPTS`; a book keeps asking, and says so after every `STUCK_ATTEMPTS`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from feedhandler.config import Bounds
from feedhandler.core.bookkeeper import BookDesk, BookKeeper
from feedhandler.core.channels import split
from feedhandler.core.levels import Broken, Levels
from feedhandler.core.messages import Gap, Output, Release, Reply, State
from feedhandler.core.notes import Notify, note
from feedhandler.core.trades import BACKFILLED, TradeDesk, Trades

MOST_ASKED: Final = 4
"""Requests under way in one feed at a time."""

TRADE_ATTEMPTS: Final = 3
"""Requests for a trade snapshot before a gap stays without backfill."""

STUCK_ATTEMPTS: Final = 10
"""Requests for a book after which it is said that it cannot be synchronised."""

SYNCING: Final = "syncing"
QUIET: Final = "quiet"

BOOK: Final = "book"
TRADES: Final = "trades"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """When something is asked for."""

    repair_s: float = 3.0
    """Longest wait for a snapshot that was asked for; then another line is asked."""
    retry_s: float = 1.0
    """Time between a snapshot that is of no use and the next request."""
    verify_s: float = 3.0
    """Time from a repair of a book to its first audit."""
    audit_s: float = 60.0
    """Time between two audits of a book, give or take a quarter, so that they spread."""


@dataclass(frozen=True)
class BookImage:
    """A snapshot of a book, read: its market, the request it answers ("" if it names none), its levels, its time."""

    request_id: str
    levels: Levels
    ts: int | None


class Desk(Protocol):
    """How the exchange writes what recovery needs; one for each feed."""

    def kind(self, stream: str) -> str:
        """Return what a stream is: `BOOK`, `TRADES`, or "" for what cannot be repaired."""

    def has_gaps(self, stream: str) -> bool:
        """Tell whether a stream belongs to the promise of exactness."""

    def books(self, market: str) -> BookDesk:
        """Return how the books of a market are written."""

    def trades(self, market: str) -> TradeDesk:
        """Return how the trades of a market are written."""

    def request(self, kind: str, market: str, request_id: str) -> str:
        """Return a request for a snapshot."""

    def answers(self, reply: Reply) -> str:
        """Return which kind of request a reply may answer, "" for none."""

    def read_book(self, payload: bytes, market: str) -> BookImage | Broken:
        """Read a snapshot of a book."""

    def is_for(self, payload: bytes, market: str) -> bool:
        """Tell whether a trade snapshot can be the one of a market."""


@dataclass
class Asked:
    """A request under way."""

    request_id: str
    kind: str
    channel: str
    line: str
    at: float


@dataclass
class _Wish:
    """What a channel asks for: how often it has asked in vain, and when it may ask next."""

    attempts: int = 0
    due: float = 0.0
    audit_due: float = field(default=float("inf"))


class Recovery:
    """The repair and the proof of one feed's channels."""

    def __init__(
        self,
        feed: str,
        desk: Desk,
        *,
        settings: Settings,
        bounds: Bounds,
        new_id: Callable[[], str],
        askable: Callable[[], Sequence[str]],
        notify: Notify,
    ) -> None:
        self._feed = feed
        self._desk = desk
        self._settings = settings
        self._bounds = bounds
        self._new_id = new_id
        self._askable = askable
        self._notify = notify
        self._channels: dict[str, Trades | BookKeeper | None] = {}
        self._wishes: dict[str, _Wish] = {}
        self._asked: dict[str, Asked] = {}
        self._states: dict[str, str] = {}
        self._feed_state = State("", 0)
        self.asks: list[tuple[str, str]] = []
        self.dead = False

    # What is released

    def open(self, channel: str) -> None:
        """Take up a channel of the feed."""
        market, stream = split(channel)
        kind = self._desk.kind(stream)
        hold = {"hold_events": self._bounds.hold_events, "hold_bytes": self._bounds.hold_bytes}
        one: Trades | BookKeeper | None = None
        if kind == TRADES:
            one = Trades(channel, self._desk.trades(market), **hold)
        elif kind == BOOK:
            one = BookKeeper(channel, self._desk.books(market), notify=self._notify, **hold)
        self._channels[channel] = one
        self._wishes[channel] = _Wish()

    def process(self, outputs: Iterable[Output], now: float, recv: int) -> list[Output]:
        """Return what is to be published for what the arbiter released."""
        result: list[Output] = []
        for output in outputs:
            if type(output) is Release:
                self._take(output, now, result)
            elif type(output) is Gap:
                self._open_gap(output, now, result)
            elif type(output) is State:
                self._feed_state = output
                self.dead = self.dead and output.state == QUIET
        self._announce(recv, result)
        return result

    def _take(self, release: Release, now: float, result: list[Output]) -> None:
        if release.channel not in self._channels:
            self.open(release.channel)
        channel = self._channels[release.channel]
        if channel is None:
            result.append(release)
        elif isinstance(channel, Trades):
            result.extend(channel.take(release))
        else:
            result.extend(channel.take(release, now))

    def _open_gap(self, gap: Gap, now: float, result: list[Output]) -> None:
        for name, channel in self._channels.items():
            if gap.channel not in {"", name} or (channel is None and not self._desk.has_gaps(split(name)[1])):
                continue
            own = Gap(name, gap.reason, gap.since, gap.until)
            if channel is None:
                result.append(own)
            else:
                result.extend(channel.open_gap(own))
                self._wishes[name] = _Wish(due=now)

    # What is asked for

    def tick(self, now: float, recv: int) -> list[Output]:
        """Let time pass: ask for what is due, do without what does not come."""
        result: list[Output] = []
        for asked in [one for one in self._asked.values() if now - one.at >= self._settings.repair_s]:
            del self._asked[asked.request_id]
            self._in_vain(asked, "silence", now, result)
        waiting = {asked.channel for asked in self._asked.values()}
        for name, channel in self._channels.items():
            if channel is not None and name not in waiting and len(self._asked) < MOST_ASKED:
                self._ask_if_due(name, channel, now)
        self._announce(recv, result)
        return result

    def _ask_if_due(self, name: str, channel: Trades | BookKeeper, now: float) -> None:
        wish = self._wishes[name]
        if isinstance(channel, Trades):
            if channel.repairing and now >= wish.due:
                self._ask(TRADES, name, now)
        elif not channel.live:
            if now >= wish.due:
                self._ask(BOOK, name, now)
        elif now >= min(wish.audit_due, wish.due if channel.suspicious else wish.audit_due):
            self._ask(BOOK, name, now)

    def _ask(self, kind: str, channel: str, now: float) -> None:
        lines = self._askable()
        if not lines:
            return
        wish = self._wishes[channel]
        line = lines[wish.attempts % len(lines)]
        request_id = self._new_id()
        self._asked[request_id] = Asked(request_id, kind, channel, line, now)
        self.asks.append((line, self._desk.request(kind, split(channel)[0], request_id)))

    def line_lost(self, line: str, now: float) -> None:
        """Hear that a line is gone, and the answers that were to come on it."""
        for asked in [one for one in self._asked.values() if one.line == line]:
            del self._asked[asked.request_id]
            self._wishes[asked.channel].due = now

    def _in_vain(self, asked: Asked, why: str, now: float, result: list[Output]) -> None:
        """Note a request without a usable answer, and try again later, or do without."""
        wish, channel = self._wishes[asked.channel], self._channels[asked.channel]
        wish.attempts += 1
        wish.due = now + self._settings.retry_s
        self._notify(
            note("snapshot_missed", feed=self._feed, channel=asked.channel, line=asked.line, reason=why)
        )
        if isinstance(channel, Trades):
            if wish.attempts >= TRADE_ATTEMPTS:
                result.extend(channel.give_up())
        elif isinstance(channel, BookKeeper):
            if channel.live:
                wish.audit_due = wish.due
            elif wish.attempts % STUCK_ATTEMPTS == 0:
                self._notify(
                    note("resync_stuck", feed=self._feed, channel=asked.channel, attempts=wish.attempts)
                )

    # What is answered

    def reply(self, line: str, reply: Reply, now: float, recv: int) -> list[Output]:
        """Take a reply of a line; one that nobody asked for changes nothing."""
        asked = self._asked_for(line, reply)
        if asked is None:
            return []
        del self._asked[asked.request_id]
        channel = self._channels[asked.channel]
        result: list[Output] = []
        if isinstance(channel, Trades):
            self._repair_trades(asked, channel, reply, now, recv, result)
        elif isinstance(channel, BookKeeper):
            self._take_book(asked, channel, reply, now, recv, result)
        self._announce(recv, result)
        return result

    def _asked_for(self, line: str, reply: Reply) -> Asked | None:
        """Return the request that a reply answers: by its id, or without one the oldest that it can be for."""
        if reply.request_id:
            return self._asked.get(reply.request_id)
        kind = self._desk.answers(reply)
        for asked in self._asked.values():
            if asked.line == line and asked.kind == kind and self._fits(asked, reply):
                return asked
        return None

    def _fits(self, asked: Asked, reply: Reply) -> bool:
        return self._desk.is_for(reply.payload, split(asked.channel)[0])

    def _repair_trades(
        self, asked: Asked, trades: Trades, reply: Reply, now: float, recv: int, result: list[Output]
    ) -> None:
        if not trades.repairing:
            return
        repaired = trades.repair(reply.payload, recv)
        if repaired is None:
            self._in_vain(asked, "unreadable", now, result)
            return
        result.extend(repaired)
        recovered = sum(isinstance(one, Release) and one.kind == BACKFILLED for one in repaired)
        self._notify(note("trades_repaired", feed=self._feed, channel=asked.channel, rows=recovered))

    def _take_book(
        self, asked: Asked, keeper: BookKeeper, reply: Reply, now: float, recv: int, result: list[Output]
    ) -> None:
        image = self._desk.read_book(reply.payload, split(asked.channel)[0])
        if isinstance(image, Broken):
            self._in_vain(asked, image.reason, now, result)
        elif keeper.live:
            self._audit(asked, keeper, image, now, recv, result)
        else:
            self._synchronise(asked, keeper, image, now, result)

    def _synchronise(
        self, asked: Asked, keeper: BookKeeper, image: BookImage, now: float, result: list[Output]
    ) -> None:
        reason = keeper.reason
        outputs = keeper.synchronise(image.levels, image.ts, asked.at)
        if outputs is None:
            self._in_vain(asked, "too_old", now, result)
            return
        result.extend(outputs)
        wish = self._wishes[asked.channel]
        wish.attempts, wish.audit_due = wish.attempts + 1, now + self._settings.verify_s
        self._notify(note("book_synchronised", feed=self._feed, channel=asked.channel, reason=reason))

    def _audit(
        self, asked: Asked, keeper: BookKeeper, image: BookImage, now: float, recv: int, result: list[Output]
    ) -> None:
        wish = self._wishes[asked.channel]
        wish.attempts += 1
        agrees = keeper.audit(image.levels)
        wish.audit_due = now + self._audit_s(asked.channel)
        verdict = {True: "passed", None: "suspicious", False: "failed"}[agrees]
        self._notify(note("book_audited", feed=self._feed, channel=asked.channel, result=verdict))
        if agrees is None:
            wish.due = now + self._settings.retry_s
        elif not agrees:
            self._fail(asked.channel, keeper, now, recv, result)

    def _fail(self, channel: str, keeper: BookKeeper, now: float, recv: int, result: list[Output]) -> None:
        """Give up a book that is wrong; with all lines silent it is the lines that are dead."""
        levels = ", ".join(f"{one.side} {one.price}" for one in keeper.differences)
        self._notify(note("book_failed", feed=self._feed, channel=channel, levels=levels))
        result.extend(keeper.open_gap(keeper.fail(recv), "audit"))
        self._wishes[channel] = _Wish(attempts=1, due=now)
        self.dead = self.dead or self._feed_state.state == QUIET

    def _audit_s(self, channel: str) -> float:
        """Return the time to a book's next audit: spread, so that not all of them come at once."""
        share: float = sum(channel.encode()) % 64 / 128
        return self._settings.audit_s * (0.75 + share)

    def audit_soon(self, now: float) -> None:
        """Ask for a snapshot of every book: nothing is heard any more, and that may be a lie."""
        for name, channel in self._channels.items():
            if isinstance(channel, BookKeeper) and channel.live:
                self._wishes[name].audit_due = now

    # What is known of the channels

    def image(self, channel: str) -> bytes | None:
        """Return the book of a channel after all that was published; None where there is none."""
        keeper = self._channels.get(channel)
        return keeper.image() if isinstance(keeper, BookKeeper) else None

    def synchronised(self) -> dict[str, bool]:
        """Return for each book whether it is there."""
        return {name: one.live for name, one in self._channels.items() if isinstance(one, BookKeeper)}

    def idle(self) -> None:
        """Let the books follow what was published."""
        for channel in self._channels.values():
            if isinstance(channel, BookKeeper) and channel.live:
                channel.track.catch_up()

    def _announce(self, recv: int, result: list[Output]) -> None:
        """Announce the state of every channel in which it has changed."""
        if not self._feed_state.state:
            return
        for name, channel in self._channels.items():
            state = self._feed_state.state
            syncing = isinstance(channel, BookKeeper) and not channel.live
            repairing = isinstance(channel, Trades) and channel.repairing
            if (syncing or repairing) and state != "down":
                state = SYNCING
            if self._states.get(name) != state:
                self._states[name] = state
                result.append(State(state, recv, name))
