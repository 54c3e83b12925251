"""What is answered over HTTP, path by path.

| path | answer |
| --- | --- |
| ``/metrics`` | the metrics, as OpenMetrics where that is accepted |
| ``/healthz`` | 200 while the data path comes round, else 503 |
| ``/readyz`` | 200 when all feeds are ready, else 503, with the reasons; doubts stand among them either way |
| | ``?require=any`` asks for one feed, ``?feed=NAME`` for that one; a standby takes over all or is not ready |
| ``/status`` | the state of everything; ``?history=1``: with the last minutes of each line |
| ``/`` | a page for people |

Only one picture of everything is made at a time, with a rest of `REST_S` after each, so that those who ask again and
again get a small part of the time and no more; whoever asks meanwhile waits for its turn. Nothing here writes.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Final

import msgspec
import trio

from feedhandler.observe.collecting import Collector
from feedhandler.observe.exposition import OPENMETRICS_TYPE, TEXT_TYPE, wants_openmetrics
from feedhandler.observe.http import HTML, JSON, Answer, Request, bad_request, not_found
from feedhandler.observe.page import Page
from feedhandler.observe.readiness import bounded, doubts, each, general_reasons, missing, reasons_of
from feedhandler.observe.sight import Sight
from feedhandler.observe.slices import in_chunks, in_slices
from feedhandler.observe.telling import StatusMaker

REST_S: Final = 0.1
"""Between two pictures of everything."""

REQUIREMENTS: Final = frozenset({"all", "any"})


class Pages:
    """Answers for one daemon, over so many ``connections`` at the moment."""

    def __init__(self, sight: Sight, connections: Callable[[], int]) -> None:
        self._sight = sight
        self._collector = Collector(sight, connections)
        self._status = StatusMaker(sight)
        self._page = Page.load()
        self._turn = trio.Lock()
        self._rest_until = trio.current_time()
        self._paths: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/status": self._state,
            "/": self._for_people,
        }

    async def __call__(self, request: Request) -> Answer:
        """Answer a request."""
        handle = self._paths.get(request.path)
        return not_found() if handle is None else await handle(request)

    @asynccontextmanager
    async def _making(self) -> AsyncIterator[None]:
        """Wait for the turn to make a picture of everything."""
        async with self._turn:
            await trio.sleep_until(self._rest_until)
            try:
                yield
            finally:
                self._rest_until = trio.current_time() + REST_S

    async def _metrics(self, request: Request) -> Answer:
        openmetrics = wants_openmetrics(request.accept)
        async with self._making():
            chunks = await in_slices(in_chunks(self._collector.scrape(openmetrics=openmetrics)))
        return Answer([*filter(None, chunks)], OPENMETRICS_TYPE if openmetrics else TEXT_TYPE)

    async def _healthz(self, _: Request) -> Answer:
        await trio.lowlevel.checkpoint()
        liveness = self._sight.liveness
        if liveness.made or self._sight.draining():  # the end has a bound of its own
            return Answer([b"ok\n"])
        text = f"the data path has not come round for {liveness.idle_s:.0f} s\n"
        return Answer([text.encode()], status=HTTPStatus.SERVICE_UNAVAILABLE)

    async def _readyz(self, request: Request) -> Answer:
        require, name = request.query.get("require", "all"), request.query.get("feed")
        if require not in REQUIREMENTS:
            return bad_request()
        reasons = general_reasons(self._sight)
        if name is not None:
            feed = self._sight.feeds.get(name)
            if feed is None:
                return not_found()
            return self._readiness(reasons + reasons_of(feed))
        feeds = await in_slices(each(self._sight))
        if require == "all" or self._sight.standby() is not None or all(feeds):
            reasons += [*missing(self._sight), *(reason for of_feed in feeds for reason in of_feed)]
        return self._readiness(reasons)

    def _readiness(self, reasons: list[str]) -> Answer:
        told = bounded([*doubts(self._sight), *reasons])
        body = msgspec.json.encode({"ready": not reasons, "reasons": told}) + b"\n"
        return Answer([body], JSON, HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK)

    async def _state(self, request: Request) -> Answer:
        async with self._making():
            history = request.query.get("history", "") not in {"", "0"}
            return Answer([await self._status.document(history=history)], JSON)

    async def _for_people(self, _: Request) -> Answer:
        await trio.lowlevel.checkpoint()
        return Answer([self._page.body], HTML, policy=self._page.policy)
