"""The book channel: after every published record a consumer's book is the exchange's, or a gap says that it is not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedhandler.config import Bounds, Recovery
from feedhandler.core import book_track
from feedhandler.core.audit import PAST_S, Pulse
from feedhandler.core.book import Book
from feedhandler.core.book_repair import KNOWN_AFTER_S, LAG_MOST_S
from feedhandler.core.bookkeeper import DOUBTFUL_REPLIES, MARK_EVERY_S, STUCK_ATTEMPTS, BookKeeper
from feedhandler.core.levels import Levels
from feedhandler.core.messages import Gap, Output, Release, Snapshot
from feedhandler.core.notes import Note
from feedhandler.exchange.books import BookReply, read_book, read_levels, write_book
from feedhandler.exchange.desk import Books
from feedhandler.exchange.messages import Dialect
from feedhandler.simulator.messages import Wording
from feedhandler.simulator.settings import Behaviour
from tests.support.scripts import steady

CHANNEL = "M/publicOrderBook"
GAP = Gap(CHANNEL, "outage", 1, 2)


def delta(price: int, quantity: int, ts: int | None) -> bytes:
    """Return a delta that sets one level, a bid below 50 and an ask from there on."""
    wording = Wording(Behaviour(delta_ts=ts is not None))
    side = "buy" if price < 50 else "sell"
    return wording.delta("M", [(side, str(price), str(quantity))], ts or 0)


class Exchange:
    """The true book after each event, and a keeper that is told of some of them."""

    def __init__(self, *, dated: bool = True, hold_events: int = 50, **settings: float) -> None:
        self.dated = dated
        self.now = 0.0
        self.notes: list[Note] = []
        self.payloads: list[bytes] = []
        self.books = [Book(_levels(delta(1, 1, None)) | _levels(delta(90, 1, None)))]
        self.pulse = Pulse()
        self.keeper = BookKeeper(
            "M",
            CHANNEL,
            Books("M", Dialect("M")),
            settings=Recovery(**settings),
            bounds=Bounds(repair_events=hold_events),
            notify=self.notes.append,
            pulse=self.pulse,
        )
        self.consumer: Book | None = None

    def happen(self, price: int, quantity: int) -> None:
        """Let one level change, unseen so far."""
        payload = delta(price, quantity, 1000 + len(self.payloads) if self.dated else None)
        self.payloads.append(payload)
        book = self.books[-1].copy()
        book.apply(_levels(payload))
        self.books.append(book)

    def tell(self, price: int, quantity: int) -> list[Output]:
        """Let one level change, and the keeper hear of it."""
        self.happen(price, quantity)
        return self.check_transcript(len(self.payloads) - 1)

    def check_transcript(self, index: int) -> list[Output]:
        """Hand the keeper an event as recovery does, and what comes of it to the consumer."""
        release = Release(CHANNEL, self.payloads[index], "a", 7, "", index)
        self.pulse.beats += 1
        if self.keeper.passing:
            self.keeper.follow(release)
            return self.consume([release])
        return self.consume(self.keeper.take(release, self.now))

    def snapshot(self, after: int = -1, *more: tuple[int, int]) -> bytes:
        """Return the book after so many events, as the exchange writes it, with some levels changed."""
        book = self.books[after].copy()
        for price, quantity in more:
            book.apply(_levels(delta(price, quantity, None)))
        ts = 999 + (after if after >= 0 else len(self.payloads)) if self.dated else None
        return write_book(book, "M", ts)

    def answer(self, payload: bytes, *, asked_at: float | None = None) -> list[Output]:
        """Let a snapshot come that was asked for just now, or some time ago; during a repair wait until it settles."""
        if asked_at is None:
            self.keeper.asked(self.now)
        at = self.now if asked_at is None else asked_at
        outputs = self.consume(self.keeper.answer(payload, "a", at, self.now, 9))
        return outputs + self.wait(PAST_S) if self.keeper.syncing else outputs

    def wait(self, seconds: float) -> list[Output]:
        """Let time pass."""
        self.now += seconds
        return self.consume(self.keeper.tick(self.now, 9))

    def gap(self, gap: Gap = GAP) -> None:
        """Let a gap begin."""
        assert list(self.keeper.open_gap(gap, self.now)) == []

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
        return outputs

    def results(self) -> list[str]:
        """Return the results of the audits so far."""
        return [str(one.fields["result"]) for one in self.notes if one.name == "book_audited"]

    def missed(self) -> list[str]:
        """Return why snapshots were of no use."""
        return [str(one.fields["reason"]) for one in self.notes if one.name == "snapshot_missed"]


def _levels(payload: bytes) -> Levels:
    levels = read_levels(payload)
    assert isinstance(levels, dict)
    return levels


changes = st.lists(st.tuples(st.sampled_from([2, 3, 60, 61]), st.integers(0, 3)), min_size=1, max_size=30)


@steady
@given(changes, st.data(), st.booleans())
def test_a_snapshot_from_anywhere_in_the_hold_fits(
    happened: list[tuple[int, int]], data: st.DataObject, dated: bool
) -> None:
    """(6) However old within the hold: what is published behind it leads to the true book at every record."""
    world = Exchange(dated=dated)
    for price, quantity in happened:
        assert world.tell(price, quantity) == []
    after = data.draw(st.integers(1, len(happened)))
    published = world.answer(world.snapshot(after), asked_at=0.0)
    if not published:  # nothing that it shows tells that it is young enough
        world.tell(3, 8)
        published = world.answer(world.snapshot(), asked_at=0.0)
    assert isinstance(published[0], Snapshot)
    assert published[0].reason == "start"
    assert world.keeper.passing
    world.tell(3, 9)
    assert world.consumer is not None
    assert not world.consumer.difference(world.books[-1])


@steady
@given(changes, st.integers(1, 30), st.integers(0, 30), st.data())
def test_a_source_that_lags_converges_on_the_true_book(
    happened: list[tuple[int, int]], lag: int, hidden: int, data: st.DataObject
) -> None:
    """(5) (6) Behind a gap, with a source that is `lag` events old: no book is ever published that is not true.

    Each event changes its level to a quantity of its own, so a snapshot that shows one is not older than it.
    """
    world = Exchange(dated=data.draw(st.booleans()))
    world.answer(world.snapshot())
    number = 10
    for price, _ in happened:
        number += 1
        world.tell(price, number)
    world.gap()
    for _ in range(hidden):
        number += 1
        world.happen(2, number)
    for _ in range(lag + 5):
        number += 1
        world.tell(data.draw(st.sampled_from([2, 3, 60])), number)
        world.now += LAG_MOST_S / 31 - PAST_S  # so it is never older than any source is expected to be
        world.answer(world.snapshot(max(0, len(world.payloads) - lag)))
    assert world.keeper.passing
    assert world.consumer is not None
    assert not world.consumer.difference(world.books[-1])


def test_a_gap_stands_before_its_snapshot_and_no_data_between() -> None:
    """(4) (5) One gap record, one snapshot that replaces, then live; the start is no gap."""
    world = Exchange()
    world.tell(2, 1)
    assert [type(one) for one in world.answer(world.snapshot())] == [Snapshot]
    world.gap()
    assert world.keeper.image() is None
    world.happen(2, 5)
    world.happen(3, 5)
    world.check_transcript(2)
    assert [type(one) for one in world.answer(world.snapshot())] == [Gap, Snapshot]
    assert [type(one) for one in world.tell(3, 6)] == [Release]
    assert b'"6"' in (world.keeper.image() or b"")
    assert world.keeper.image() is world.keeper.image()


def test_with_nothing_held_a_snapshot_is_believed_unless_it_is_older_than_the_last_event() -> None:
    """In a quiet market there is nothing to hold it against but the exchange's times."""
    world = Exchange()
    world.answer(world.snapshot())
    for quantity in (1, 2, 3):
        world.tell(2, quantity)
    world.gap()
    assert world.answer(world.snapshot(1)) == []
    assert world.missed() == ["too_old"]
    assert [type(one) for one in world.answer(world.snapshot())] == [Gap, Snapshot]


