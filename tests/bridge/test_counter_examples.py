"""Counter-examples that the fuzzer of bridges (`tests.soak.fuzz_bridge`) has found, in its smallest form each."""

from random import Random

import msgspec
import pytest

from feedhandler.client import Event
from tests.bridge.model import PATIENCE_S, TAKEOVER_S, Host, timeless
from tests.bridge.test_channel import BOOK, TRADES, Stage, book, events, gap

OTHERS = "N/publicTrades"


@pytest.fixture
def stage() -> Stage:
    """Give two hosts that are linked to an empty stream."""
    return Stage()


def newcomer(stage: Stage, name: str = "c") -> Host:
    """Let another host be in the place of the second one."""
    stage.b.unlink()
    stage.b = Host(name, stage.server, Random(1))
    stage.b.link(stage.now)
    return stage.b


def late(channel: str, number: int) -> Event:
    """Make an event that its daemon calls late."""
    return msgspec.structs.replace(events(channel, number)[0], event_class="late")


def test_what_was_deleted_before_it_was_read_may_have_been_ours(stage: Stage) -> None:
    """Where limits have deleted what was not read yet, nothing is sent again before the place is proven anew."""
    stage.both(*events(TRADES, 1, 2))
    stage.a.unlink()
    stage.bring(stage.a, *events(TRADES, 3, 4))
    stage.bring(stage.b, *events(TRADES, 3, 4, 5))
    stage.let()
    stage.a.merge.take(5, stage.server.read(5), stage.now)
    channel = stage.a.merge.channels[TRADES]
    assert not channel.aligned
    assert not len(channel.pending)
    stage.a.link(stage.now)
    stage.bring(stage.a, *events(TRADES, 5, 6))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "2", "3", "4", "5", "6"]


def test_a_beginning_by_decree_is_never_older_than_the_stream(stage: Stage) -> None:
    """A restarted bridge that reads its backlog slowly does not take an old book for the present one."""
    stage.both(book(BOOK), *events(BOOK, 1, 2, 3))
    stage.a.unlink()
    host = newcomer(stage)
    host.merge.channels.clear()
    stored = stage.server.read(4)
    assert stored is not None
    host.merge.recall(stored, stage.now)
    stage.bring(host, book(BOOK), *events(BOOK, 1))
    stage.let(2 * PATIENCE_S)
    stage.bring(host, *events(BOOK, 2, 3, 4))
    stage.let(PATIENCE_S)
    assert stage.shown(BOOK) == ["snapshot start", "1", "2", "3", "4"]


def test_a_beginning_by_decree_leaves_out_what_the_stream_has(stage: Stage) -> None:
    """Its clock is ahead, so that an event of the stream, which came late and proves no place, seems to be news."""
    stage.bring(stage.a, *events(TRADES, 1, 3), late(TRADES, 2))
    stage.let()
    stage.a.unlink()
    host = newcomer(stage)
    ahead = msgspec.structs.replace(events(TRADES, 2)[0], recv=1009)
    stage.bring(host, gap(TRADES, 1, 8), ahead, *events(TRADES, 12))
    stage.let(2 * PATIENCE_S)
    assert stage.shown(TRADES) == ["1", "3", "2 late", "gap unforwarded", "12"]


def test_an_old_gap_of_the_backlog_is_not_written_again(stage: Stage) -> None:
    """The oldest record that a restarted bridge reads is a gap that the stream has gone past."""
    stage.both(*events(TRADES, 1))
    stage.both(*events(TRADES, 5, 6, 7))
    stage.a.unlink()
    host = newcomer(stage)
    stage.bring(host, gap(TRADES, 1, 5), *events(TRADES, 5))
    assert host.merge.channels[TRADES].aligned
    host = newcomer(stage, "d")
    stage.bring(host, gap(TRADES, 1, 5), timeless(TRADES, 9, 5))
    stage.let(2 * PATIENCE_S)
    assert stage.shown(TRADES) == ["1", "5", "6", "7"]


