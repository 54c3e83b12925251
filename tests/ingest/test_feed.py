# ruff: noqa: ARG001 - the clock works by being asked for
"""One feed: what its lines bring becomes records of its channels, without any exchange or socket."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from feedhandler.config import Bounds, Health, Publish, Recovery
from feedhandler.core.arbiter import Quarantine, Restart
from feedhandler.core.channels import Channel
from feedhandler.core.notes import Note
from feedhandler.errors import ConnectionFailed, HandshakeRefused
from feedhandler.exchange.requests import ping
from feedhandler.ingest import channels as channels_module
from feedhandler.ingest.connect import tls_context
from feedhandler.ingest.crew import LINE_NAMES
from feedhandler.ingest.feed import Feed
from feedhandler.ingest.gate import Gate
from feedhandler.ingest.line import Line, Means
from feedhandler.ingest.pace import REST_S, RETRY_S, TICK_S
from feedhandler.ingest.surroundings import Surroundings
from feedhandler.publish.outlet import Outlet
from feedhandler.publish.server import Publisher

BOOK, TRADES, OTHER = "BTC-USD/publicOrderBook", "BTC-USD/publicTrades", "BTC-USD/other"
STREAMS = ("publicTrades", "publicOrderBook")


def trade(number: int, market: str = "BTC-USD") -> bytes:
    """Return a trade that occurs once."""
    row = b'{"matchId":"m%d","executionType":"taker","orderType":"buy","updatedAt":%d}' % (number, number)
    return b'{"resultType":"publicCompletedOrdersDelta","market":"%b","data":{"orders":[%b]}}' % (
        market.encode(),
        row,
    )


def delta(number: int) -> bytes:
    """Return a book delta that occurs once."""
    row = b'{"orderType":"buy","price":"1","quantity":"%d"}' % number
    return b'{"resultType":"publicOrderBookDelta","data":{"orders":[%b],"ts":%d}}' % (row, number)


def order(number: int) -> bytes:
    """Return an order notification that occurs once."""
    return b'{"resultType":"createOrder","data":{"order":{"orderId":"%d","updatedAt":%d}}}' % (number, number)


def unknown(number: int, market: str = "BTC-USD") -> bytes:
    """Return a message of a type that nobody described."""
    text = b'{"resultType":"marketStatus","market":"%b","data":{"number":%d}}'
    return text % (market.encode(), number)


def filled(number: int) -> bytes:
    """Return a new state of an order, which occurs once and can be told from all others."""
    row = b'{"orderId":"%d","updatedAt":%d}' % (number, number)
    return b'{"resultType":"createOrder","data":{"order":%b,"statusCode":200}}' % row


@dataclass
class Shop:
    """An outlet that writes down what it is given, shared by the feeds of a test."""

    channels: dict[str, Channel] = field(default_factory=dict)
    records: list[tuple[object, ...]] = field(default_factory=list)
    images: dict[str, Callable[[], bytes | None]] = field(default_factory=dict)
    flushes: int = 0

    def channel(self, name: str, *, feed: str, account: bool) -> Channel:
        """Open a channel or find it."""
        if name not in self.channels:
            self.channels[name] = Channel(name, number=len(self.channels), feed=feed, account=account)
        return self.channels[name]

    def publish(
        self, channel: Channel, line: str, recv_ns: int, payload: bytes, event_class: str = ""
    ) -> None:
        """Write an event down."""
        channel.event(line, recv_ns, payload, event_class)
        self.records.append(("event", channel.name, line, payload, event_class))

    def publish_run(
        self, channels: Sequence[Channel], line: str, recv_ns: int, payloads: Sequence[bytes]
    ) -> None:
        """Write events down."""
        for channel, payload in zip(channels, payloads, strict=True):
            self.publish(channel, line, recv_ns, payload)

    def gap(self, channel: Channel, reason: str, since_ns: int, until_ns: int) -> None:
        """Write a gap down."""
        self.records.append(("gap", channel.name, reason, since_ns, until_ns))

    def snapshot(self, channel: Channel, reason: str, message: bytes) -> None:
        """Write a book down."""
        self.records.append(("snapshot", channel.name, reason, message))

    def offer_book(self, channel: Channel, image: Callable[[], bytes | None]) -> None:
        """Remember where a book is to be had."""
        self.images[channel.name] = image

    def state(self, channel: Channel, word: str, since_ns: int) -> None:
        """Write a state down."""
        self.records.append(("state", channel.name, word, since_ns))

    def interleaved(self, channel: Channel) -> None:
        """Write down what is known of a channel's lines."""
        self.records.append(("interleaved", channel.name))

    def give_up(self, channel: Channel, feed: str) -> bool:
        """Tell that nobody else has a use for a channel."""
        return channel.feed == feed

    def retire(self, channel: Channel, since_ns: int) -> None:
        """Write down that nothing comes of a channel any more."""
        del self.channels[channel.name]
        self.records.append(("retired", channel.name, since_ns))

    def flush(self) -> None:
        """Count."""
        self.flushes += 1

    def of(self, kind: str) -> list[tuple[object, ...]]:
        """Return the records of a kind, without it."""
        return [record[1:] for record in self.records if record[0] == kind]