def test_a_snapshot_that_does_not_know_what_came_before_it_was_asked_for_is_too_old() -> None:
    """(6) As long as a current source can be hoped for; then one that shows a held event will do."""
    world = Exchange(dated=False)
    world.answer(world.snapshot())
    world.gap()
    for quantity in (1, 2, 3):
        world.tell(2, quantity)
    world.now = 10.0
    assert world.answer(world.snapshot(0)) == []
    assert world.answer(world.snapshot(1)) == []
    assert world.answer(world.snapshot(1)) == []
    assert world.answer(world.snapshot(0)) == []
    assert world.missed() == ["too_old"] * 4
    assert [type(one) for one in world.answer(world.snapshot(1))] == [Gap, Snapshot, Release, Release]


def test_what_shows_nothing_is_believed_when_it_cannot_be_older() -> None:
    """Events that only take away what is not there say nothing; a minute later no snapshot is from before them."""
    world = Exchange(dated=False)
    world.tell(2, 0)
    assert world.answer(world.snapshot()) == []
    world.now = LAG_MOST_S
    assert [type(one) for one in world.answer(world.snapshot())] == [Snapshot]


def test_pauses_between_requests_grow_up_to_their_bound() -> None:
    """(6) A reply of no use is followed by another request soon at first; a book that stays away is told about."""
    world = Exchange(retry_s=1.0)
    pauses = []
    for _ in range(STUCK_ATTEMPTS):
        assert world.keeper.wants(world.now)
        world.keeper.answer(b"{}", "a", world.now, world.now, 9)
        before = world.now
        while not world.keeper.wants(world.now):
            world.now += 0.001
        pauses.append(round(world.now - before, 1))
    assert pauses == [0.2, 0.4, 0.8] + [1.0] * (STUCK_ATTEMPTS - 4) + [2.0]
    assert [one.fields for one in world.notes if one.name == "resync_stuck"] == [
        {"feed": "M", "channel": CHANNEL, "attempts": STUCK_ATTEMPTS}
    ]


