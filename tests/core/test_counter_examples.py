"""Counter-examples to recovery: what a first version of it lost, doubled, misplaced, or believed."""

import json
from typing import Any

import pytest

from feedhandler.core import book_track
from feedhandler.core.audit import PAST_S
from feedhandler.core.book import Book
from feedhandler.core.messages import Gap, Release, Snapshot
from feedhandler.exchange.books import BookReply, read_book
from feedhandler.exchange.desk import TradeRows
from tests.core.test_bookkeeper import CHANNEL, Exchange, audited, synchronised
from tests.core.test_recovery import LEVELS, House, delta, trade
from tests.core.test_trades import Channel, shown

# Trades


def live(channel: Channel, kind: str, *numbers: int) -> list[str]:
    """Let an event of a class come, as recovery hands it on."""
    release = Release("M/publicTrades", json.dumps(numbers).encode(), "a", 7, kind)
    return shown(list(channel.keeper.take(release, channel.now)))


def test_a_late_event_in_the_hold_does_not_hide_what_is_missing_before_it() -> None:
    """(4) Another line brings 3 of the hidden stretch late (R4): 2 and 4 are missing still, and are to be recovered."""
    channel = Channel()
    channel.event(1)
    channel.gap()
    channel.event(5)
    live(channel, "late", 3)
    words = channel.answer(1, 2, 3, 4, 5)
    numbers = {int(word.strip("+!")) for word in words if word != "gap"}
    assert "gap" in words or numbers == {2, 3, 4, 5}


def test_a_late_event_from_before_the_gap_is_no_proof() -> None:
    """R8: a source that lags shows a row that came late, and nothing from behind the gap."""
    channel = Channel()
    channel.event(1)
    channel.event(3)
    channel.gap()
    live(channel, "late", 2)
    assert "gap" in channel.answer(1, 2, 3)


def test_a_row_that_stands_twice_in_an_event_is_no_exception() -> None:
    """R11: data never raises; the row was backfilled before."""
    channel = Channel()
    channel.event(1)
    channel.gap()
    channel.answer(1, 2)
    assert channel.event(2, 2) == []


def test_a_row_that_stands_twice_in_a_snapshot_comes_once() -> None:
    """(7) The identity of a row tells."""
    channel = Channel()
    channel.event(1)
    channel.gap()
    channel.event(4)
    assert channel.answer(1, 2, 2, 3, 4) == ["+2", "+3", "4"]


def message(*rows: dict[str, Any], kind: str = "publicCompletedOrders") -> bytes:
    """Return a trade message."""
    return json.dumps({"resultType": kind, "data": {"orders": list(rows), "statusCode": 200}}).encode()


def row(number: int, ms: int | None = None, **more: Any) -> dict[str, Any]:
    """Return a row; without a time it has none."""
    dated = {} if ms is None else {"updatedAt": ms}
    return {"matchId": f"m{number}", "executionType": "taker", "orderType": "buy"} | dated | more


def repaired(
    before: dict[str, Any], held: dict[str, Any], *snapshot: dict[str, Any]
) -> tuple[bool, list[str]]:
    """Repair a gap between two rows over the exchange's own desk; tell whether it stayed, and the rows that came."""
    channel = Channel()
    channel.keeper._desk = TradeRows("M")
    channel.keeper.follow(
        Release("M/publicTrades", message(before, kind="publicCompletedOrdersDelta"), "a", 7, "")
    )
    channel.gap()
    channel.keeper.take(
        Release("M/publicTrades", message(held, kind="publicCompletedOrdersDelta"), "a", 7, ""), 0.0
    )
    outputs = channel.keeper.answer(message(*snapshot), "b", 0.0, 0.0, 9)
    rows = [
        one
        for output in outputs
        if isinstance(output, Release)
        for one in json.loads(output.payload)["data"]["orders"]
    ]
    return any(isinstance(one, Gap) for one in outputs), [one.get("matchId", "?") for one in rows]


