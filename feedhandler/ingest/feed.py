"""One feed: its lines, their arbiter, and what comes of it.

    feed ── the crew (`ingest.crew`)          its lines, one task tree each; replaced one at a time
      ├── the arbiter (`core.arbiter`)        pure; this module hands it the time and carries out what it says
      ├── recovery (`core.recovery`)          likewise: what is released goes through it to the consumers
      ├── its channels (`ingest.channels`)    where that goes
      ├── its streams (`ingest.streams`)      which may change on live lines
      ├── its pace (`ingest.pace`)            when it has to be told the time
      └── its heir (`ingest.heir`)            of a standby: what another daemon publishes

What a line reads is judged, numbered and on its way to the consumers before the line's next read: `received` is
called from within the read, and nothing in it awaits. The ordinary events of a read stay together all the way, as one
run; books and trades follow them when the consumers have been sent to.

A feed that is given up retires its channels: `down`, then a word that nothing more comes of them. From that moment on
whatever its lines still bring is left out.

Of a standby a feed **follows**: another daemon publishes for it, and nothing comes of it here until it takes over.
"""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter

import trio

from feedhandler.config import Health
from feedhandler.config import Recovery as RecoverySettings
from feedhandler.core.arbiter import DOWN, UNPROVEN, Restart
from feedhandler.core.channels import Channel
from feedhandler.core.following import Following
from feedhandler.core.messages import Gap, Output, Run, State
from feedhandler.core.motion import Part
from feedhandler.core.notes import note
from feedhandler.core.recovery import Recovery
from feedhandler.core.trail import NO_FRAMES, Frames, Known
from feedhandler.errors import ConnectionFailed, HandshakeRefused
from feedhandler.exchange.desk import Desk
from feedhandler.exchange.messages import Dialect
from feedhandler.exchange.requests import connection_url
from feedhandler.ingest.channels import FeedChannels
from feedhandler.ingest.crew import LINE_NAMES, Crew
from feedhandler.ingest.handshake import Target
from feedhandler.ingest.heir import Heir
from feedhandler.ingest.line import Line
from feedhandler.ingest.pace import Pace
from feedhandler.ingest.streams import FeedStreams
from feedhandler.ingest.surroundings import Surroundings


