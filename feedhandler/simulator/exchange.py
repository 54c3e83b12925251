"""The simulated exchange itself: its markets, its connections, and the one way in which an event gets out.

**From `Exchange.broadcast` being called to the event being in the book, in the truth and in every
subscriber's outbox nothing awaits.** Which connections get what is looked up in a table that every change
of connections or subscriptions throws away.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import trio
from wsproto.connection import Connection as Protocol

from feedhandler.core.notes import Notify, note
from feedhandler.simulator import frames, tapes
from feedhandler.simulator.account import Account, AccountTraffic
from feedhandler.simulator.connection import Connection, Stream
from feedhandler.simulator.faults import Faults, OnFault
from feedhandler.simulator.gate import Gate
from feedhandler.simulator.market import Market
from feedhandler.simulator.messages import (
    ACCOUNT_TRADES,
    ALL,
    BOOK,
    ORDERS,
    OTHER,
    STREAMS,
    Level,
    Wording,
    with_market,
)
from feedhandler.simulator.outbox import Ending, Outbox
from feedhandler.simulator.requests import Desk
from feedhandler.simulator.settings import DEFAULT_MARKETS, Behaviour, Fault, Settings
from feedhandler.simulator.traffic import NOMINAL_RATE, MarketTraffic, Source
from feedhandler.simulator.truth import Truth

FLAT_OUT_BYTES = 1024 * 1024
"""Flat out, the exchange waits while a healthy connection has more than this to send."""
STALL_S = 5.0
"""Flat out, a connection that keeps the exchange waiting for so long is closed as slow."""

Audience = tuple[list[Connection], list[Connection]]


class Exchange:
    """A simulated exchange."""

    def __init__(
        self,
        settings: Settings,
        truth: Truth,
        nursery: trio.Nursery,
        on_fault: OnFault,
        notify: Notify,
        on_breach: Callable[[str], None] = lambda _: None,
    ) -> None:
        behaviour = settings.plan.behaviour
        self.settings = settings
        self.truth = truth
        self.url = ""
        self.http_url = ""
        self.ca_file: Path | None = None
        self.broadcasts = 0
        self.started_playing = trio.Event()
        self.finished = trio.Event()
        self.playing = trio.CancelScope()
        self.gate = Gate(behaviour, settings.api_key, settings.api_secret, on_breach)
        self.wording = Wording(behaviour)
        self._started_at = trio.current_time()
        self.start_ms = now_ms() if settings.start_ms is None else settings.start_ms
        self.markets: dict[str, Market] = {}
        self.traffic: list[Source] = []
        self.account = Account(behaviour, self.wording, settings.seed)
        self._fragment_bytes = behaviour.fragment_bytes
        self._connections: dict[str, list[Connection]] = {}
        self._audiences: dict[tuple[str, str], Audience] = {}
        self._changed = trio.Event()
        self._desk = Desk(behaviour, self.wording, self.markets, self.start_ms)
        self._notify = notify
        self._nursery = nursery
        self._at_event = [fault for fault in settings.plan.faults if fault.at_event is not None]
        self.faults = Faults(
            connections=self.connections,
            markets=lambda: list(self._connections),
            gate=self.gate,
            nursery=nursery,
            on_fault=on_fault,
            notify=notify,
            seed=settings.seed,
        )
        self._open_markets()

    def _open_markets(self) -> None:
        for tape in self.settings.tapes:
            names, books = tapes.survey(tape)
            for name in names:
                if name not in self.markets:
                    self._open_market(name, books.get(name, ()))
        default = () if self.settings.tapes else DEFAULT_MARKETS
        wanted = default if self.settings.markets is None else self.settings.markets
        generated = [name for name in wanted if name not in self.markets]
        rate = (self.settings.rate or 0) / max(1, len(generated)) or NOMINAL_RATE
        for name in generated:
            source = MarketTraffic(name, rate, self.settings.seed, self.wording)
            self.traffic.append(source)
            self._open_market(name, source.opening())

        if self.settings.account_rate:
            self.traffic.append(
                AccountTraffic(
                    self.account, list(self.markets), self.settings.account_rate, self.settings.seed
                )
            )

    def _open_market(self, name: str, levels: Iterable[Level]) -> None:
        behaviour = self.behaviour
        market = Market(name, trade_rows=behaviour.trade_snapshot_rows, lag_s=behaviour.snapshot_lag_s)
        market.open(levels)
        self.markets[name] = market

    @property
    def behaviour(self) -> Behaviour:
        """How the exchange behaves; assigned anew, it concerns what is decided from then on."""
        return self.gate.behaviour

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        self.gate.behaviour = behaviour
        self._desk.behaviour = behaviour

    # Broadcasting

    def broadcast(self, market: str, stream: str, payload: bytes, lags: Sequence[float] = ()) -> None:
        """Send one event to everyone who is subscribed; ``lags``: the seconds by which each line is late."""
        now = trio.current_time()
        state = self.markets.get(market)
        if state is not None:
            state.record(now, stream, payload)
        self.broadcasts += 1
        self.truth.write(market, stream, payload)
        named, agnostic = self._audiences.get((market, stream)) or self._find_audience(market, stream)
        if named:
            self._put(named, stream, now, frames.text(payload, self._fragment_bytes), lags)
        if agnostic:
            told = payload if self._is_nameless(stream) else with_market(payload, market)
            self._put(agnostic, stream, now, frames.text(told, self._fragment_bytes), lags)
        if self._at_event:
            self.strike_at_event()

    def _is_nameless(self, stream: str) -> bool:
        """Tell whether messages of a stream do not name their market even over all markets."""
        return stream == ORDERS and self.behaviour.order_market == "never"

    def _put(
        self, lines: list[Connection], stream: str, now: float, frame: bytes, lags: Sequence[float]
    ) -> None:
        queued = (now, frame)
        limit = self.settings.outbox_bytes
        for line in lines:
            if lags:
                queued = (now + lags[line.index % len(lags)], frame)
            outbox = line.outbox
            outbox.put_event(stream, queued)
            if outbox.backlog_bytes > limit:
                self._close_slow(line)

    def _close_slow(self, line: Connection) -> None:
        self._notify(note("simulated_connection_slow", market=line.market, line=line.index))
        self._forget(line)
        line.outbox.clear()
        line.end(Ending("close", 1013, "too slow"), at_once=True)

    def _find_audience(self, market: str, stream: str) -> Audience:
        def of(lines: Iterable[Connection]) -> list[Connection]:
            return [line for line in lines if stream == OTHER or stream in line.subscriptions]

        everyone = itertools.chain.from_iterable(self._connections.values())
        if stream == ACCOUNT_TRADES:
            audience: Audience = (of(everyone), [])
        elif stream == ORDERS and self.behaviour.order_scope == "account":
            all_ = of(self._connections.get(ALL, ()))
            audience = ([line for line in of(everyone) if line not in all_], all_)
        else:
            audience = (of(self._connections.get(market, ())), of(self._connections.get(ALL, ())))
        self._audiences[market, stream] = audience
        return audience

    def replace_book(self, market: str, levels: Iterable[Level]) -> None:
        """Make a market's book this one, by broadcasting the difference, if there is any."""
        state = self.markets[market]
        difference = state.replace(levels)
        if difference:
            self.broadcast(market, BOOK, self.wording.delta(market, difference, state.ts or self.start_ms))

    async def drained(self) -> None:
        """Wait until every healthy connection has little to send; close those that make it wait too long."""
        for line in list(itertools.chain.from_iterable(self._connections.values())):
            if line.outbox.backlog_bytes <= FLAT_OUT_BYTES or line.touched_until > trio.current_time():
                continue
            with trio.move_on_after(STALL_S) as patience:
                await line.outbox.wait_below(FLAT_OUT_BYTES)
            if patience.cancelled_caught:
                self._close_slow(line)

    async def stop_playing(self) -> None:
        """Broadcast nothing more, and wait until every healthy connection has been sent everything, bounded."""
        self.playing.cancel()
        self.truth.flush()
        with trio.move_on_after(STALL_S):
            for line in list(itertools.chain.from_iterable(self._connections.values())):
                if line.touched_until <= trio.current_time():
                    await line.outbox.wait_below(0)

    # Faults

    def inject(self, fault: Fault) -> None:
        """Let a fault happen now."""
        self.faults.strike(fault)

    def strike_at_event(self) -> None:
        """Let the faults happen whose event has come."""
        for fault in [fault for fault in self._at_event if self._is_due(fault)]:
            self._at_event.remove(fault)
            self.faults.strike(fault)

    def _is_due(self, fault: Fault) -> bool:
        state = self.markets.get(fault.market)
        count = self.broadcasts if state is None else state.events
        return fault.at_event is not None and count >= fault.at_event

    # Connections

    def connections(self, market: str) -> list[Connection]:
        """Return the live connections that named this market (or ``ALL``), by their index."""
        return list(self._connections.get(market, ()))

    async def wait_connected(self, count: int) -> None:
        """Wait until every market has so many connections, those over all markets included."""
        while any(len(self.connections(name)) + len(self.connections(ALL)) < count for name in self.markets):
            await self._changed.wait()

    async def serve_line(
        self, stream: Stream, protocol: Protocol, market: str, subscriptions: list[str], close_at: float
    ) -> None:
        """Serve one admitted connection until it ends."""
        lines = self._connections.setdefault(market, [])
        line = Connection(
            stream,
            protocol,
            market=market,
            index=next(index for index in itertools.count() if all(other.index != index for other in lines)),
            subscriptions=subscriptions,
            outbox=Outbox(),
            compliance=self.gate.compliance,
            answer=self._answer,
        )
        self._admit(line)
        try:
            await line.run(close_at=close_at, ping_every_s=self.behaviour.ping_every_s)
        finally:
            self._forget(line)
            line.outbox.clear()
            self.gate.closed(market)
            reason = line.end_reason or "shutdown"
            self._notify(note("simulated_connection_lost", market=market, line=line.index, reason=reason))

    def _admit(self, line: Connection) -> None:
        lines = self._connections[line.market]
        lines.append(line)
        lines.sort(key=lambda line: line.index)
        self._change()
        if self.behaviour.subscribed_on_connect:
            streams = line.subscriptions
            self.reply(line, self._desk.subscribed(line, streams, {}, "subscribed"))
        self._notify(note("simulated_connection_opened", market=line.market, line=line.index))

    def _forget(self, line: Connection) -> None:
        lines = self._connections[line.market]
        if line in lines:
            lines.remove(line)
            self._change()

    def _change(self) -> None:
        self._audiences.clear()
        self._changed.set()
        self._changed = trio.Event()

    def _answer(self, line: Connection, request: bytes) -> None:
        if self._order(line, request):
            return
        before = line.subscriptions
        answer = self._desk.answer(line, request, trio.current_time())
        if line.subscriptions != before:
            self._audiences.clear()
        if answer.late_s:
            self._nursery.start_soon(self._reply_later, line, answer.message, answer.late_s)
        elif answer.message:
            self.reply(line, answer.message)

    async def _reply_later(self, line: Connection, message: bytes, late_s: float) -> None:
        """Send a reply behind what comes meanwhile."""
        await trio.sleep(late_s)
        if line.is_open:
            self.reply(line, message)

    def _order(self, line: Connection, request: bytes) -> bool:
        """Let a request for an order have its effect; tell whether it was one."""
        wish = self._desk.order(line, request)
        if wish is None:
            return False
        for said in self.account.request(*wish, self._clock_ms()):
            if self.behaviour.order_events == "account":
                self.broadcast(*said)
            else:
                self.reply(line, said.payload)
        return True

    def _clock_ms(self) -> int:
        return self.start_ms + int((trio.current_time() - self._started_at) * 1000)

    def reply(self, line: Connection, message: bytes) -> None:
        """Send a message to one connection only."""
        line.outbox.put_reply(trio.current_time(), frames.text(message, self._fragment_bytes))
        if line.outbox.backlog_bytes > self.settings.outbox_bytes:
            self._close_slow(line)

    def book_snapshot(self, market: str) -> bytes:
        """Return a market's book as the message that a snapshot request gets."""
        return self._desk.book_snapshot(market, trio.current_time())


def now_ms() -> int:
    """Return the exchange's clock, which labels messages and times nothing."""
    return time.time_ns() // 1_000_000


def parse_subscriptions(text: str | None) -> list[str]:
    """Return the streams that a handshake asks for; unknown names are left out."""
    names = "orders" if text is None else text
    return [name for name in dict.fromkeys(names.split(",")) if name in STREAMS]
