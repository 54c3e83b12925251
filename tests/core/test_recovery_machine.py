"""Recovery as a whole against a model of the exchange: whatever happens, what is published is true, or marked.

The model knows the true sequence of two channels. A stub of an arbiter releases it in order; a gap hides a stretch.
What recovery asks for is answered at some time, in any order, with the truth of some moment. The consumer holds each
published record against the truth: after a snapshot the book is the true one at some place that is not before the
place reached, each event is the next one of that place, and nothing stands between a gap and its snapshot; each trade
row comes once, in order, and is missing only behind a gap record.

`Kind` is an exchange that answers from between the request and the reply's place on its line. The machines below it
are awkward in one way each. What no machine has, since nothing could tell: a source that lags, at the very start, or
without times in a market that is silent, or one whose book from within the gap is the very one from before it (the
docstring of `book_repair`).
"""

import json
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from feedhandler.config import Bounds
from feedhandler.config import Recovery as Settings
from feedhandler.core.audit import PAST_S
from feedhandler.core.messages import Gap, Output, Release, Reply, Snapshot, State
from feedhandler.core.notes import Note
from feedhandler.core.recovery import Recovery
from feedhandler.exchange.desk import Desk
from feedhandler.exchange.messages import Dialect
from tests.support.references import Level, Row, changes, rows
from tests.support.scripts import steady

BOOK, TRADES = "M/publicOrderBook", "M/publicTrades"
PRICES = (1, 2, 3, 61, 62)
REACH_ROWS = 12
HOLD_EVENTS = 30
SETTLING_STEPS = 200
OFTEN = 10
"""An awkward machine has been so at least as often in all its examples."""

Pending = tuple[str, dict[str, Any], int]
"""A request: its line, its text, how much of the sequence had been released when it was made."""


