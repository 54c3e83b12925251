"""Recovery between the arbiter and the publisher: who is asked, what an answer is for, and what comes of none."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from feedhandler.config import Bounds
from feedhandler.config import Recovery as Settings
from feedhandler.core.asking import MOST_ASKED, OVERDUE
from feedhandler.core.audit import PAST_S
from feedhandler.core.bookkeeper import KNOWN_AFTER_S, BookKeeper
from feedhandler.core.messages import Gap, Output, Release, Reply, Run, Snapshot, State
from feedhandler.core.notes import Note
from feedhandler.core.recovery import Recovery
from feedhandler.core.trades import ATTEMPTS
from feedhandler.exchange.desk import Desk
from feedhandler.exchange.messages import Dialect

BOOK, TRADES, OTHER, ORDERS = "M/publicOrderBook", "M/publicTrades", "M/other", "M/orders"
TRADE_SNAPSHOT = "publicCompletedOrders"
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

    def __init__(self, *channels: str, market: str = "M") -> None:
        self.now = 0.0
        self.lines = ["a", "b"]
        self.foreign: set[str] = set()
        self.notes: list[Note] = []
        self.published: list[Output] = []
        self.numbers = 0
        self.recovery = Recovery(
            "M",
            Desk(market, Dialect(market)),
            settings=Settings(reply_s=3, retry_s=1, verify_s=3, audit_s=64),
            bounds=Bounds(),
            new_id=self._new_id,
            askable=lambda: self.lines,
            owns=lambda name: name not in self.foreign,
            notify=self.notes.append,
        )
        for channel in channels or (BOOK, TRADES, OTHER, ORDERS):
            self._take(self.recovery.open(channel, 1))
        self.release(State("live", 0))

    def _new_id(self) -> str:
        self.numbers += 1
        return f"id{self.numbers}"

    def release(self, *outputs: Output) -> list[Output]:
        """Let the arbiter release something."""
        published = self._take(self.recovery.process(outputs, self.now, 7))
        self.recovery.catch_up()
        return published

    def event(self, channel: str, payload: bytes, position: int = 0, kind: str = "") -> list[Output]:
        """Let the arbiter release an event; an ordinary one comes in a run."""
        if kind:
            return self.release(Release(channel, payload, "a", 7, kind, position))
        return self.release(Run((channel,), (payload,), "a", 7, position))

    def wait(self, seconds: float = 0.0) -> list[Output]:
        """Time passes."""
        self.now += seconds
        return self._take(self.recovery.tick(self.now, 7))

    def asked(self, message: str = "emitPublicOrderBook") -> list[tuple[str, str]]:
        """Return which lines are to be asked now, and with which ids."""
        asks, self.recovery.asks = self.recovery.asks, []
        requests = [(line, json.loads(text)) for line, text in asks]
        return [
            (line, one["content"]["clientRequestId"]) for line, one in requests if one["message"] == message
        ]

    def answer(
        self, line: str, payload: bytes, request_id: str = "", kind: str = "publicOrderBook"
    ) -> list[Output]:
        """Let a line bring a reply, and the stream get past it."""
        outputs = self._take(self.recovery.reply(line, Reply(kind, request_id, payload), self.now, 9))
        return outputs + self.wait(PAST_S if kind == "publicOrderBook" else 0.0)

    def book(self, *levels: tuple[str, str, str], market: str = "M") -> bytes:
        """Return a snapshot of a book."""
        orders = [
            {"orderType": side, "price": price, "quantity": quantity} for side, price, quantity in levels
        ]
        return json.dumps(
            {"resultType": "publicOrderBook", "market": market, "data": {"orders": orders}}
        ).encode()

    def synchronise(self) -> None:
        """Let the book be there, and the trades have their baseline."""
        self.wait()
        asks, self.recovery.asks = self.recovery.asks, []
        for line, text in asks:
            request = json.loads(text)
            request_id = request["content"]["clientRequestId"]
            if request["message"] == "emitPublicOrderBook":
                self.answer(line, self.book(*LEVELS), request_id)
            else:
                self.answer(line, trade(kind=TRADE_SNAPSHOT), request_id, TRADE_SNAPSHOT)
        assert set(self.recovery.synchronised().values()) <= {True}

    def named(self, name: str) -> list[dict[str, Any]]:
        """Return the fields of the notes of a name."""
        return [note.fields for note in self.notes if note.name == name]

    def _take(self, outputs: Sequence[Output]) -> list[Output]:
        single = [one for out in outputs for one in (out.releases() if isinstance(out, Run) else (out,))]
        self.published += single
        return single

    @property
    def states(self) -> list[tuple[str, str]]:
        """The states that were announced."""
        return [(one.channel, one.state) for one in self.published if isinstance(one, State)]


def test_a_book_begins_with_its_snapshot() -> None:
    """Events are held until the snapshot that was asked for; nobody else's channel waits."""
    house = House()
    assert house.states[4:] == [(BOOK, "syncing"), (TRADES, "live"), (OTHER, "live"), (ORDERS, "live")]
    house.wait()
    ((line, request_id),) = house.asked()
    assert line == "a"
    assert house.event(BOOK, delta("1", "6", 5), 0) == []
    assert house.recovery.image(BOOK) is None
    assert len(house.event(TRADES, trade(1), 1)) == 1
    assert len(house.event(OTHER, b"{}", 2)) == 1
    published = house.answer("a", house.book(("buy", "1", "6"), LEVELS[1]), request_id)
    assert [type(one) for one in published] == [Snapshot, State]
    assert house.states[-1] == (BOOK, "live")
    assert len(house.event(BOOK, delta("1", "7", 6), 3)) == 1
    assert [track.waiting for track in house.recovery.behind()] == [2]
    image = house.recovery.image(BOOK)
    assert image is not None
    assert b'"7"' in image
    assert house.recovery.image(TRADES) is None
    assert house.recovery.behind() == []