def test_a_row_without_identity_in_the_stretch_is_no_proof() -> None:
    """R8: the snapshot shows that something was there which cannot be recovered; the gap has to stay."""
    nameless = {"price": "1", "quantity": "1", "updatedAt": 200}
    gap, _ = repaired(row(1, 100), row(3, 300), row(1, 100), nameless, row(3, 300))
    assert gap


def test_a_row_of_an_unusual_type_in_the_stretch_is_no_proof() -> None:
    """(13) A time that became a text makes the row unreadable; the gap has to stay, or the row to come."""
    odd = row(2) | {"updatedAt": "2026-01-07T00:00:00Z"}
    gap, rows = repaired(row(1, 100), row(3, 300), row(1, 100), odd, row(3, 300))
    assert gap or "m2" in rows


def test_times_that_fall_do_not_prove_what_is_not_there() -> None:
    """The exchange promises no order of times (exchange-api.md, 8): the list's own order counts, or nothing does."""
    gap, rows = repaired(row(1, 100), row(3, 300), row(1, 100), row(2, 99), row(3, 300))
    assert gap or "m2" in rows


def test_a_hidden_row_that_is_younger_than_what_was_held_is_not_yet_to_come() -> None:
    """The list's own order says that it was before; sorted by time it stands behind, and is lost without a mark."""
    gap, rows = repaired(row(1, 100), row(3, 300), row(1, 100), row(2, 305), row(3, 300))
    assert gap or "m2" in rows


@pytest.mark.parametrize("ms", [None, 100])
def test_rows_of_one_time_or_none_tell_no_direction(ms: int | None) -> None:
    """A sweep of one millisecond, newest first: which way round the list stands must not be guessed as proof."""
    gap, rows = repaired(row(1, ms), row(3, ms), row(3, ms), row(2, ms), row(1, ms))
    assert gap or "m2" in rows


def test_a_row_without_identity_survives_beside_one_that_was_backfilled() -> None:
    """An event is reduced to the rows that are new, and one that cannot be told is new."""
    channel = Channel()
    channel.keeper._desk = TradeRows("M")
    channel.keeper.follow(
        Release("M/publicTrades", message(row(1, 100), kind="publicCompletedOrdersDelta"), "a", 7, "")
    )
    channel.gap()
    channel.keeper.answer(message(row(1, 100), row(2, 200)), "b", 0.0, 0.0, 9)
    both = message(row(2, 200), {"price": "1", "quantity": "7"}, kind="publicCompletedOrdersDelta")
    outputs = channel.keeper.take(Release("M/publicTrades", both, "a", 7, ""), 0.0)
    assert any(b'"7"' in one.payload for one in outputs if isinstance(one, Release))


# Books


def test_a_snapshot_whose_time_is_before_the_hold_is_not_young() -> None:
    """(5) A level flickers back to what it was: the old snapshot shows it by accident, and its own time betrays it."""
    world = Exchange()
    world.tell(2, 5)
    world.answer(world.snapshot())
    world.tell(2, 5)
    old = world.snapshot()
    world.gap()
    world.happen(60, 7)
    world.tell(2, 5)
    world.answer(old)
    assert world.consumer is not None
    assert not world.keeper.passing or not world.consumer.difference(world.books[-1])


def test_a_snapshot_from_before_the_last_repair_does_not_end_the_next() -> None:
    """(5) What was published last is the event that the snapshot of the first repair showed, not the one before it."""
    world = Exchange()
    world.answer(world.snapshot())
    world.tell(2, 1)
    old = world.snapshot()
    world.gap()
    world.happen(60, 7)
    world.tell(2, 2)
    assert [type(one) for one in world.answer(world.snapshot())] == [Gap, Snapshot]
    world.gap()
    assert world.answer(old) == []
    assert world.missed() == ["too_old"]


def test_a_snapshot_with_a_young_time_and_an_old_state_is_not_young() -> None:
    """(6) A cache that puts the time of the answer on an old state: what is held shows that, and for how long."""
    world = Exchange()
    world.answer(world.snapshot())
    world.gap()
    world.happen(60, 7)
    for quantity in (1, 2, 3):
        world.tell(2, quantity)
    stale = world.snapshot(0).replace(b'"ts":999', b'"ts":1003')
    assert b"1003" in stale
    world.now = 10.0
    for _ in range(6):
        world.answer(stale)
    world.tell(2, 4)
    assert world.consumer is not None
    assert not world.keeper.passing or not world.consumer.difference(world.books[-1])


