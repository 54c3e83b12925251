"""A bridge that runs: the socket on one side, a link to NATS on the other, the merge between them.

    run ── source          reads the socket, from the first reading of the stream on
        ├─ books           asks for those that the stream needs, and from time to time for each
        ├─ links           one link after the other; each reads the stream, then sends when it is our turn
        ├─ progress        a line in the log from time to time
        ├─ systemd         what it is told
        └─ http            for operators, where it is asked for

All of it runs in one thread, and what decides is the merge, which never waits. A link that is lost takes nothing with
it: what was on its way is pending again, and the next link begins by reading what came to stand in the stream.

SIGTERM ends the reading of the socket; whoever leads sends what is pending, waits for the confirmations, for
`drain_s` at most, and ends.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, Final

from feedhandler.bridge.entries import Stored
from feedhandler.bridge.link import (
    CONFIRM_S,
    READ_BACK_MESSAGES,
    WRONG_LAST,
    AccessRefused,
    Answer,
    Link,
    LinkLost,
    linked,
)
from feedhandler.bridge.merge import Merge
from feedhandler.bridge.serving import start
from feedhandler.bridge.settings import BridgeSettings
from feedhandler.bridge.source import Source
from feedhandler.bridge.supervised import Supervised
from feedhandler.core.backoff import Backoff
from feedhandler.core.motion import Part
from feedhandler.core.notes import Notify, note
from feedhandler.errors import OperationalError
from feedhandler.observe.bridging import BridgePages, BridgeState
from feedhandler.observe.counts import Counts

FLIGHTS: Final = 1024
"""Messages on their way at a time; further ones wait."""

FLIGHT_BYTES: Final = 8 * 1024 * 1024
"""Bytes of pending messages that are handed to the connection before the first is confirmed."""

TICK_S: Final = 0.1
PROGRESS_S: Final = 60.0
RETRY_MIN_S: Final = 0.2
RETRY_MAX_S: Final = 5.0
REFUSED_PAUSE_S: Final = 1.0
"""How long nothing is sent after the server has refused a message, because it is full for example."""

BOOKS_S: Final = 0.5


class Bridge:
    """One run of ``feedhandler bridge nats``."""

    def __init__(self, settings: BridgeSettings, notify: Notify, lost_lines: Callable[[], int]) -> None:
        self._settings = settings
        counts = Counts(time.time_ns)
        self._notify = notify = counts.before(notify)
        self._merge = Merge(notify, pending_bytes=settings.pending_bytes)
        self._source = Source(
            settings.socket, settings.channels, self._merge, self._wake, self._report_source
        )
        self._woken = asyncio.Event()
        self._loaded = asyncio.Event()
        self._ending = asyncio.Event()
        self._takeover_s = settings.takeover_s * random.uniform(1.0, 1.5)  # noqa: S311 - spreads two hosts
        self._batch = 0
        self._paused_until = 0.0
        self._confirmed_at = 0.0
        self._ever_linked = self._linked = False
        self._turns = 0
        self._systemd = Supervised(os.environ, notify, self._parts, self.state)
        self._pages = BridgePages(self.state, counts, lost_lines, time.time())

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        self._notify(note("bridge_started", stream=self._settings.stream.name))
        tasks = [
            self._start(one)
            for one in (
                self._read_source(),
                self._ask_for_books(),
                self._keep_linked(),
                self._tell_progress(),
                self._systemd.run(),
                *([self._serve(self._settings.http)] if self._settings.http else []),
            )
        ]
        try:
            await self._wait(tasks)
        finally:
            await _cancel(tasks)
        self._notify(note("bridge_stopped", events=self._merge.sent))

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        return asyncio.create_task(work)

    async def _wait(self, tasks: "list[asyncio.Task[None]]") -> None:
        """Wait for the end that was asked for; a task that ends before it has failed."""
        asked = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait([asked, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await _cancel([asked])
        for task in tasks:
            if task.done():
                task.result()
        self._systemd.stop()
        await _cancel(tasks[:2])
        await self._drain()

    async def _drain(self) -> None:
        """Wait until what is pending is in the stream, if it is on us to send it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_s):
                while self._merge.leads and self._merge.pending_bytes:
                    self._wake()
                    await asyncio.sleep(TICK_S / 2)

    # The socket.

    async def _read_source(self) -> None:
        await self._loaded.wait()
        await self._source.run()

    async def _ask_for_books(self) -> None:
        await self._loaded.wait()
        while True:
            await asyncio.sleep(BOOKS_S)
            await self._source.ask_for_books(self._merge.wanted_books())
            if every_s := self._settings.snapshot_every_s:
                await self._source.ask_for_books(self._merge.stale_books(_now(), every_s, BOOKS_S))

    def _report_source(self, line: str) -> None:
        self._notify(note("bridge_socket_reported", detail=line))

    def _wake(self) -> None:
        self._woken.set()

    # The links.

    async def _keep_linked(self) -> None:
        backoff = Backoff(RETRY_MIN_S, RETRY_MAX_S)
        while True:
            self._turns += 1
            try:
                async with linked(self._settings) as link:
                    await self._use(link, backoff)
            except LinkLost as error:
                self._notify(note("bridge_link_lost", reason=error.reason))
            except AccessRefused as error:
                if not self._ever_linked:
                    raise
                self._notify(note("bridge_access_refused", reason=str(error)))
            finally:
                self._linked = False
                self._merge.follow("the bridge ends" if self._ending.is_set() else "the link is lost")
            await asyncio.sleep(backoff.failed(random.uniform(0.5, 1.0)))  # noqa: S311 - spreads attempts

    async def _use(self, link: Link, backoff: Backoff) -> None:
        self._turns += 1
        last = await link.open_stream()
        if last < self._merge.sequence:
            raise OperationalError(
                f"stream {self._settings.stream.name} ends before what was read of it: it is another one, or has lost "
                "its end; start the bridge again"
            )
        await link.listen(self._take_answer)
        self._merge.max_bytes = link.max_bytes
        await self._catch_up(link, last)
        self._ever_linked = self._linked = True
        backoff.reset()
        self._notify(note("bridge_linked", sequence=self._merge.sequence))
        self._loaded.set()
        self._confirmed_at = _now()
        while not link.lost.is_set():
            await self._take_turn(link)
            await self._send(link)
            await self._rest(link)
        raise LinkLost(link.last_error)

    async def _catch_up(self, link: Link, last: int) -> None:
        """Read what the stream has and we do not know; at first the newest of each channel, and some way back."""
        start = self._merge.sequence + 1
        if not self._loaded.is_set():
            start = max(last - READ_BACK_MESSAGES, 0) + 1
            for stored in await link.newest():
                if stored.sequence < start:
                    self._merge.recall(stored, _now())
        await link.follow(start, self._take_stored)
        if self._merge.sequence < last:  # what stood there is gone
            self._merge.take(last, None, _now())

    async def _take_turn(self, link: Link) -> None:
        """Lead or follow; who leads knows what stands in the stream, and need not read it."""
        self._turns += 1
        now = _now()
        due = self._merge.due(now, self._takeover_s, self._patience_s)
        if self._merge.leads:
            return
        if not link.reads:
            await link.follow(self._merge.sequence + 1, self._take_stored)
        elif due and now >= self._paused_until:
            await link.stop_reading()
            self._lead()

    def _lead(self) -> None:
        """Begin a turn: answers to messages of an earlier one do not count."""
        self._batch += 1
        self._merge.lead()

    def _take_stored(self, sequence: int, stored: Stored | None) -> None:
        self._turns += 1
        self._merge.take(sequence, stored, _now())
        self._wake()

    async def _send(self, link: Link) -> None:
        """Send while it is our turn and there is room on the way."""
        now = _now()
        while self._merge.leads and now >= self._paused_until and self._has_room() and not link.lost.is_set():
            flight = self._merge.next()
            if flight is None:
                return
            if self._merge.flights == 1:
                self._confirmed_at = now
            await link.send(flight, self._batch)

    @property
    def _patience_s(self) -> float:
        return self._settings.patience_s * self._takeover_s / self._settings.takeover_s

    def _has_room(self) -> bool:
        return self._merge.flights < FLIGHTS and self._merge.flying_bytes < FLIGHT_BYTES

    async def _rest(self, link: Link) -> None:
        """Wait for something to do, and look whether the link is alive."""
        with suppress(TimeoutError):
            async with asyncio.timeout(TICK_S):
                await self._woken.wait()
        self._woken.clear()
        link.check_silence()
        if self._merge.flights and _now() - self._confirmed_at > CONFIRM_S:
            link.lose("messages are not confirmed")

    def _take_answer(self, answer: Answer) -> None:
        if answer.batch != self._batch or not self._merge.leads:
            return  # of an earlier turn: the reading of the stream tells what became of it
        now = self._confirmed_at = _now()
        if answer.code == 0 and not answer.known:
            self._merge.confirm(answer.sequence, now)
        elif answer.known:
            if self._merge.repeat(answer.flight, answer.sequence):
                self._lead()
        elif answer.code in WRONG_LAST:
            self._merge.follow("another host was first")
        else:
            self._paused_until = now + REFUSED_PAUSE_S
            self._notify(note("bridge_refused", code=answer.code, reason=answer.detail))
            self._merge.follow("the server refused a message")
        self._wake()

    # Those who look.

    async def _serve(self, address: tuple[str, int]) -> None:
        ended, stop = start(address, self._pages, self._notify)
        try:
            await asyncio.shield(ended)
        finally:
            stop()
            (await ended).unwrap()

    def state(self) -> BridgeState:
        """Return how it is."""
        merge = self._merge
        return BridgeState(
            stream=self._settings.stream.name,
            linked=self._linked,
            connected=self._source.connected,
            leads=merge.leads,
            sequence=merge.sequence,
            stored=dict(merge.stored),
            read=merge.read,
            flights=merge.flights,
            flying_bytes=merge.flying_bytes,
            pending_bytes=merge.pending_bytes,
            pending_limit_bytes=merge.pending_limit_bytes,
            held=sum(channel.held for channel in merge.channels.values()),
            channels=len(merge.channels),
            unplaced=sum(not channel.aligned for channel in merge.channels.values()),
            lag_s=merge.lag_s(_now()),
            still=self._systemd.still(),
        )

    def _parts(self) -> Iterator[Part]:
        yield Part("link", "the link to NATS", self._turns, lambda: True)
        yield Part("socket", "the reading of the socket", self._source.taken, self._source.waits)

    async def _tell_progress(self) -> None:
        sent = read = 0
        while True:
            await asyncio.sleep(PROGRESS_S)
            merge = self._merge
            self._notify(
                note(
                    "bridge_progressed",
                    leads=merge.leads,
                    sent=merge.sent - sent,
                    read=merge.read - read,
                    pending_bytes=merge.pending_bytes,
                )
            )
            sent, read = merge.sent, merge.read


async def _cancel(tasks: "list[asyncio.Task[Any]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