def test_a_channel_of_another_feed_passes() -> None:
    """What the feed does not own has no book here, nothing is asked for it, and its gap is not ours to tell."""
    house = House(TRADES)
    house.foreign = {BOOK}
    assert len(house.event(BOOK, delta("1", "6", 5))) == 1
    house.wait()
    assert house.asked() == []
    house.release(Gap("", "outage", 1, 2))
    assert [one.channel for one in house.published if isinstance(one, Gap)] == []


def test_a_channel_that_appears_later_tells_its_state_first() -> None:
    """Then comes its event, or for a book nothing before its snapshot."""
    house = House(TRADES)
    assert house.event("N/publicOrderBook", delta("1", "6", 5)) == [State("syncing", 7, "N/publicOrderBook")]
    first, second = house.event("N/publicTrades", trade(1))
    assert first == State("live", 7, "N/publicTrades")
    assert isinstance(second, Release)


def test_over_all_markets_a_request_names_its_own() -> None:
    """On a connection over ALL the market is required."""
    house = House(market="ALL")
    house.wait()
    assert {json.loads(text)["content"]["market"] for _, text in house.recovery.asks} == {"M"}


def test_a_reply_without_an_id_is_for_whoever_waits_on_its_line() -> None:
    """By kind, line and market; what nobody asked for changes nothing."""
    house = House(BOOK)
    house.wait()
    house.asked()
    assert house.recovery.is_own("id1")
    assert house.answer("a", house.book(*LEVELS), "another id") == []
    assert house.answer("b", house.book(*LEVELS)) == []
    assert house.answer("a", house.book(*LEVELS, market="N")) == []
    assert house.answer("a", trade(1, kind=TRADE_SNAPSHOT), kind=TRADE_SNAPSHOT) == []
    assert house.answer("a", house.book(*LEVELS)) != []
    assert not house.recovery.is_own("id1")
    assert house.answer("a", house.book(*LEVELS)) == []


def test_the_next_line_is_asked_where_one_does_not_answer() -> None:
    """(6) Silence and broken snapshots change the line and are noted; without a line nothing is asked."""
    house = House(BOOK)
    house.wait()
    assert [line for line, _ in house.asked()] == ["a"]
    house.wait(3)
    house.wait(1)
    ((line, request_id),) = house.asked()
    assert line == "b"
    house.lines = []
    house.answer("b", b"[]", request_id)
    assert [note["reason"] for note in house.named("snapshot_missed")] == ["silence", "shape"]
    house.wait(10)
    house.wait(10)
    assert house.asked() == []
    house.lines = ["c"]
    house.recovery.line_up(house.now)
    assert [line for line, _ in house.asked()] == ["c"]