def test_a_book_without_levels_is_believed_after_some_replies() -> None:
    """A market may have no orders; but a source that has just begun says so, too."""
    world = Exchange()
    empty = write_book(Book(), "M")
    for _ in range(DOUBTFUL_REPLIES - 1):
        assert world.answer(empty) == []
    assert set(world.missed()) == {"empty"}
    assert [type(one) for one in world.answer(empty)] == [Snapshot]
    assert json.loads(world.keeper.image() or b"")["data"]["orders"] == []


def test_a_snapshot_beyond_its_bound_is_refused() -> None:
    """(8) (9) No consumer could be given that book; it is not read, and asked for again."""
    world = Exchange()
    assert world.answer(b" " * (Bounds().snapshot_bytes + 1)) == []
    assert world.missed() == ["size"]


def test_a_full_hold_forgets_its_oldest_events_and_asks_for_a_younger_snapshot() -> None:
    """(6) (8) The hold is bounded; a snapshot from before what is left does not fit."""
    world = Exchange(dated=False)
    for index in range(60):
        world.tell(2 + index % 2, index + 1)
    assert world.answer(world.snapshot(0)) == []
    world.now = LAG_MOST_S
    assert world.answer(world.snapshot(0)) == []
    assert world.notes[0].name == "repair_overflowed"
    assert world.answer(world.snapshot(55), asked_at=0.0) != []


def test_a_gap_during_a_repair_belongs_to_it() -> None:
    """Nothing was published in between, so there is one gap record with both bounds; at the start there is none."""
    world = Exchange()
    world.happen(2, 1)
    world.gap()
    assert "syncing (start)" in repr(world.keeper)
    assert [type(one) for one in world.answer(world.snapshot())] == [Snapshot]
    world.gap()
    world.gap(Gap(CHANNEL, "unproven", 5, 6))
    world.now += KNOWN_AFTER_S
    first, *_ = world.answer(world.snapshot())
    assert first == Gap(CHANNEL, "outage", 1, 6)
    assert "live" in repr(world.keeper)


def test_a_late_delta_is_followed_by_a_snapshot() -> None:
    """R3: it is folded in at its true place, and the book that comes of it is published; an audit begins anew."""
    world = Exchange()
    world.answer(world.snapshot())
    for price, quantity in ((2, 1), (2, 5), (3, 1)):
        world.happen(price, quantity)
    for index in (1, 2):
        world.keeper.follow(Release(CHANNEL, world.payloads[index], "a", 7, "", index))
    world.keeper.asked(0.0)
    assert world.keeper.auditing
    late = Release(CHANNEL, world.payloads[0], "b", 7, "late", 3, 1)
    outputs = [*world.keeper.take(late, 0.0), *world.keeper.flush()]
    assert outputs[0] is late
    assert isinstance(outputs[1], Snapshot)
    assert outputs[1].reason == "late"
    assert not world.keeper.auditing
    book = world.keeper.track.book()
    assert book is not None
    assert not book.difference(world.books[-1])


