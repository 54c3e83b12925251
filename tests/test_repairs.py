# ruff: noqa: ARG001 - the clock works by being asked for
"""Books and gaps of the daemon as a whole, over loopback, with the clock under control (requirements 2, 4, 5 and 6)."""

import json
from collections.abc import Callable
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from feedhandler.client.books import Book, Books
from feedhandler.client.core import Reader, Snapshot
from feedhandler.client.trio_client import Client
from feedhandler.config import Bounds, Feed, Recovery
from feedhandler.simulator.settings import Behaviour
from tests.support.references import changes, rows
from tests.support.stage import BTC, ETH, Stage, staged

BOOK, TRADES = f"{BTC}/publicOrderBook", f"{BTC}/publicTrades"
LOST = ("line_lost", "connect_failed")
RECONNECTS = 1_000

OLD_FASHIONED = Behaviour(
    snapshot_ts=False,
    snapshot_market=False,
    snapshot_request_id=False,
    delta_ts=False,
    market_in_public=False,
)
"""What the first version of the exchange's interface left out of its messages."""


def assert_trades_come_once(stage: Stage, *, channel: str = TRADES) -> None:
    """Assert that every trade of the truth came once, in its order."""
    events = stage.reading.of("event", channel)
    assert [row for event in events for row in rows(json.dumps(event["msg"]))] == [
        row for payload in stage.truth[channel] for row in rows(payload)
    ]


def results(stage: Stage) -> list[Any]:
    """Return what came of the audits."""
    return [fields["result"] for fields in stage.named("book_audited")]


# Quiet or dead