class Bench:
    """Feeds that share an outlet; the wall clock stands where the test puts it."""

    def __init__(self, **bounds: float) -> None:
        self.shop = Shop()
        self.notes: list[Note] = []
        self.incidents: list[dict[str, object]] = []
        self.wall_ns = 1
        self.account_other = False
        self.means = Means(
            gate=Gate(1000),
            tokens=None,
            ssl_context=tls_context(None),
            health=Health(quiet_s=2.0),
            bounds=Bounds(**bounds),  # type: ignore[arg-type]
            make_ping=ping,
        )

    def feed(
        self, market: str = "BTC-USD", streams: tuple[str, ...] = STREAMS, label: str = "", lines: int = 2
    ) -> Feed:
        """Make a feed."""
        around = Surroundings(
            outlet=self.shop,
            means=self.means,
            notify=self.notes.append,
            wall_ns=lambda: self.wall_ns,
            incident=self.incidents.append,
            recovery=Recovery(),
            account_other=lambda: self.account_other,
        )
        return Feed(label or market, "ws://127.0.0.1:9", market, streams, lines, around)

    def named(self, name: str) -> list[dict[str, object]]:
        """Return the fields of the notes of a name."""
        return [dict(note.fields) for note in self.notes if note.name == name]


@pytest.fixture
def bench() -> Bench:
    """Return a bench with the usual bounds."""
    return Bench()


def connect(feed: Feed, *lines: str) -> None:
    """Connect lines."""
    for line in lines:
        feed.connecting(line)
        feed.connected(line)


async def test_copies_of_an_event_come_out_once(bench: Bench) -> None:
    """What one read brought is published under its channel, with one flush, before the call returns."""
    feed = bench.feed()
    connect(feed, "a", "b")
    flushes = bench.shop.flushes
    feed.received("a", [trade(1), trade(2)])
    assert bench.shop.of("event") == [(TRADES, "a", trade(1), ""), (TRADES, "a", trade(2), "")]
    assert bench.shop.flushes == flushes + 1
    feed.received("b", [trade(1), trade(2), trade(3)])
    assert [record[:2] for record in bench.shop.of("event")] == [(TRADES, "a"), (TRADES, "a"), (TRADES, "b")]
    assert "live" in repr(feed) or "down" in repr(feed)


async def test_known_channels_are_open_from_the_start(bench: Bench) -> None:
    """A feed's channels exist, with the state down, before anything has connected; over ALL they are not known."""
    bench.feed()
    bench.feed("ALL", ("orders", "trades"), "account")
    assert bench.shop.of("state") == [(TRADES, "down", 1), (BOOK, "down", 1), ("ALL/trades", "down", 1)]
    assert [channel.account for channel in bench.shop.channels.values()] == [False, False, True]