def test_what_was_late_during_a_repair_stands_behind_it_like_any_other() -> None:
    """R3 and R9: while nothing behind it is out it goes out in its place; what is from before is late."""
    world = Exchange()
    for price, quantity in ((2, 1), (2, 5), (3, 1), (60, 4)):
        world.happen(price, quantity)
    for index in (0, 2, 3):
        world.check_transcript(index)
    late = Release(CHANNEL, world.payloads[1], "b", 7, "late", 4, 2)
    assert list(world.keeper.take(late, 0.0)) == []
    published = world.keeper.answer(world.snapshot(1), "a", 0.0, 0.0, 9)
    kinds = [getattr(one, "reason", "") or getattr(one, "kind", "") for one in published]
    assert kinds == ["start", "", "", ""]
    between = Exchange()
    for price, quantity in ((2, 1), (60, 4), (3, 7), (61, 2)):
        between.happen(price, quantity)
    between.check_transcript(1)
    between.keeper.take(Release(CHANNEL, between.payloads[0], "b", 7, "late", 2, 0), 0.0)
    between.check_transcript(2)
    between.check_transcript(3)
    published = between.keeper.answer(between.snapshot(2), "a", 0.0, 0.0, 9)
    kinds = [getattr(one, "reason", "") or getattr(one, "kind", "") for one in published]
    assert kinds == ["start", "late", "late", "", ""]
    other = Exchange()
    for price, quantity in ((2, 1), (60, 4)):
        other.happen(price, quantity)
    other.check_transcript(1)
    other.keeper.take(Release(CHANNEL, other.payloads[0], "b", 7, "late", 2, 0), 0.0)
    published = other.keeper.answer(other.snapshot(2), "a", 0.0, 0.0, 9)
    published += other.keeper.tick(PAST_S, 9)
    kinds = [getattr(one, "reason", "") or getattr(one, "kind", "") for one in published]
    assert kinds == ["start", "late", "late"]
    book = world.keeper.track.book()
    assert book is not None
    assert not book.difference(world.books[-1])


def test_each_late_delta_has_its_own_book_behind_it() -> None:
    """R3: also where nothing else has come since the book was last looked at."""
    world = Exchange()
    world.answer(world.snapshot())
    for price, quantity in ((2, 1), (3, 1), (60, 4), (61, 5)):
        world.happen(price, quantity)
    for index in (0, 3):
        world.keeper.follow(Release(CHANNEL, world.payloads[index], "a", 7, "", index))
    assert world.keeper.image() is not None
    for index in (1, 2):
        late = Release(CHANNEL, world.payloads[index], "b", 7, "late", 3 + index, 3)
        world.consume([*world.keeper.take(late, 0.0), *world.keeper.flush()][1:])
        assert world.consumer is not None
        held = {level.price for level in world.consumer.levels()}
        assert ("3" in held, "60" in held) == (True, index == 2)
    assert not world.consumer.difference(world.books[-1])


def after_a_gap(*, dated: bool, quiet: bool) -> Exchange:
    """Return a book behind a gap that has hidden two settings of one level, and an event behind it.

    The snapshot came before that event, in a ``quiet`` market, or after it.
    """
    world = Exchange(dated=dated)
    world.tell(2, 1)
    world.answer(world.snapshot())
    world.gap()
    world.happen(2, 5)
    world.happen(2, 6)
    world.now += KNOWN_AFTER_S
    if quiet:
        assert [type(one) for one in world.answer(world.snapshot())] == [Gap, Snapshot]
        world.tell(3, 1)
    else:
        world.tell(3, 1)
        assert [type(one) for one in world.answer(world.snapshot())] == [Gap, Snapshot]
    return world


@pytest.mark.parametrize("quiet", [False, True])
@pytest.mark.parametrize("dated", [True, False])
def test_what_a_gap_has_hidden_is_in_the_snapshot_behind_it(*, dated: bool, quiet: bool) -> None:
    """R3, R4 and R9: it comes late, and what the gap hides behind it has the last word, seen or not."""
    world = after_a_gap(dated=dated, quiet=quiet)
    late = Release(CHANNEL, world.payloads[1], "b", 7, "late", 4, 3)
    outputs = [*world.keeper.take(late, world.now), *world.keeper.flush()]
    assert [getattr(one, "reason", "") for one in outputs] == ["", "late"]
    book = world.keeper.track.book()
    assert book is not None
    assert not book.difference(world.books[-1])
    world.tell(2, 7)


