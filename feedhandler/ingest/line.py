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
- An application-level ping goes out at its interval. The line is lost (``silent``) when for the interval
  and the pong's time-out together nothing at all has arrived: no data, no pong, no control frame. That time
  is counted in wake-ups of the line's own, so a daemon that stood still for a while blames itself and not
  the exchange.
- The goodbye to a lost connection and the wait before the next attempt pass at the same time.
"""

import ssl
import uuid
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from random import SystemRandom
from typing import Final, Protocol

import trio

from feedhandler.config import Bounds, Health
from feedhandler.core.backoff import Backoff
from feedhandler.core.progress import Part
from feedhandler.errors import ConnectionFailed, HandshakeRefused, TokenRefused
from feedhandler.exchange.token import TokenSource
from feedhandler.ingest.connect import Connection, open_line
from feedhandler.ingest.gate import Gate
from feedhandler.ingest.handshake import Target

OUTBOX_REQUESTS: Final = 64
"""Requests waiting to be sent on one line; further ones are refused, and whoever asks tries again later."""

SILENCE_STEPS: Final = 5
"""In how many wake-ups the time of silence is counted."""

SILENT: Final = "silent"

_REFUSED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})


class Hub(Protocol):
    """What a line tells its feed; nothing of it waits or raises."""

    def connecting(self, line: str) -> None:
        """Hear that an attempt begins: its slot is granted."""

    def connected(self, line: str) -> None:
        """Hear that the connection is open."""

    def received(self, line: str, payloads: list[bytes]) -> None:
        """Take the messages of one read."""

    def rejected(self, line: str, kind: str) -> None:
        """Hear of a message that is no text."""

    def lost(self, line: str, reason: str) -> None:
        """Hear that the connection has ended and brings nothing more."""

    def failed(self, line: str, failure: ConnectionFailed, retry_s: float) -> None:
        """Hear that an attempt failed and when the next one begins."""


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
        self, name: str, target: Target, hub: Hub, means: Means, *, priority: Callable[[], int]
    ) -> None:
        self.name = name
        self._target = target
        self._hub = hub
        self._means = means
        self._priority = priority
        self._backoff = Backoff(means.bounds.backoff_min_s, means.bounds.backoff_max_s)
        self._token: str | None = None
        self._connection: Connection | None = None
        self._outbox: trio.MemorySendChannel[str] | None = None
        self._pause_s = 0.0

    def __repr__(self) -> str:
        return f"<Line {self.name}: {self._connection or 'no connection'}>"

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
    def read_s(self) -> float | None:
        """When the first byte of what is being delivered was read (`time.perf_counter`); None between connections."""
        return None if self._connection is None else self._connection.read_s

    @property
    def requests(self) -> int:
        """How many requests wait to be sent."""
        return 0 if self._outbox is None else self._outbox.statistics().current_buffer_used

    async def run(self) -> None:
        """Keep the line up until cancelled."""
        while True:
            try:
                resume_s = await self._live()
            except ConnectionFailed as failure:
                resume_s = self._failed(failure)
            await trio.sleep_until(resume_s)

    def send(self, text: str) -> bool:
        """Send a request soon; False where there is no connection or too much is waiting already."""
        if self._outbox is None:
            return False
        try:
            self._outbox.send_nowait(text)
        except trio.WouldBlock:
            return False
        return True

    def restart(self, reason: str, pause_s: float = 0.0) -> None:
        """End the connection, if there is one, and make a new one after ``pause_s`` at the earliest."""
        if self._connection is not None:
            self._pause_s = pause_s
            self._connection.end(reason)

    def reset_backoff(self) -> None:
        """Hear that good data has come."""
        self._backoff.reset()

    async def _live(self) -> float:
        """Live through one connection; return when the next attempt begins."""
        async with AsyncExitStack() as stack:
            connection = await self._open(stack)
            reason = await self._pump(connection)
            self._hub.lost(self.name, reason)
            wait_s = max(self._backoff.failed(self._means.draw()), self._pause_s)
            self._pause_s = 0.0
            return trio.current_time() + wait_s

    async def _open(self, stack: AsyncExitStack) -> Connection:
        """Connect; where the exchange refuses the token, once more with another."""
        await self._fetch_token()
        try:
            return await self._connect(stack)
        except HandshakeRefused as error:
            refusal = error
        if refusal.status not in _REFUSED or not await self._replace_token():
            raise refusal
        return await self._connect(stack)

    async def _connect(self, stack: AsyncExitStack) -> Connection:
        """Make one attempt, as soon as the budget has a slot for it."""
        async with self._means.gate.attempt(self._priority, lambda: self._hub.connecting(self.name)):
            await self._fetch_token()
            return await stack.enter_async_context(
                open_line(
                    self._target,
                    token=self._token,
                    deliver=partial(self._hub.received, self.name),
                    rejected=partial(self._hub.rejected, self.name),
                    ssl_context=self._means.ssl_context,
                    bounds=self._means.bounds,
                )
            )

    async def _fetch_token(self) -> None:
        if self._means.tokens is not None:
            self._token = await self._means.tokens.get()

    async def _replace_token(self) -> bool:
        """Have a refused token replaced; False where there is no other."""
        tokens = self._means.tokens
        return tokens is not None and self._token is not None and await tokens.replace(self._token)

    def _failed(self, failure: ConnectionFailed) -> float:
        """Tell of a failed attempt; return when the next one begins."""
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
            try:
                self._hub.connected(self.name)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._forward, outgoing, connection)
                    nursery.start_soon(self._ping)
                    nursery.start_soon(self._watch, connection)
                    reason = await connection.pump()
                    nursery.cancel_scope.cancel()
            finally:
                self._connection = self._outbox = None
        return reason

    async def _forward(self, outgoing: trio.MemoryReceiveChannel[str], connection: Connection) -> None:
        """Send what waits to be sent, one after the other."""
        async for text in outgoing:
            await connection.send(text)

    async def _ping(self) -> None:
        """Ask for a sign of life at every interval."""
        while True:
            await trio.sleep(self._means.health.ping_interval_s)
            self.send(self._means.make_ping(str(uuid.uuid4())))

    async def _watch(self, connection: Connection) -> None:
        """End the connection when it is silent for too long."""
        health = self._means.health
        step_s = (health.ping_interval_s + health.pong_timeout_s) / SILENCE_STEPS
        reads = silent_steps = 0
        while silent_steps < SILENCE_STEPS:
            await trio.sleep(step_s)
            silent_steps = silent_steps + 1 if connection.reads == reads else 0
            reads = connection.reads
        connection.end(SILENT)
