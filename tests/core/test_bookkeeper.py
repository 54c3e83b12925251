"""The book channel: after every published record a consumer's book is the exchange's, or a gap says that it is not."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from feedhandler.core.book import Book
from feedhandler.core.bookkeeper import KNOWN_AFTER_S, BookKeeper
from feedhandler.core.levels import Levels
from feedhandler.core.messages import Gap, Output, Release, Snapshot
from feedhandler.exchange.books import BookReply, read_book, read_levels
from feedhandler.exchange.desk import Books
from feedhandler.exchange.messages import Dialect
from feedhandler.simulator.messages import Wording
from feedhandler.simulator.settings import Behaviour

CHANNEL = "M/publicOrderBook"
GAP = Gap(CHANNEL, "outage", 1, 2)


def delta(price: int, quantity: int, ts: int | None) -> bytes:
    """Return a delta that sets one level, a bid below 50 and an ask from there on."""
    wording = Wording(Behaviour(delta_ts=ts is not None))
    side = "buy" if price < 50 else "sell"
    return wording.delta("M", [(side, str(price), str(quantity))], ts or 0)


class Exchange:
    """The true book after each event, and a keeper that is told of some of them."""

    def __init__(self, *, dated: bool = True) -> None:
        self.dated = dated
        self.payloads: list[bytes] = []
        self.books = [Book(_levels(delta(1, 1, None)) | _levels(delta(90, 1, None)))]
        self.keeper = BookKeeper(
            CHANNEL, Books("M", Dialect("M")), hold_events=50, hold_bytes=100_000, notify=lambda _: None
        )
        self.consumer: Book | None = None
        self.at = 0

    def happen(self, price: int, quantity: int) -> None:
        """Let one level change."""
        payload = delta(price, quantity, 1000 + len(self.payloads) if self.dated else None)
        self.payloads.append(payload)
        book = self.books[-1].copy()
        book.apply(_levels(payload))
        self.books.append(book)

    def check_transcript(self, index: int, now: float = 0.0) -> list[Output]:
        """Hand the keeper an event, and what comes of it to the consumer."""
        release = Release(CHANNEL, self.payloads[index], "a", 7, "", index)
        return self.consume(self.keeper.take(release, now))

    def snapshot(self, after: int) -> Levels:
        """Return the book after so many events, as a snapshot holds it."""
        return dict(self.books[after]._levels)

    def consume(self, outputs: Any) -> list[Output]:
        """Let the consumer follow, and check its book after every record."""
        outputs = list(outputs)
        for output in outputs:
            if isinstance(output, Snapshot):
                reply = read_book(output.payload, "M")
                assert isinstance(reply, BookReply)
                self.consumer = Book(reply.levels)
            elif isinstance(output, Release):
                assert self.consumer is not None, "an event before the first snapshot"
                self.consumer.apply(_levels(output.payload))
                assert not self.consumer.difference(self.books[output.position + 1])
                self.at = output.position + 1
        return outputs


def _levels(payload: bytes) -> Levels:
    levels = read_levels(payload)
    assert isinstance(levels, dict)
    return levels


changes = st.lists(st.tuples(st.sampled_from([2, 3, 60, 61]), st.integers(0, 3)), min_size=1, max_size=30)


@given(changes, st.data(), st.booleans())
def test_a_snapshot_from_anywhere_in_the_hold_fits(
    happened: list[tuple[int, int]], data: st.DataObject, dated: bool
) -> None:
    """(6) However old within the hold: what is published behind it leads to the true book at every record."""
    world = Exchange(dated=dated)
    for index, (price, quantity) in enumerate(happened):
        world.happen(price, quantity)
        assert world.check_transcript(index) == []
    after = data.draw(st.integers(0, len(happened)))
    outputs = world.keeper.synchronise(world.snapshot(after), 1000 + after if dated else None, 0.0)
    assert outputs is not None
    published = world.consume(outputs)
    assert isinstance(published[0], Snapshot)
    assert published[0].reason == "start"
    assert world.keeper.live
    world.happen(3, 9)
    world.check_transcript(len(happened))
    assert world.consumer is not None
    assert not world.consumer.difference(world.books[-1])
    assert world.keeper.audit(world.snapshot(len(happened) + 1)) is True


def test_a_gap_stands_before_its_snapshot_and_no_data_between() -> None:
    """(4) (5) One gap record, one snapshot that replaces, then live; the start is no gap."""
    world = Exchange()
    world.happen(2, 1)
    world.consume(world.keeper.synchronise(world.snapshot(1), 1000, 0.0) or [])
    assert world.consume(world.keeper.open_gap(GAP)) == []
    world.happen(2, 5)
    world.happen(3, 5)
    assert world.check_transcript(2) == []
    kinds = [type(one) for one in world.consume(world.keeper.synchronise(world.snapshot(2), 1001, 0.0) or [])]
    assert kinds == [Gap, Snapshot, Release]
    assert world.keeper.image() is not None


def test_a_snapshot_from_before_the_hold_is_not_believed() -> None:
    """(6) It does not know an event that came long before it was asked for."""
    world = Exchange(dated=False)
    world.happen(2, 1)
    world.check_transcript(0, now=0.0)
    assert world.keeper.synchronise(world.snapshot(0), None, KNOWN_AFTER_S) is None
    assert world.keeper.synchronise(world.snapshot(1), None, KNOWN_AFTER_S) is not None


def test_a_full_hold_forgets_its_oldest_events_and_asks_for_a_younger_snapshot() -> None:
    """(6) (8) The hold is bounded; a snapshot from before what is left does not fit."""
    world = Exchange(dated=False)
    for index in range(60):
        world.happen(2 + index % 2, index + 1)
        world.check_transcript(index)
    assert world.keeper.dropped
    assert world.keeper.synchronise(world.snapshot(0), None, 0.0) is None
    assert world.keeper.synchronise(world.snapshot(55), None, 0.0) is not None


def test_a_wrong_level_is_believed_when_two_snapshots_show_it() -> None:
    """(5) One differing snapshot is a suspicion, two are a gap; what a late event touched heals by itself."""
    world = Exchange()
    world.happen(2, 1)
    world.consume(world.keeper.synchronise(world.snapshot(1), 1000, 0.0) or [])
    true = world.snapshot(1)
    wrong = true | _levels(delta(40, 7, None))
    assert world.keeper.audit(wrong) is None
    assert [one.price for one in world.keeper.suspicious] == ["40"]
    assert world.keeper.audit(true) is True
    assert world.keeper.audit(wrong) is None
    assert world.keeper.audit(wrong) is False
    assert world.keeper.fail(9).reason == "audit"
    assert [one.price for one in world.keeper.differences] == ["40"]


def test_a_late_delta_is_followed_by_a_snapshot() -> None:
    """R3: it is folded in at its true place, and the book that comes of it is published."""
    world = Exchange()
    for price, quantity in ((2, 1), (2, 5), (3, 1)):
        world.happen(price, quantity)
    world.consume(world.keeper.synchronise(world.snapshot(0), 999, 0.0) or [])
    for index in (1, 2):
        list(world.keeper.take(Release(CHANNEL, world.payloads[index], "a", 7, "", index), 0.0))
    late = Release(CHANNEL, world.payloads[0], "b", 7, "late", 3, 1)
    outputs = list(world.keeper.take(late, 0.0))
    assert outputs[0] is late
    assert isinstance(outputs[1], Snapshot)
    assert outputs[1].reason == "late"
    book = world.keeper.track.book()
    assert book is not None
    assert not book.difference(world.books[-1])


def test_a_gap_during_a_repair_belongs_to_it() -> None:
    """Nothing was published in between, so there is one gap record with both bounds."""
    world = Exchange()
    world.happen(2, 1)
    world.keeper.open_gap(GAP)
    assert "syncing (start)" in repr(world.keeper)
    assert [type(one) for one in world.keeper.synchronise(world.snapshot(0), None, 0.0) or []] == [Snapshot]
    world.keeper.open_gap(GAP)
    world.keeper.open_gap(Gap(CHANNEL, "unproven", 5, 6))
    first, *_ = world.keeper.synchronise(world.snapshot(0), None, 0.0) or []
    assert first == Gap(CHANNEL, "outage", 1, 6)
    assert "live" in repr(world.keeper)
    world.keeper.open_gap(GAP)
    assert world.keeper.image() is None