@pytest.mark.parametrize("dated", [True, False])
def test_what_a_gap_has_hidden_and_comes_during_its_repair_is_in_the_snapshot(*, dated: bool) -> None:
    """R3 and R9: it is no event behind the gap: the snapshot need not show it, and it goes out late."""
    world = Exchange(dated=dated)
    world.tell(2, 1)
    world.answer(world.snapshot())
    world.gap()
    world.happen(2, 5)
    world.happen(2, 6)
    world.tell(3, 1)
    late = Release(CHANNEL, world.payloads[1], "b", 7, "late", 4, 3)
    assert list(world.keeper.take(late, world.now)) == []
    world.keeper.answer(world.snapshot(), "a", world.now, world.now, 9)
    world.now += PAST_S
    kinds = [
        getattr(one, "reason", "") or getattr(one, "kind", "") for one in world.keeper.tick(world.now, 9)
    ]
    assert kinds == ["outage", "gap", "late", "late"]
    book = world.keeper.track.book()
    assert book is not None
    assert not book.difference(world.books[-1])


def test_a_first_event_that_a_line_has_dropped_is_no_part_of_an_older_snapshot() -> None:
    """R3: by its time it is younger than the snapshot; so it counts, as it does where the snapshot was the first."""
    world = Exchange()
    world.tell(2, 1)
    world.answer(world.snapshot())
    world.gap()
    world.now += KNOWN_AFTER_S
    world.answer(world.snapshot())
    world.happen(2, 5)
    world.happen(3, 1)
    world.keeper.follow(Release(CHANNEL, world.payloads[2], "a", 7, "", 2))
    late = Release(CHANNEL, world.payloads[1], "b", 7, "late", 3, 2)
    world.consume([*world.keeper.take(late, world.now), *world.keeper.flush()][1:])
    assert world.consumer is not None
    assert not world.consumer.difference(world.books[-1])


# Audits


def audited(world: Exchange, payload: bytes) -> list[Output]:
    """Let an audit have its snapshot, and its time; trades come meanwhile."""
    outputs = world.answer(payload)
    world.pulse.beats += 1
    return outputs or world.wait(PAST_S)


def synchronised(**settings: Any) -> Exchange:
    """Return a book that is there, and has moved on."""
    world = Exchange(**settings)
    world.tell(2, 1)
    world.answer(world.snapshot())
    for price, quantity in ((2, 5), (3, 1), (60, 4)):
        world.tell(price, quantity)
    return world


@steady
@given(changes, changes, st.integers(0, 60), st.booleans())
def test_a_true_snapshot_passes_whenever_it_is_from(
    before: list[tuple[int, int]], after: list[tuple[int, int]], place: int, dated: bool
) -> None:
    """(5) From before it was asked for, from its place on the line, or from the line's future: right is right."""
    world = synchronised(dated=dated)
    for change in before:
        world.tell(*change)
    world.keeper.asked(world.now)
    start = len(world.payloads)
    for change in after:
        world.happen(*change)
    halfway = start + len(after) // 2
    for index in range(start, halfway):
        world.check_transcript(index)
    world.answer(world.snapshot(max(1, len(world.payloads) - place)), asked_at=0.0)
    for index in range(halfway, len(world.payloads)):
        world.check_transcript(index)
    world.wait(PAST_S)
    for result in world.results():
        assert result in {"passed", "unplaced"}
    assert world.results() or world.missed() == ["too_old"]


def test_a_wrong_level_is_believed_when_two_snapshots_show_it() -> None:
    """(5) One differing snapshot is a suspicion, two of the same level are a gap and a new book."""
    world = synchronised()
    world.happen(40, 7)  # on no line
    assert audited(world, world.snapshot()) == []
    assert world.keeper.wants(world.now)
    assert audited(world, world.snapshot()) == []
    assert world.results() == ["suspicious", "failed"]
    failed = next(one for one in world.notes if one.name == "book_failed")
    assert failed.fields["levels"] == "buy 40: 0 is 7"
    assert (world.keeper.failed, world.keeper.syncing) == ("behind", True)
    first, second = world.answer(world.snapshot())
    assert isinstance(first, Gap)
    assert isinstance(second, Snapshot)
    assert (first.reason, second.reason) == ("audit", "audit")
    assert audited(world, world.snapshot()) == []
    assert world.results()[-1] == "passed"