def test_an_answer_is_of_use_however_late_it_comes() -> None:
    """(6) A source that takes longer than the patience for one answer would never be heard otherwise."""
    house = House(BOOK)
    house.wait()
    ((line, first),) = house.asked()
    house.wait(3)
    house.wait(1)
    ((other, second),) = house.asked()
    assert house.recovery.busy
    assert [type(one) for one in house.answer(line, house.book(*LEVELS), first)] == [Snapshot, State]
    assert house.answer(other, house.book(*LEVELS), second) == []


def test_requests_that_are_never_answered_are_forgotten_in_the_end() -> None:
    """(8) So many overdue ones are remembered."""
    house = House(BOOK)
    house.wait()
    ((line, first),) = house.asked()
    for _ in range(2 * OVERDUE + 2):
        house.wait(4)
    assert house.answer(line, house.book(*LEVELS), first) == []


def test_a_line_that_goes_takes_its_answers_with_it() -> None:
    """What was asked of it is asked of another one at once."""
    house = House(BOOK)
    house.wait()
    house.asked()
    house.lines = ["b"]
    house.recovery.line_lost("a", house.now)
    assert [line for line, _ in house.asked()] == ["b"]


def test_requests_under_way_have_a_bound() -> None:
    """(8) Many books share the lines, and one answer makes room for the next request."""
    house = House(*(f"{number}/publicOrderBook" for number in range(MOST_ASKED + 3)), market="ALL")
    house.wait()
    asked = house.asked()
    assert [line for line, _ in asked] == ["a", "b"]  # until replies are seen to name what they are for
    house.answer(asked[0][0], house.book(*LEVELS, market="0"), asked[0][1])
    assert len(house.asked()) == MOST_ASKED - 1


def test_a_gap_is_one_record_for_each_channel_of_the_promise() -> None:
    """(4) Books and trades are repaired behind it; orders have but the record; other messages have none."""
    house = House()
    house.synchronise()
    house.event(TRADES, trade(1), 1)
    assert [one.channel for one in house.release(Gap("", "outage", 1, 2)) if isinstance(one, Gap)] == [ORDERS]
    assert set(house.states[-2:]) == {(BOOK, "syncing"), (TRADES, "syncing")}
    house.event(TRADES, trade(9), 2)
    house.event(BOOK, delta("1", "8", 9), 3)
    house.wait()
    asks = [(line, json.loads(text)) for line, text in house.recovery.asks]
    asked = {request["message"]: (line, request["content"]["clientRequestId"]) for line, request in asks}
    line, request_id = asked["emitPublicCompletedOrders"]
    repaired = house.answer(line, trade(5, 9, kind=TRADE_SNAPSHOT), request_id, TRADE_SNAPSHOT)
    kinds = [getattr(one, "kind", type(one).__name__) for one in repaired]
    assert kinds == ["Gap", "backfilled", "", "State"]
    assert isinstance(repaired[1], Release)
    assert (repaired[1].line, repaired[1].recv) == (line, 9)
    line, request_id = asked["emitPublicOrderBook"]
    repaired = house.answer(line, house.book(("buy", "1", "8"), LEVELS[1]), request_id)
    assert [type(one) for one in repaired] == [Gap, Snapshot, State]
    assert house.named("trades_repaired") == [{"feed": "M", "channel": TRADES, "rows": 1}]


def test_an_outage_before_anything_was_published_is_no_gap() -> None:
    """It belongs to the start; once a book is out it is not the start any more, for no channel of the feed."""
    house = House()
    assert house.release(Gap("", "outage", 1, 2)) == []
    house.synchronise()
    assert [one.channel for one in house.release(Gap("", "outage", 1, 2)) if isinstance(one, Gap)] == [ORDERS]
    assert set(house.states[-2:]) == {(BOOK, "syncing"), (TRADES, "syncing")}


def test_what_was_asked_before_a_gap_does_not_repair_it() -> None:
    """Its answer may be from before the gap, and would hide what the gap has hidden."""
    house = House(BOOK)
    house.synchronise()
    house.wait(3)
    ((line, request_id),) = house.asked()
    house.release(Gap("", "divergence", 1, 2))
    assert house.answer(line, house.book(*LEVELS), request_id) == []
    house.wait(KNOWN_AFTER_S)
    ((line, request_id),) = house.asked()
    assert [type(one) for one in house.answer(line, house.book(*LEVELS), request_id)] == [
        Gap,
        Snapshot,
        State,
    ]


