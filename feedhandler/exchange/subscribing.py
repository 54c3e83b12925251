"""What the live lines of a feed are subscribed to, and what is asked for so that it is what the feed wants.

A connection opens with the streams of its URL. Where the feed wants others by then, or later, the line asks for the
difference with ``subscribe`` and ``unsubscribe`` (exchange-api.md, 5.2 and 5.3). A request is answered by its id; or,
where the reply names none, by its kind and by what it says was requested, as far as it says so, since a server may tell
of its own accord what a new connection is subscribed to. A subscribed stream must be among the active ones, where the
reply lists them.

What is refused, or not answered within `ANSWER_S`, has **failed**: then the line needs a new connection, whose URL has
the present streams. Each line has one request of a kind for each change, so what is pending is bounded by the streams.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from feedhandler.core.messages import Reply
from feedhandler.exchange.requests import request

ANSWER_S: Final = 5.0
"""The longest wait for the answer to a request to subscribe or unsubscribe."""

SUBSCRIBE: Final = "subscribe"
UNSUBSCRIBE: Final = "unsubscribe"
_REPLIES: Final = {SUBSCRIBE: "subscribed", UNSUBSCRIBE: "unsubscribed"}
_UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Data(msgspec.Struct):
    active: list[str] | None = msgspec.field(name="activeSubscriptions", default=None)
    requested: list[str] | None = msgspec.field(name="requestedSubscriptions", default=None)


class _Answer(msgspec.Struct):
    data: _Data


_answer = msgspec.json.Decoder(_Answer).decode


@dataclass
class _Asked:
    """A request under way."""

    line: str
    verb: str
    streams: frozenset[str]
    at: float


@dataclass(frozen=True)
class Outcome:
    """What a reply says of a request: the line, what it has asked for, and whether that was done."""

    line: str
    verb: str
    streams: frozenset[str]
    done: bool


class Subscriptions:
    """The subscriptions of one feed's lines."""

    def __init__(self, streams: Iterable[str], new_id: Callable[[], str]) -> None:
        self.wanted = frozenset(streams)
        self._new_id = new_id
        self._active: dict[str, frozenset[str]] = {}
        self._asked: dict[str, _Asked] = {}

    @property
    def busy(self) -> bool:
        """Whether a request is under way."""
        return bool(self._asked)

    def opened(self, line: str, streams: Iterable[str]) -> None:
        """Hear that a line is connected, with these streams in its URL."""
        self._active[line] = frozenset(streams)

    def closed(self, line: str) -> None:
        """Hear that a line is not connected any more: what it was asked is of no interest."""
        self._active.pop(line, None)
        self._asked = {key: asked for key, asked in self._asked.items() if asked.line != line}

    def carries(self, stream: str) -> bool:
        """Tell whether any line brings a stream, or may do so still."""
        asked = (one.streams for one in self._asked.values() if one.verb == SUBSCRIBE)
        return any(stream in streams for streams in (*self._active.values(), *asked))

    def has(self, line: str, stream: str) -> bool:
        """Tell whether a line brings a stream."""
        return stream in self._active.get(line, ())

    def ask(self, line: str, now: float) -> list[str]:
        """Return what a line has to be asked so that it brings what is wanted, and nothing else."""
        active = self._active.get(line)
        if active is None:
            return []
        for asked in self._asked.values():
            if asked.line == line:
                active = active | asked.streams if asked.verb == SUBSCRIBE else active - asked.streams
        changes = ((SUBSCRIBE, self.wanted - active), (UNSUBSCRIBE, active - self.wanted))
        return [self._ask(line, verb, streams, now) for verb, streams in changes if streams]

    def _ask(self, line: str, verb: str, streams: frozenset[str], now: float) -> str:
        request_id = self._new_id()
        self._asked[request_id] = _Asked(line, verb, streams, now)
        return request(verb, {"clientRequestId": request_id, "subscriptions": sorted(streams)})

    def is_own(self, request_id: str) -> bool:
        """Tell whether a request of this id was made here."""
        return request_id in self._asked

    def answer(self, line: str, reply: Reply) -> Outcome | None:
        """Take a reply of a line; None where it answers nothing that was asked here.

        Of streams that the line was asked about again by then the outcome does not speak.
        """
        data = _read(reply.payload)
        request_id = reply.request_id if reply.request_id in self._asked else self._by_kind(line, reply, data)
        asked = self._asked.get(request_id)
        if asked is None or asked.line != line:
            return None
        del self._asked[request_id]
        done = reply.kind == _REPLIES[asked.verb]
        if done and data.active is not None:
            active = frozenset(data.active)
            done = asked.streams <= active if asked.verb == SUBSCRIBE else not asked.streams & active
        if done:
            before = self._active.get(line, frozenset())
            after = before | asked.streams if asked.verb == SUBSCRIBE else before - asked.streams
            self._active[line] = after
        again = [one.streams for one in self._asked.values() if one.line == line]
        return Outcome(line, asked.verb, asked.streams.difference(*again), done)

    def _by_kind(self, line: str, reply: Reply, data: _Data) -> str:
        """Return the first request that a reply without an id may answer."""
        if reply.request_id:
            return ""
        for request_id, asked in self._asked.items():
            fits = data.requested is None or frozenset(data.requested) == asked.streams
            if asked.line == line and _REPLIES[asked.verb] == reply.kind and fits:
                return request_id
        return ""

    def overdue(self, now: float) -> list[Outcome]:
        """Give up on what was not answered in time; return it."""
        late = [key for key, asked in self._asked.items() if now - asked.at >= ANSWER_S]
        found = [self._asked.pop(key) for key in late]
        return [Outcome(asked.line, asked.verb, asked.streams, done=False) for asked in found]


def _read(payload: bytes) -> _Data:
    """Read what a reply says of subscriptions; what it does not say, or not so that it can be read, is None."""
    try:
        return _answer(payload).data
    except _UNREADABLE:
        return _Data()