class Feed:
    """One set of identical lines, merged; the lines' hub."""

    def __init__(
        self,
        label: str,
        url: str,
        market: str,
        streams: Sequence[str],
        lines: int,
        around: Surroundings,
        *,
        follows: bool = False,
    ) -> None:
        self.label = label
        self.market = market
        self._around = around
        self._channels = FeedChannels(label, streams, around, self._image)
        dialect = Dialect(market, self._is_own_request, hears_account=self._channels.hears_account)
        self.arbiter = Following(
            label,
            LINE_NAMES[:lines],
            dialect,
            streams=streams,
            bounds=around.means.bounds,
            limits=around.means.health,
            now=trio.current_time(),
        )
        target = Target.from_url(connection_url(url, market, streams))
        self.crew = Crew(
            label, market, around, arbiter=self.arbiter, hub=self, target=target, gone=self._gone
        )
        self.lines: Mapping[str, Line] = self.crew.lines
        self.recovery = Recovery(
            label,
            Desk(market, dialect),
            settings=around.recovery,
            bounds=around.means.bounds,
            new_id=lambda: str(uuid.uuid4()),
            askable=self._askable,
            owns=self._channels.owns,
            notify=around.notify,
            last_recv=self._channels.last_recv,
        )
        self._unproven: dict[str, int] = {}
        self._retired = False
        self._told_interleaving = False
        self._ticks = 0
        self._pace = Pace(self.arbiter, self.recovery, self._is_changing)
        self._streams = FeedStreams(
            url,
            market,
            around,
            target=target,
            crew=self.crew,
            arbiter=self.arbiter,
            channels=self._channels,
            recovery=self.recovery,
            carry_out=self._carry_out,
        )
        self.heir = Heir(self.arbiter, self.recovery, lambda: self.streams, self._channels.adopt)
        if follows:
            self.arbiter.follow(trio.current_time())
        else:
            self._streams.open()

    def __repr__(self) -> str:
        return f"<Feed {self.label} {self.arbiter.state} {list(self.arbiter.lines.values())}>"

    @property
    def streams(self) -> tuple[str, ...]:
        """What the lines are to bring."""
        return self._channels.streams

    def channels(self) -> list[Channel]:
        """Return the channels that this feed publishes in."""
        return self._channels.own()

    def parts(self) -> Iterator[Part]:
        """Return what has to move of the feed: its ticks, and the reading of each line."""
        yield Part(self, f"feed {self.label}", self._ticks, lambda: self.is_due(trio.current_time()))
        for line in self.lines.values():
            yield from line.parts(self.label)

    @property
    def in_step(self) -> bool:
        """Whether the feed, which follows, could go on now without a gap, as far as anybody has said anything."""
        return self.arbiter.in_step(trio.current_time())

    async def run(self) -> None:
        """Keep all lines up until cancelled."""
        await self.crew.run()

    def change(self, streams: Sequence[str], lines: int) -> None:
        """Have other streams and so many lines from now on; what stays is not touched."""
        self._pace.moved = True
        self.crew.resize(lines)
        self._streams.change(streams)

    def take_over(self) -> None:
        """Publish from now on, where the other daemon's output has ended."""
        now, wall_ns = trio.current_time(), self._around.wall_ns()
        strange = self._channels.strange()
        self._streams.close(strange)
        self._channels.forget(strange)
        begun = {name: self._channels.last_recv(name) for name in self._channels.names()}
        gaps = [
            Gap(name, UNPROVEN, min(last, wall_ns), wall_ns)
            for name, last in begun.items()
            if name in self.heir.owed
        ]
        gaps = [gap for gap in gaps if gap.since >= 0]
        if self._channels.have_begun:
            self.arbiter.go_on(max((last for last in begun.values() if last >= 0), default=wall_ns))
        self._channels.publish(self.recovery.take_over(self.arbiter.state, gaps, now, wall_ns))
        self._streams.open()
        self.arbiter.take_over(now, wall_ns, self.recovery.books_to_come())
        self._carry_out(now, wall_ns)

    def retune(self, health: Health, recovery: RecoverySettings) -> None:
        """Go by other settings from now on."""
        self.arbiter.retune(health)
        self.recovery.retune(recovery)
        self.crew.retune(health)

    def end(self) -> None:
        """Tell the consumers that nothing more will come of this feed for now."""
        if self.arbiter.follows:
            return
        wall_ns = self._around.wall_ns()
        channels = self._channels
        channels.publish([State(DOWN, wall_ns, name) for name in channels.names() if channels.owns(name)])

    def retire(self) -> None:
        """Publish nothing any more, and tell the consumers so; whoever runs the feed ends its lines."""
        if self._retired:
            return
        if not self.arbiter.follows:
            self._streams.close(self._channels.names())
        self._retired = True

    def hush(self) -> None:
        """Publish nothing any more, and say nothing of it: another daemon goes on from here."""
        self._retired = True

    # Time

    def is_due(self, now: float) -> bool:
        """Tell whether the feed has to be told the time: something has moved, or is due."""
        return self._pace.is_due(now)

    def tick(self) -> bool:
        """Let time pass for the arbiter and for recovery; the daemon calls this at every `TICK_S` that is due.

        Return whether anything was released since the last time.
        """
        self._ticks += 1
        if self._retired:
            return False
        self.crew.adjust()
        now = trio.current_time()
        news = self._pace.begin(now)
        if now >= self._pace.due_s:
            wall_ns = self._around.wall_ns()
            self.arbiter.tick(now, wall_ns)
            self._carry_out(now, wall_ns)
            self._streams.tick(now)
            if not self.arbiter.follows:
                self._recover(self.recovery.tick(now, wall_ns))
            self._pace.end(now)
        self._pace.moved = False
        return news

    def _is_changing(self) -> bool:
        return self._streams.busy or not self.crew.complete

    # The lines' hub

    def connecting(self, line: str) -> None:
        """Hear that a line tries to connect."""
        if self._retired:
            return
        self.crew.attempting.add(line)
        now = trio.current_time()
        self.arbiter.connecting(line, now)
        self._carry_out(now, self._around.wall_ns())

    def connected(self, line: str) -> None:
        """Hear that a line is connected."""
        if self._retired:
            return
        self._unproven[line] = self._judged(line)
        self.crew.connected(line)
        self._around.notify(note("line_connected", feed=self.label, line=line))
        now, wall_ns = trio.current_time(), self._around.wall_ns()
        self.arbiter.connected(line, now, wall_ns)
        self._streams.opened(line, now, wall_ns)
        self.recovery.line_up(now)
        self._recover([])

    def recognise(self, line: str, rest: bytes | bytearray, data: bytes) -> Known:
        """Say what a read begins with that other lines have brought in the same bytes."""
        return self.arbiter.recognise(line, rest, data)

    def received(self, line: str, payloads: list[bytes], frames: Frames = NO_FRAMES) -> None:
        """Judge what one read of a line brought, and send what is new."""
        if self._retired:
            return
        now, wall_ns = trio.current_time(), self._around.wall_ns()
        replies = self.arbiter.receive(line, payloads, now, wall_ns, frames)
        self._carry_out(now, wall_ns, self.lines[line].read_s)
        for reply in replies:
            self._streams.reply(line, reply)
            self._recover(self.recovery.reply(line, reply, now, wall_ns))
        if line in self._unproven:
            self._prove(line)

    def _prove(self, line: str) -> None:
        """Let a connection that has brought events count as a success."""
        if self._judged(line) > self._unproven[line] or self.arbiter.lines[line].hold.events:
            del self._unproven[line]
            self.lines[line].reset_backoff()

    def _judged(self, line: str) -> int:
        state = self.arbiter.lines[line]
        return state.wins + state.duplicates

    def rejected(self, line: str, kind: str) -> None:
        """Count a message that is no text."""
        self._around.notify(note("garbage_received", feed=self.label, line=line, reason=kind))

    def lost(self, line: str, reason: str) -> None:
        """Hear that a connection has ended."""
        if self._retired:
            return
        self._around.notify(note("line_lost", feed=self.label, line=line, reason=reason))
        self.crew.lost(line)
        now, wall_ns = trio.current_time(), self._around.wall_ns()
        self.arbiter.lost(line, now, wall_ns)
        self._streams.closed(line)
        self._carry_out(now, wall_ns)
        self.recovery.line_lost(line, now)
        self._recover([])

    def failed(self, line: str, failure: ConnectionFailed, retry_s: float) -> None:
        """Hear that an attempt to connect has failed."""
        if self._retired:
            return
        self._around.notify(
            note(
                "connect_failed",
                feed=self.label,
                line=line,
                reason=failure.reason,
                status=getattr(failure, "status", 0),
                detail=str(failure),
                retry_s=round(retry_s, 3),
            )
        )
        self._attempt_over(line)
        if isinstance(failure, HandshakeRefused):
            self.crew.refused(failure.status)

    def called_off(self, line: str) -> None:
        """Hear that an attempt was called off, since the line is to rest or to end."""
        if not self._retired:
            self._attempt_over(line)

    def _attempt_over(self, line: str) -> None:
        self.crew.attempting.discard(line)
        now, wall_ns = trio.current_time(), self._around.wall_ns()
        self.arbiter.lost(line, now, wall_ns)
        self._carry_out(now, wall_ns)

    def _gone(self, line: str) -> None:
        """Hear that a line has ended for good."""
        self._unproven.pop(line, None)
        now, wall_ns = trio.current_time(), self._around.wall_ns()
        self.arbiter.remove_line(line, now, wall_ns)
        self._carry_out(now, wall_ns)

    # What the arbiter and recovery say

    def _carry_out(self, now: float, wall_ns: int, read_s: float = 0.0) -> None:
        """Publish the arbiter's output, follow its orders, pass on its notes.

        What came with a read counts from the reading of its first byte, ``read_s`` (`time.perf_counter`).
        """
        self._pace.moved = True  # whatever it was, it may be due sooner now
        arbiter = self.arbiter
        if arbiter.follows:
            arbiter.outputs.clear()  # another daemon says so
        elif arbiter.interleaves and not self._told_interleaving:
            self._told_interleaving = (
                self._channels.interleave()
            )  # before anything is released that rests on it
        if arbiter.outputs:
            outputs, arbiter.outputs = arbiter.outputs, []
            passed = self.recovery.process(outputs, now, wall_ns)
            self._channels.publish(passed)
            if read_s:
                self._around.latency.observe(perf_counter() - read_s, _size(passed))
            self.recovery.catch_up()  # what is on its way to the consumers holds them up no more
        if arbiter.orders:
            orders, arbiter.orders = arbiter.orders, []
            for order in orders:
                self.crew.obey(order)
        if arbiter.notes:
            notes, arbiter.notes = arbiter.notes, []
            for one in notes:
                self._around.notify(one)

    def _recover(self, outputs: Sequence[Output]) -> None:
        """Publish what recovery has to say, ask what it wants to know, replace lines that it found dead."""
        if outputs:
            self._channels.publish(outputs)
        asks, self.recovery.asks = self.recovery.asks, []
        for line, text in asks:
            self.lines[line].send(text)  # what is not sent is asked again
        if self.recovery.replace:
            self.recovery.replace = False
            for line in self.lines:
                self.crew.obey(Restart(line, "dead"))

    def _askable(self) -> list[str]:
        """Return the lines that can be asked for a snapshot: none while another daemon asks."""
        return [] if self.arbiter.follows else self.crew.askable()

    def _image(self, channel: str) -> bytes | None:
        return self.recovery.image(channel)

    def _is_own_request(self, request_id: str) -> bool:
        if self.recovery.is_own(request_id) or self._streams.is_own(request_id):
            return True
        return any(line.has_pinged(request_id) for line in self.lines.values())


def _size(outputs: Sequence[Output]) -> int:
    """Return how many records are published."""
    return sum([len(output.payloads) if type(output) is Run else 1 for output in outputs])
