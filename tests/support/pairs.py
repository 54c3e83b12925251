"""Pairs of daemons without sockets, tasks and processes: what a takeover goes through is the program's own.

    lines ─▶ feed (arbiter, recovery, heir) ─▶ publisher ─▶ precedence ─▶ a wire ─▶ mirror, of the standby
                                                    └─▶ a wire ─▶ the client library, of a consumer that resumes

A **market** broadcasts trades and deltas of a book, and answers requests for snapshots; a reply stands in its line's
order. A **wire** is what a kernel is to a connection: it takes so many bytes, and delivers what it has taken whatever
becomes of the sender. So the active daemon can die within a record. The consumer's client checks every seq; what it has
in the end is held against the market's truth. Time moves only by `Pair.wait`, on the clock of the run.
"""

import json
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import trio
from trio.testing import MockClock

from feedhandler.client.core import Reader
from feedhandler.config import Bounds, Config, Exchange, Feed, Health, Publish, Recovery, Wanted
from feedhandler.control.fleet import Fleet
from feedhandler.core.notes import Note
from feedhandler.exchange.requests import ping
from feedhandler.ingest.connect import tls_context
from feedhandler.ingest.feed import Feed as LiveFeed
from feedhandler.ingest.gate import Gate
from feedhandler.ingest.line import OUTBOX_REQUESTS, Means
from feedhandler.ingest.surroundings import Surroundings
from feedhandler.publish.consumer import Consumer
from feedhandler.publish.endpoint import Peer
from feedhandler.publish.outlet import Outlet
from feedhandler.publish.precedence import PATIENCE_S
from feedhandler.publish.records import FOLLOW, PROTOCOL
from feedhandler.publish.server import Publisher
from feedhandler.standby.mirror import Mirror
from feedhandler.standby.succession import Succession
from tests.support.references import Follower, Level, Reference, Row, changes, rows

MARKET: Final = "BTC-USD"
STREAMS: Final = ("publicTrades", "publicOrderBook")
TRADES, BOOK = (f"{MARKET}/{stream}" for stream in STREAMS)
LINES: Final = "ab"
"""The lines of each daemon."""

REACH_ROWS: Final = 12
"""Rows of a trade snapshot."""

PRICES: Final = (1, 2, 61, 62)
"""Those below fifty are bids."""

ENOUGH_BYTES: Final = 100_000
"""A backlog of fewer bytes does not keep what a consumer lacks that was away, or read much at once."""

TICK_S: Final = 0.1
SETTLING_ROUNDS: Final = 60
ENDLESS: Final = sys.maxsize
TLS: Final = tls_context(None)