async def test_what_belongs_to_another_feed_is_left_out(bench: Bench) -> None:
    """An event of a channel that another feed has opened is counted and not published a second time."""
    bench.feed()
    other = bench.feed("ETH-USD")
    connect(other, "a")
    other.received("a", [trade(1, "ETH-USD"), trade(2, "BTC-USD"), trade(3, "BTC-USD")])
    assert [record[0] for record in bench.shop.of("event")] == ["ETH-USD/publicTrades"]
    assert bench.named("foreign_event") == 2 * [{"feed": "ETH-USD", "channel": TRADES}]


async def test_messages_of_unknown_type_share_a_channel(bench: Bench) -> None:
    """MARKET/other may be brought by several feeds; only the feed that opened it tells its state."""
    first = bench.feed(streams=("publicTrades",), label="trades/BTC-USD")
    second = bench.feed(streams=("publicOrderBook",), label="book/BTC-USD")
    connect(first, "a")
    connect(second, "a")
    first.received("a", [unknown(1)])
    second.received("a", [unknown(2)])
    assert bench.shop.of("event") == [(OTHER, "a", unknown(number), "unknown") for number in (1, 2)]
    assert [fields["feed"] for fields in bench.named("event_marked")] == [first.label, second.label]
    assert [name for name, *_ in bench.shop.of("state")].count(OTHER) == 1
    second.end()
    assert [name for name, *_ in bench.shop.of("state")].count(OTHER) == 1


async def test_unknown_types_may_be_about_the_account(bench: Bench) -> None:
    """Where any feed has account streams, only the account's readers get messages of unknown type."""
    bench.account_other = True
    feed = bench.feed()
    connect(feed, "a")
    feed.received("a", [unknown(1)])
    assert bench.shop.channels[OTHER].account


async def test_what_the_account_says_stays_out_of_a_public_channel(bench: Bench) -> None:
    """A feed of the account that comes later does not publish where everybody reads; its own channel is closed."""
    public = bench.feed()
    account = bench.feed(streams=("orders",), label="account/BTC-USD")
    connect(public, "a")
    connect(account, "a")
    public.received("a", [unknown(1)])
    account.received("a", [unknown(2), unknown(3, "ETH-USD")])
    assert [record[0] for record in bench.shop.of("event")] == [OTHER, "ETH-USD/other"]
    assert [bench.shop.channels[name].account for name in (OTHER, "ETH-USD/other")] == [False, True]
    assert bench.named("unknown_withheld") == [{"feed": "account/BTC-USD", "channel": OTHER}]
    public.change((*public.streams, "orders"), 2)
    public.received("a", [unknown(4)])
    assert len(bench.named("unknown_withheld")) == 2
    assert len(bench.shop.of("event")) == 2


async def test_a_public_event_over_all_that_names_no_market_is_counted(bench: Bench) -> None:
    """It goes to ALL/other, and each line that brings it is told."""
    feed = bench.feed("ALL")
    connect(feed, "a", "b")
    for line in ("a", "b"):
        feed.received(line, [trade(1, "")])
    assert bench.shop.of("event") == [("ALL/other", "a", trade(1, ""), "unknown")]
    assert bench.named("event_misshapen") == [
        {"feed": "ALL", "line": line, "reason": "market"} for line in ("a", "b")
    ]