def test_a_snapshot_tells_how_far_the_stream_is(stage: Stage) -> None:
    """Where the newest message of a channel, which is all that is read of it, is a book, older events stay out."""
    stage.both(book(BOOK), *events(BOOK, 1, 2), book(BOOK, "audit"))
    stage.a.unlink()
    host = newcomer(stage)
    host.merge.channels.clear()
    stored = stage.server.read(len(stage.server.messages))
    assert stored is not None
    host.merge.recall(stored, stage.now)
    stage.bring(host, book(BOOK), *events(BOOK, 1, 2))
    stage.let(2 * PATIENCE_S)
    assert stage.shown(BOOK) == ["snapshot start", "1", "2", "snapshot audit"]


def test_the_newest_record_proves_a_place_whatever_it_is(stage: Stage) -> None:
    """A restarted bridge that finds its own daemon's book at the end of the stream goes on behind it."""
    stage.b.unlink()
    stage.bring(stage.a, book(BOOK), *events(BOOK, 1), book(BOOK, "audit"))
    stage.let()
    host = newcomer(stage, "a")
    stored = stage.server.read(3)
    assert stored is not None
    host.merge.channels.clear()
    host.merge.recall(stored, stage.now)
    stage.a.unlink()
    stage.bring(host, book(BOOK), *events(BOOK, 1), book(BOOK, "audit"), *events(BOOK, 2))
    stage.let()
    assert stage.shown(BOOK) == ["snapshot start", "1", "snapshot audit", "2"]


def test_a_decree_is_void_also_where_the_other_has_what_is_pending(stage: Stage) -> None:
    """With a clock that is ahead an old event seems new; the next one, written by the other host, proves the place."""
    stage.bring(stage.a, timeless(TRADES, 9, 2))
    stage.let()
    host = newcomer(stage)
    stage.bring(host, timeless(TRADES, 9, 5))
    host.linked = False
    stage.now += 2 * PATIENCE_S
    host.merge.due(stage.now, TAKEOVER_S, PATIENCE_S)
    assert host.merge.channels[TRADES].aligned
    stage.bring(host, *events(TRADES, 12))
    stage.bring(stage.a, *events(TRADES, 12))
    stage.let()
    host.linked = True
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["9", "12"]


def test_a_late_event_from_before_the_join_is_known(stage: Stage) -> None:
    """A host joins behind an event that its own daemon has had late: the stream has it, in its place."""
    stage.bring(stage.a, *events(TRADES, 1, 2, 5))
    stage.let()
    host = newcomer(stage)
    stage.bring(host, *events(TRADES, 2), late(TRADES, 1), *events(TRADES, 5))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "2", "5"]


def test_a_late_event_proves_no_place(stage: Stage) -> None:
    """What its daemon has had before it may come behind it in the exchange's order."""
    stage.bring(stage.a, *events(TRADES, 1, 44))
    stage.let()
    stage.a.unlink()
    host = newcomer(stage)
    stage.bring(host, *events(TRADES, 46), late(TRADES, 44), *events(TRADES, 48))
    stage.let(2 * PATIENCE_S)
    assert stage.shown(TRADES) == ["1", "44", "gap unforwarded", "46", "48"]


def test_a_session_that_begins_anew_is_a_gap_also_for_a_witness(stage: Stage) -> None:
    """What was held of the one session, and what comes of the next, do not follow one another."""
    stage.a.unlink()
    host = newcomer(stage)
    host.linked = False
    stage.bring(host, *events(TRADES, 1, 2))
    host.merge.lose_place(TRADES)
    stage.bring(host, *events(TRADES, 9, 10))
    host.linked = True
    stage.let(2 * PATIENCE_S)
    assert stage.shown(TRADES) == ["1", "2", "gap unforwarded", "9", "10"]


def test_what_stands_before_an_event_of_the_stream_is_late(stage: Stage) -> None:
    """The stream has gone past what this host has brought before it, and the other has never had."""
    stage.both(*events(TRADES, 1))
    stage.bring(stage.b, *events(TRADES, 63, 64))
    stage.bring(stage.a, *events(TRADES, 66))
    stage.a.tick(stage.now)
    stage.a.deliver()
    stage.b.read(stage.now)
    stage.bring(stage.b, *events(TRADES, 66))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "66", "63 late", "64 late"]


