"""The streams of one feed, which may change on live lines (`core.streams`, `exchange.subscribing`).

An added stream is subscribed to on each line and merged apart until every line has its place in it; a dropped one is
retired first, so that no line owes it, and then unsubscribed from. Where a line cannot be brought to that, the lines
are replaced one at a time: a new connection has the present streams in its URL.

A dropped stream is **given up** until no line brings it, nor one whose connection is still being opened with it. A
stream that has been there before in this session, with this feed or with another, goes on with its channels' seqs
behind a gap: nothing proves what was said in between.
"""

import uuid
from collections.abc import Callable, Iterable, Sequence

import trio

from feedhandler.config import ALL
from feedhandler.core.messages import Reply
from feedhandler.core.notes import note
from feedhandler.core.recovery import Recovery
from feedhandler.core.streams import Streams
from feedhandler.exchange.messages import TRADES, channel_name
from feedhandler.exchange.requests import connection_url
from feedhandler.exchange.subscribing import SUBSCRIBE, Outcome, Subscriptions
from feedhandler.ingest.channels import FeedChannels
from feedhandler.ingest.crew import Crew
from feedhandler.ingest.handshake import Target
from feedhandler.ingest.surroundings import Surroundings

CarryOut = Callable[[float, int], None]
"""Publishes what the arbiter has said; takes the time (s) and the wall clock's (ns)."""


class FeedStreams:
    """What the lines of one feed are to bring, and what each of them brings."""

    def __init__(
        self,
        url: str,
        market: str,
        around: Surroundings,
        *,
        target: Target,
        crew: Crew,
        arbiter: Streams,
        channels: FeedChannels,
        recovery: Recovery,
        carry_out: CarryOut,
    ) -> None:
        self._url = url
        self._market = market
        self._around = around
        self._crew = crew
        self._arbiter = arbiter
        self._channels = channels
        self._recovery = recovery
        self._carry_out = carry_out
        self._target = target
        self._streams_of = {target: channels.streams}
        self._subscriptions = Subscriptions(channels.streams, lambda: str(uuid.uuid4()))

    def open(self) -> None:
        """Open the channels that are known, unless they are there; what goes on in any of them does so behind a gap."""
        for stream in self._channels.streams:
            if not self._channels.of(stream):
                self._open(stream)
        if self._recovery.resumed:
            self._arbiter.go_on(max(self._recovery.resumed.values()))

    @property
    def busy(self) -> bool:
        """Whether a stream is being added, or a request to a line is under way."""
        return bool(self._arbiter.joining) or self._subscriptions.busy

    def is_own(self, request_id: str) -> bool:
        """Tell whether a request of this id was made here."""
        return self._subscriptions.is_own(request_id)

    def change(self, streams: Sequence[str]) -> None:
        """Have other streams from now on; what stays is not touched."""
        before = self._channels.streams
        added = [stream for stream in streams if stream not in before]
        dropped = [stream for stream in before if stream not in streams]
        if not added and not dropped:
            return
        self._channels.streams = tuple(streams)
        self._retarget()
        for stream in dropped:
            self._drop(stream)
        for stream in added:
            self._add(stream)
        self._subscriptions.wanted = frozenset(streams)
        for name in self._crew.lines:
            self._subscribe(name)

    def _retarget(self) -> None:
        """Have further connections opened with the present streams; know those of the others while they are used."""
        self._target = Target.from_url(connection_url(self._url, self._market, self._channels.streams))
        used = {line.opened for line in self._crew.lines.values()}
        self._streams_of = {target: had for target, had in self._streams_of.items() if target in used}
        self._streams_of[self._target] = self._channels.streams
        self._crew.retarget(self._target)

    def _add(self, stream: str) -> None:
        """Take up a stream: its channel is opened, and the lines may bring it from now on."""
        self._channels.given_up.discard(stream)
        self._arbiter.add(stream, trio.current_time(), last_recv=self._open(stream))

    def _open(self, stream: str) -> int | None:
        """Open a stream's channel, where it is known; return when its last record arrived, if it goes on."""
        if stream != TRADES and self._market == ALL:
            return None
        name = channel_name(ALL if stream == TRADES else self._market, stream)
        self._channels.publish(self._recovery.open(name, self._around.wall_ns()))
        return self._recovery.resumed.get(name)

    def _drop(self, stream: str) -> None:
        """Give a stream up: its channels are retired, and nothing of it is released or owed any more."""
        self._channels.given_up.add(stream)
        self._arbiter.drop(stream, trio.current_time())
        self._carry_out(trio.current_time(), self._around.wall_ns())
        names = self._channels.of(stream)
        self.close(names)
        self._channels.forget(names)

    def close(self, names: Iterable[str]) -> None:
        """Retire channels; what is in repair is told before."""
        wall_ns = self._around.wall_ns()
        for name in names:
            self._channels.publish(self._recovery.close(name, wall_ns))
            self._channels.retire(name, wall_ns)
        self._around.outlet.flush()

    # What becomes of it on each line

    def brought_by(self, line: str) -> tuple[str, ...]:
        """Return what a line's last connection was opened with."""
        return self._streams_of.get(self._crew.lines[line].opened, ())

    def opened(self, line: str, now: float, wall_ns: int) -> None:
        """Hear that a line is connected: it brings what its connection was opened with."""
        streams = self.brought_by(line)
        self._subscriptions.opened(line, streams)
        for stream in self._arbiter.joining.intersection(streams):
            self._arbiter.subscribed(stream, line, now, wall_ns)
        self._carry_out(now, wall_ns)
        self._subscribe(line)
        self._end_stragglers()

    def closed(self, line: str) -> None:
        """Hear that a line is not connected any more."""
        self._subscriptions.closed(line)
        self._end_stragglers()

    def _subscribe(self, line: str) -> None:
        """Ask a line for what it lacks, and to leave what it has too much."""
        now = trio.current_time()
        for stream in self._arbiter.joining:
            if not self._subscriptions.has(line, stream) and self._crew.lines[line].is_open:
                self._arbiter.asked(stream, line, now)
        for text in self._subscriptions.ask(line, now):
            self._crew.lines[line].send(text)  # what is not sent is not answered, and so has failed

    def reply(self, line: str, reply: Reply) -> None:
        """Take a reply of a line that may be about its subscriptions."""
        if not self._subscriptions.busy:
            return
        outcome = self._subscriptions.answer(line, reply)
        if outcome is None:
            return
        if not outcome.done:
            self._fall_back(outcome, "refused")
        elif outcome.verb == SUBSCRIBE:
            for stream in outcome.streams:
                self._arbiter.subscribed(stream, line, trio.current_time(), self._around.wall_ns())
            self._carry_out(trio.current_time(), self._around.wall_ns())
        self._end_stragglers()

    def tick(self, now: float) -> None:
        """Let time pass: what was not answered in time has failed."""
        for outcome in self._subscriptions.overdue(now):
            self._fall_back(outcome, "silence")

    def _end_stragglers(self) -> None:
        """Let a stream be gone that no line brings, nor one whose connection is still being opened with it."""
        connecting = [name for name in self._crew.lines if not self._arbiter.lines[name].connected]
        coming = {stream for name in connecting for stream in self.brought_by(name)}
        for stream in self._channels.given_up - coming:
            if not self._subscriptions.carries(stream):
                self._arbiter.dropped_everywhere(stream)

    def _fall_back(self, outcome: Outcome, reason: str) -> None:
        """Have a line replaced that could not be brought to change its subscriptions."""
        self._around.notify(note("subscribe_failed", feed=self._crew.label, line=outcome.line, reason=reason))
        self._crew.replace(outcome.line, "streams")