async def test_channels_have_a_bound(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel too many is left out and noted; those that are open go on."""
    monkeypatch.setattr(channels_module, "CHANNELS", 2)
    feed = bench.feed("ALL")
    connect(feed, "a")
    feed.received("a", [trade(number, market) for number, market in enumerate("XYZX")])
    assert [record[0] for record in bench.shop.of("event")] == [f"{market}/publicTrades" for market in "XYX"]
    assert bench.named("channel_left_out") == [{"feed": "ALL", "channel": "Z/publicTrades"}]


async def test_replies_and_garbage_are_not_published(bench: Bench) -> None:
    """Pongs and snapshots stay inside, garbage is counted with its reason, also what was no text."""
    feed = bench.feed()
    connect(feed, "a")
    feed.received("a", [b'{"resultType":"pong","data":{}}', b"[1]", b"{", b'{"a":"\xff"}'])
    feed.rejected("a", "binary")
    assert bench.shop.of("event") == []
    reasons = [fields["reason"] for fields in bench.named("garbage_received")]
    assert reasons == ["object", "json", "utf8", "binary"]


async def test_an_outage_is_a_gap_in_every_own_channel(bench: Bench) -> None:
    """All lines lost and one back: the gap stands before the next event, once a channel, MARKET/other aside."""
    feed = bench.feed(streams=("orders", "trades"))
    connect(feed, "a", "b")
    bench.wall_ns = 10
    feed.received("a", [order(1), unknown(1)])
    feed.lost("a", "reset")
    feed.lost("b", "closed")
    bench.wall_ns = 20
    connect(feed, "a")
    feed.received("a", [order(2)])
    kinds = [record[:2] for record in bench.shop.records if record[0] != "state"]
    orders, account = "BTC-USD/orders", "ALL/trades"
    assert kinds == [
        ("event", orders),
        ("event", OTHER),
        ("gap", orders),
        ("gap", account),
        ("event", orders),
    ]
    assert bench.shop.of("gap") == [(name, "outage", 10, 20) for name in (orders, account)]
    assert [fields["channel"] for fields in bench.named("gap_published")] == [orders, account]
    assert [fields["reason"] for fields in bench.named("line_lost")] == ["reset", "closed"]


async def test_a_book_is_published_from_its_snapshot_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for as soon as a line can be asked; until it is there its channel is syncing, and offers no book."""
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(Line, "is_open", True)
    monkeypatch.setattr(Line, "send", lambda line, text: asked.append((line.name, text)))
    feed = bench.feed(streams=("publicOrderBook",))
    connect(feed, "a")
    feed.received("a", [delta(1)])
    assert bench.shop.of("event") == []
    ((line, text),) = asked
    assert (line, msgspec.json.decode(text)["message"]) == ("a", "emitPublicOrderBook")
    assert bench.shop.images[BOOK]() is None
    request_id = msgspec.json.decode(text)["content"]["clientRequestId"].encode()
    levels = b'{"orderType":"buy","price":"1","quantity":"1"},{"orderType":"sell","price":"2","quantity":"1"}'
    snapshot = b'{"resultType":"publicOrderBook","data":{"clientRequestId":"%b","orders":[%b],"ts":1}}'
    feed.received("a", [delta(2), snapshot % (request_id, levels), delta(3)])
    kinds = [record[:3] for record in bench.shop.records if record[0] != "state"]
    assert kinds == [("snapshot", BOOK, "start"), ("event", BOOK, "a"), ("event", BOOK, "a")]  # behind ts 1
    assert b'"quantity":"3"' in (bench.shop.images[BOOK]() or b"")
    assert [word for _, word, _ in bench.shop.of("state")] == ["down", "syncing", "live"]


async def test_silent_lines_are_replaced_where_the_book_has_moved_on(
    bench: Bench, restarts: list[tuple[str, str, float]]
) -> None:
    """Lines that recovery has found dead are restarted, all of them, once."""
    feed = bench.feed()
    feed.recovery.replace = True
    feed.tick()
    feed.tick()
    assert restarts == [("a", "dead", 0.0), ("b", "dead", 0.0)]


async def test_states_are_told_to_every_channel(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    """Live, quiet, live, down: each change goes to all channels of the feed, and the end of the feed, too."""
    feed = bench.feed(streams=("orders", "publicTrades"))

    async def ticks(seconds: float) -> None:
        for _ in range(round(seconds / TICK_S)):
            await trio.sleep(TICK_S)
            feed.tick()

    connect(feed, "a")
    feed.received("a", [trade(1)])
    await ticks(1)
    await ticks(4)
    feed.received("a", [trade(2)])
    await ticks(1)
    feed.lost("a", "reset")
    await ticks(1)
    feed.end()
    for name in ("BTC-USD/orders", TRADES):
        states = [word for channel, word, _ in bench.shop.of("state") if channel == name]
        assert states == ["down", "live", "quiet", "live", "down", "down"]


class Times:
    """When the arbiter of a feed is told the time, by a daemon's ticks."""

    def __init__(self, feed: Feed) -> None:
        self.told: list[float] = []
        self._feed = feed
        self._tick = feed.arbiter.tick
        feed.arbiter.tick = self._write  # type: ignore[method-assign]

    def _write(self, now: float, recv: int) -> None:
        self.told.append(now)
        self._tick(now, recv)

    async def pass_by(self, seconds: float) -> list[float]:
        """Tick for so long; return how long after the beginning the arbiter was told the time."""
        began_s = trio.current_time()
        self.told.clear()
        for _ in range(round(seconds / TICK_S)):
            await trio.sleep(TICK_S)
            if self._feed.is_due(trio.current_time()):
                self._feed.tick()
        return [round(at - began_s, 1) for at in self.told]


async def test_a_feed_at_rest_is_left_alone(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    """When all lines are good and owe nothing, the arbiter is told the time when something is due, and now and then."""
    feed = bench.feed(streams=("orders",))
    connect(feed, "a", "b")
    for line in ("a", "b"):
        feed.received(line, [filled(1), filled(2)])
    times = Times(feed)
    quiet_s, good_s = bench.means.health.quiet_s, bench.means.health.probation_s
    assert await times.pass_by(9) == pytest.approx([0.1, quiet_s, good_s], abs=0.1)
    assert {line.health.state for line in feed.arbiter.lines.values()} == {"good"}
    assert len(await times.pass_by(5 * REST_S)) == 5
    feed.received("a", [filled(3)])
    assert await times.pass_by(0.2) == [0.1, 0.2]  # line b owes it
    feed.received("b", [filled(3)])
    assert await times.pass_by(1) == [0.1]


async def test_pongs_do_not_wake_a_feed(bench: Bench, autojump_clock: trio.testing.MockClock) -> None:
    """What changes nothing brings no work forward, nor does it put any off."""
    feed = bench.feed(streams=("orders",))
    connect(feed, "a")
    feed.received("a", [filled(1)])
    times = Times(feed)
    await times.pass_by(10)
    told: list[float] = []
    for _ in range(round(3 * REST_S)):
        feed.received("a", [b'{"resultType":"pong","data":{}}'])
        told += await times.pass_by(1)
    assert len(told) == 3


async def test_what_is_due_and_cannot_be_done_is_tried_again(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    """Trades want a first snapshot and no line can be asked: that is looked at once a second, and not at every tick."""
    feed = bench.feed(streams=("publicTrades",))
    connect(feed, "a")
    times = Times(feed)
    await times.pass_by(10)
    assert len(await times.pass_by(20 * RETRY_S)) in range(18, 21)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("bring"), st.sampled_from("ab"), st.integers(1, 3)),
        st.tuples(st.just("pong"), st.sampled_from("ab"), st.just(1)),
        st.tuples(st.sampled_from(["lose", "connect"]), st.sampled_from("ab"), st.just(1)),
        st.tuples(st.just("wait"), st.just(""), st.sampled_from([1, 3, 12, 30, 70, 150])),
    ),
    max_size=25,
)


class Play:
    """One feed that lives through steps; it writes down what comes of it, and when."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.feed = self.bench.feed(streams=("orders",))
        self.story: list[tuple[object, float]] = []
        self._brought = {"a": 0, "b": 0}
        self._seen = (0, 0)

    def act(self, kind: str, line: str, count: int) -> None:
        """Let something happen; each line brings the same events from the first on."""
        connected = line in "ab" and line and self.feed.arbiter.lines[line].connected
        if kind == "connect" and not connected:
            connect(self.feed, line)
            self._brought[line] = max(0, max(self._brought.values()) - 2)
        elif kind == "lose" and connected:
            self.feed.lost(line, "reset")
        elif kind == "pong" and connected:
            self.feed.received(line, [b'{"resultType":"pong","data":{}}'])
        elif kind == "bring" and connected:
            first = self._brought[line] + 1
            self._brought[line] += count
            self.feed.received(line, [filled(number) for number in range(first, first + count)])
        self.look()

    def look(self) -> None:
        """Write down what is new."""
        records, notes = self.bench.shop.records, self.bench.notes
        now_s = trio.current_time()
        self.story += [(record, now_s) for record in records[self._seen[0] :]]
        self.story += [((one.name, *one.fields.values()), now_s) for one in notes[self._seen[1] :]]
        self._seen = len(records), len(notes)


WITNESS_ALONE = [("bring", "a", 1), ("lose", "b", 1), ("connect", "b", 1), ("lose", "a", 1), ("wait", "", 30)]


@given(steps=steps)
@example(steps=WITNESS_ALONE)
@settings(max_examples=60)
def test_a_feed_that_is_left_alone_tells_the_same_story(steps: list[tuple[str, str, int]]) -> None:
    """Told the time only when something is due, it says and does what it would say and do if told at every tick."""
    clock = trio.testing.MockClock()

    async def main() -> None:
        always, lazy = Play(), Play()
        for kind, line, count in [("connect", "a", 1), ("connect", "b", 1), *steps, ("wait", "", 150)]:
            for play in (always, lazy):
                play.act(kind, line, count)
            for _ in range(count if kind == "wait" else 0):
                clock.jump(TICK_S)
                if lazy.feed.is_due(trio.current_time()):
                    lazy.feed.tick()
                always.feed._pace.due_s = 0.0
                always.feed.tick()
                for play in (always, lazy):
                    play.look()
        assert [what for what, _ in lazy.story] == [what for what, _ in always.story]
        late_s = [at - due for (_, at), (_, due) in zip(lazy.story, always.story, strict=True)]
        assert max(late_s) <= RETRY_S + TICK_S
        assert min(late_s) >= 0
        await trio.lowlevel.checkpoint()

    trio.run(main, clock=clock)


async def test_urgency_falls_with_what_is_connected(bench: Bench) -> None:
    """A first line is most urgent, then a second; who is connecting counts already, and who failed no more."""
    feed = bench.feed(lines=3)
    assert feed.crew.priority() == 0
    feed.connecting("a")
    assert feed.crew.priority() == 1
    feed.failed("a", ConnectionFailed("refused", "nobody there"), 1.0)
    assert feed.crew.priority() == 0
    connect(feed, "a", "b")
    assert feed.crew.priority() == 2
    feed.connecting("c")
    assert feed.crew.priority() == 2
    feed.lost("a", "reset")
    assert feed.crew.priority() == 2


async def test_a_failed_attempt_is_told_with_its_status(bench: Bench) -> None:
    """The note says why, with the HTTP status where there is one, and when the next attempt comes."""
    feed = bench.feed()
    feed.connecting("a")
    feed.failed("a", HandshakeRefused(503), 1.23456)
    feed.failed("b", ConnectionFailed("dns", "the name x does not resolve"), 2)
    first, second = bench.named("connect_failed")
    text = "the exchange answered the handshake with HTTP status 503"
    about = {"feed": "BTC-USD", "line": "a", "reason": "handshake", "status": 503, "retry_s": 1.235}
    assert first == about | {"detail": text}
    assert (second["reason"], second["status"], second["line"]) == ("dns", 0, "b")


async def test_only_events_make_a_connection_a_success(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pongs and garbage do not reset the backoff; an event does, once for each connection."""
    feed = bench.feed()
    resets: list[str] = []
    for name, line in feed.lines.items():
        monkeypatch.setattr(line, "reset_backoff", lambda name=name: resets.append(name))
    connect(feed, "a", "b")
    feed.received("a", [b'{"resultType":"pong","data":{}}', b"garbage"])
    assert resets == []
    feed.received("a", [trade(1)])
    feed.received("a", [trade(2)])
    feed.received("b", [trade(9)])
    assert resets == ["a", "b"]
    feed.lost("a", "reset")
    connect(feed, "a")
    feed.received("a", [trade(3)])
    assert resets == ["a", "b", "a"]


@pytest.fixture
def restarts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, float]]]:
    """Write down the restarts of lines."""
    found: list[tuple[str, str, float]] = []
    monkeypatch.setattr(
        Line,
        "restart",
        lambda line, reason, pause_s=0.0, **_: found.append((line.name, reason, pause_s)),
    )
    return found