def step(stage: Stage, host: Host, *, messages: int = 1) -> None:
    """Let a host send, and so many of its messages arrive and be answered."""
    host.tick(stage.now)
    for _ in range(messages):
        host.deliver()
        host.answer(stage.now)


def has_whole_seqs(stage: Stage, channel: str) -> bool:
    """Tell whether a channel is numbered from 1 on."""
    seqs = [one["seq"] for one in stage.server.records(channel)]
    return seqs == list(range(1, len(seqs) + 1))


def test_nothing_flies_behind_a_first_message_that_another_host_may_forestall(stage: Stage) -> None:
    """Both send at once; the one's third message would fit behind the other's second, which has the same content."""
    stage.bring(stage.a, *events(TRADES, 1, 2, 3))
    stage.bring(stage.b, *events(OTHERS, 9), *events(TRADES, 2))
    for host in (stage.a, stage.b):
        host.tick(stage.now)
    step(stage, stage.b)
    step(stage, stage.b)
    step(stage, stage.a, messages=3)
    stage.let(2 * TAKEOVER_S)
    assert has_whole_seqs(stage, TRADES)
    assert stage.shown(TRADES) == ["2", "3"]


def test_a_message_fits_nowhere_but_behind_its_predecessor_of_the_channel(stage: Stage) -> None:
    """Another host comes between, and goes on with the same content as what flies before the last message."""
    stage.bring(stage.a, *events(OTHERS, 1), *events(TRADES, 1))
    step(stage, stage.a)
    step(stage, stage.a)
    stage.bring(stage.a, *events(TRADES, 2), *events(OTHERS, 5), *events(TRADES, 6))
    stage.a.tick(stage.now)
    for _ in range(2):
        stage.b.read(stage.now)
    stage.bring(stage.b, *events(OTHERS, 1), *events("O/publicTrades", 9))
    step(stage, stage.b)
    stage.bring(stage.b, *events(OTHERS, 5))
    step(stage, stage.b)
    assert len(stage.server.messages) == 4
    for _ in range(3):
        stage.a.deliver()
    assert stage.shown(TRADES) == ["1"]
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "2", "6"]
    assert has_whole_seqs(stage, TRADES)


def ahead(one: Event, recv: int = 1009) -> Event:
    """Make a host's copy of an event whose clock is ahead."""
    return msgspec.structs.replace(one, recv=recv)


def forestall(stage: Stage, *records: Event) -> None:
    """Let host a, which leads, write what host b has not brought; both are linked, and b reads it."""
    stage.bring(stage.a, *records)
    stage.a.tick(stage.now)
    for _ in records:
        stage.a.deliver()
        stage.a.answer(stage.now)
        stage.b.read(stage.now)


def test_what_a_host_held_before_it_joined_is_late_where_the_writer_missed_it(stage: Stage) -> None:
    """What is older than all that the stream has may have been there before; what is newer can't have been."""
    stage.bring(stage.a, *events(TRADES, 1, 2, 5))
    stage.let()
    host = newcomer(stage)
    stage.bring(host, *events(TRADES, 0, 3, 5))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "2", "5", "3 late"]


def test_a_late_record_tells_how_new_the_stream_was(stage: Stage) -> None:
    """A host reads no further back than an event that came late, and holds what the writer missed behind it."""
    stage.bring(stage.a, *events(TRADES, 1, 4), late(TRADES, 3), *events(TRADES, 9))
    stage.let()
    host = newcomer(stage)
    host.merge.channels.clear()
    host.merge.sequence = 2
    stage.a.unlink()
    host.link(stage.now)
    stage.bring(host, *events(TRADES, 2, 6, 9))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "4", "3 late", "9", "6 late"]


def test_a_gap_of_another_host_is_a_fence(stage: Stage) -> None:
    """Who reads a gap and is not so far yet can't tell whether its next event is from it: what stands behind tells."""
    stage.both(*events(TRADES, 1))
    stage.bring(stage.a, gap(TRADES, 1, 4), *events(TRADES, 5))
    stage.let(2 * PATIENCE_S)
    stage.bring(stage.b, *events(TRADES, 2, 3))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "gap outage", "5"]
    stage.bring(stage.b, *events(TRADES, 5))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "gap outage", "5", "2 late", "3 late"]