def test_a_snapshot_that_is_newer_than_its_place_waits_for_its_line() -> None:
    """R7: it may be a little newer; what goes out is the book at its seq, not the line's future."""
    world = Exchange()
    world.answer(world.snapshot())
    world.gap()
    world.tell(2, 5)
    world.happen(2, 6)  # on its way
    world.happen(60, 3)
    world.answer(world.snapshot())
    world.check_transcript(1)
    world.wait(PAST_S)
    world.check_transcript(2)
    world.wait(PAST_S)


def test_a_late_delta_in_the_hold_is_not_lost_between_two_events_that_change_nothing() -> None:
    """(5) The snapshot is from before the late one's place; that it fits later, too, does not mean that it holds it."""
    world = Exchange()
    for price, quantity in ((2, 1), (60, 4), (2, 1)):
        world.happen(price, quantity)
    world.check_transcript(0)
    world.check_transcript(2)
    late = Release(CHANNEL, world.payloads[1], "b", 7, "late", 3, 2)
    world.keeper.take(late, 0.0)
    world.keeper.answer(world.snapshot(1), "a", 0.0, 0.0, 9)
    book = world.keeper.track.book()
    assert not world.keeper.passing or book is not None
    assert book is None or not book.difference(world.books[-1])


def test_a_late_delta_behind_a_repair_is_folded_in_before_the_place_of_its_snapshot() -> None:
    """(5) The same, where it comes when the book is there: the place of the snapshot is but the last that fits."""
    world = Exchange()
    for price, quantity in ((2, 1), (60, 4), (2, 1)):
        world.happen(price, quantity)
    world.check_transcript(0)
    world.check_transcript(2)
    world.keeper.answer(world.snapshot(1), "a", 0.0, 0.0, 9)
    world.keeper.take(Release(CHANNEL, world.payloads[1], "b", 7, "late", 3, 2), 0.0)
    (snapshot,) = world.keeper.flush()
    assert isinstance(snapshot, Snapshot)
    reply = read_book(snapshot.payload, "M")
    assert isinstance(reply, BookReply)
    assert not Book(reply.levels).difference(world.books[-1])


def test_an_audit_is_no_verdict_where_memory_ends_before_the_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    """(6) A busy market and a source that lags: levels that changed within the lag are no evidence, known or not."""
    monkeypatch.setattr(book_track, "REMEMBERED", 16)
    world = synchronised(dated=False)
    world.now = 1000.0
    world.wait(0)
    for number in range(60):
        world.tell(3 if number % 2 else 4, 10 + number)
        world.tell(30 + number % 10, 10 + number)
        world.keeper.track.catch_up()
        world.wait(0.5)
    for _ in range(2):
        audited(world, world.snapshot(-60))  # fifteen seconds old
    assert "failed" not in world.results()


def test_an_audit_by_another_source_that_lags_is_no_verdict_soon_after_a_repair() -> None:
    """(6) Two lines, one source current and one behind: what changed before the repair is not known to have changed."""
    world = synchronised(dated=False)
    world.gap()
    for quantity in (5, 6, 7):
        world.happen(61, quantity)
    world.tell(2, 9)
    world.answer(world.snapshot())  # current
    assert world.keeper.passing
    world.wait(3.0)
    for _ in range(2):
        audited(world, world.snapshot(-3))  # from before the repair, the true book of that time
    assert "failed" not in world.results()


def test_no_verdict_while_the_lines_stand_still() -> None:
    """R7: no match is a verdict only after the line has moved past the reply; here it pauses for three seconds."""
    world = synchronised()
    world.happen(40, 7)
    world.answer(world.snapshot())
    world.wait(3)
    world.check_transcript(len(world.payloads) - 1)
    world.wait(0)
    assert world.results() == ["passed"]