async def test_orders_are_obeyed(bench: Bench, restarts: list[tuple[str, str, float]]) -> None:
    """A stalled line is restarted; a quarantined one is kept away for its time and its incident is handed on."""
    feed = bench.feed()
    feed.crew.rotation.busy = True  # otherwise it is replaced as soon as it is its turn
    feed.arbiter.orders += [Restart("a", "stalled"), Quarantine("b", {"line": "b"})]
    feed.tick()
    assert restarts == [("a", "stalled", 0.0), ("b", "quarantined", Health().quarantine_s)]
    assert bench.incidents == [{"line": "b"}]
    assert bench.named("line_restarted") == [{"feed": "BTC-USD", "line": "a", "reason": "stalled"}]
    assert bench.named("line_quarantined") == [{"feed": "BTC-USD", "line": "b"}]
    assert feed.arbiter.orders == []


def asks(feed: Feed, line: str) -> list[tuple[str, str]]:
    """Keep what a line is asked from now on, as its verb and id."""
    asked: list[tuple[str, str]] = []

    def send(text: str) -> bool:
        request = msgspec.json.decode(text)
        asked.append((request["message"], request["content"].get("clientRequestId", "")))
        return True

    feed.lines[line].send = send  # type: ignore[method-assign]
    return asked


def answer(verb: str, request_id: str) -> bytes:
    """Return the reply to a request to subscribe or unsubscribe."""
    return b'{"resultType":"%bd","data":{"clientRequestId":"%b"}}' % (verb.encode(), request_id.encode())


