"""The life of one line: connect, pump, lose, wait, and again for ever.

    ┌─▶ backoff ─▶ token ─▶ slot of the budget ─▶ token still fresh ─▶ connect ─▶ connected ─▶ pump ─▶ lost ─┐
    │                 └───────────────────────────────┴──────────────────┴─▶ failed                    │     │
    └────────────────────────────────────────────────────────────────────────────┴───────────────────────────┘

Rules:

- The feed hears of a connection in one order: ``connecting``, ``connected``, ``received`` and ``rejected``
  as often as something comes, ``lost`` once, after everything that was read; or ``failed``, once for each
  attempt (without ``connecting`` where the attempt ended before a slot was granted, for want of a token).
- A line never gives up and data never raises out of it. Waits are drawn from a backoff that starts over
  only when the feed says that good data has come, since a connection that brings none is no success.
- A token that the exchange refuses (401, 403) is replaced once, and the attempt repeated at once, before the
  backoff. A key that the token endpoint refuses is asked with again only at the backoff's longest interval.
  A line that failed for want of a token goes on as soon as there is one.
- An application-level ping goes out at its interval; lines that connect together begin at different moments.
  The line is lost (``silent``) when for the interval and the pong's time-out together nothing at all has
  arrived: no data, no pong, no control frame. That is looked at when a ping is due, and a line that is heard
  wakes for nothing else. No wait counts for more than it was meant to last, so a daemon that stood still for
  a while blames itself and not the exchange.
- A line holds a place among the concurrent connections from the attempt until its goodbye is over.
- A 403 that another token does not help against is told to the gate: it may be a limit.
- A line can be told to rest (`pause`) or to end for good (`retire`) at any moment, whatever it is doing; an attempt
  is called off then (``called_off``).
- Each connection says when it is due to be replaced (`core.rotation`): before its token ends, and before it is too old.
- The goodbye to a lost connection and the wait before the next attempt pass at the same time.
"""

import math
import ssl
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from random import SystemRandom
from typing import Final, Protocol

import trio

from feedhandler.config import Bounds, Health
from feedhandler.core.backoff import Backoff
from feedhandler.core.budget import CAP, Request
from feedhandler.core.motion import Part
from feedhandler.core.rotation import AGE_SHARE, due_s, span_s
from feedhandler.core.trail import Frames, Known
from feedhandler.errors import ConnectionFailed, HandshakeRefused, TokenRefused
from feedhandler.exchange.token import Token, TokenSource
from feedhandler.ingest.beat import sleep_in_step
from feedhandler.ingest.connect import Connection, open_line
from feedhandler.ingest.doing import BACKOFF, CAPPED, OPENING, PAUSED, SLOT, TOKEN, UP
from feedhandler.ingest.gate import Gate, Place
from feedhandler.ingest.handshake import Target

OUTBOX_REQUESTS: Final = 64
"""Requests waiting to be sent on one line; further ones are refused, and whoever asks tries again later."""

PING_IDS: Final = 8
"""Ids of pings that a line remembers, so that what answers them is known for an answer; the oldest is forgotten."""

PING_STEP_S: Final = 0.2
"""Pings wait in such steps: of hundreds of lines a few are due together, too few to hold anything up."""

SILENT: Final = "silent"
TIMEOUT: Final = "timeout"

_REFUSED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class Hub(Protocol):
    """What a line tells its feed; nothing of it waits or raises."""

    def connecting(self, line: str) -> None:
        """Hear that an attempt begins: its slot is granted."""

    def connected(self, line: str) -> None:
        """Hear that the connection is open."""

    def recognise(self, line: str, rest: bytes | bytearray, data: bytes) -> Known:
        """Say what a read begins with that need not be split, since other lines have brought it (core.trail)."""

    def received(self, line: str, payloads: list[bytes], frames: Frames) -> None:
        """Take the messages of one read, and how they came."""

    def rejected(self, line: str, kind: str) -> None:
        """Hear of a message that is no text."""

    def lost(self, line: str, reason: str) -> None:
        """Hear that the connection has ended and brings nothing more."""

    def failed(self, line: str, failure: ConnectionFailed, retry_s: float) -> None:
        """Hear that an attempt failed and when the next one begins."""

    def called_off(self, line: str) -> None:
        """Hear that an attempt was called off, since the line is to rest or to end."""