async def test_silent_lines_with_a_true_book_are_quiet(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(2) Ten minutes of silence: audited at once and at the interval, never reconnected, no gap."""
    async with staged(tmp_path) as stage:
        await stage.talk(1)
        await trio.sleep(600)
        assert stage.named(*LOST, "line_restarted") == []
        assert set(results(stage)) == {"passed"}
        assert len(results(stage)) in range(8, 16)
        assert stage.reading.states(BOOK)[-1] == "quiet"
        assert stage.reading.of("gap") == []


@pytest.mark.parametrize("behaviour", [Behaviour(), OLD_FASHIONED])
async def test_silent_lines_with_a_book_that_has_moved_on_are_dead(
    tmp_path: Path, autojump_clock: MockClock, behaviour: Behaviour
) -> None:
    """(2) All lines mute, pongs come, and a fresh snapshot differs: a gap, new lines, and what they missed repaired."""
    async with staged(tmp_path, behaviour=behaviour) as stage:
        await stage.talk(1)
        await stage.arrived()
        if behaviour is OLD_FASHIONED:
            await trio.sleep(90)  # a snapshot without a time may be so old
        stage.strike("mute", "all")
        await stage.talk(3)
        await stage.until(lambda: len(stage.named("line_lost")) == 2)
        assert {fields["reason"] for fields in stage.named("line_lost")} == {"dead"}
        await stage.until(stage.all_connected)
        await stage.until(stage.all_synchronised)
        await stage.talk_until(stage.all_up)
        await trio.sleep(1)
        assert stage.follow_book().shapes == ["snapshot", "events", "gap", "snapshot", "events"]
        assert len(stage.reading.of("gap", BOOK)) == 1
        assert_trades_come_once(stage)
        assert len(stage.named("line_lost")) == 2


# Gaps


async def test_books_survive_a_thousand_reconnects(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(5) Lines die at random, alone and together, while repairs go on, too: the book is true at every seq."""
    lots = Random(5)
    async with staged(tmp_path) as stage:
        while len(stage.named("line_connected")) < RECONNECTS:
            stage.say(lots.randrange(4))
            if lots.random() < 0.3:
                stage.strike("outage", "all", duration_s=lots.choice([0.01, 0.2, 1.0]))
            else:
                stage.strike(lots.choice(["close", "reset", "half_frame"]), lots.randrange(2))
            await stage.talk(lots.choice([0.0, 0.05, 0.3, 1.0]))
        await stage.until(stage.all_connected)
        await stage.until(stage.all_synchronised)
        await stage.talk_until(stage.all_up)
        await trio.sleep(2)
        shapes = stage.follow_book().shapes
        late = [one for one in stage.reading.of("snapshot", BOOK) if one["reason"] == "late"]
        assert shapes.count("gap") > 100
        assert shapes.count("snapshot") - len(late) == shapes.count("gap") + 1
        assert ("gap", "events") not in pairwise(shapes)
        assert {event.get("class", "") for event in stage.reading.of("event")} <= {"", "late", "backfilled"}
        assert stage.named("book_failed") == []


@pytest.mark.parametrize("behaviour", [Behaviour(), OLD_FASHIONED, Behaviour(trades_newest_first=False)])
async def test_an_outage_during_a_repair(
    tmp_path: Path, autojump_clock: MockClock, behaviour: Behaviour
) -> None:
    """(4) The lines go again before a snapshot has come: one gap record with both bounds, or one for each."""
    async with staged(tmp_path, behaviour=behaviour) as stage:
        await stage.talk(1)
        for _ in range(3):
            stage.strike("outage", "all", duration_s=1)
            await stage.talk(0.5)
            lost = len(stage.named("line_lost"))
            await stage.talk_until(lambda lost=lost: len(stage.named("line_connected")) > lost, every_s=0.001)
        await stage.until(stage.all_connected)
        await stage.until(stage.all_synchronised)
        await stage.talk_until(stage.all_up)
        await trio.sleep(3)
        stage.follow_book()
        assert_trades_come_once(stage)
        assert {event.get("class", "") for event in stage.reading.of("event")} <= {"", "backfilled"}


async def test_an_outage_of_everything_is_repaired_everywhere(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(4) All lines of all feeds at once, one over ALL among them: every channel has its own gap and its repair."""
    feeds = (Feed(markets=(BTC,), lines=2), Feed(name="all", markets=("ALL",), streams=("orders",), lines=2))
    async with staged(tmp_path, feeds=feeds, markets=(BTC,), wait=False) as stage:
        await stage.until(stage.all_connected)
        await stage.until(stage.all_synchronised)
        await stage.talk(1)
        for market in (BTC, "ALL"):
            stage.strike("outage", "all", market, duration_s=3)
        await stage.talk(5)
        await stage.until(stage.all_connected)
        await stage.talk(2)
        await trio.sleep(1)
        stage.follow_book()
        assert_trades_come_once(stage)


async def test_many_books_of_one_feed_are_repaired(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(4) Over ALL the requests name their markets, and share the lines within their bound."""
    markets = tuple(f"M{number}-USD" for number in range(8))
    feeds = (Feed(markets=("ALL",), lines=2),)
    async with staged(tmp_path, markets=markets, feeds=feeds) as stage:
        await stage.talk(3)
        await stage.until(stage.all_synchronised)
        stage.strike("outage", "all", "ALL", duration_s=2)
        await stage.talk(5)
        await stage.until(stage.all_connected)
        await stage.until(stage.all_synchronised)
        await stage.talk(2)
        await trio.sleep(1)
        for market in markets:
            shapes = stage.follow_book(market).shapes
            assert [shape for shape in shapes if shape != "events"] == ["snapshot", "gap", "snapshot"]


# Audits


@pytest.mark.parametrize("behaviour", [Behaviour(), OLD_FASHIONED])
async def test_a_wrong_level_is_found_within_an_audit_period(
    tmp_path: Path, autojump_clock: MockClock, behaviour: Behaviour
) -> None:
    """(5) A delta that no line brings makes the book wrong: found, told with its level, and repaired behind a gap."""
    async with staged(tmp_path, behaviour=behaviour, recovery=Recovery(audit_s=60.0)) as stage:
        await stage.talk(200, every_s=0.1)
        assert set(results(stage)) == {"passed"}
        stage.strike("drop", "all")
        delta = b'{"resultType":"publicOrderBookDelta","market":"BTC-USD","data":{"orders":[%b],"ts":1}}'
        row = b'{"orderType":"buy","price":"0.01","quantity":"7"}'
        stage.exchange.broadcast(BTC, "publicOrderBook", delta % row)
        wrong_s = trio.current_time()
        await stage.talk_until(lambda: bool(stage.named("book_failed")), every_s=0.1)
        assert trio.current_time() - wrong_s <= 60 * 1.25 + 5
        assert stage.named("book_failed")[0]["levels"] == "buy 0.01: 0 is 7"
        await stage.talk(10, every_s=0.1)
        (gap,) = stage.reading.of("gap", BOOK)
        assert gap["reason"] == "audit"
        kinds = [one["type"] for one in stage.reading.records if one.get("channel") == BOOK]
        assert "event" not in kinds[kinds.index("gap") : kinds.index("snapshot", kinds.index("gap"))]
        assert changes(json.dumps(stage.reading.of("snapshot", BOOK)[-1]["msg"])).keys() >= {
            ("buy", next(iter(changes(delta % row)))[1])
        }
        assert stage.named(*LOST) == []


# Sources of snapshots


@pytest.mark.parametrize(
    "behaviour", [Behaviour(snapshot_lag_s=30), Behaviour(snapshot_lag_s=30, snapshot_ts=False)]
)
async def test_a_source_that_lags_converges(
    tmp_path: Path, autojump_clock: MockClock, behaviour: Behaviour
) -> None:
    """(6) Snapshots 30 s old: events are kept across attempts, an alarm is raised, and the book that comes is true."""
    async with staged(tmp_path, behaviour=behaviour) as stage:
        await stage.talk(40, every_s=0.1)
        stage.strike("outage", "all", duration_s=2)
        await stage.talk(5, every_s=0.1)
        began_s = trio.current_time()
        await stage.talk_until(stage.all_synchronised, every_s=0.1)
        assert 20 < trio.current_time() - began_s < 45
        await stage.talk(300, every_s=0.2)
        await trio.sleep(1)
        assert stage.follow_book().shapes == ["snapshot", "events", "gap", "snapshot", "events"]
        assert stage.named("resync_stuck")
        assert {"too_old"} == {fields["reason"] for fields in stage.named("snapshot_missed")}
        assert set(results(stage)) <= {"passed", "unplaced"}
        assert stage.named("book_failed") == []


async def test_a_hold_that_is_too_small_for_the_lag_never_lies(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(6) (8) What is held is bounded; with a source that lags more than that the book stays away, and says so."""
    behaviour = Behaviour(snapshot_lag_s=30)
    bounds = Bounds(repair_events=50, backoff_min_s=0.1, backoff_max_s=0.5)
    async with staged(tmp_path, behaviour=behaviour, bounds=bounds) as stage:
        await stage.talk(40, every_s=0.1)
        stage.strike("outage", "all", duration_s=2)
        await stage.talk(60, every_s=0.1)
        assert not stage.all_synchronised()
        assert stage.reading.states(BOOK)[-1] == "syncing"
        assert stage.named("repair_overflowed")
        stage.exchange.markets[BTC]._lag_s = 0.0
        await stage.talk_until(stage.all_synchronised)
        await trio.sleep(1)
        stage.follow_book()


def level(price: str, quantity: object) -> dict[str, object]:
    """Return a bid."""
    return {"orderType": "buy", "price": price, "quantity": quantity}


def with_orders(change: Callable[[list[Any]], object]) -> Callable[[bytes], bytes]:
    """Return what changes the levels of a reply."""

    def spoil(reply: bytes) -> bytes:
        value = json.loads(reply)
        change(value["data"]["orders"])
        return json.dumps(value).encode()

    return spoil


SPOILED: dict[str, Callable[[bytes], bytes]] = {
    "empty": with_orders(lambda orders: orders.clear()),
    "crossed": with_orders(lambda orders: orders.append(level("999999", "1"))),
    "truncated": lambda reply: reply[: len(reply) // 2],
    "market": lambda reply: reply.replace(BTC.encode(), ETH.encode()),
    "twice": with_orders(lambda orders: orders.append(orders[0])),
    "negative": with_orders(lambda orders: orders.append(level("0.01", "-1"))),
    "word": with_orders(lambda orders: orders.append(level("cheap", "1"))),
    "number": with_orders(lambda orders: orders.append(level("0.01", 5))),
    "failed": lambda reply: reply.replace(b'"statusCode":200', b'"statusCode":500'),
    "silence": lambda _: b"",
}
"""Snapshots of a book as no exchange should send them."""


@pytest.mark.parametrize("how", SPOILED)
async def test_snapshots_of_no_use_cost_another_request(
    tmp_path: Path, autojump_clock: MockClock, how: str
) -> None:
    """Whatever the first two replies are, the third one repairs; nothing else is lost, and no line is."""
    async with staged(tmp_path) as stage:
        await stage.talk(1)
        spoil(stage, how, replies=2)
        stage.strike("outage", "all", duration_s=1)
        await stage.talk(3)
        await stage.talk_until(stage.all_synchronised)
        await stage.talk(5)
        await trio.sleep(1)
        assert_trades_come_once(stage)
        stage.follow_book()
        reasons = [fields["reason"] for fields in stage.named("snapshot_missed")]
        assert len(reasons) == 2
        assert len(stage.named("line_lost")) == 2


async def test_a_book_of_fifty_thousand_levels(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A very large snapshot is read, published, audited and given to whoever joins."""
    far = [("buy", f"0.{number:07}", "1") for number in range(1, 50_001)]
    async with staged(tmp_path, before=lambda exchange: exchange.markets[BTC].open(far)) as stage:
        await stage.talk(10, every_s=0.1)
        await stage.arrived()
        stage.follow_book()
        assert results(stage) == ["passed"]
        async with Client(tmp_path / "feed.sock", Reader([BOOK])) as client:
            async for received in client:
                if isinstance(received.record, Snapshot):
                    assert len(changes(bytes(received.record.msg))) > 50_000
                    break


def spoil(stage: Stage, how: str, *, replies: int) -> None:
    """Let the exchange's next few snapshots of books be spoiled, or not be sent."""
    desk, reply = stage.exchange._desk, stage.exchange.reply
    answer: Callable[..., bytes] = desk.book_snapshot
    left = [replies]

    def answer_badly(market: str, now: float, request_id: str | None = None) -> bytes:
        true = answer(market, now, request_id)
        left[0] -= 1
        if left[0] < 0:
            return true
        return SPOILED[how](true)

    desk.book_snapshot = answer_badly  # type: ignore[method-assign]
    stage.exchange.reply = lambda line, message: reply(line, message) if message else None  # type: ignore[method-assign]


# Consumers


async def test_who_joins_has_the_book_of_its_place(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(9) Consumers that come and go under load, repairs in between: at every seq that they see their book is true."""
    seen: list[tuple[int, dict[Any, Decimal]]] = []

    async def consume() -> None:
        books = Books()
        async with Client(tmp_path / "feed.sock", Reader([BOOK])) as client:
            async for received in client:
                books.follow(received.record)
                book = books.get(BOOK)
                if book is not None and book.synchronised:
                    seen.append((book.seq, levels_of(book)))

    async with staged(tmp_path) as stage:
        for round_ in range(6):
            with trio.move_on_after(2):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(consume)
                    await stage.talk(10, every_s=0.01)
            if round_ % 2:
                stage.strike("outage", "all", duration_s=0.5)
                await stage.talk(2)
        await stage.until(stage.all_synchronised)
        await stage.talk_until(stage.all_up)
        await trio.sleep(1)
        stage.follow_book()
        books = books_by_seq(stage.reading.records)
        assert len(seen) > 500
        assert all(books[seq] == levels for seq, levels in seen)


def levels_of(book: Book) -> dict[Any, Decimal]:
    """Return a client's book as numbers."""
    sides = (("buy", book.bids), ("sell", book.asks))
    return {(side, Decimal(one.price)): Decimal(one.quantity) for side, levels in sides for one in levels}


def books_by_seq(records: list[dict[str, Any]]) -> dict[int, dict[Any, Decimal]]:
    """Return the book after each seq that a consumer has who has read everything from the start."""
    books: dict[int, dict[Any, Decimal]] = {}
    book: dict[Any, Decimal] = {}
    for record in records:
        if record.get("channel") == BOOK and "msg" in record:
            levels = changes(json.dumps(record["msg"]))
            book = levels if record["type"] == "snapshot" else book | levels
            book = {level: quantity for level, quantity in book.items() if quantity}
            books[record["seq"]] = book
    return books