def test_a_book_behind_a_gap_has_what_another_host_brings(stage: Stage) -> None:
    """The book that host a gives behind its gap may hold the next events of host b, which needs one of its own."""
    stage.both(book(BOOK), *events(BOOK, 1))
    stage.bring(stage.a, gap(BOOK, 1, 4), book(BOOK, "gap"))
    stage.let(2 * PATIENCE_S)
    stage.a.unlink()
    stage.bring(stage.b, *events(BOOK, 2, 3))
    stage.let(2 * PATIENCE_S)
    assert stage.shown(BOOK) == ["snapshot start", "1", "gap outage", "snapshot gap"]
    assert list(stage.b.merge.wanted_books()) == [BOOK]
    stage.bring(stage.b, book(BOOK, "join"))
    assert not list(stage.b.merge.wanted_books())
    stage.let(2 * PATIENCE_S)
    stage.bring(stage.b, *events(BOOK, 9))
    stage.let()
    assert stage.shown(BOOK)[4:] == ["gap unforwarded", "snapshot start", "9"]


def test_a_gap_of_another_host_is_a_fence_for_what_is_pending(stage: Stage) -> None:
    """Also where the host is a witness itself, behind a gap of its own daemon."""
    stage.both(book(BOOK), *events(BOOK, 1))
    stage.b.linked = False
    stage.bring(stage.b, *events(BOOK, 2), gap(BOOK, 2, 9))
    stage.bring(stage.a, gap(BOOK, 1, 8), book(BOOK, "gap"))
    stage.let(2 * PATIENCE_S)
    stage.b.linked = True
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(BOOK) == ["snapshot start", "1", "gap outage", "snapshot gap"]


def test_what_is_pending_is_late_where_the_stream_is_ahead(stage: Stage) -> None:
    """Host a never had it; host b has not come so far yet when it goes on."""
    stage.both(*events(TRADES, 1))
    stage.bring(stage.b, *events(TRADES, 63))
    forestall(stage, *events(TRADES, 66))
    stage.a.unlink()
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "66", "63 late"]


@pytest.mark.parametrize("first", ["own gap", "stream"])
def test_what_is_pending_before_a_gap_is_late_where_the_stream_is_ahead(stage: Stage, first: str) -> None:
    """A host whose own daemon has a gap owes nothing any more; what it had before may be overtaken all the same."""
    stage.both(*events(TRADES, 1))
    stage.bring(stage.b, *events(TRADES, 3))
    if first == "own gap":
        stage.bring(stage.b, gap(TRADES, 3, 9))
    forestall(stage, *events(TRADES, 4))
    if first == "stream":
        stage.bring(stage.b, gap(TRADES, 3, 9))
    stage.a.unlink()
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "4", "3 late"]


def test_an_event_that_is_newer_than_the_stream_is_in_its_place(stage: Stage) -> None:
    """A host that has missed what stands there is not behind for ever: the exchange's times tell who is."""
    stage.both(*events(TRADES, 1))
    forestall(stage, *events(TRADES, 2))
    stage.a.unlink()
    stage.bring(stage.b, *events(TRADES, 3, 4))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "2", "3", "4"]


def test_what_was_pending_before_messages_were_deleted_is_not_lost(stage: Stage) -> None:
    """Host a has missed it; of host b's other pending event the server says that it knows it."""
    stage.both(*events(TRADES, 1))
    stage.b.unlink()
    stage.bring(stage.b, *events(TRADES, 3, 4))
    stage.bring(stage.a, *events(TRADES, 4, 5))
    stage.let()
    stage.a.unlink()
    stage.b.merge.take(3, stage.server.read(3), stage.now)
    stage.b.link(stage.now)
    stage.bring(stage.b, *events(TRADES, 5, 6))
    stage.let(3 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "4", "5", "3 late", "6"]


def test_a_late_record_of_our_own_proves_no_place(stage: Stage) -> None:
    """A restarted bridge finds its own event in the stream, which stands there behind what this host has after it."""
    stage.both(*events(TRADES, 1))
    stage.bring(stage.b, *events(TRADES, 2))
    forestall(stage, *events(TRADES, 3))
    stage.bring(stage.b, *events(TRADES, 3))
    stage.let(2 * TAKEOVER_S)
    host = newcomer(stage, "b")
    host._seqs[TRADES] = 1
    stage.bring(host, *events(TRADES, 2, 3, 4))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "3", "2 late", "4"]