async def test_a_stream_that_was_dropped_in_between_begins_with_its_last_subscription(bench: Bench) -> None:
    """Added, dropped and added again before the first answer: what the first subscription brings is left out."""
    feed = bench.feed(streams=("publicOrderBook",), lines=1)
    asked = asks(feed, "a")
    connect(feed, "a")
    feed.received("a", [delta(1)])
    feed.change(STREAMS, 1)
    feed.change(("publicOrderBook",), 1)
    feed.change(STREAMS, 1)
    requests = [one for one in asked if "subscribe" in one[0]]
    assert [verb for verb, _ in requests] == ["subscribe", "unsubscribe", "subscribe"]
    first, leave, last = (answer(verb, request_id) for verb, request_id in requests)
    feed.received("a", [first])
    feed.received("a", [trade(1)])
    feed.received("a", [leave])
    assert bench.shop.of("event") == []
    feed.received("a", [last])
    feed.received("a", [trade(5)])
    assert [record[2] for record in bench.shop.of("event")] == [trade(5)]
    assert [note["channel"] for note in bench.named("straggler_left_out")] == [TRADES]


async def test_a_stream_is_dropped_as_long_as_a_subscription_to_it_is_under_way(bench: Bench) -> None:
    """Dropped before the subscription is answered: what it brings in the end is owed by no line."""
    feed = bench.feed(streams=("publicOrderBook",))
    asked = [asks(feed, "a"), asks(feed, "b")]
    connect(feed, "a", "b")
    feed.change(STREAMS, 2)
    feed.change(("publicOrderBook",), 2)
    (first_a, leave_a), (first_b, _) = ([one for one in each if "subscribe" in one[0]] for each in asked)
    feed.received("a", [answer(*first_a)])
    feed.received("a", [answer(*leave_a)])
    feed.received("b", [answer(*first_b)])
    feed.received("b", [trade(1)])
    assert feed.arbiter.window.head == 0
    assert [note["channel"] for note in bench.named("straggler_left_out")] == [TRADES]


