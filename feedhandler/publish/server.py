"""The publisher: numbers what is released, keeps it, and has it on its way to every consumer at once.

The feeds call it synchronously: `publish_run` for the ordinary events of a read, `publish` for a single one,
`flush` once for all of a read. Between an event's arrival and its place in the backlog nothing awaits, and **the
publisher never waits for a consumer**: one that does not read costs itself its connection, and nobody else anything.

The nursery tree while it serves:

    serve                      the socket file and its lock
    ├── the precedence         of a daemon that follows: nobody waits for it for long
    ├── the accepting loop     ends at the start of `drain`
    └── a consumer each        its own task sends what could not be sent at once
        ├── sends the rest
        ├── beats
        └── reads the request, then watches for the end of the input

Bounds: `backlog_mib` of records (the oldest go first), `consumer_mib` between a consumer and the newest record
(then it has to go, or to jump), `consumers` connections (one more is told `busy` and closed), `send_kib` for
one send, `request_kib` for what a consumer says, `drain_s` for a last word.

The two limits differ on purpose: **a consumer that was too slow comes back for its records while the backlog
still has them**, and needs no book for that.
"""

import errno
import os
import select
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import repeat

import trio

from feedhandler.config import ACCOUNT_STREAMS, Bounds, Publish, is_tight
from feedhandler.core.channels import END, Channel, Channels, Forgotten
from feedhandler.core.motion import Part
from feedhandler.core.notes import Notify, note
from feedhandler.publish import records
from feedhandler.publish.backlog import Backlog
from feedhandler.publish.consumer import Consumer, ConsumerLimits, ConsumerStatus
from feedhandler.publish.endpoint import Peer, is_served, listening, peer_of
from feedhandler.publish.lock import Lock
from feedhandler.publish.precedence import Precedence
from feedhandler.publish.subscription import Shelf, Subscription, records_track, states_track