def test_trades_do_without_a_snapshot_in_the_end() -> None:
    """R9: a repair has a time-out; trades then go on behind their gap without backfill."""
    house = House(TRADES)
    house.event(TRADES, trade(1), 0)
    house.release(Gap(TRADES, "unproven", 1, 2))
    house.event(TRADES, trade(9), 1)
    house.wait()
    ((line, request_id),) = house.asked("emitPublicCompletedOrders")
    assert house.answer(line, b"{}", request_id, TRADE_SNAPSHOT) == []
    for _ in range(ATTEMPTS):
        house.wait(1)
        house.wait(3)
    kinds = [type(one) for one in house.published if getattr(one, "channel", "") == TRADES]
    assert kinds.count(Gap) == 1
    assert kinds.count(Release) == 2


@pytest.mark.parametrize("state", ["live", "quiet"])
def test_a_wrong_book_is_found_within_an_audit(state: str) -> None:
    """(2) (5) Two snapshots that differ are a gap and a resync; with all lines silent the lines are dead.

    Then nothing more is asked of them: the first new line is asked.
    """
    house = House(BOOK, TRADES)
    house.synchronise()
    for _ in house.lines:  # both prove that their snapshots are current
        house.wait(80)
        ((line, request_id),) = house.asked()
        house.answer(line, house.book(*LEVELS), request_id)
    house.wait(0 if state == "quiet" else 80)
    house.release(State(state, 0))
    house.wait()
    wrong = house.book(*LEVELS, ("buy", "0.5", "1"))
    for number in range(2):
        ((line, request_id),) = house.asked()
        house.answer(line, wrong, request_id)
        house.event(TRADES, trade(number))
        house.wait()
    results = [note["result"] for note in house.named("book_audited")]
    assert results == ["passed", "passed", "suspicious", "failed"]
    assert house.recovery.synchronised() == {BOOK: False}
    assert (house.recovery.dead, house.recovery.replace) == (state == "quiet", state == "quiet")
    asked = house.asked()
    if state == "quiet":
        assert asked == []
        house.recovery.line_up(house.now)
        asked = house.asked()
    ((line, request_id),) = asked
    house.now += KNOWN_AFTER_S
    repaired = house.answer(line, wrong, request_id)
    assert [getattr(one, "reason", "") for one in repaired[:2]] == ["audit", "audit"]


def test_a_feed_that_is_down_has_no_channel_that_synchronises() -> None:
    """The state of a channel is its feed's, unless its book or its trades are being repaired."""
    house = House()
    house.release(State("down", 0))
    assert set(house.states[-4:]) >= {(BOOK, "down"), (TRADES, "down"), (OTHER, "down"), (ORDERS, "down")}
    assert house.recovery.busy


def test_what_goes_out_first_is_in_the_book_that_is_asked_for_meanwhile() -> None:
    """A run may be on its way to consumers before the book follows it: an image made then holds it."""
    house = House()
    house.synchronise()
    run = Run((BOOK, TRADES, BOOK), (delta("0.5", "7", 3), trade(1), delta("0.4", "6", 4)), "a", 7, 10)
    assert house.recovery.process([run], house.now, 7) == [run]
    [keeper] = [one for one in house.recovery._keepers() if one.channel == BOOK]
    assert isinstance(keeper, BookKeeper)
    assert keeper.track.newest < 10
    image = house.recovery.image(BOOK)
    assert image is not None
    assert b'"price":"0.5","quantity":"7"' in image
    assert b'"price":"0.4","quantity":"6"' in image
    assert keeper.track.newest == 12


def test_a_run_is_taken_apart_where_one_of_its_channels_is_in_repair() -> None:
    """What may pass goes out in its order, what is in repair is held."""
    house = House()
    run = Run((BOOK, TRADES, OTHER), (delta("0.5", "7", 3), trade(1), b"{}"), "a", 7, 10)
    outputs = house.release(run)
    assert [one for one in outputs if isinstance(one, Release)] == run.releases()[1:]
    house.wait()
    [(line, request_id)] = house.asked()
    house.answer(line, house.book(("buy", "0.5", "7"), LEVELS[1]), request_id)
    assert house.release(Run((BOOK,), (delta("0.3", "7", 9),), "a", 7, 13))


# Channels that were there before, and channels that are given up