def test_a_book_whose_stream_has_died_is_not_left_wrong() -> None:
    """(1) (2) Trades flow, book deltas do not: after three audits the fourth must not be disbelieved in silence.

    Each snapshot is true, and no two are alike: that is no check gone mad.
    """
    world = synchronised()
    for number in range(10):
        world.happen(40, number + 1)
        world.happen(41, number + 1)
        for _ in range(2):
            audited(world, world.snapshot())
        if world.keeper.syncing:
            world.answer(world.snapshot())
    assert "distrusted" not in world.results()


def test_a_quiet_market_with_a_clock_a_millisecond_behind_is_synchronised() -> None:
    """(6) Its snapshot carries the time of the last change, as another clock told it; nothing ever makes it younger."""
    world = Exchange()
    world.answer(world.snapshot())
    for quantity in (1, 2, 3):
        world.tell(2, quantity)
    world.gap()
    true = world.snapshot().replace(b'"ts":1002', b'"ts":1001')
    assert b"1001" in true
    for _ in range(600):
        world.now += 1.0
        world.answer(true)
    assert world.keeper.passing


def test_one_time_from_the_future_does_not_make_every_audit_vain() -> None:
    """Times need not be monotonic: one wrong one must not cost a request a second for ever."""
    world = Exchange()
    world.tell(2, 1)
    world.answer(world.snapshot().replace(b'"ts":1000', b'"ts":9000000'))
    assert world.keeper.passing
    asked = 0
    for _ in range(6000):
        world.now += 0.1
        world.keeper.tick(world.now, 9)
        if world.keeper.wants(world.now):
            asked += 1
            world.answer(world.snapshot())
    assert asked < 60


def test_a_locked_market_has_a_book() -> None:
    """(13) A check that fails alike on every reply switches itself off: a book whose bid meets its ask is one, too."""
    world = Exchange()
    world.happen(49, 1)
    locked = world.snapshot().replace(b'"price":"90"', b'"price":"49"')
    for _ in range(100):
        world.now += 5
        world.answer(locked)
    assert world.keeper.passing


# Recovery


def test_an_acknowledgement_is_not_the_answer() -> None:
    """The exchange answers orders first with 202 and then with 200; a snapshot behind an acknowledgement is one."""
    house = House("M/publicOrderBook")
    house.wait()
    for _ in range(5):
        for line, request_id in house.asked():
            ack = json.dumps(
                {
                    "resultType": "emitPublicOrderBook",
                    "data": {"statusCode": 202, "clientRequestId": request_id},
                }
            ).encode()
            house.answer(line, ack, request_id, "emitPublicOrderBook")
            house.answer(line, house.book(*LEVELS), request_id)
        house.wait(2)
    assert house.recovery.synchronised() == {"M/publicOrderBook": True}


def test_over_all_markets_a_reply_without_a_name_is_for_no_other_market() -> None:
    """With neither ``market`` nor ``clientRequestId`` in it, it answers the oldest request of its line, if any."""
    house = House("M/publicOrderBook", "N/publicOrderBook", market="ALL")
    house.lines = ["a"]
    house.wait()
    orders = [{"orderType": "buy", "price": "1", "quantity": "77"}]
    nameless = json.dumps({"resultType": "publicOrderBook", "data": {"orders": orders}}).encode()
    house.answer("a", nameless)  # the book of M: it was asked for first
    assert b"77" not in (house.recovery.image("N/publicOrderBook") or b"")


def test_the_answer_to_a_request_from_before_a_gap_does_not_repair_it_without_an_id_either() -> None:
    """(4) The exchange echoes no ids and dates nothing: the first reply on that line is from before the gap."""
    house = House("M/publicOrderBook")
    house.lines = ["a"]
    house.synchronise()
    house.event("M/publicOrderBook", delta("1", "6", 5), 0)
    house.wait(3)
    assert len(house.asked()) == 1
    before = house.book(("buy", "1", "6"), LEVELS[1])
    house.release(Gap("", "divergence", 1, 2))
    house.wait()
    assert len(house.asked()) == 1
    house.answer("a", before)  # what the first request brings; the gap has hidden a change since
    assert b'"6"' not in (house.recovery.image("M/publicOrderBook") or b"")