def test_a_late_event_from_before_a_decree_is_known(stage: Stage) -> None:
    """A host begins by decree, and then its daemon has late what the stream had before."""
    stage.bring(stage.a, *events(TRADES, 2))
    stage.let()
    stage.a.unlink()
    host = newcomer(stage)
    stage.bring(host, *events(TRADES, 3))
    stage.let(2 * PATIENCE_S)
    stage.bring(host, late(TRADES, 2))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["2", "gap unforwarded", "3"]


def test_a_decree_is_not_deceived_by_a_clock(stage: Stage) -> None:
    """The newest record of a book tells the newest time in it, whatever it is, and all that is read of it."""
    stage.bring(stage.a, book(BOOK), *events(BOOK, 1, 2), book(BOOK, "audit"))
    stage.let()
    stage.a.unlink()
    host = newcomer(stage)
    host.merge.channels.clear()
    stored = stage.server.read(4)
    assert stored is not None
    host.merge.recall(stored, stage.now)
    stage.bring(host, book(BOOK), ahead(events(BOOK, 1)[0]), ahead(events(BOOK, 2)[0]))
    stage.let(2 * PATIENCE_S)
    assert stage.shown(BOOK) == ["snapshot start", "1", "2", "snapshot audit"]


def test_a_decree_begins_a_book_behind_what_the_stream_has(stage: Stage) -> None:
    """An older book, and an event behind it that is in the stream already, would undo what stands there."""
    stage.bring(stage.a, book(BOOK), *events(BOOK, 1), late(BOOK, 3))
    stage.let()
    stage.a.unlink()
    host = newcomer(stage)
    stage.bring(host, gap(BOOK, 1, 8), book(BOOK), ahead(events(BOOK, 3)[0]), book(BOOK, "join"))
    stage.let(2 * PATIENCE_S)
    stage.bring(host, *events(BOOK, 12))
    stage.let(2 * PATIENCE_S)
    assert stage.shown(BOOK)[3:] == ["gap unforwarded", "snapshot start", "12"]


def test_a_decree_brings_what_the_writer_missed(stage: Stage) -> None:
    """It is older than the newest in the stream, and no part of the gap: it is late."""
    stage.bring(stage.a, *events(TRADES, 1, 5))
    stage.let()
    stage.a.unlink()
    host = newcomer(stage)
    stage.bring(host, *events(TRADES, 3, 9))
    stage.let(2 * PATIENCE_S)
    assert stage.shown(TRADES) == ["1", "5", "gap unforwarded", "3 late", "9"]


def test_a_channel_begins_with_an_event_in_its_place(stage: Stage) -> None:
    """A backlog may begin with what came late: what stands around it is not there to tell."""
    stage.b.unlink()
    stage.bring(stage.a, late(TRADES, 37), *events(TRADES, 43))
    stage.let()
    stage.b.link(stage.now)
    stage.bring(stage.b, *events(TRADES, 40, 43))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["43"]


def test_what_is_too_large_stands_in_its_place_for_all_hosts(stage: Stage) -> None:
    """The gap record of one host is the other's, too, and is no fence."""
    large = Event(TRADES, 0, "a", 1005, msgspec.Raw(b'{"data":{"ts":5,"n":5,"x":"%b"}}' % (b"x" * 500)))
    for host in (stage.a, stage.b):
        host.merge.max_bytes = 1024 + 300
    stage.both(*events(TRADES, 1), large)
    assert stage.b.merge.channels[TRADES].aligned
    stage.both(*events(TRADES, 6))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "gap too_large", "6"]


def test_a_book_that_is_pending_before_a_gap_is_left_out_where_the_stream_is_ahead(stage: Stage) -> None:
    """It lacks what another host has written meanwhile."""
    stage.both(book(BOOK), *events(BOOK, 1))
    stage.bring(stage.b, book(BOOK, "audit"), gap(BOOK, 1, 9))
    forestall(stage, *events(BOOK, 2))
    stage.a.unlink()
    stage.bring(stage.b, *events(BOOK, 2))
    stage.let(2 * TAKEOVER_S)
    assert "snapshot audit" not in stage.shown(BOOK)


