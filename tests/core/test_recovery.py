"""Recovery between the arbiter and the publisher: who is asked, what an answer is for, and what comes of none."""

import json
from typing import Any

import pytest

from feedhandler.config import Bounds
from feedhandler.core.messages import Gap, Output, Release, Reply, Snapshot, State
from feedhandler.core.notes import Note
from feedhandler.core.recovery import STUCK_ATTEMPTS, TRADE_ATTEMPTS, Recovery, Settings
from feedhandler.exchange.desk import Desk
from feedhandler.exchange.messages import Dialect

BOOK, TRADES, OTHER, ORDERS = "M/publicOrderBook", "M/publicTrades", "M/other", "M/orders"
LEVELS = [("buy", "1", "5"), ("sell", "2", "5")]


def delta(price: str, quantity: str, ts: int) -> bytes:
    """Return a delta that sets one bid."""
    orders = [{"orderType": "buy", "price": price, "quantity": quantity}]
    return json.dumps({"resultType": "publicOrderBookDelta", "data": {"orders": orders, "ts": ts}}).encode()


def trade(*numbers: int, kind: str = "publicCompletedOrdersDelta", **more: object) -> bytes:
    """Return a message of trade rows."""
    rows = [
        {"matchId": f"m{n}", "executionType": "taker", "orderType": "buy", "updatedAt": n} for n in numbers
    ]
    return json.dumps({"resultType": kind, "data": {"orders": rows, **more}}).encode()