SEE_OFF_S = 0.005  # between two looks at what a killed daemon has left
SEE_OFF_LOOKS = 200
ACCEPT_PAUSE_S = 0.1  # after the system has run out of descriptors or memory
FEW = 12  # events of a run, which cost less one by one
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Publisher:
    """One session's channels, their backlog, and the consumers of both."""

    def __init__(
        self,
        settings: Publish,
        bounds: Bounds,
        *,
        session: str,
        clock: Callable[[], int],
        notify: Notify,
        account_streams: Callable[[], frozenset[str]] = lambda: ACCOUNT_STREAMS,
        may_come: Callable[[str], bool] = lambda _: False,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._notify = notify
        self._account_streams = account_streams
        self._may_come = may_come
        self.lock = Lock(settings.socket)
        """Held while the socket is served; who holds it before that, serves."""
        self.precedence = Precedence(self.lock.mark, self.flush)
        self.begin(session)
        self._consumers: dict[Consumer, None] = {}
        self._bounds = bounds
        self._limits = ConsumerLimits(bounds.request_bytes, bounds.send_bytes, settings.drain_s)
        own = (os.geteuid(), 0)
        self._account_uids = frozenset(own if settings.account_uids is None else settings.account_uids)
        self._accepting = trio.CancelScope()
        self._deserted = trio.Event()
        self._listener: socket.socket | None = None
        self._accepts = 0

    def begin(self, session: str) -> None:
        """Begin a session with nothing published, before anybody is served."""
        self._channels = Channels()
        self._backlog = Backlog(self._settings.backlog_bytes, self._settings.consumer_bytes)
        self._append = self._backlog.append
        self._states: dict[int, bytes] = {}
        self._images: dict[str, Callable[[], bytes | None]] = {}
        self._shelf = Shelf(
            session,
            self._channels,
            self._backlog,
            self._state_of,
            self._image_of,
            self._account_streams,
            self._may_come,
        )

    @property
    def session(self) -> str:
        """The life of this numbering."""
        return self._shelf.session

    @property
    def backlog_bytes(self) -> int:
        """What the kept records cost."""
        return self._backlog.held_bytes

    @property
    def backlog_records(self) -> int:
        """How many records are kept."""
        return len(self._backlog)

    def channels(self) -> list[Channel]:
        """Return all channels of the session."""
        return list(self._channels)

    def connected(self) -> list[Consumer]:
        """Return who is connected."""
        return list(self._consumers)

    def consumers(self) -> list[ConsumerStatus]:
        """Return who is connected and how far behind."""
        return [consumer.status() for consumer in self._consumers]

    @property
    def consumer_count(self) -> int:
        """How many consumers are connected."""
        return len(self._consumers)

    def parts(self) -> Iterator[Part]:
        """Return what has to move here: letting consumers in, and the sending to each."""
        if self._listener is not None:
            yield Part(self, "accepting", self._accepts, self._is_waited_for)
        for consumer in tuple(self._consumers):
            yield consumer.part()

    def _is_waited_for(self) -> bool:
        """Tell whether somebody waits to be let in."""
        if self._listener is None:
            return False
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(0))

    # What the feeds call: nothing here awaits.

    def channel(self, name: str, *, feed: str, account: bool, tell: bool = True) -> Channel | None:
        """Open a channel; consumers whose patterns match it get it from its next record on.

        None where the session has too many. A channel that was retired goes on with its next seq, and whoever has not
        seen its earlier ones is told so.
        """
        if not self._channels.has_room(name):
            return None
        channels, backlog = len(self._channels), self._backlog
        again = self._channels.get(name) is not None
        channel = self._channels.open(name, feed=feed, account=account, is_gone=self._is_gone)
        if channel.number == channels:
            backlog.track(channel.next)  # its numbered records
            backlog.track()  # its states
        elif not again:
            backlog.renew(records_track(channel), channel.next)
            backlog.renew(states_track(channel), 1)
        self._states.pop(channel.number, None)
        self.precedence.announce(records.channel(channel, channel.next))
        for subscription in self._subscriptions():
            subscription.offer(channel)
        if channel.next > 1 and tell:
            told = records.refused(name, "retired", channel.next, channel.next)
            self._append(told, states_track(channel))
        return channel

    def retire(self, channel: Channel, since_ns: int) -> None:
        """Publish that nothing comes of a channel any more; `flush` sends it."""
        record = records.retired(channel.name, channel.next, since_ns)
        self._channels.retire(channel, since_ns)
        self._states[channel.number] = record
        self._images.pop(channel.name, None)
        self._append(record, states_track(channel))

    def _is_gone(self, channel: Channel) -> bool:
        """Tell whether nothing of a retired channel is kept, and nobody has yet to be told of its end."""
        newest = max(map(self._backlog.newest, (records_track(channel), states_track(channel))))
        return newest < self._backlog.base and not any(one.holds(channel) for one in self._subscriptions())

    def _subscriptions(self) -> list[Subscription]:
        return [consumer.subscription for consumer in self._consumers if consumer.subscription]

    def publish(
        self, channel: Channel, line: str, recv_ns: int, payload: bytes, event_class: str = ""
    ) -> None:
        """Publish an event (`event_class` is empty for an ordinary one); `flush` sends it."""
        record = channel.event(line, recv_ns, payload, event_class)
        self._append(record, 2 * channel.number)  # `records_track`, without the call

    def publish_run(
        self, channels: Sequence[Channel], line: str, recv_ns: int, payloads: Sequence[bytes]
    ) -> None:
        """Publish ordinary events that a line brought at once, each in its channel; `flush` sends them."""
        if len(channels) < FEW:
            for channel, payload in zip(channels, payloads, strict=True):
                self.publish(channel, line, recv_ns, payload)
            return
        heads = {channel: channel.heads(line, recv_ns, channels.count(channel)) for channel in set(channels)}
        begun = map(next, map(heads.__getitem__, channels))
        records = list(map(b"".join, zip(begun, payloads, repeat(END), strict=False)))
        self._backlog.extend(
            records, [2 * channel.number for channel in channels]
        )  # `records_track`, likewise

    def gap(self, channel: Channel, reason: str, since_ns: int, until_ns: int) -> None:
        """Publish a gap of a channel; `flush` sends it."""
        self._append(channel.gap(reason, since_ns, until_ns), records_track(channel))

    def snapshot(self, channel: Channel, reason: str, message: bytes) -> None:
        """Publish a book in the stream; `flush` sends it."""
        self._append(channel.snapshot(reason, message), 2 * channel.number)

    def offer_book(self, channel: Channel, image: Callable[[], bytes | None]) -> None:
        """Let consumers that join get the channel's book: ``image`` returns it after all that was published."""
        self._images[channel.name] = image

    def state(self, channel: Channel, word: str, since_ns: int) -> None:
        """Publish a channel's state, to later consumers when they subscribe; `flush` sends it."""
        record = records.state(channel.name, word, since_ns)
        self._states[channel.number] = record
        self._append(record, states_track(channel))

    def interleaved(self, channel: Channel) -> None:
        """Let a daemon that follows know that lines of a channel's feed interleave its channels differently."""
        if not channel.interleaved:
            channel.interleaved = True
            self.precedence.tell(records.interleaved(channel.name))

    # What another daemon has published, before anybody is served here.

    def inherit_channel(
        self, name: str, *, feed: str, account: bool, first: int, last_ns: int
    ) -> Channel | None:
        """Open a channel whose next record has the seq ``first``, and whose last event arrived then; None: too many."""
        if not self._channels.has_room(name):
            return None
        if self._channels.get(name) is None:
            self.inherit_numbering(name, first, last_ns, account=account)
        return self.channel(name, feed=feed, account=account, tell=False)

    def inherit_numbering(self, name: str, first: int, last_ns: int, *, account: bool) -> None:
        """Remember how far a channel was numbered of which nothing else is known."""
        if self._channels.has_room(name):
            self._channels.remember(name, Forgotten(first, last_ns, account))

    def inherit_record(self, channel: Channel, record: bytes, recv_ns: int, *, mark: bool) -> None:
        """Keep the next numbered record of a channel as it is: an event that arrived then, or a ``mark``."""
        channel.take_over(1, recv_ns, int(mark))
        self._append(record, records_track(channel))

    def inherit_state(self, channel: Channel, record: bytes) -> None:
        """Keep a channel's state as it is, for later consumers."""
        self._states[channel.number] = record

    def inherit_end(self, channel: Channel, record: bytes, since_ns: int) -> None:
        """Hear that nothing comes of a channel any more."""
        self._channels.retire(channel, since_ns)
        self._states[channel.number] = record
        self._images.pop(channel.name, None)

    def find(self, name: str) -> Channel | None:
        """Return a channel that is open, or retired and not forgotten."""
        return self._channels.get(name)

    def flush(self) -> None:
        """Send what is pending to every consumer that can take it at once, put together once for all who are level.

        A daemon that follows is sent to before; as long as it has not all, nobody is.
        """
        if not self.precedence.serve():
            return
        place, selection, piece = -1, "", None
        pieces: dict[tuple[int, str], bytes | None] = {}
        for consumer in self._consumers:
            stream = consumer.level
            if stream is None:
                consumer.flush()
                continue
            if stream.selection is not selection or stream.cursor != place:
                place, selection = key = stream.cursor, stream.selection
                if key not in pieces:
                    pieces[key] = stream.piece(self._limits.send_bytes)
                piece = pieces[key]
            if piece is None:
                consumer.flush()
            else:
                consumer.follow(stream, piece)

    # What the daemon runs.

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the socket until `drain` has let every consumer go."""
        if self.lock.held:
            await self._see_off()
        with ExitStack() as stack:
            listener = stack.enter_context(listening(self._settings, self.lock))
            self._tell_doubts()
            async with trio.open_nursery() as nursery:
                watch = trio.CancelScope()
                nursery.start_soon(self._watch, watch)
                with self._accepting:
                    self._listener = listener
                    task_status.started()
                    await self._accept(listener, nursery)
                self._listener = None
                stack.close()  # the path is free for a successor while the consumers go
                watch.cancel()

    async def _see_off(self) -> None:
        """Wait a moment for a killed daemon's listening socket to be gone, too: its lock may fall free before."""
        for _ in range(SEE_OFF_LOOKS):
            if not is_served(self._settings.socket):
                break
            await trio.sleep(SEE_OFF_S)

    async def _watch(self, scope: trio.CancelScope) -> None:
        with scope:
            await self.precedence.watch()

    def _tell_doubts(self) -> None:
        settings, bounds = self._settings, self._bounds
        if is_tight(settings, bounds):
            self._notify(
                note(
                    "consumer_limit_tight",
                    limit_bytes=settings.consumer_bytes,
                    snapshot_bytes=bounds.snapshot_bytes,
                    peak_bytes=settings.peak_bytes,
                )
            )

    async def drain(self, seconds: float, reason: str = "shutdown") -> None:
        """Stop accepting, and let every consumer go with what is pending and a last word, in time.

        A daemon that follows has everything before the lock is free; one that is behind is given half of the time.
        """
        end = trio.current_time() + seconds
        await self.precedence.turn()
        self.precedence.end()
        with trio.move_on_after(seconds / 2):
            await self.precedence.settled()
        self._accepting.cancel()
        for consumer in tuple(self._consumers):
            consumer.finish(records.bye(reason))
        with trio.move_on_at(end):
            while self._consumers:
                await self._deserted.wait()
        for consumer in tuple(self._consumers):
            consumer.close()

    async def _accept(self, listener: socket.socket, nursery: trio.Nursery) -> None:
        while True:
            await trio.lowlevel.wait_readable(listener)
            self._accepts += 1
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._notify(note("accept_failed", error=errno.errorcode[error.errno]))
                    await trio.sleep(ACCEPT_PAUSE_S)
                continue
            sock.setblocking(False)
            self._welcome(sock, nursery)

    def _welcome(self, sock: socket.socket, nursery: trio.Nursery) -> None:
        peer = peer_of(sock)
        if len(self._consumers) >= self._bounds.consumers:
            self._turn_away(sock, peer)
            return
        consumer = Consumer(
            sock,
            peer,
            self._shelf,
            account=peer.uid in self._account_uids,
            may_follow=peer.uid in {os.geteuid(), 0},
            precedence=self.precedence,
            limits=self._limits,
            clock=self._clock,
            notify=self._notify,
        )
        self._consumers[consumer] = None
        nursery.start_soon(self._attend, consumer)

    def _turn_away(self, sock: socket.socket, peer: Peer) -> None:
        """Tell one consumer too many, as far as its socket takes it, and close."""
        self._notify(note("request_refused", consumer="", pid=peer.pid, uid=peer.uid, code="busy"))
        detail = f"there are {self._bounds.consumers} consumers already"
        with sock, suppress(OSError):
            sock.send(records.error("busy", detail))

    async def _attend(self, consumer: Consumer) -> None:
        try:
            await consumer.run()
        finally:
            del self._consumers[consumer]
            self.precedence.leave(consumer)
            if not self._consumers:
                self._deserted.set()
                self._deserted = trio.Event()

    def _image_of(self, channel: Channel) -> bytes:
        image = self._images.get(channel.name)
        return (image() if image else None) or b""

    def _state_of(self, channel: Channel) -> bytes:
        return self._states.get(channel.number, b"")