async def test_a_stream_is_dropped_as_long_as_a_connection_with_it_is_being_opened(bench: Bench) -> None:
    """The other lines have left it by then: what the new connection brings of it is owed by no line."""
    feed = bench.feed()
    asked = asks(feed, "a")
    connect(feed, "a")
    feed.connecting("b")
    feed.change(("publicOrderBook",), 2)
    (leave,) = [one for one in asked if "subscribe" in one[0]]
    feed.received("a", [answer(*leave)])
    feed.connected("b")
    feed.received("b", [trade(1)])
    assert feed.arbiter.window.head == 0
    assert [note["channel"] for note in bench.named("straggler_left_out")] == [TRADES]


async def test_lines_that_are_still_leaving_leave_no_letter_for_more(
    bench: Bench, autojump_clock: trio.testing.MockClock
) -> None:
    """Changed again and again while the exchange answers no goodbye: further lines come when there is a letter."""
    feed = bench.feed(lines=1)

    async def keep(_: object) -> None:
        await trio.sleep_forever()

    feed.crew._keep = keep  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        await trio.sleep(0.1)
        for count in (8, 1, 7, 1, 7):
            feed.change(STREAMS, count)
            for _ in range(10):
                await trio.sleep(TICK_S)
                feed.tick()
        assert len(feed.lines) == len(LINE_NAMES)
        nursery.cancel_scope.cancel()