def in_flight(stage: Stage, *records: Event) -> None:
    """Let a have some on their way, behind one that is confirmed; they are slower than it takes b to lead."""
    stage.bring(stage.a, *records)
    stage.a.tick(stage.now)
    stage.a.deliver()
    stage.a.answer(stage.now)
    stage.a.tick(stage.now)
    stage.b.read(stage.now)


def slow(stage: Stage) -> None:
    """Let b take over and write two messages; only then what a has sent arrives."""
    stage.now += 2 * TAKEOVER_S
    for _ in range(2):
        stage.b.tick(stage.now)
        stage.b.deliver()
        stage.b.answer(stage.now)
    for _ in range(4):
        stage.a.deliver()


def numbers(stage: Stage, channel: str) -> list[int]:
    """Return the seqs of a channel."""
    return [one["seq"] for one in stage.server.records(channel)]


def test_a_seq_that_is_missing_is_followed_by_a_gap_record(stage: Stage) -> None:
    """The other host has the same event at the same place of the stream, but less of its channel before it."""
    stage.both(*events(OTHERS, 8))
    in_flight(stage, *events(TRADES, 1, 2, 3, 4))
    stage.bring(stage.b, *events(OTHERS, 9), *events(TRADES, 1, 3))
    slow(stage)
    assert numbers(stage, TRADES) == [1, 2, 4]
    stage.let(4 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "3", "4", "2 late", "gap misnumbered"]
    assert numbers(stage, TRADES) == [1, 2, 4, 5, 6]
    for host in (stage.a, stage.b):
        assert [one.fields for one in host.notes if one.name == "bridge_misnumbered"] == [
            {"channel": TRADES, "records": 1}
        ]


def test_a_seq_that_comes_twice_is_followed_by_a_gap_record_and_a_book(stage: Stage) -> None:
    """The other host has more of its channel before the same place: who goes by seqs takes the second for the first."""
    stage.both(book(BOOK), *events(BOOK, 1), *events(TRADES, 1))
    in_flight(stage, *events(TRADES, 2, 3), *events(BOOK, 3, 4))
    stage.bring(stage.b, *events(TRADES, 2), *events(BOOK, 2, 3))
    slow(stage)
    assert numbers(stage, BOOK) == [1, 2, 3, 4, 4]
    stage.let(4 * TAKEOVER_S)
    assert stage.shown(BOOK) == ["snapshot start", "1", "2", "3", "4", "gap misnumbered"]
    assert numbers(stage, BOOK) == [1, 2, 3, 4, 4, 5]
    assert list(stage.a.merge.wanted_books()) == list(stage.b.merge.wanted_books()) == [BOOK]


def test_what_is_read_again_does_not_count_as_misnumbered(stage: Stage) -> None:
    """The newest of each channel is read first; after a lost link the reading may begin before it."""
    stage.both(*events(TRADES, 1, 2, 3))
    host = Host("c", stage.server, Random(1))
    for sequence in (3, 1, 2, 3):
        stored = stage.server.read(sequence)
        assert stored is not None
        if host.merge.channels:
            host.merge.take(sequence, stored, stage.now)
        else:
            host.merge.recall(stored, stage.now)
    host.merge.due(stage.now, TAKEOVER_S, PATIENCE_S)
    assert not host.notes
    assert host.merge.channels[TRADES].seq == 3


def test_what_was_deleted_before_it_was_read_does_not_count_as_misnumbered(stage: Stage) -> None:
    """Where the stream's limits have taken some, the next seq is the one to count on from."""
    stage.both(*events(TRADES, 1, 2, 3, 4, 5))
    host = Host("c", stage.server, Random(1))
    for sequence in (1, 4, 5):
        host.merge.take(sequence, stage.server.read(sequence), stage.now)
    host.merge.due(stage.now, TAKEOVER_S, PATIENCE_S)
    assert not host.notes
    assert host.merge.channels[TRADES].seq == 5