def _json(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


class Link:
    """One connection of a line: what was sent on it and not read yet, and what the line asks."""

    def __init__(self) -> None:
        self.queue: deque[tuple[str, bytes]] = deque()
        self.outbox, self._asked = trio.open_memory_channel[str](OUTBOX_REQUESTS)

    def send(self, stream: str, payload: bytes, ahead: int = 0) -> None:
        """Send one more event, before up to so many of the other stream that still wait to be read."""
        place = len(self.queue)
        while ahead and place and self.queue[place - 1][0] not in {stream, ""}:
            place, ahead = place - 1, ahead - 1
        self.queue.insert(place, (stream, payload))

    def reply(self, payload: bytes) -> None:
        """Send a reply; no event overtakes it."""
        self.queue.append(("", payload))

    def asked(self) -> Iterator[dict[str, Any]]:
        """Yield what was asked since the last time."""
        while self._asked.statistics().current_buffer_used:
            yield json.loads(self._asked.receive_nowait())


class Market:
    """What the exchange has broadcast, its book, its trades; undated deltas have no identity, and recur."""

    def __init__(self, *, dated: bool) -> None:
        self.trades: list[bytes] = []
        self.deltas: list[bytes] = []
        self.dropped: set[Row] = set()
        """What a line has not been sent."""
        self._dated = dated
        self._rows: list[dict[str, Any]] = []
        self._levels: dict[Level, Any] = {}
        self._number = 0

    def happen(self, word: bytes) -> tuple[str, bytes]:
        """Let a trade (``t``) happen, or a change of the book (``b``); return its stream and its message.

        With ``b#`` another level changes each time; any other letter is a level's own.
        """
        self._number += 1
        if word.startswith(b"t"):
            return STREAMS[0], self._trade()
        price = PRICES[(self._number if word == b"b#" else word[1]) % len(PRICES)]
        return STREAMS[1], self._change(price, self._number if self._dated else self._number % 3)

    def _trade(self) -> bytes:
        own = [_row(10 * self._number + index) for index in range(1 + self._number % 2)]
        self._rows += own
        data = {"orders": own, "statusCode": 200}
        self.trades.append(_json(resultType="publicCompletedOrdersDelta", data=data))
        return self.trades[-1]

    def _change(self, price: int, quantity: int) -> bytes:
        data = {"orders": [_level(price, quantity)]} | self._date()
        self.deltas.append(_json(resultType="publicOrderBookDelta", data=data))
        self._levels.update(changes(self.deltas[-1]))
        return self.deltas[-1]

    def _date(self) -> dict[str, int]:
        return {"ts": self._number} if self._dated else {}

    def book(self) -> dict[Level, Any]:
        """Return the book as it is now."""
        return {level: quantity for level, quantity in self._levels.items() if quantity}

    def answer(self, request: dict[str, Any]) -> bytes:
        """Return the reply to a request for a snapshot, as of now."""
        own = {"clientRequestId": request["content"]["clientRequestId"]}
        if request["message"] == "emitPublicOrderBook":
            orders = [_level(int(price), int(quantity)) for (_, price), quantity in self.book().items()]
            data = {"orders": orders, "statusCode": 200} | self._date() | own
            return _json(resultType="publicOrderBook", data=data)
        recent = self._rows[: -REACH_ROWS - 1 : -1]
        return _json(resultType="publicCompletedOrders", data={"orders": recent} | own)


def _row(number: int) -> dict[str, Any]:
    return {"matchId": f"m{number}", "executionType": "taker", "orderType": "buy", "updatedAt": number}


def _level(price: int, quantity: int) -> dict[str, str]:
    side = "buy" if price < 50 else "sell"
    return {"orderType": side, "price": str(price), "quantity": str(quantity)}


class Wire:
    """What the kernel has taken on one connection and nobody has read; it has so much room."""

    def __init__(self, host: "Host", room: int) -> None:
        self._host = host
        self._room = room
        self._taken = b""

    def send(self, data: bytes | memoryview) -> int:
        """Take what there is room for, as long as the sender lives."""
        room = min(self._room - len(self._taken), self._host.breath(self))
        if room <= 0:
            raise BlockingIOError
        count = min(room, len(data))
        self._taken += bytes(data[:count])
        self._host.breathed(self, count, len(data))
        return count

    def read(self, most: int = ENDLESS) -> bytes:
        """Return what was taken, up to so many bytes."""
        data, self._taken = self._taken[:most], self._taken[most:]
        return data


class SmallPublish(Publish, frozen=True, kw_only=True):
    """A backlog of some bytes."""

    backlog: int = 1024 * 1024

    @property
    def backlog_bytes(self) -> int:
        """How much is kept."""
        return self.backlog


class Host:
    """One daemon: all of it between its lines and its socket."""

    def __init__(
        self, bounds: Bounds, backlog_bytes: int, *, follows: bool, interleaved: bool = False
    ) -> None:
        self._interleaved = interleaved
        self._config = Config(
            exchange=Exchange(websocket_url="ws://127.0.0.1:9"),
            feeds=(Feed(markets=(MARKET,), streams=STREAMS, lines=len(LINES)),),
            publish=SmallPublish(socket=Path("/nowhere/feed.sock"), backlog=backlog_bytes),
            bounds=bounds,
        )
        self.follows = follows
        self.notes: list[Note] = []
        self.links: dict[str, Link] = {}
        self.token = ""
        """Who is sent everything first, as the lock's file says."""
        self.publisher = Publisher(
            self._config.publish, bounds, session="s", clock=_wall_ns, notify=self.notes.append
        )
        self.publisher.precedence._mark = self._mark
        outlet = self._outlet = Outlet(self.publisher)
        self._fleet = Fleet(self._config, self._make, self.notes.append)
        self.succession = Succession(self.publisher, outlet, self._fleet, lambda: self._config)
        self.follower: tuple[Consumer, Wire] | None = None
        self._breath = ENDLESS
        self._waited_s = 0.0

    def _mark(self, token: str) -> None:
        self.token = token

    def _make(self, label: str, wanted: Wanted) -> LiveFeed:
        means = Means(
            gate=Gate(1000),
            tokens=None,
            ssl_context=TLS,
            health=Health(),
            bounds=self._config.bounds,
            make_ping=ping,
        )
        around = Surroundings(
            outlet=self._outlet,
            means=means,
            notify=self.notes.append,
            wall_ns=_wall_ns,
            incident=lambda _: None,
            recovery=Recovery(),
            account_other=lambda: False,
        )
        url = self._config.exchange.websocket_url
        feed = LiveFeed(label, url, *wanted, around, follows=self.follows)
        feed.arbiter._interleaved = self._interleaved
        return feed

    @property
    def feed(self) -> LiveFeed:
        """The feed of the one market."""
        return self._fleet.feeds[MARKET]

    # Lines

    def connect(self, name: str) -> None:
        """Connect a line."""
        self.feed.connecting(name)
        link = self.links[name] = Link()
        self.feed.lines[name]._outbox = link.outbox
        self.feed.connected(name)

    def deliver(self, name: str, count: int = ENDLESS, *, each: bool = False) -> None:
        """Let a line read so many messages, in one read or in several."""
        queue = self.links[name].queue
        batch = [queue.popleft()[1] for _ in range(min(count, len(queue)))]
        for part in [[payload] for payload in batch] if each else [batch]:
            if part:
                self.feed.received(name, part)

    def kill(self, name: str, reads: int) -> None:
        """End a connection after so many more messages."""
        self.deliver(name, reads)
        del self.links[name]
        self.feed.lines[name]._outbox = None
        self.feed.lost(name, "reset")

    # The socket

    def serve(self, wire: Wire) -> Consumer:
        """Let somebody connect."""
        publisher = self.publisher
        consumer = Consumer(
            wire,  # type: ignore[arg-type]  # it takes what is sent
            Peer(1, os.geteuid()),
            publisher._shelf,
            account=True,
            may_follow=True,
            precedence=publisher.precedence,
            limits=publisher._limits,
            clock=_wall_ns,
            notify=self.notes.append,
        )
        publisher._consumers[consumer] = None
        consumer.flush()
        return consumer

    def leave(self, consumer: Consumer) -> None:
        """Let somebody's connection end."""
        self.publisher._consumers.pop(consumer, None)
        self.publisher.precedence.leave(consumer)

    def followed(self, room: int, token: str) -> Wire:
        """Let a standby connect, and ask for what it needs."""
        wire = Wire(self, room)
        consumer = self.serve(wire)
        self.follower = consumer, wire
        assert consumer._subscribe(_json(op="follow", protocol=PROTOCOL, follow=FOLLOW, token=token))
        return wire

    def pump(self) -> None:
        """Send what there is room for, as each consumer's own task does."""
        for consumer in tuple(self.publisher._consumers):
            place = None
            while self._has_turn(consumer) and place != (place := consumer.part().place):
                consumer._send()
            if consumer._leaving:
                self.leave(consumer)

    def _has_turn(self, consumer: Consumer) -> bool:
        return consumer._behind.is_set() and (consumer._follows or not self.publisher.precedence.waits)

    # Time, and the end

    def tick(self) -> None:
        """Let the feed hear of the time, and consumers wait for the follower only so long."""
        if self.feed.is_due(trio.current_time()):
            self.feed.tick()
        precedence = self.publisher.precedence
        self._waited_s = self._waited_s + TICK_S if precedence.waits else 0.0
        if self._waited_s > PATIENCE_S:
            precedence.lose()
        self.pump()

    def breath(self, wire: Wire) -> int:
        """Return how many bytes this process will still hand over; what it says to the follower counts."""
        return self._breath if self._breath <= 0 or self._is_follower(wire) else ENDLESS

    def breathed(self, wire: Wire, taken: int, offered: int) -> None:
        """Note that so many bytes of some were taken; who dies does so where it was cut short."""
        if self._breath < ENDLESS and self._is_follower(wire):
            self._breath = self._breath - taken if taken == offered else 0

    def _is_follower(self, wire: Wire) -> bool:
        return self.follower is not None and self.follower[1] is wire

    def die(self, name: str, reads: int, last_bytes: int) -> None:
        """Be gone, within what the follower is sent when a line reads so many messages."""
        self._breath = last_bytes
        if last_bytes and name in self.links:
            self.deliver(name, reads)
        self._breath = 0


def _wall_ns() -> int:
    return 10**18 + round(trio.current_time() * 1e9)


class Client:
    """A consumer from the very beginning, which comes back for what it lacks, and keeps a book.

    Where the backlog is small it may be refused that: to this consumer that is a gap.
    """

    def __init__(self, *, may_be_refused: bool) -> None:
        self._may_be_refused = may_be_refused
        self.records: list[dict[str, Any]] = []
        self.book: dict[Level, Any] | None = None
        self._reader = Reader()
        self._at: tuple[Host, Consumer, Wire] | None = None

    def connect(self, host: Host) -> None:
        """Connect to a daemon; what was taken on the connection before is read."""
        self.leave()
        wire = Wire(host, ENDLESS)
        self._at = host, host.serve(wire), wire
        self.read()

    @property
    def is_level(self) -> bool:
        """Whether the client has all that there is."""
        return self._at is not None and self._at[1].is_level

    def leave(self) -> None:
        """Be away."""
        self.read()
        self._part()

    def _part(self) -> Host | None:
        """End the connection, if there is one; return who it was with."""
        if self._at is None:
            return None
        (host, consumer, _), self._at = self._at, None
        host.leave(consumer)
        self._reader.restart()
        return host

    def read(self) -> None:
        """Read all that has come, and ask when it is time to; come back at once after a goodbye."""
        while self._at is not None and (data := self._at[2].read()):
            self._reader.feed(data)
            while (received := self._reader.next()) is not None:
                self._take(json.loads(received.line))
            if request := self._reader.request():
                assert self._at[1]._subscribe(request)
            elif self._at[1]._leaving and (host := self._part()) is not None:
                self.connect(host)

    def beat(self) -> None:
        """Have a heartbeat sent, which the client compares."""
        if self._at is not None:
            self._at[1]._heartbeat_due = True
            self._at[1].flush()
            self.read()

    def _take(self, record: dict[str, Any]) -> None:
        if record["type"] == "refused":
            assert self._may_be_refused, record
            record = record | {"type": "gap"}
        elif record.get("reason") == "join" or "seq" not in record:
            return
        self.records.append(record)
        if record["channel"] == BOOK:
            self._keep(record)

    def _keep(self, record: dict[str, Any]) -> None:
        if record["type"] == "gap":
            self.book = None
        elif record["type"] == "snapshot":
            self.book = _levels(json.dumps(record["msg"]))
        elif self.book is not None and not record.get("class"):
            book = self.book | changes(json.dumps(record["msg"]))
            self.book = {level: quantity for level, quantity in book.items() if quantity}


def _levels(message: bytes | str) -> dict[Level, Any]:
    return {level: quantity for level, quantity in changes(message).items() if quantity}


class Pair:
    """The market, the active daemon, its standby, and the consumer; ``room`` is that of the follower's connection.

    ``interleaved`` says that the first daemon has seen lines differ in how they interleave trades and book; the others
    are told.
    """

    def __init__(
        self,
        clock: MockClock,
        *,
        dated: bool,
        bounds: Bounds,
        backlog_bytes: int = 10**6,
        room: int = ENDLESS,
        interleaved: bool = False,
    ) -> None:
        self._clock = clock
        self._bounds = bounds
        self._backlog_bytes = backlog_bytes
        self._room = room
        self.market = Market(dated=dated)
        self.takeovers = 0
        self.client = Client(may_be_refused=backlog_bytes < ENOUGH_BYTES)
        self.active = Host(bounds, backlog_bytes, follows=False, interleaved=interleaved)
        self.client.connect(self.active)
        for name in LINES:
            self.active.connect(name)
        self._followings = 0
        self._stand_by()

    def _stand_by(self) -> None:
        """Let another daemon begin to follow."""
        self.standby = Host(self._bounds, self._backlog_bytes, follows=True)
        self.follow()

    def follow(self) -> None:
        """Let the standby begin to follow, or begin anew."""
        self._followings += 1
        self._token = f"{self._followings:032x}"
        self.standby.links.clear()
        if self.active.follower is not None:
            self.active.leave(self.active.follower[0])
            self.active.pump()
        self._wire = self.active.followed(self._room, self._token)
        self._rest = b""
        self._mirror: Mirror = self.standby.succession.follow(self.active.publisher.session)

    @property
    def is_level(self) -> bool:
        """Whether the standby is sent all that any consumer is."""
        return self.active.token == self._token

    # What happens

    def emit(self, *words: bytes, ahead: Sequence[int] = (), lost_on: int = -1) -> None:
        """Broadcast; of all lines, the active daemon's first, each event overtakes so many of the other stream.

        One line may drop them, if its daemon has another one.
        """
        links = [host.links.get(name) for host in (self.active, self.standby) for name in LINES]
        for word in words:
            stream, payload = self.market.happen(word)
            is_lost = lost_on >= 0 and links[lost_on ^ 1] is not None
            if is_lost and stream == STREAMS[0]:
                self.market.dropped.update(rows(payload))
            for index, link in enumerate(links):
                if link is not None and not (is_lost and index == lost_on):
                    link.send(stream, payload, ahead[index] if index < len(ahead) else 0)

    def answer(self) -> None:
        """Let the exchange answer all that it was asked."""
        for host in (self.active, self.standby):
            for link in host.links.values():
                for request in link.asked():
                    link.reply(self.market.answer(request))

    def tell(self, most: int = ENDLESS) -> None:
        """Let the standby read up to so many bytes of what it was sent, or all there is."""
        while data := self._wire.read(most):
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._mirror.take([line for line in lines if not line.startswith(b'{"type":"hello"')])
            assert not self._mirror.wrong, self._mirror.wrong
            self.active.pump()
            if most < ENDLESS:
                break

    def wait(self, seconds: float) -> None:
        """Let time pass for everybody."""
        for _ in range(max(1, round(seconds / TICK_S))):
            self._clock.jump(TICK_S)
            self.active.tick()
            self.standby.tick()
        self.look()
        if seconds >= 1:
            self.client.beat()

    def look(self) -> None:
        """Let everybody who can go on do so; a follower that was let go begins anew."""
        self.active.pump()
        self.client.read()
        if self.active.publisher.precedence.follower is None:
            self.follow()

    def take_over(self, name: str = "a", *, reads: int = 0, last_bytes: int = 0) -> None:
        """Let the active daemon be gone, and another standby begin to follow.

        It may die within what it hands over when a line reads some messages.
        """
        if not self.is_level:
            return
        old, new = self.active, self.standby
        old.die(name, reads, last_bytes)
        assert self.is_level, "the token was wiped out"
        self.client.leave()
        self.tell()
        self._mirror.finish()
        new.follows = False
        new.succession.take_over()
        self.takeovers += 1
        self.active = new
        self._stand_by()

    def settle(self) -> None:
        """Let the active daemon's lines bring everything, and more that shows every hole; let repairs end."""
        host = self.active
        self.client.connect(host)
        for name in LINES:
            if name not in host.links:
                host.connect(name)
        for number in range(SETTLING_ROUNDS):
            if number < 4 or number % 10 == 0:
                self.emit(b"b#", b"t#")
            self._come_to_rest()
            self.answer()
            self.wait(0.5)
        self._come_to_rest()

    def _come_to_rest(self) -> None:
        for name in LINES:
            self.active.deliver(name)
        self.tell()
        self.look()

    # What came of it

    @property
    def is_marked(self) -> bool:
        """Whether the consumer has any gap, or any event that is not an ordinary one."""
        return any(one["type"] == "gap" or one.get("class") for one in self.client.records)

    def check(self, *, dropped: bool = False) -> None:
        """Assert that the consumer has what was broadcast, or a mark where it has not.

        Where lines have dropped deltas the book is held against the truth only in the end.
        """
        self.check_image()
        own = {
            name: [one for one in self.client.records if one["channel"] == name] for name in (TRADES, BOOK)
        }
        assert sum(map(len, own.values())) == len(self.client.records)
        check_trades(self.market, own[TRADES])
        if not dropped:
            check_book(self.market, own[BOOK])
        assert self.client.book == self.market.book(), "the last book differs"

    def check_image(self) -> None:
        """Assert that the book that a new consumer would get is the one that the old one has, if that has all."""
        self.client.read()
        publisher = self.active.publisher
        channel = publisher.find(BOOK)
        image = b"" if channel is None else publisher._image_of(channel)
        if image and self.client.book is not None and self.client.is_level:
            assert _levels(image) == self.client.book, "the images differ"


def check_trades(market: Market, records: Sequence[dict[str, Any]]) -> None:
    """Assert that each trade came once and in order, or says that it did not, and what is missing lies in a gap."""
    truth = [row for payload in market.trades for row in rows(payload)]
    place = {row: index for index, row in enumerate(truth)}
    newest, order = -1, list[int | None]()
    found: Counter[int] = Counter()
    for record in records:
        if record["type"] == "gap":
            order.append(None)
            continue
        own, word = [place[row] for row in rows(json.dumps(record["msg"]))], record.get("class", "")
        assert (word == "late") == (max(own) < newest), f"{own} behind {newest} is marked {word!r}"
        found.update(own)
        newest = max(newest, *own)
        order += [] if word == "late" else own
    doubled = [truth[index] for index, count in found.items() if count > 1]
    assert not doubled, f"doubled {doubled}"
    assert len(truth) - 1 in found, "the end of the trades is missing"
    gaps = list(_gaps(order))
    for index in range(min(found), len(truth)):
        if index not in found and truth[index] not in market.dropped:
            assert any(first < index < last for first, last in gaps), f"{truth[index]} is missing"


def _gaps(order: Sequence[int | None]) -> Iterator[tuple[int, int]]:
    """Yield between which trades a gap record stands."""
    before = -1
    for at, one in enumerate(order):
        if one is None:
            yield before, next((i for i in order[at:] if i is not None and i > before), ENDLESS)
        else:
            before = max(before, one)


def check_book(market: Market, records: Sequence[dict[str, Any]]) -> None:
    """Assert that the book was the true one at every seq, and that no audit has ever found it wrong."""
    follower = Follower(Reference({}, market.deltas))
    before = ""
    for record in records:
        assert record.get("reason") != "audit", "an audit has failed"
        if record["type"] != "gap" or before not in {"", "gap"}:
            follower.check([record])
        before = record["type"]
    assert follower.at_end, "the end of the book is missing"