class Kind(RuleBasedStateMachine):
    """A recovery with two lines, the exchange behind them, and a consumer before it."""

    dated = True
    ids = True
    newest_first = True
    lag = 0
    """By how many events a snapshot may be older than its request's place on the line."""
    ahead = 0
    """By how many events a snapshot may be newer than its place on the line."""
    in_flight = True
    """Whether what was asked before a gap is answered behind it."""
    met: ClassVar[int] = 0
    """How often a machine has been awkward in its way."""

    @initialize()
    def start(self) -> None:
        """Begin with two lines up and nothing said."""
        self.begin()

    def begin(self) -> None:
        """Set the stage."""
        self.now = 0.0
        self.truth: list[tuple[str, bytes]] = []
        self.books: list[dict[Level, Any]] = [changes(self.message([(1, 1), (62, 1)], "publicOrderBook", 0))]
        self.trades: list[bytes] = []
        self.released = 0
        self.gaps: list[int] = []
        self.gap_at = 0
        self.hidden: list[int] = []
        self.gone: set[int] = set()
        self.lines = ["a", "b"]
        self.pending: list[Pending] = []
        self.notes: list[Note] = []
        self.consumer = Consumer(self)
        self.numbers = 0
        self.recovery = Recovery(
            "M",
            Desk("M", Dialect("M")),
            settings=Settings(audit_s=10),
            bounds=Bounds(repair_events=HOLD_EVENTS),
            new_id=self.new_id,
            askable=lambda: self.lines,
            owns=lambda _: True,
            notify=self.notes.append,
        )
        for channel in (BOOK, TRADES):
            self.publish(self.recovery.open(channel, 0))
        self.publish(self.recovery.process([State("live", 0)], self.now, 0))
        self.wait(0.0)

    # The exchange

    def new_id(self) -> str:
        """Return the next id of a request."""
        self.numbers += 1
        return f"id{self.numbers}"

    def message(self, levels: list[tuple[int, int]], kind: str, ts: int, request_id: str = "") -> bytes:
        """Return a book message; prices below fifty are bids."""
        orders = [
            {"orderType": "buy" if p < 50 else "sell", "price": str(p), "quantity": str(q)} for p, q in levels
        ]
        dated = {"ts": ts} if self.dated else {}
        own = {"clientRequestId": request_id} if request_id and self.ids else {}
        return json.dumps(
            {"resultType": kind, "data": {"orders": orders, "statusCode": 200} | dated | own}
        ).encode()

    def row(self, number: int) -> dict[str, Any]:
        """Return a trade's row."""
        return {"matchId": f"m{number}", "executionType": "taker", "orderType": "buy", "updatedAt": number}

    @rule(price=st.sampled_from(PRICES), quantity=st.sampled_from([None, None, None, 0]), more=st.booleans())
    def change(self, price: int, quantity: int | None, *, more: bool) -> None:
        """Let a level change to a quantity of its own, or go; a second one may change with it."""
        number = len(self.truth) + 1
        levels = [(price, number + 100 if quantity is None else quantity)]
        levels += [(PRICES[number % 2], number + 100)] if more and price != PRICES[number % 2] else []
        payload = self.message(levels, "publicOrderBookDelta", number)
        self.truth.append((BOOK, payload))
        book = self.books[-1] | changes(payload)
        self.books.append({level: quantity for level, quantity in book.items() if quantity})

    @rule(count=st.integers(1, 3))
    def trade(self, count: int) -> None:
        """Let trades happen, in one event."""
        number = len(self.truth) + 1
        orders = [self.row(10 * number + index) for index in range(count)]
        data = {"orders": orders, "statusCode": 200}
        payload = json.dumps({"resultType": "publicCompletedOrdersDelta", "data": data}).encode()
        self.truth.append((TRADES, payload))
        self.books.append(self.books[-1])

    def snapshot(self, request: dict[str, Any], moment: int) -> Reply:
        """Return what answers a request, as it was after so many events."""
        request_id = request["content"]["clientRequestId"]
        own = {"clientRequestId": request_id} if self.ids else {}
        if request["message"] == "emitPublicOrderBook":
            levels = [(int(price), int(quantity)) for (_, price), quantity in self.books[moment].items()]
            payload = self.message(levels, "publicOrderBook", moment, request_id)
            return Reply("publicOrderBook", request_id if self.ids else "", payload)
        known = [row for channel, one in self.truth[:moment] if channel == TRADES for row in _orders(one)]
        recent = known[-REACH_ROWS:][:: -1 if self.newest_first else 1]
        payload = json.dumps(
            {"resultType": "publicCompletedOrders", "data": {"orders": recent} | own}
        ).encode()
        return Reply("publicCompletedOrders", request_id if self.ids else "", payload)

    # What reaches recovery

    def publish(self, outputs: list[Output]) -> None:
        """Let the consumer have what is published, and the lines what is asked."""
        for output in outputs:
            self.consumer.take(output)
        asks, self.recovery.asks = self.recovery.asks, []
        self.pending += [(line, json.loads(text), self.released) for line, text in asks]

    def release(self, index: int, before: int = -1) -> None:
        """Let the arbiter release an event; one that comes late belongs before another of its channel."""
        channel, payload = self.truth[index]
        late = before >= 0
        position = self.released if late else index
        output = Release(channel, payload, "a", 7, "late" if late else "", position, before)
        self.publish(self.recovery.process([output], self.now, 7))

    @rule(count=st.integers(1, 5))
    def deliver(self, count: int) -> None:
        """Let the lines bring what has happened."""
        for _ in range(min(count, len(self.truth) - self.released)):
            self.released += 1
            self.release(self.released - 1)

    @rule(hidden=st.integers(0, 5))
    def gap(self, hidden: int) -> None:
        """Let something be hidden from all lines."""
        first, self.released = self.released, min(self.released + hidden, len(self.truth))
        if not self.in_flight:
            self.pending = []
        hidden = sum(len(rows(one)) for channel, one in self.truth[: self.released] if channel == TRADES)
        self.consumer.start_behind(hidden)
        self.publish(self.recovery.process([Gap("", "outage", 1, 2)], self.now, 7))
        self.gaps.append(first)
        self.gap_at = self.released
        self.hidden += range(first, self.released)
        self.gone.update(range(first, self.released))

    @precondition(lambda self: self.pending)
    @rule(which=st.integers(0, 9), age=st.integers(0, 20))
    def answer(self, which: int, age: int) -> None:
        """Let one of the requests be answered."""
        line, request, place = self.pending.pop(self.choose(which % len(self.pending)))
        first = max(0, place - self.lag)
        last = min(len(self.truth), self.released + self.ahead)
        moment = self.tellable(max(first, last - age))
        self.meet(self.is_awkward(place, moment))
        reply = self.snapshot(request, moment)
        self.publish(self.recovery.reply(line, reply, self.now, 9))

    def choose(self, which: int) -> int:
        """Return which request is answered next."""
        return which

    def tellable(self, moment: int) -> int:
        """Return the moment that an answer is from instead of one that is beyond telling."""
        return moment

    def is_awkward(self, place: int, moment: int) -> bool:  # noqa: ARG002 - of most machines
        """Tell whether an answer is of the kind that a machine is there for: from when, to a request from when."""
        return False

    @classmethod
    def meet(cls, awkward: object) -> None:
        """Count what a machine is there for."""
        cls.met += bool(awkward)

    @rule(seconds=st.sampled_from([0.1, 0.5, 3.0, 15.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.let_pass(seconds)

    def let_pass(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.publish(self.recovery.tick(self.now, 7))

    @precondition(lambda self: len(self.lines) > 1)
    @rule(which=st.integers(0, 1))
    def die(self, which: int) -> None:
        """Let a line die, with what it was asked."""
        line = self.lines.pop(which)
        self.pending = [one for one in self.pending if one[0] != line]
        self.recovery.line_lost(line, self.now)
        self.publish([])

    @precondition(lambda self: len(self.lines) == 1)
    @rule()
    def come_back(self) -> None:
        """Let the other line be there again."""
        self.lines.append("b" if self.lines == ["a"] else "a")
        self.recovery.line_up(self.now)
        self.publish([])

    def teardown(self) -> None:
        """Let everything settle: then the book is there, and right, and the gaps account for all that is missing."""
        if not hasattr(self, "consumer") or not self.consumer.sound:
            return
        for _ in range(SETTLING_STEPS):
            self.change(2, None, more=False)
            self.deliver(len(self.truth))
            self.answer(0, 0) if self.pending else None
            self.wait(0.5)
        assert self.recovery.synchronised() == {BOOK: True}
        assert not any(keeper.syncing for keeper in self.recovery.keepers())
        assert self.consumer.places == {len(self.truth)}
        assert self.recovery.asking < 10
        self.consumer.check_whole()


class Consumer:
    """What a consumer gets, held against the truth."""

    def __init__(self, world: Kind) -> None:
        self._world = world
        self.places: set[int] = set()
        self._cursor = 0
        self._seen: dict[Row, None] = {}
        self._last = -1
        self._marked: set[int] = set()
        self._gap = False
        self._late = False
        self._begun = False
        self.sound = True
        """Whether nothing was wrong so far."""

    def take(self, output: Output) -> None:
        """Take the next record."""
        self.sound = False
        self._check(output)
        self.sound = True

    def _check(self, output: Output) -> None:
        self._begun = self._begun or not isinstance(output, State)
        channel = getattr(output, "channel", "")
        if isinstance(output, Gap) and channel == BOOK:
            assert output.reason != "audit", "the book was right"
            self._cursor, self.places = min(self.places), set()
        elif isinstance(output, Gap):
            self._gap = True
        elif isinstance(output, Snapshot):
            book = changes(output.payload)
            books = self._world.books
            self.places = {at for at in range(self._cursor, len(books)) if books[at] == book}
            assert self.places, f"no true book is the snapshot ({output.reason})"
            self._late = False
        elif isinstance(output, Release) and channel == BOOK and output.kind == "late":
            assert self.places, "an event between a gap and its snapshot"
            self._late = True
        elif isinstance(output, Release) and channel == BOOK:
            assert self.places, "an event between a gap and its snapshot"
            assert not self._late, "a late event without its snapshot"
            self.places = {output.position + 1} & {self._next(at) for at in self.places}
            assert self.places, f"event {output.position} is not the next one"
        elif isinstance(output, Release):
            self._take_trades(output)

    def _next(self, place: int) -> int:
        """Return the place behind the next event of the book."""
        truth = self._world.truth
        return next((at + 1 for at in range(place, len(truth)) if truth[at][0] == BOOK), -1)

    def _take_trades(self, output: Release) -> None:
        place = {row: at for at, row in enumerate(self._rows())}
        for row in rows(output.payload):
            assert row not in self._seen, f"{row} came twice"
            self._seen[row] = None
            if output.kind == "late":
                continue
            at = place[row]
            assert at > self._last, f"{row} came out of order"
            if self._gap:
                self._marked.update(range(self._last + 1, at))
            self._last, self._gap = at, False

    def _rows(self) -> list[Row]:
        return [row for channel, one in self._world.truth if channel == TRADES for row in rows(one)]

    def start_behind(self, trades: int) -> None:
        """Hear of a gap: while nothing was published it belongs to the start, and what it hides is before that."""
        if not self._begun:
            self._marked.update(range(trades))

    def check_whole(self) -> None:
        """Assert that what is missing is marked."""
        every = self._rows()
        if self._gap:
            self._marked.update(range(self._last + 1, len(every)))
        missing = {at for at, row in enumerate(every) if row not in self._seen}
        assert missing <= self._marked, f"lost without a mark: {[every[at] for at in missing - self._marked]}"


def _orders(payload: bytes) -> list[dict[str, Any]]:
    orders: list[dict[str, Any]] = json.loads(payload)["data"]["orders"]
    return orders


class Undated(Kind):
    """No times of the book, and no ids: replies are told by line and kind."""

    dated = False
    ids = False
    newest_first = False
    in_flight = False


class Lagging(Kind):
    """The source of the snapshots is some events behind, and says so by their times; the first book is there before."""

    lag = 10

    def tellable(self, moment: int) -> int:
        """Return the first moment from there that is not before a gap with the very book that a gap began with."""
        before = [self.books[at] for at in self.gaps]
        later = range(moment, self.gap_at)
        return next((at for at in later if self.books[at] not in before), max(moment, self.gap_at))

    def is_awkward(self, place: int, moment: int) -> bool:
        """Tell whether a book is older than the request's place."""
        return moment < place

    @initialize()
    def start(self) -> None:
        """Begin with two lines up, a first event, and the book."""
        self.begin()
        self.change(2, None, more=False)
        while self.pending:
            self.answer(0, 0)
        self.deliver(1)
        self.wait(15.0)


class Ahead(Kind):
    """Snapshots overtake the events of their line, which are there by the time that is granted them."""

    ahead = 10

    def is_awkward(self, place: int, moment: int) -> bool:  # noqa: ARG002 - a machine's common signature
        """Tell whether an answer is newer than its place."""
        return moment > self.released

    @rule(seconds=st.sampled_from([0.1, PAST_S, 3.0, 15.0]))
    def wait(self, seconds: float) -> None:
        """Let time pass."""
        if seconds >= PAST_S:
            self.deliver(len(self.truth))
        self.let_pass(seconds)


class Nameless(Kind):
    """Replies carry no ids, and those to requests from before a gap come behind it; a line keeps their order."""

    ids = False
    dated = False

    def is_awkward(self, place: int, moment: int) -> bool:  # noqa: ARG002 - a machine's common signature
        """Tell whether the request is from before the last gap."""
        return place < self.gap_at

    def choose(self, which: int) -> int:
        """Return which request is answered next: of those of one kind on one line, the first."""
        line, request, _ = self.pending[which]
        return next(
            index
            for index, (other, text, _) in enumerate(self.pending)
            if (other, text["message"]) == (line, request["message"])
        )


class Late(Kind):
    """The stretch of a gap comes late, in part, once something of its channel is out behind it."""

    @precondition(lambda self: self.hidden)
    @rule(which=st.integers(0, 9))
    def come_late(self, which: int) -> None:
        """Let one of the lines bring what a gap has hidden."""
        self.bring(self.hidden[which % len(self.hidden)])

    @rule(price=st.sampled_from(PRICES), repaired=st.booleans())
    def change_unseen(self, price: int, *, repaired: bool) -> None:
        """Let a level change twice within a gap, and the first time come late: during the repair, or behind it."""
        self.change(price, None, more=False)
        self.change(price, None, more=False)
        self.gap(len(self.truth) - self.released)
        self.change(PRICES[price == PRICES[0]], None, more=False)
        self.deliver(1)
        while repaired and self.pending:
            self.answer(0, 0)
        self.wait(PAST_S)
        self.bring(self.released - 3)

    def bring(self, index: int) -> None:
        """Let an event come late."""
        behind = range(index + 1, self.released)
        own = (at for at in behind if self.truth[at][0] == self.truth[index][0] and at not in self.gone)
        before = next(own, None)
        if before is not None:
            self.meet("late")
            self.hidden.remove(index)
            self.release(index, before)


TestKind = Kind.TestCase
TestKind.settings = settings(steady, max_examples=60, stateful_step_count=40)
TestUndated = Undated.TestCase
TestUndated.settings = settings(steady, max_examples=60, stateful_step_count=40)


@pytest.mark.parametrize("kind", [Lagging, Ahead, Nameless, Late])
def test_awkward_kinds(kind: type[Kind]) -> None:
    """What each of these does is survived, too: it is done, again and again, and nothing comes of it."""
    looking = settings(steady, max_examples=200, stateful_step_count=40)
    run_state_machine_as_test(kind, settings=looking)
    assert kind.met >= OFTEN
