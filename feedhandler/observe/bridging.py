"""What operators see of a bridge: its metrics, whether it is ready, its status line.

A bridge is a program of its own, and one value, `BridgeState`, says all that is shown of it. It has the paths of the
daemon that make sense for it:

| path | answer |
| --- | --- |
| ``/metrics`` | the metrics, as OpenMetrics where that is accepted |
| ``/healthz`` | 200 while the bridge makes progress, else 503 |
| ``/readyz`` | 200 while it is connected to the socket and to NATS, and knows its stream, else 503 with reasons |
| ``/status`` | the state as one JSON object |
| ``/`` | the status line |
"""

import platform
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Final

import msgspec
import trio

from feedhandler import __version__
from feedhandler.observe.collecting import BUILD, PROCESS_VALUES, STARTED
from feedhandler.observe.counts import Counts
from feedhandler.observe.exposition import (
    OPENMETRICS_TYPE,
    TEXT_TYPE,
    Block,
    exposition,
    labels,
    sample,
    wants_openmetrics,
)
from feedhandler.observe.http import JSON, Answer, Request, not_found
from feedhandler.observe.metrics import COUNTERS, LOG_LINES_LOST, Family, counter, gauge


class BridgeState(msgspec.Struct, frozen=True):
    """A bridge at one moment."""

    stream: str
    linked: bool
    """It is connected to NATS, and has checked and read the stream."""
    connected: bool
    """It is connected to the daemon's socket."""
    leads: bool
    """This host writes."""
    sequence: int
    """The newest message of the stream that is known."""
    stored: dict[str, int]
    """Messages that this host has stored, by their kind."""
    read: int
    """Messages of the stream that were read or confirmed."""
    flights: int
    """Messages on their way to NATS."""
    flying_bytes: int
    pending_bytes: int
    """What waits to be stored, or is on its way."""
    pending_limit_bytes: int
    held: int
    """Events that are held of channels whose place in the stream is not known."""
    channels: int
    unplaced: int
    """Channels whose place in the stream is not known."""
    lag_s: float
    """How long the oldest record waits that is not in the stream; 0 where none does."""
    still: list[str] = []
    """Parts that stand still."""

    def reasons(self) -> list[str]:
        """Return why the bridge is not ready."""
        reasons = [] if self.linked else [f"stream {self.stream}: not connected to NATS"]
        return reasons if self.connected else [*reasons, "not connected to the daemon's socket"]

    def line(self) -> str:
        """Return the status line for people."""
        if self.linked:
            role = f"stream {self.stream}: {'writes' if self.leads else 'follows another host'}"
        else:
            role = f"stream {self.stream}: NOT CONNECTED to NATS"
        words = [role, f"{self.channels} channels, at {self.sequence}"]
        if not self.connected:
            words.append("NOT CONNECTED to the daemon's socket")
        if self.unplaced:
            words.append(f"{self.unplaced} channels look for their place")
        if self.lag_s >= SHOWN_LAG_S:
            words.append(f"{self.lag_s:.0f} s behind")
        if self.still:
            words.append(f"STANDING STILL, no keep-alive: {', '.join(self.still)}")
        return "; ".join(words)


SHOWN_LAG_S: Final = 2.0
"""The status line tells of a longer lag."""

STORED: Final = counter("bridge_stored", "Messages that this host has put into the stream, by kind.", "kind")

STREAM_VALUES: Final[tuple[tuple[Family, Callable[[BridgeState], float]], ...]] = (
    (
        gauge(
            "bridge_linked", "1 while the bridge is connected to NATS and knows its stream, else 0.", "stream"
        ),
        lambda state: state.linked,
    ),
    (
        gauge("bridge_leads", "1 while this host writes, else 0.", "stream"),
        lambda state: state.leads,
    ),
    (
        gauge("bridge_lag_seconds", "How long the oldest record waits that is not in the stream.", "stream"),
        lambda state: state.lag_s,
    ),
)
"""What is compared among the hosts of a stream, and so has its name."""

