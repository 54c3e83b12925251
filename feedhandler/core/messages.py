"""What a message of a line can be, as the arbiter sees it.

The core knows nothing of the exchange's message types: it is handed a `Dialect` that tells events from replies.
The exchange's own dialect is `feedhandler.exchange.messages.Dialect`.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Final, Protocol

import msgspec


class Event(msgspec.Struct, frozen=True, gc=False):
    """One broadcast message: it belongs to ``channel`` and is published as ``payload`` (valid UTF-8, one line)."""

    channel: str
    payload: bytes


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A message meant for one connection: its ``resultType`` and the request that it answers ("" if it names none)."""

    kind: str
    request_id: str
    payload: bytes


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """A JSON object of a type that nobody described (channel MARKET/other): neither evidence nor contradiction.

    ``fault`` says what is wrong with one of a known type, for those who count such things.
    """

    channel: str
    payload: bytes
    fault: str = ""


class Garbage(msgspec.Struct, frozen=True, gc=False):
    """Not one JSON object in UTF-8: no event; ``reason`` is ``utf8``, ``json`` or ``object``."""

    reason: str


Message = Event | Reply | Unknown | Garbage


class Identity(msgspec.Struct, frozen=True, gc=False):
    """Whether an event's content cannot recur by accident, and the exchange's own time for it (ms), if any."""

    distinct: bool
    time_ms: int | None


class Dialect(Protocol):
    """How one connection's messages are to be read."""

    def classify(self, payload: bytes) -> Message:
        """Tell what ``payload`` is; never raises."""

    def ordinary(self, payloads: Sequence[bytes]) -> Sequence[str] | None:
        """Return the channels of messages that are all events and go out as they are; None where one may be no such.

        What it returns is what `classify` would say of each; where it is None, `classify` says it.
        """

    def identify(self, payload: bytes) -> Identity:
        """Tell whether an event has an identity (rule R1) and its time; never raises."""


class Release(msgspec.Struct, frozen=True, gc=False):
    """One event to publish: who brought it, when (wall clock, ns), and its class ("" for an ordinary one).

    ``position`` is its place in the merged sequence; a late event belongs ``before`` another one.
    """

    channel: str
    payload: bytes
    line: str
    recv: int
    kind: str
    position: int = -1
    before: int = -1


RUN_CHANNELS: Final = 16
"""A run of more channels goes on in pieces of so many events."""


class Run(msgspec.Struct, frozen=True, gc=False):
    """Ordinary events that one line brought at once; in the merged sequence they stand from ``position`` on.

    It says in columns what as many `Release`s would. Whoever needs them one by one has them by `releases`.
    """

    channels: Sequence[str]
    payloads: Sequence[bytes]
    line: str
    recv: int
    position: int

    def narrow(self) -> Sequence["Run"]:
        """Return the run in pieces of few channels each: whoever takes a run looks through it once for each channel."""
        if len(self.channels) <= RUN_CHANNELS or len(set(self.channels)) <= RUN_CHANNELS:
            return (self,)
        return [
            Run(
                self.channels[first : first + RUN_CHANNELS],
                self.payloads[first : first + RUN_CHANNELS],
                self.line,
                self.recv,
                self.position + first,
            )
            for first in range(0, len(self.channels), RUN_CHANNELS)
        ]

    def releases(self) -> list[Release]:
        """Return the events one by one."""
        return [
            Release(channel, payload, self.line, self.recv, "", position)
            for position, (channel, payload) in enumerate(
                zip(self.channels, self.payloads, strict=True), self.position
            )
        ]

    def of(self, channel: str) -> tuple[Sequence[int], Sequence[bytes]]:
        """Return the positions and the payloads of a channel's events."""
        places = range(self.position, self.position + len(self.payloads))
        if len(places) == 1 or self.channels.count(channel) == len(places):
            return places, self.payloads
        own = [name == channel for name in self.channels]
        return list(compress(places, own)), list(compress(self.payloads, own))


class Gap(msgspec.Struct, frozen=True, gc=False):
    """A stretch without proof of completeness (rule R9), for ``channel`` or, where that is "", for all of the feed.

    Where ``stream`` is named, it is for the channels of that stream only.

    ``since`` is the arrival of the last proven event, ``until`` that of the first after it (wall clock, ns).
    """

    channel: str
    reason: str
    since: int
    until: int
    stream: str = ""


class Snapshot(msgspec.Struct, frozen=True, gc=False):
    """A book to publish in the stream, as the exchange's own message: ``start``, ``gap``, ``late`` or ``audit``."""

    channel: str
    payload: bytes
    reason: str


class State(msgspec.Struct, frozen=True, gc=False):
    """The state of ``channel``, or with "" of all of the feed, has changed; ``since`` in wall clock ns.

    It is ``live``, ``quiet``, ``syncing`` or ``down``.
    """

    state: str
    since: int
    channel: str = ""


Output = Run | Release | Gap | Snapshot | State