@dataclass(frozen=True)
class Means:
    """What all lines share."""

    gate: Gate
    tokens: TokenSource | None
    ssl_context: ssl.SSLContext
    health: Health
    bounds: Bounds
    make_ping: Callable[[str], str]
    draw: Callable[[], float] = SystemRandom().random


class Line:
    """One line of a feed; ``priority`` says how urgent a connection is (see `feedhandler.core.budget`)."""

    def __init__(
        self,
        name: str,
        target: Target,
        hub: Hub,
        means: Means,
        *,
        priority: Callable[[], int],
        market: str = "",
        path: int = 0,
    ) -> None:
        self.name = name
        self.path = path
        self.has_failed = False
        """Whether an attempt or a connection has ever come to an end that nobody asked for."""
        self._born: tuple[float, float] | None = None
        """When the last connection was made, on trio's clock, and the lot that was drawn for its end."""
        self.draw = means.draw
        self.opened = target
        """What the last connection was opened with."""
        self._target = target
        self._hub = hub
        self._means = means
        self._health = means.health
        self._priority = priority
        self._market = market
        self._ping_ids: deque[str] = deque(maxlen=PING_IDS)
        self._backoff = Backoff(means.bounds.backoff_min_s, means.bounds.backoff_max_s)
        self._token: Token | None = None
        self._connection: Connection | None = None
        self._outbox: trio.MemorySendChannel[str] | None = None
        self._pause_s = 0.0
        self._at_once = False
        self._is_retired = False
        self._doing = BACKOFF
        self._request: Request | None = None
        self._is_connecting = False
        self._attempt = trio.CancelScope()
        self._woken = trio.Event()

    def __repr__(self) -> str:
        return f"<Line {self.name}: {self._connection or self.doing}>"

    @property
    def is_open(self) -> bool:
        """Whether a request can be sent (`send`)."""
        return self._outbox is not None

    def parts(self, feed: str) -> Iterator[Part]:
        """Return the reading of the connection, if there is one."""
        connection = self._connection
        if connection is not None:
            yield Part(connection, f"line {feed} {self.name}", connection.reads, connection.waits, "reading")

    @property
    def read_s(self) -> float:
        """When the first byte of what is being delivered was read (`time.perf_counter`); 0 between connections."""
        return 0.0 if self._connection is None else self._connection.read_s

    @property
    def requests(self) -> int:
        """How many requests wait to be sent."""
        return 0 if self._outbox is None else self._outbox.statistics().current_buffer_used

    @property
    def is_paused(self) -> bool:
        """Whether the line rests until it is told to go on."""
        return self._doing == PAUSED

    @property
    def is_leaving(self) -> bool:
        """Whether the line ends for good."""
        return self._is_retired

    @property
    def doing(self) -> str:
        """What the line is doing or waiting for, in a word."""
        if self._doing != SLOT or self._request is None:
            return self._doing
        return CAPPED if self._means.gate.waits_for(self._request) == CAP else SLOT

    @property
    def peer(self) -> str:
        """The address that the line is connected to; empty where it is not."""
        return self._connection.peer if self._connection is not None else ""

    @property
    def due_s(self) -> float:
        """When the connection is to be replaced, on trio's clock, as far as is known now."""
        if self._born is None:
            return math.inf
        max_age_s, token, due = self._health.connection_max_age_s, self._token, math.inf
        if max_age_s:
            due = self._due_s(max_age_s, self._born[0] + max_age_s, max_age_s * AGE_SHARE)
        if token is not None:
            due = min(due, self._due_s(token.life_s, token.ends_s, 2 * token.margin_s))
        return due

    def _due_s(self, life_s: float, ends_s: float, least_s: float) -> float:
        """Return when the connection is to be replaced that ends with what lives so long."""
        assert self._born is not None
        born_s, lot = self._born
        return due_s(born_s, ends_s, span_s(life_s, least_s, self._means.gate.round_s()), least_s, lot)

    def is_renewable(self) -> bool:
        """Tell whether a connection made now would last longer than this one: there is a newer token."""
        tokens, token = self._means.tokens, self._token
        if tokens is None or token is None:
            return True
        left_s = tokens.expires_in_s
        return left_s is not None and trio.current_time() + left_s > token.ends_s

    async def run(self) -> None:
        """Keep the line up until it is retired or cancelled."""
        while not self._is_retired:
            self._woken = trio.Event()
            if self.is_paused:
                await self._woken.wait()
                continue
            lacks_token = False
            try:
                resume_s = await self._live()
            except ConnectionFailed as failure:
                resume_s = self._failed(failure)
                lacks_token = isinstance(failure, TokenRefused)
            with trio.move_on_at(resume_s):
                await self._rest(lacks_token=lacks_token)

    def send(self, text: str) -> bool:
        """Send a request soon; False where there is no connection or too much is waiting already."""
        if self._outbox is None:
            return False
        try:
            self._outbox.send_nowait(text)
        except trio.WouldBlock:
            return False
        return True

    def has_pinged(self, request_id: str) -> bool:
        """Tell whether a request of this id was one of the newest pings."""
        return request_id in self._ping_ids

    def restart(self, reason: str, pause_s: float = 0.0, *, at_once: bool = False) -> None:
        """End the connection, if there is one, and make a new one: after ``pause_s`` at the earliest, or at once.

        What happens at once is no failure and costs no backoff; a line that waits for its next attempt tries now.
        """
        if self._connection is not None:
            self._pause_s = pause_s
            self._at_once = at_once
            self._connection.end(reason)
        elif at_once:
            self._woken.set()

    def pause(self, reason: str) -> None:
        """Be without a connection until `resume`."""
        self._doing = PAUSED
        self._stop(reason)

    def resume(self) -> None:
        """Go on after `pause`."""
        if self.is_paused:
            self._doing = BACKOFF
            self._woken.set()

    def retire(self, reason: str) -> None:
        """End for good: `run` returns as soon as the goodbye is over."""
        self._is_retired = True
        self._stop(reason)

    def _stop(self, reason: str) -> None:
        """End the connection, or the attempt, or the wait for one."""
        if self._connection is not None:
            self._connection.end(reason)
        elif self._is_connecting:
            self._attempt.cancel()
        self._woken.set()

    @property
    def _is_stopped(self) -> bool:
        return self._is_retired or self.is_paused

    def retarget(self, target: Target) -> None:
        """Make further connections to another target."""
        self._target = target

    def retune(self, health: Health) -> None:
        """Ping and wait by other settings from now on."""
        self._health = health

    def reset_backoff(self) -> None:
        """Hear that good data has come."""
        self._backoff.reset()

    async def _live(self) -> float:
        """Live through one connection, or be stopped; return when the next attempt begins."""
        self._is_connecting = True
        resume_s = trio.current_time()
        with trio.CancelScope() as self._attempt:
            resume_s = await self._live_through()
        if self._is_connecting:
            self._hub.called_off(self.name)
        return resume_s

    async def _live_through(self) -> float:
        async with AsyncExitStack() as stack:
            connection = await self._open(stack)
            if self._is_stopped:
                return trio.current_time()
            self._is_connecting = False
            reason = await self._pump(connection)
            self._hub.lost(self.name, reason)
            return trio.current_time() + self._after_loss_s()

    def _after_loss_s(self) -> float:
        """Return how long to wait after a connection that has ended."""
        pause_s, self._pause_s = self._pause_s, 0.0
        at_once, self._at_once = self._at_once, False
        if at_once or self._is_stopped:
            return 0.0
        self._doing = BACKOFF
        self.has_failed = True
        return max(self._backoff.failed(self._means.draw()), pause_s)

    async def _open(self, stack: AsyncExitStack) -> Connection:
        """Connect; where the exchange refuses the token, once more with another."""
        await self._fetch_token()
        try:
            return await self._connect(stack)
        except HandshakeRefused as error:
            refusal = error
        if refusal.status in _REFUSED and await self._replace_token():
            try:
                return await self._connect(stack)
            except HandshakeRefused as error:
                refusal = error
        if refusal.status == HTTPStatus.FORBIDDEN:
            self._means.gate.refused(self._market)
        raise refusal

    async def _connect(self, stack: AsyncExitStack) -> Connection:
        """Make one attempt, as soon as the budget has a slot for it."""
        async with self._means.gate.attempt(
            self._priority, self._granted, market=self._market, on_wait=self._wait_for_slot
        ) as place:
            await self._fetch_token()
            self._go_on(OPENING)
            connection = await stack.enter_async_context(self._opened(place))
            place.opened()
        self._born = trio.current_time(), self._means.draw()
        return connection

    @asynccontextmanager
    async def _opened(self, place: Place) -> AsyncIterator[Connection]:
        """Open a connection, say goodbye to it in the end, and then give its place back."""
        answered = True
        self.opened = self._target
        try:
            async with open_line(
                self.opened,
                token=self._token,
                deliver=partial(self._hub.received, self.name),
                recognise=partial(self._hub.recognise, self.name),
                rejected=partial(self._hub.rejected, self.name),
                ssl_context=self._means.ssl_context,
                bounds=self._means.bounds,
                path=self.path,
            ) as connection:
                yield connection
            answered = connection.answered
        except ConnectionFailed as failure:
            answered = failure.reason != TIMEOUT  # it may have let us in all the same
            raise
        finally:
            place.release(answered=answered)

    def _wait_for_slot(self, request: Request) -> None:
        self._request = request
        self._go_on(SLOT)

    def _granted(self) -> None:
        self._hub.connecting(self.name)

    def _go_on(self, doing: str) -> None:
        if not self.is_paused:
            self._doing = doing

    async def _rest(self, *, lacks_token: bool) -> None:
        """Wait until somebody has a reason to go on, or for a token that was not there before."""
        if not lacks_token or self._means.tokens is None:
            await self._woken.wait()
            return
        async with trio.open_nursery() as nursery:
            for wait in (self._woken.wait, self._means.tokens.wait_renewed):
                nursery.start_soon(_first, wait, nursery.cancel_scope)

    async def _fetch_token(self) -> None:
        if self._means.tokens is not None:
            self._go_on(TOKEN)
            self._token = await self._means.tokens.get()

    async def _replace_token(self) -> bool:
        """Have a refused token replaced; False where there is no other."""
        tokens = self._means.tokens
        return tokens is not None and self._token is not None and await tokens.replace(self._token)

    def _failed(self, failure: ConnectionFailed) -> float:
        """Tell of a failed attempt; return when the next one begins."""
        self._go_on(BACKOFF)
        self.has_failed = True
        retry_after_s = getattr(failure, "retry_after", None)
        wait_s = self._backoff.failed(self._means.draw(), retry_after_s)
        if isinstance(failure, TokenRefused) and failure.status in _REFUSED:
            wait_s = max(wait_s, self._means.bounds.backoff_max_s)
        self._hub.failed(self.name, failure, wait_s)
        return trio.current_time() + wait_s

    async def _pump(self, connection: Connection) -> str:
        """Let the data flow until the connection ends; return the reason."""
        outbox, outgoing = trio.open_memory_channel[str](OUTBOX_REQUESTS)
        with outbox, outgoing:
            self._connection, self._outbox = connection, outbox
            self._go_on(UP)
            try:
                self._hub.connected(self.name)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._forward, outgoing, connection)
                    nursery.start_soon(self._keep_alive, connection)
                    reason = await connection.pump()
                    nursery.cancel_scope.cancel()
            finally:
                self._connection = self._outbox = None
        return reason

    async def _forward(self, outgoing: trio.MemoryReceiveChannel[str], connection: Connection) -> None:
        """Send what waits to be sent, one after the other."""
        async for text in outgoing:
            await connection.send(text)

    async def _keep_alive(self, connection: Connection) -> None:
        """Ask for a sign of life at every interval, and end the connection when there is none for too long."""
        health = self._health
        reads, silent_s = connection.reads, 0.0
        pause_s = health.ping_interval_s * self._means.draw()
        while silent_s < (longest_s := health.ping_interval_s + health.pong_timeout_s):
            began_s = trio.current_time()
            await sleep_in_step(pause_s, PING_STEP_S)
            silent_s += min(trio.current_time() - began_s, pause_s + PING_STEP_S)
            if connection.reads != reads:
                reads, silent_s = connection.reads, 0.0
            self._ping_ids.append(str(uuid.uuid4()))
            self.send(self._means.make_ping(self._ping_ids[-1]))
            health = self._health
            pause_s = min(health.ping_interval_s, longest_s - silent_s)
        connection.end(SILENT)


async def _first(wait: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    """Wait, and let whoever else waits for the same purpose stop."""
    await wait()
    scope.cancel()