VALUES: Final[tuple[tuple[Family, Callable[[BridgeState], float]], ...]] = (
    (
        gauge("bridge_socket_connected", "1 while the bridge is connected to the daemon's socket, else 0."),
        lambda state: state.connected,
    ),
    (
        gauge("bridge_stream_sequence", "The newest message of the stream that the bridge knows."),
        lambda state: state.sequence,
    ),
    (
        counter("bridge_read", "Messages of the stream that the bridge has read, its own included."),
        lambda state: state.read,
    ),
    (gauge("bridge_flights", "Messages that NATS has not confirmed."), lambda state: state.flights),
    (
        gauge("bridge_flying_bytes", "Bytes of messages that NATS has not confirmed."),
        lambda state: state.flying_bytes,
    ),
    (
        gauge("bridge_pending_bytes", "Bytes that wait to be in the stream, those on their way included."),
        lambda state: state.pending_bytes,
    ),
    (
        gauge("bridge_pending_limit_bytes", "Beyond so many the bridge reads no further (--pending-mib)."),
        lambda state: state.pending_limit_bytes,
    ),
    (
        gauge("bridge_held_events", "Events held of channels whose place in the stream is not known."),
        lambda state: state.held,
    ),
    (gauge("bridge_channels", "Channels that the bridge knows."), lambda state: state.channels),
    (
        gauge("bridge_unplaced_channels", "Channels whose place in the stream is not known."),
        lambda state: state.unplaced,
    ),
)

FAMILIES: Final = (STORED, *(family for family, _ in (*STREAM_VALUES, *VALUES)))
"""Every metric that only a bridge has."""


class BridgePages:
    """Answers for one bridge, which was started at a time (s, wall clock)."""

    def __init__(
        self,
        state: Callable[[], BridgeState],
        counts: Counts,
        lost_lines: Callable[[], int],
        started_s: float,
    ) -> None:
        self._state = state
        self._started_s = started_s
        self._counts = counts
        self._lost_lines = lost_lines
        self._paths: dict[str, Callable[[Request], Answer]] = {
            "/metrics": self._metrics,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/status": self._status,
            "/": self._line,
        }

    async def __call__(self, request: Request) -> Answer:
        """Answer a request."""
        await trio.lowlevel.checkpoint()
        handle = self._paths.get(request.path)
        return not_found() if handle is None else handle(request)

    def _metrics(self, request: Request) -> Answer:
        openmetrics = wants_openmetrics(request.accept)
        text = "".join(exposition(self._blocks(), openmetrics=openmetrics))
        return Answer([text.encode()], OPENMETRICS_TYPE if openmetrics else TEXT_TYPE)

    def _blocks(self) -> Iterator[Block]:
        state = self._state()
        versions = labels(version=__version__, python=platform.python_version())
        yield Block(BUILD, [sample(BUILD.name, versions, 1)])
        yield Block(STARTED, [sample(STARTED.name, "", self._started_s)])
        stream = labels(stream=state.stream)
        for family, read in STREAM_VALUES:
            yield Block(family, [sample(family.name, stream, float(read(state)))])
        for family, read in VALUES:
            yield Block(family, [sample(family.name, "", float(read(state)))])
        yield Block(
            STORED, [sample(STORED.name, labels(kind=kind), count) for kind, count in state.stored.items()]
        )
        for family in COUNTERS:
            counted = self._counts.of(family).items()
            yield Block(
                family,
                [
                    sample(family.name, labels(**dict(zip(family.labels, key, strict=True))), count)
                    for key, count in counted
                ],
            )
        for family, value in PROCESS_VALUES:
            yield Block(family, [sample(family.name, "", value())])
        yield Block(LOG_LINES_LOST, [sample(LOG_LINES_LOST.name, "", self._lost_lines())])

    def _healthz(self, _: Request) -> Answer:
        still = self._state().still
        if not still:
            return Answer([b"ok\n"])
        text = f"standing still: {', '.join(still)}\n"
        return Answer([text.encode()], status=HTTPStatus.SERVICE_UNAVAILABLE)

    def _readyz(self, _: Request) -> Answer:
        reasons = self._state().reasons()
        body = msgspec.json.encode({"ready": not reasons, "reasons": reasons}) + b"\n"
        return Answer([body], JSON, HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK)

    def _status(self, _: Request) -> Answer:
        return Answer([msgspec.json.encode(self._state()) + b"\n"], JSON)

    def _line(self, _: Request) -> Answer:
        return Answer([f"{self._state().line()}\n".encode()])
