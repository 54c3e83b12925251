"""Books and trades that another daemon has published so far: what is known of them when this one goes on."""

from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core.book import Book
from feedhandler.core.bookkeeper import BookKeeper
from feedhandler.core.messages import Gap, Release, Run, Snapshot, State
from feedhandler.exchange.books import BookReply, read_book
from tests.core.test_bookkeeper import CHANNEL, GAP, Exchange
from tests.core.test_recovery import BOOK, ORDERS, OTHER, TRADES, House, trade
from tests.core.test_recovery import delta as bid
from tests.core.test_trades import CHANNEL as TRADE_CHANNEL
from tests.core.test_trades import WATCHED_EVENTS, Channel, event
from tests.support.scripts import steady


def book_of(keeper: BookKeeper) -> Book:
    """Return the book that a consumer would get now."""
    image = keeper.image()
    assert image is not None
    reply = read_book(image, "M")
    assert isinstance(reply, BookReply)
    return Book(reply.levels)


def inherited(world: Exchange, index: int, kind: str = "", before: int = -1) -> None:
    """Let the keeper inherit an event."""
    world.keeper.inherit(Release(CHANNEL, world.payloads[index], "active", 7, kind, index, before), world.now)


changes = st.lists(st.tuples(st.sampled_from([2, 3, 60, 61]), st.integers(0, 3)), min_size=1, max_size=20)


@steady
@given(changes, st.data())
def test_an_inherited_book_is_the_true_one(happened: list[tuple[int, int]], data: st.DataObject) -> None:
    """(5) From wherever its snapshot is: deltas before it change nothing, those behind it do, and it goes on live."""
    world = Exchange()
    for price, quantity in happened:
        world.happen(price, quantity)
    after = data.draw(st.integers(0, len(happened)))
    for index in range(len(happened)):
        if index == after:
            world.keeper.inherit_book(world.snapshot(after), after - 1, world.now)
        inherited(world, index)
    if after == len(happened):
        world.keeper.inherit_book(world.snapshot(after), after - 1, world.now)
    assert world.keeper.passing
    assert not book_of(world.keeper).difference(world.books[-1])
    world.consumer = book_of(world.keeper)
    world.tell(3, 9)
    assert world.keeper.wants(world.now + 1000)


def test_a_late_delta_owes_its_snapshot() -> None:
    """Where the other daemon died between the late delta and the book behind it, that book is owed; else it is not."""
    world = Exchange()
    world.keeper.inherit_book(world.snapshot(0), -1, world.now)
    for price in (2, 3, 4):
        world.happen(price, 1)
    inherited(world, 0)
    inherited(world, 2)
    world.keeper.inherit(Release(CHANNEL, world.payloads[1], "active", 7, "late", 3, 2), world.now)
    [owed] = world.keeper.flush()
    assert isinstance(owed, Snapshot)
    assert owed.reason == "late"
    assert not book_of(world.keeper).difference(world.books[-1])
    world.keeper.inherit(Release(CHANNEL, world.payloads[1], "active", 7, "late", 4, 2), world.now)
    world.keeper.inherit_book(world.snapshot(), 4, world.now)
    assert world.keeper.flush() == []


def test_behind_an_inherited_gap_comes_a_snapshot_and_no_other_gap() -> None:
    """(4) The gap is out already: what is published is the snapshot that it lacks, then what was held."""
    world = Exchange()
    world.keeper.inherit_book(world.snapshot(0), -1, world.now)
    world.happen(2, 1)
    inherited(world, 0)
    world.keeper.inherit_gap(GAP, world.now)
    assert world.keeper.image() is None
    assert world.keeper.wants(world.now)
    world.tell(3, 1)
    published = world.answer(world.snapshot(), asked_at=0.0)
    assert [type(one) for one in published] == [Snapshot]
    assert isinstance(published[0], Snapshot)
    assert published[0].reason == "gap"


def test_a_book_that_cannot_be_read_is_asked_for() -> None:
    """What is no book leaves the keeper without one; without audits none is due later."""
    world = Exchange(audit_s=0.0)
    world.keeper.inherit_book(b"{}", 0, world.now)
    assert world.keeper.syncing
    world.keeper.inherit_book(world.snapshot(0), -1, world.now)
    assert not world.keeper.wants(1e9)


def test_rows_that_were_backfilled_do_not_come_again() -> None:
    """(4) A row that the other daemon has recovered is left out of the live event that brings it later."""
    channel = Channel()
    channel.keeper.inherit(event(1, 2), 0.0)
    channel.keeper.inherit(Release(TRADE_CHANNEL, b"[3]", "active", 7, "backfilled"), 0.0)
    channel.keeper.inherit(Release(TRADE_CHANNEL, b"[4]", "active", 7, "backfilled"), 0.0)
    channel.keeper.inherit(event(4), 0.0)
    run = Run(("M/x", TRADE_CHANNEL), (b"[9]", b"[5]"), "active", 7, 8)
    channel.keeper.inherit(run, 0.0)
    assert channel.event(3) == []
    assert channel.event(6) == ["6"]
    assert channel.keeper.passing
    assert channel.gap() == []
    assert channel.event(8) == []
    assert channel.answer(4, 5, 6, 7, 8) == ["+7", "8"]
    for _ in range(WATCHED_EVENTS):
        channel.keeper.inherit(event(100), 0.0)
    assert channel.keeper.passing


def test_a_feed_goes_on_as_it_was_announced() -> None:
    """Only what differs from what the other daemon has announced is announced; what it never knew is no keeper's."""
    house = House(OTHER)
    recovery = house.recovery
    for name in (BOOK, TRADES, ORDERS):
        recovery.inherit(name, "down")
        recovery.inherit_state(name, "live")
    recovery.inherit_state("N/other", "live")
    recovery.inherit_book(BOOK, house.book(("buy", "1", "5"), ("sell", "2", "5")), -1, 0.0)
    recovery.inherit_book(TRADES, b"{}", -1, 0.0)
    recovery.inherit_events(
        Run((BOOK, TRADES, ORDERS), (bid("0.5", "1", 5), trade(1), b"{}"), "active", 7, 0), 0.0
    )
    recovery.inherit_events(Release(TRADES, trade(2), "active", 7, "backfilled"), 0.0)
    assert recovery.synchronised() == {BOOK: True}
    assert recovery.take_over("live", [], 0.0, 9) == []
    assert recovery.take_over("quiet", [], 0.0, 9) == [
        State("quiet", 9, name) for name in (OTHER, BOOK, TRADES, ORDERS)
    ]
    recovery.inherit_gap(Gap(TRADES, "outage", 1, 2), 0.0)
    recovery.inherit_gap(Gap(BOOK, "audit", 1, 2), 0.0)
    assert recovery.take_over("live", [], 0.0, 10)[1] == State("syncing", 10, BOOK)
