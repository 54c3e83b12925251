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
    stage.let()
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
    assert stage.shown(TRADES) == ["1", "3", "2 late", "gap outage", "12"]


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