def test_what_was_there_before_begins_with_its_gap() -> None:
    """Rule R9: the gap that the arbiter opens is that of every channel that goes on; a new one has none."""
    house = House(OTHER)
    house.recovery._last_recv = lambda name: -1 if name == TRADES else 5
    for channel in (BOOK, TRADES, ORDERS):
        house._take(house.recovery.open(channel, 1))
    assert house.recovery.resumed == {BOOK: 5, ORDERS: 5}
    assert house.release(Gap("", "unproven", 5, 6)) == [Gap(ORDERS, "unproven", 5, 6)]
    ((line, request_id),) = (house.wait(0.1), house.asked())[1]
    outputs = house.answer(line, house.book(*LEVELS), request_id)
    assert [type(one) for one in outputs[:2]] == [Gap, Snapshot]
    assert outputs[0] == Gap(BOOK, "unproven", 5, 6)
    assert isinstance(outputs[1], Snapshot)
    assert outputs[1].reason == "gap"
    assert house.recovery.resumed == {}


def test_what_comes_again_with_its_first_event_begins_with_its_gap() -> None:
    """A channel that nobody knew of at the start: the gap reaches up to its first event, which comes behind it."""
    house = House(OTHER)
    house.recovery._last_recv = lambda _: 5
    outputs = house.event(ORDERS, b"{}")
    assert outputs == [
        State("live", 7, ORDERS),
        Gap(ORDERS, "unproven", 5, 7),
        Release(ORDERS, b"{}", "a", 7, "", 0),
    ]
    assert [type(one) for one in house.event(TRADES, trade(1))] == [State, State]
    ((line, request_id),) = (house.wait(0.1), house.asked("emitPublicCompletedOrders"))[1]
    outputs = house.answer(line, trade(1, kind=TRADE_SNAPSHOT), request_id, TRADE_SNAPSHOT)
    assert [type(one) for one in outputs] == [Gap, Release, State]


def test_what_is_given_up_in_repair_ends_with_its_gap() -> None:
    """The gap that is open is written; trades that were held follow it, a book's deltas are under it."""
    house = House()
    house.synchronise()
    house.event(BOOK, delta("1", "6", 1), 1)
    house.event(TRADES, trade(1), 2)
    assert house.recovery.close(ORDERS, 9) == []
    house.release(Gap("", "outage", 3, 4))
    house.event(TRADES, trade(2), 3)
    house.event(BOOK, delta("1", "7", 2), 4)
    trades = house.recovery.close(TRADES, 9)
    assert trades == [Gap(TRADES, "outage", 3, 4), Release(TRADES, trade(2), "a", 7, "", 3)]
    assert house.recovery.close(BOOK, 9) == [Gap(BOOK, "outage", 3, 9)]
    assert house.recovery.close(BOOK, 9) == []
    house.wait(60)
    assert house.asked() == house.asked("emitPublicCompletedOrders") == []


def test_what_is_given_up_in_peace_owes_nothing() -> None:
    """A book that is there, and one that never was: neither has a gap to write."""
    house = House()
    assert house.recovery.close(BOOK, 9) == []
    house = House()
    house.synchronise()
    assert [house.recovery.close(name, 9) for name in (BOOK, TRADES, OTHER)] == [[], [], []]


def test_other_settings_hold_for_what_is_there() -> None:
    """The interval of audits is the new one from the next time that it is drawn."""
    house = House(BOOK)
    house.recovery.retune(Settings(reply_s=1, retry_s=1, verify_s=1, audit_s=4))
    house.wait()
    ((line, request_id),) = house.asked()
    house.wait(1.1)
    assert [note.fields["reason"] for note in house.notes if note.name == "snapshot_missed"] == ["silence"]
    house.answer(line, house.book(*LEVELS), request_id)
    house.asked()
    house.wait(1.1)
    assert len(house.asked()) == 1


def test_a_repair_is_announced_although_its_channel_was_said_to_be_syncing() -> None:
    """A daemon that follows takes an event for the end of the repair that was announced before it."""
    house = House(TRADES)
    house.event(TRADES, trade(1))
    house.release(State("syncing", 0))
    assert house.recovery.state(TRADES) == "syncing"
    house.event(TRADES, trade(2), 1)
    assert house.release(Gap("", "unproven", 1, 2)) == [State("syncing", 7, TRADES)]
    assert house.release(Gap("", "unproven", 1, 3)) == []