def test_one_wrong_snapshot_is_no_verdict() -> None:
    """The second one decides: it may agree, or show other levels, which says nothing of the book."""
    world = synchronised()
    audited(world, world.snapshot(-1, (40, 7)))
    audited(world, world.snapshot())
    audited(world, world.snapshot(-1, (40, 7)))
    audited(world, world.snapshot(-1, (41, 7)))
    assert world.results() == ["suspicious", "passed", "suspicious", "unplaced"]


def test_a_snapshot_between_two_deltas_is_no_proof_and_no_verdict() -> None:
    """R7 by the letter makes a verdict of a state that the book had at no position; an exchange that batches shows it.

    Each level stands as the book had it at some position, so nothing is wrong.
    """
    world = synchronised()
    world.keeper.asked(world.now)
    world.tell(2, 6)
    world.tell(60, 9)
    between = world.snapshot(-1, (2, 5))  # level 60 as it became, level 2 as it was before
    assert audited(world, between) == []
    assert world.results() == ["unplaced"]


def test_a_snapshot_may_be_older_than_its_request() -> None:
    """(6) Without a time, levels that changed within the last minute are no evidence; others are."""
    world = synchronised(dated=False)
    world.now = 2 * LAG_MOST_S
    world.wait(0)
    world.wait(LAG_MOST_S + 1)
    world.tell(2, 9)
    assert audited(world, world.snapshot(-2)) == []
    assert world.results() == ["unplaced"]
    for _ in range(2):
        audited(world, world.snapshot(-2, (3, 7)))
    assert world.results()[-1] == "failed"
    assert next(one for one in world.notes if one.name == "book_failed").fields["levels"] == "buy 3: 1 is 7"


def test_an_audit_knows_the_book_of_a_minute_ago_also_while_it_takes_its_time() -> None:
    """(5) However regularly time is told, a level that nobody has touched for long is no excuse."""
    world = synchronised(dated=False)
    for _ in range(2 * round(LAG_MOST_S)):
        world.tell(2, 3)
        world.wait(MARK_EVERY_S)
    for _ in range(2):
        world.keeper.asked(world.now)
        asked_at = world.now
        for _ in range(5):
            world.wait(MARK_EVERY_S)
        world.answer(world.snapshot(-1, (3, 7)), asked_at=asked_at)
        world.pulse.beats += 1
        world.wait(PAST_S)
    assert world.results() == ["suspicious", "failed"]


def test_a_book_at_rest_says_when_time_matters() -> None:
    """That is its next audit, or a mark for where it moved to, or its mending."""
    world = synchronised(verify_s=3.0)
    world.wait(0)
    assert world.keeper.due() == world.now + 3.0
    world.tell(2, 3)
    assert world.keeper.due() == world.now + MARK_EVERY_S
    world.wait(MARK_EVERY_S)
    assert world.keeper.due() == world.now + 2.0
    world.keeper.follow(Release(CHANNEL, b"{}", "a", 7, "", len(world.payloads)))
    world.keeper.track.catch_up()
    assert world.keeper.due() <= world.now


def test_audits_come_at_their_interval_or_at_once_or_never() -> None:
    """(5) Soon after a repair, then at the interval, spread by channel; where all is silent, now."""
    world = synchronised(verify_s=3.0, audit_s=64.0)
    assert not world.keeper.wants(world.now + 2.9)
    world.now += 3.0
    assert world.keeper.wants(world.now)
    audited(world, world.snapshot())
    assert not world.keeper.wants(50.0)
    assert world.keeper.wants(4.0 + 64 * 1.25)
    world.keeper.audit_soon(20.0)
    assert world.keeper.wants(20.0)
    never = synchronised(audit_s=0.0)
    assert not never.keeper.wants(1e9)
    never.keeper.audit_soon(20.0)
    audited(never, never.snapshot())
    assert not never.keeper.wants(1e9)