def test_an_exchange_that_refuses_quickly_is_not_flooded() -> None:
    """(11) Many books over ALL, every request answered 429 at once: the feed as a whole has to slow down."""
    house = House(*(f"{number}/publicOrderBook" for number in range(200)), market="ALL")
    refusal = b'{"resultType":"error","data":{"statusCode":429,"body":"slow down"}}'
    asked = 0
    for _ in range(3000):
        house.wait(0.01)
        for line, request_id in house.asked():
            asked += 1
            house.answer(line, refusal, request_id, "error")
    assert asked < 30 * 20


def test_audits_that_are_refused_are_not_repeated_every_second() -> None:
    """(11) A live book, and an exchange that no longer answers requests for snapshots: there is no hurry."""
    house = House("M/publicOrderBook")
    house.synchronise()
    refusal = b'{"resultType":"error","data":{"statusCode":429,"body":"slow down"}}'
    asked = 0
    for _ in range(6000):
        house.wait(0.1)
        for line, request_id in house.asked():
            asked += 1
            house.answer(line, refusal, request_id, "error")
    assert asked < 60


def test_markets_that_do_not_answer_do_not_starve_the_others() -> None:
    """(6) R9: eight markets over ALL are silent; the ninth is answered as soon as it is asked for."""
    house = House(*(f"{number}/publicOrderBook" for number in range(9)), market="ALL")
    for _ in range(6000):
        house.wait(0.1)
        asks, house.recovery.asks = house.recovery.asks, []
        for line, text in asks:
            content = json.loads(text)["content"]
            if content["market"] == "8":
                house.answer(line, house.book(*LEVELS, market="8"), content["clientRequestId"])
    assert house.recovery.synchronised()["8/publicOrderBook"]


def test_a_repair_of_trades_has_a_time_out_where_nobody_is_asked() -> None:
    """R9: a repair has a time-out; here others take all the requests for ten minutes."""
    house = House(*(f"{number}/publicOrderBook" for number in range(8)), "M/publicTrades", market="ALL")
    house.event("M/publicTrades", trade(1), 0)
    house.release(Gap("M/publicTrades", "unproven", 1, 2))
    house.event("M/publicTrades", trade(9), 1)
    for _ in range(6000):
        house.wait(0.1)
        house.recovery.asks = []
    released = [one for one in house.published if isinstance(one, Release)]
    assert len(released) == 2


def test_a_burst_of_late_deltas_is_not_a_burst_of_books() -> None:
    """(8) (9) One read brings 64 of them: a book of 50,000 levels would be published 64 times, 190 MB of it."""
    house = House("M/publicOrderBook")
    house.synchronise()
    for position in range(100):
        house.event("M/publicOrderBook", delta("1", str(position + 1), position), position)
    burst = [
        Release("M/publicOrderBook", delta("0.5", str(number), number), "b", 7, "late", 100 + number, number)
        for number in range(64)
    ]
    published = house.release(*burst)
    assert sum(isinstance(one, Snapshot) for one in published) < 10


def test_a_gap_during_the_start_does_not_make_an_older_snapshot_young() -> None:
    """(4) What was held before the gap was released by the arbiter: a snapshot from before it is too old."""
    world = Exchange()
    old = world.snapshot(0)
    world.tell(60, 1)
    world.gap()
    world.answer(old)
    world.tell(2, 2)
    assert world.consumer is None or not world.consumer.difference(world.books[-1])


def test_failures_of_another_day_do_not_count() -> None:
    """(5) Three failed audits, each followed by days that show nothing wrong, then a book that is wrong indeed."""
    world = synchronised()
    quantity = 5
    for number in range(4):
        world.happen(40, number + 1)
        for _ in range(2):
            audited(world, world.snapshot())
        assert world.keeper.syncing, "the book is wrong, and two snapshots said so"
        world.answer(world.snapshot())
        for _ in range(10):
            world.keeper.asked(world.now)
            world.tell(2, quantity + 1)
            world.tell(60, quantity + 1)
            audited(world, world.snapshot(-1, (2, quantity)))
            quantity += 1
            assert world.results()[-1] == "unplaced"