async def test_a_channel_is_not_left_to_a_feed_that_makes_nothing_of_it(bench: Bench) -> None:
    """What another feed has brought of a channel, and left out, does not keep that open when its own feed goes."""
    publisher = Publisher(
        Publish(), bench.means.bounds, session="session", clock=lambda: 1, notify=bench.notes.append
    )
    bench.shop = Outlet(publisher)  # type: ignore[assignment]
    own, other = bench.feed(), bench.feed("ETH-USD")
    connect(other, "a")
    other.received("a", [trade(1)])
    assert [note["channel"] for note in bench.named("foreign_event")] == [TRADES]
    own.retire()
    assert sorted(one.name for one in publisher.channels() if one.retired) == [BOOK, TRADES]


async def test_how_lines_interleave_is_told_once(bench: Bench) -> None:
    """(3) As soon as a line brings channels in another order than what is out, of each channel."""
    feed = bench.feed(streams=("publicTrades", "publicOrderBook"))
    connect(feed, "a", "b")
    for line in "ab":
        feed.received(line, [trade(1), delta(1), trade(2), delta(2)])
    assert bench.shop.of("interleaved") == []
    feed.received("a", [trade(3), delta(3)])
    feed.received("b", [delta(3), trade(3), trade(4)])
    assert bench.shop.of("interleaved") == [(TRADES,), (BOOK,)]
    told = max(index for index, record in enumerate(bench.shop.records) if record[0] == "interleaved")
    assert bench.shop.records.index(("event", TRADES, "b", trade(4), "")) > told
    feed.received("a", [trade(4), trade(5)])
    assert len(bench.shop.of("interleaved")) == 2


async def test_a_channel_of_books_alone_goes_on_behind_a_gap(bench: Bench) -> None:
    """(4) Nothing but a book was published in it, by whoever; a feed that begins anew does not know what came since."""
    channel = bench.shop.channel(BOOK, feed="BTC-USD", account=False)
    channel.snapshot("start", b"{}")
    bench.wall_ns = 50
    feed = bench.feed(streams=("publicOrderBook",))
    assert feed.recovery.resumed == {BOOK: 50}