class House:
    """A recovery with two lines, and what came of it."""

    def __init__(self, market: str = "M") -> None:
        self.now = 0.0
        self.lines = ["a", "b"]
        self.notes: list[Note] = []
        self.published: list[Output] = []
        self.numbers = 0
        self.recovery = Recovery(
            "M",
            Desk(market, Dialect(market)),
            settings=Settings(repair_s=3, retry_s=1, verify_s=3, audit_s=64),
            bounds=Bounds(),
            new_id=self._new_id,
            askable=lambda: self.lines,
            notify=self.notes.append,
        )
        for channel in (BOOK, TRADES, OTHER, ORDERS):
            self.recovery.open(channel)
        self.release(State("live", 0))

    def _new_id(self) -> str:
        self.numbers += 1
        return f"id{self.numbers}"

    def release(self, *outputs: Output) -> list[Output]:
        """Let the arbiter release something."""
        return self._take(self.recovery.process(outputs, self.now, 7))

    def event(self, channel: str, payload: bytes, position: int = 0, kind: str = "") -> list[Output]:
        """Let the arbiter release an event."""
        return self.release(Release(channel, payload, "a", 7, kind, position))

    def wait(self, seconds: float) -> list[Output]:
        """Time passes."""
        self.now += seconds
        return self._take(self.recovery.tick(self.now, 7))

    def asked(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what is to be asked now, and of whom."""
        asks, self.recovery.asks = self.recovery.asks, []
        return [(line, json.loads(request)) for line, request in asks]

    def answer(
        self, line: str, payload: bytes, request_id: str = "", kind: str = "publicOrderBook"
    ) -> list[Output]:
        """Let a line bring a reply."""
        return self._take(self.recovery.reply(line, Reply(kind, request_id, payload), self.now, 9))

    def book(self, *levels: tuple[str, str, str], market: str = "M") -> bytes:
        """Return a snapshot of a book."""
        orders = [
            {"orderType": side, "price": price, "quantity": quantity} for side, price, quantity in levels
        ]
        return json.dumps(
            {"resultType": "publicOrderBook", "market": market, "data": {"orders": orders}}
        ).encode()

    def synchronise(self) -> None:
        """Let the book be there."""
        self.wait(0)
        ((line, request),) = self.asked()
        self.answer(line, self.book(*LEVELS), request["content"]["clientRequestId"])
        assert self.recovery.synchronised() == {BOOK: True}

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the fields of the notes of a name."""
        return [note.fields for note in self.notes if note.name == name]

    def _take(self, outputs: list[Output]) -> list[Output]:
        self.published += outputs
        return outputs

    @property
    def states(self) -> list[tuple[str, str]]:
        """The states that were announced."""
        return [(one.channel, one.state) for one in self.published if isinstance(one, State)]


def test_a_book_begins_with_its_snapshot() -> None:
    """Events are held until the snapshot that was asked for; nobody else's channel waits."""
    house = House()
    assert house.states == [(BOOK, "syncing"), (TRADES, "live"), (OTHER, "live"), (ORDERS, "live")]
    house.wait(0)
    ((line, request),) = house.asked()
    assert (line, request["message"]) == ("a", "emitPublicOrderBook")
    assert house.event(BOOK, delta("1", "6", 5), 0) == []
    assert house.recovery.image(BOOK) is None
    assert len(house.event(TRADES, trade(1), 1)) == 1
    assert len(house.event(OTHER, b"{}", 2)) == 1
    published = house.answer("a", house.book(*LEVELS), request["content"]["clientRequestId"])
    assert [type(one) for one in published] == [Snapshot, Release, State]
    assert house.states[-1] == (BOOK, "live")
    assert len(house.event(BOOK, delta("1", "7", 6), 3)) == 1
    house.recovery.idle()
    image = house.recovery.image(BOOK)
    assert image is not None
    assert b'"7"' in image
    assert house.recovery.image(TRADES) is None


def test_over_all_markets_a_request_names_its_own() -> None:
    """On a connection over ALL the market is required."""
    house = House("ALL")
    house.wait(0)
    ((_, request),) = house.asked()
    assert request["content"]["market"] == "M"


def test_a_reply_without_an_id_is_for_whoever_waits_on_its_line() -> None:
    """By kind, line and market; what nobody asked for changes nothing."""
    house = House()
    house.wait(0)
    house.asked()
    assert house.answer("a", house.book(*LEVELS), "another id") == []
    assert house.answer("b", house.book(*LEVELS)) == []
    assert house.answer("a", house.book(*LEVELS, market="N")) == []
    assert house.answer("a", trade(1, kind="publicCompletedOrders"), kind="publicCompletedOrders") == []
    assert house.answer("a", house.book(*LEVELS)) != []


def test_the_next_line_is_asked_where_one_does_not_answer() -> None:
    """(6) Silence and broken snapshots change the line, are noted, and after a while raise an alarm."""
    house = House()
    house.wait(0)
    assert [line for line, _ in house.asked()] == ["a"]
    house.wait(3)
    house.wait(1)
    ((line, request),) = house.asked()
    assert line == "b"
    house.answer("b", house.book(), request["content"]["clientRequestId"])
    assert [note["reason"] for note in house.named("snapshot_missed")] == ["silence", "empty"]
    for _ in range(STUCK_ATTEMPTS):
        house.wait(3)
        house.wait(1)
    assert house.named("resync_stuck")
    house.lines = []
    house.wait(10)
    house.asked()
    house.wait(10)
    assert house.asked() == []


def test_a_line_that_goes_takes_its_answers_with_it() -> None:
    """What was asked of it is asked of another one at once."""
    house = House()
    house.wait(0)
    house.asked()
    house.lines = ["b"]
    house.recovery.line_lost("a", house.now)
    house.wait(0)
    assert [line for line, _ in house.asked()] == ["b"]


def test_a_gap_is_one_record_for_each_channel_of_the_promise() -> None:
    """(4) Books and trades are repaired behind it; orders have but the record; other messages have none."""
    house = House()
    house.synchronise()
    house.event(TRADES, trade(1), 1)
    assert [one.channel for one in house.release(Gap("", "outage", 1, 2)) if isinstance(one, Gap)] == [ORDERS]
    assert set(house.states[-2:]) == {(BOOK, "syncing"), (TRADES, "syncing")}
    house.event(TRADES, trade(9), 2)
    house.event(BOOK, delta("1", "8", 9), 3)
    house.wait(0)
    asked = {request["message"]: request["content"]["clientRequestId"] for _, request in house.asked()}
    rows = trade(5, 9, kind="publicCompletedOrders")
    repaired = house.answer("a", rows, asked["emitPublicCompletedOrders"], "publicCompletedOrders")
    assert [getattr(one, "kind", type(one).__name__) for one in repaired] == [
        "Gap",
        "backfilled",
        "",
        "State",
    ]
    repaired = house.answer("a", house.book(*LEVELS), asked["emitPublicOrderBook"])
    assert [type(one) for one in repaired] == [Gap, Snapshot, Release, State]
    assert house.named("trades_repaired") == [{"feed": "M", "channel": TRADES, "rows": 1}]


def test_trades_do_without_a_snapshot_in_the_end() -> None:
    """R9: a repair has a time-out; trades then go on behind their gap without backfill."""
    house = House()
    house.event(TRADES, trade(1), 0)
    house.release(Gap(TRADES, "unproven", 1, 2))
    house.event(TRADES, trade(9), 1)
    house.wait(0)
    requests = [request for _, request in house.asked() if "Completed" in request["message"]]
    unreadable = house.answer("a", b"{}", requests[0]["content"]["clientRequestId"], "publicCompletedOrders")
    assert unreadable == []
    for _ in range(2 * TRADE_ATTEMPTS):
        house.wait(1)
        house.wait(3)
    kinds = [type(one) for one in house.published if getattr(one, "channel", "") == TRADES]
    assert kinds.count(Gap) == 1
    assert kinds.count(Release) == 2


@pytest.mark.parametrize("state", ["live", "quiet"])
def test_a_wrong_book_is_found_within_an_audit(state: str) -> None:
    """(2) (5) Two snapshots that differ are a gap and a resync; with all lines silent the lines are dead."""
    house = House()
    house.synchronise()
    house.release(State(state, 0))
    house.wait(3)
    wrong = house.book(*LEVELS, ("buy", "0.5", "1"))
    for _ in range(2):
        ((line, request),) = house.asked()
        house.answer(line, wrong, request["content"]["clientRequestId"])
        house.wait(1)
    assert [note["result"] for note in house.named("book_audited")] == ["suspicious", "failed"]
    assert house.named("book_failed")[0]["levels"] == "buy 0.5"
    assert house.recovery.synchronised() == {BOOK: False}
    assert house.recovery.dead == (state == "quiet")
    ((line, request),) = house.asked()
    repaired = house.answer(line, wrong, request["content"]["clientRequestId"])
    assert [getattr(one, "reason", "") for one in repaired[:2]] == ["audit", "audit"]


def test_an_audit_that_agrees_is_repeated_after_its_time() -> None:
    """Each book has its own time, so that not all come at once; it can be asked for at once."""
    house = House()
    house.synchronise()
    house.wait(3)
    ((line, request),) = house.asked()
    assert house.answer(line, house.book(*LEVELS), request["content"]["clientRequestId"]) == []
    assert [note["result"] for note in house.named("book_audited")] == ["passed"]
    house.wait(47)
    assert house.asked() == []
    house.recovery.audit_soon(house.now)
    house.wait(0)
    assert len(house.asked()) == 1
    house.wait(3)
    assert house.named("snapshot_missed")


def test_a_feed_that_is_down_has_no_channel_that_synchronises() -> None:
    """The state of a channel is its feed's, unless its book or its trades are being repaired."""
    house = House()
    house.release(State("down", 0))
    assert house.states[-4:] == [(BOOK, "down"), (TRADES, "down"), (OTHER, "down"), (ORDERS, "down")]