def test_an_audit_without_an_answer_is_repeated() -> None:
    """The base is taken anew; nothing is said of the book."""
    world = synchronised()
    world.keeper.asked(world.now)
    assert world.keeper.in_vain("silence", world.now) == []
    assert not world.keeper.auditing
    assert not world.keeper.wants(world.now + 14)
    assert world.keeper.wants(world.now + 15)
    assert world.answer(b"{}") == []
    assert world.missed() == ["silence", "shape"]
    assert world.keeper.passing


def test_an_audit_that_outlasts_the_memory_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """(8) Deltas are kept within a bound; what is not there can't be compared."""
    world = synchronised()
    world.keeper.asked(world.now)
    monkeypatch.setattr(book_track, "MEMORY_BYTES", 1)
    world.tell(2, 7)
    world.tell(2, 8)
    world.keeper.track.catch_up()
    assert world.answer(world.snapshot(-1, (40, 1)), asked_at=0.0) == []
    assert (world.results(), world.keeper.auditing) == ([], False)


def test_audits_that_always_fail_are_believed_less_and_less_often() -> None:
    """(6) (13) A check that fails again and again says something about itself: it mostly costs no more than a note."""
    world = synchronised(audit_s=60.0)
    for _ in range(200):
        for _ in range(2):
            audited(world, world.snapshot(-1, (40, 7)))
        world.now += 60
        if world.keeper.syncing:
            world.answer(world.snapshot())
    hours = world.now / 3600
    assert world.results().count("failed") <= 6 + hours
    assert world.results().count("failed") >= hours
    assert (
        [one.name for one in world.notes].count("audit_distrusted")
        == world.results().count("distrusted")
        > 100
    )
    assert world.keeper.passing
    audited(world, world.snapshot())
    for _ in range(2):
        audited(world, world.snapshot(-1, (40, 7)))
    assert world.results()[-3:] == ["passed", "suspicious", "failed"]


def test_a_snapshot_that_is_newer_than_all_that_came_says_that_the_lines_are_behind() -> None:
    """(2) With a time, and nothing coming: it is not the book alone that is wrong."""
    world = synchronised()
    for _ in range(2):
        world.happen(40, 7)  # on no line
        audited(world, world.snapshot())
    assert world.keeper.failed == "behind"
    other = synchronised()
    other.happen(40, 7)
    for _ in range(2):
        other.answer(other.snapshot())
        other.happen(2, 7)
        other.keeper.follow(Release(CHANNEL, other.payloads[-1], "a", 7, "", len(other.payloads) - 1))
        other.pulse.beats += 1
        other.wait(PAST_S)
    assert other.keeper.failed == "audit"


def test_without_times_a_quiet_market_is_believed_after_a_moment() -> None:
    """(6) Nothing is held that a snapshot could show, and it may be old; a market that moves will tell."""
    world = synchronised(dated=False)
    world.gap()
    assert world.answer(world.snapshot(0)) == []
    world.now += KNOWN_AFTER_S
    assert [type(one) for one in world.answer(world.snapshot())] == [Gap, Snapshot]


def test_a_delta_that_nobody_can_read_costs_one_repair() -> None:
    """(13) It goes out as it is; the book is given up for a new one, once in an audit's time."""
    world = synchronised()
    for number in range(3):
        broken = Release(CHANNEL, b'{"data":{"orders":[{}]}}', "a", 7, "", 100 + number)
        world.keeper.follow(broken)
        world.keeper.track.catch_up()
        assert world.keeper.image() is None
        world.now += 1
        world.keeper.tick(world.now, 9)
        if number == 0:
            assert (world.keeper.failed, world.keeper.syncing) == ("damage", True)
            world.now += KNOWN_AFTER_S
            published = world.answer(world.snapshot())
            assert [getattr(one, "reason", "") for one in published] == ["audit", "audit"]
    assert world.keeper.passing


def test_a_late_delta_that_is_older_than_the_first_one_behind_the_snapshot_is_in_there() -> None:
    """(5) Who brings it does not know that one, and so has it belong before a later one; the times tell."""
    world = Exchange()
    for price in (2, 2, 3, 4):
        world.happen(price, 1 + len(world.payloads))
    world.keeper.inherit_book(world.snapshot(2), 1, world.now)
    for index in (2, 3):
        world.keeper.follow(Release(CHANNEL, world.payloads[index], "a", 7, "", index))
    before = world.keeper.image()
    world.keeper.take(Release(CHANNEL, world.payloads[0], "b", 7, "late", 4, 3), world.now)
    assert world.keeper.image() == before
