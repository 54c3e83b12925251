"""Stories of one channel: gaps, late events, books and recovered trades on two hosts and in one stream."""

from random import Random

import msgspec
import pytest

from feedhandler.bridge import channel as channel_module
from feedhandler.bridge import merge as merge_module
from feedhandler.bridge.window import WINDOW_EVENTS
from feedhandler.client import Event, Gap, Snapshot
from feedhandler.exchange.trades import backfill_event
from tests.bridge.model import PATIENCE_S, STEP_S, TAKEOVER_S, Host, Server, book, event, timeless

TRADES, BOOK, OTHER = "M/publicTrades", "M/publicOrderBook", "M/other"


class Stage:
    """Two hosts and a stream; `let` lets time pass until nothing happens any more."""

    def __init__(self) -> None:
        self.server = Server()
        self.now = 0.0
        self.a, self.b = (Host(name, self.server, Random(1)) for name in "ab")
        self.a.link(self.now)
        self.b.link(self.now)

    def bring(self, host: Host, *records: Event | Gap | Snapshot) -> None:
        """Bring records to a host."""
        for record in records:
            host.bring(record, self.now)

    def let(self, seconds: float = TAKEOVER_S) -> None:
        """Let time pass."""
        for _ in range(round(seconds / STEP_S) + 1):
            self.now += STEP_S
            for host in (self.a, self.b):
                host.tick(self.now)
                for _ in range(20):
                    host.deliver()
                    host.answer(self.now)
                    host.read(self.now)

    def both(self, *records: Event | Gap | Snapshot) -> None:
        """Bring records to both hosts, and let the first be written."""
        for record in records:
            self.bring(self.a, record)
            self.let(0)
            self.bring(self.b, record)
            self.let(0)

    def shown(self, channel: str) -> list[str]:
        """Return the records of a channel in short: the number of an event, the reason of another; marks behind it."""
        return [_short(one) for one in self.server.records(channel)]


def _short(record: dict) -> str:
    if record["type"] != "event":
        return f"{record['type']} {record['reason']}"
    data = record["msg"]["data"]
    number = data["n"] if "n" in data else "+".join(row["matchId"] for row in data["orders"])
    return f"{number} {record['class']}" if "class" in record else f"{number}"


def events(channel: str, *numbers: int) -> list[Event]:
    """Make events that are numbered and timed alike."""
    return [event(channel, number, number) for number in numbers]


def gap(channel: str, since: int, until: int, reason: str = "outage") -> Gap:
    """Make a gap record of a daemon, between the times of two events."""
    return Gap(channel, 0, reason, 1000 + since, 1000 + until)


def trade(*ids: str, ts: int, kind: str = "") -> Event:
    """Make an event of trades."""
    rows = [
        b'{"matchId":"%b","executionType":"taker","orderType":"buy","updatedAt":%d}' % (one.encode(), ts)
        for one in ids
    ]
    msg = b'{"resultType":"publicCompletedOrdersDelta","market":"M","data":{"orders":[%b]}}' % b",".join(rows)
    if kind == "backfilled":
        msg = backfill_event(rows[0], "M")
    return Event(TRADES, 0, "a", 1000 + ts, msgspec.Raw(msg), kind)


@pytest.fixture
def stage():
    """Give two hosts that are linked to an empty stream."""
    return Stage()


def test_a_gap_that_only_one_host_has_is_none(stage):
    """Host a leads and has an outage: b goes on in its place, no gap is written, and a joins again."""
    stage.both(*events(TRADES, 1, 2, 3))
    stage.bring(stage.b, *events(TRADES, 4, 5, 6))
    stage.bring(stage.a, gap(TRADES, 3, 6), *events(TRADES, 6))
    stage.let()
    stage.both(*events(TRADES, 7))
    stage.let(2 * PATIENCE_S)
    assert stage.shown(TRADES) == ["1", "2", "3", "4", "5", "6", "7"]
    assert stage.a.merge.channels[TRADES].aligned


def test_a_gap_that_all_hosts_have_is_one(stage):
    """Where nobody can go on, one gap record is written, by whichever host is first, and the other joins behind it."""
    stage.both(*events(TRADES, 1, 2))
    stage.bring(stage.a, gap(TRADES, 2, 5), *events(TRADES, 5, 6))
    stage.bring(stage.b, gap(TRADES, 2, 6), *events(TRADES, 6))
    stage.let(PATIENCE_S + TAKEOVER_S)
    stage.both(*events(TRADES, 7))
    assert stage.shown(TRADES) in (
        ["1", "2", "gap outage", "5", "6", "7"],
        ["1", "2", "gap outage", "6", "5 late", "7"],
    )


def test_a_host_alone_writes_its_gap_and_what_was_recovered(stage):
    """The daemon's own gap record and its backfilled trades stand in their place."""
    stage.b.unlink()
    stage.bring(stage.a, trade("1", ts=1), trade("2", ts=2))
    stage.let()
    stage.bring(stage.a, gap(TRADES, 2, 9), trade("3", ts=3, kind="backfilled"), trade("4", ts=9))
    stage.let(PATIENCE_S)
    assert stage.shown(TRADES) == ["1", "2", "gap outage", "3 backfilled", "4"]
    assert stage.server.records(TRADES)[2]["since"] == 1002


def test_trades_that_were_recovered_are_not_written_twice(stage):
    """Host b, away while a wrote a gap, has as live events what a recovered row by row: only the rest is late."""
    stage.both(trade("1", ts=1))
    stage.b.unlink()
    stage.bring(
        stage.a, gap(TRADES, 1, 9), trade("2", ts=2, kind="backfilled"), trade("3", ts=3, kind="backfilled")
    )
    stage.bring(stage.a, trade("9", ts=9))
    stage.let(PATIENCE_S)
    stage.bring(stage.b, trade("2", "3", ts=3), trade("4", ts=4), trade("9", ts=9))
    stage.b.link(stage.now)
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "gap outage", "2 backfilled", "3 backfilled", "9", "4 late"]


def test_an_event_that_the_leader_never_had_is_late(stage):
    """What the stream went past comes out once, marked; its book follows, since the consumers' is wrong now."""
    stage.both(book(BOOK), *events(BOOK, 1, 2))
    stage.bring(stage.b, *events(BOOK, 3, 4))
    stage.bring(stage.a, *events(BOOK, 4))
    stage.let(0)
    stage.let()
    assert stage.shown(BOOK) == ["snapshot start", "1", "2", "4", "3 late"]
    wanting = [host for host in (stage.a, stage.b) if list(host.merge.wanted_books())]
    assert wanting
    stage.bring(wanting[0], book(BOOK, "join"))
    stage.let(2 * TAKEOVER_S)
    stage.both(*events(BOOK, 5))
    assert not list(stage.b.merge.wanted_books())
    assert stage.shown(BOOK)[5:] == ["snapshot start", "5"]


def test_an_event_that_both_daemons_call_late_is_written_once(stage):
    """The class is no part of what an event is."""
    late = msgspec.structs.replace(events(TRADES, 2)[0], event_class="late")
    stage.both(*events(TRADES, 1))
    stage.bring(stage.a, *events(TRADES, 3), late)
    stage.let(0)
    stage.bring(stage.b, *events(TRADES, 2, 3))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "3", "2 late"]


def test_real_repeats_come_out_as_often_as_they_came_in(stage):
    """The same bytes three times in a row, and again later, are as many events on every host (7)."""
    numbers = [0, 0, 0, 1, 0, 1, 0, 0]
    stage.both(*events(TRADES, 1), *(timeless(TRADES, number, 5) for number in numbers), *events(TRADES, 9))
    assert stage.shown(TRADES) == ["1", *map(str, numbers), "9"]
    ids = [one.headers["Nats-Msg-Id"] for one in stage.server.messages]
    assert len(set(ids)) == len(ids)


def test_a_book_begins_with_a_snapshot(stage):
    """Events before the first snapshot are left out: nobody could use them."""
    stage.bring(stage.a, *events(BOOK, 1, 2))
    stage.let()
    assert stage.shown(BOOK) == []
    stage.bring(stage.a, book(BOOK, "join"), *events(BOOK, 3))
    stage.let()
    assert stage.shown(BOOK) == ["snapshot start", "3"]


def test_a_book_that_one_host_gives_is_given_once(stage):
    """A snapshot of the follower, and one that stands behind the stream's head, are left out."""
    stage.both(book(BOOK), *events(BOOK, 1))
    stage.bring(stage.b, book(BOOK, "audit"), *events(BOOK, 2))
    stage.bring(stage.a, *events(BOOK, 2))
    stage.let(2 * TAKEOVER_S)
    assert stage.shown(BOOK) == ["snapshot start", "1", "2"]


def test_unknown_messages_are_forwarded_without_a_promise(stage):
    """Nothing proves a place there, so no gap is written, and repeats are told apart as well as possible."""
    stage.both(*(timeless(OTHER, number, number) for number in (1, 2, 1)))
    stage.let(2 * PATIENCE_S)
    assert stage.shown(OTHER) == ["1", "2", "1"]


def test_a_late_host_waits_for_its_place(stage):
    """A host that begins with what nobody has yet holds it, and does not write before the leader has come so far."""
    stage.bring(stage.a, *events(TRADES, 1, 2))
    stage.let()
    stage.bring(stage.b, *events(TRADES, 5, 6))
    stage.let(TAKEOVER_S)
    stage.bring(stage.a, *events(TRADES, 3, 4, 5, 6))
    stage.let()
    assert stage.shown(TRADES) == ["1", "2", "3", "4", "5", "6"]
    assert stage.b.merge.channels[TRADES].aligned


def test_a_host_alone_that_has_no_proof_says_so(stage):
    """What cannot be connected with the stream begins behind a gap record; older events are left out."""
    stage.both(*events(TRADES, 1, 2))
    stage.a.unlink()
    stage.b = Host("b2", stage.server, Random(1))
    stage.b.link(stage.now)
    stage.bring(stage.b, event(TRADES, 8, 1, recv=1008), *events(TRADES, 9, 10))
    stage.let(PATIENCE_S)
    assert stage.shown(TRADES) == ["1", "2", "gap unforwarded", "9", "10"]
    record = stage.server.records(TRADES)[2]
    assert (record["since"], record["until"]) == (1002, 1009)


def test_a_bridge_that_restarts_knows_its_own_records(stage):
    """Contents that prove nothing prove a place all the same, where they are the very records of this daemon."""
    stage.b.unlink()
    records = [timeless(TRADES, number, number) for number in (1, 1, 2, 1)]
    stage.bring(stage.a, *records[:3])
    stage.let()
    stage.a.unlink()
    stage.a = Host("a", stage.server, Random(1))
    stage.a.link(stage.now)
    stage.bring(stage.a, *records)
    stage.let()
    assert stage.shown(TRADES) == ["1", "1", "2", "1"]


def test_what_is_too_large_is_a_gap(stage):
    """An event that the server does not take has a gap record in its place; a book is left out, with a note."""
    stage.a.merge.max_bytes = 1024 + 300
    large = Event(TRADES, 0, "a", 1005, msgspec.Raw(b'{"data":{"ts":1,"n":5,"x":"%b"}}' % (b"x" * 500)))
    stage.bring(stage.a, *events(TRADES, 1), large, *events(TRADES, 6))
    stage.let()
    assert stage.shown(TRADES) == ["1", "gap too_large", "6"]
    assert [one.fields["channel"] for one in stage.a.notes if one.name == "bridge_record_too_large"] == [
        TRADES
    ]


def test_an_id_that_the_server_knows_from_another_event(stage):
    """Where the count of a content was forgotten, the server's answer corrects it, and the event is stored."""
    stage.bring(stage.a, *events(TRADES, 1), timeless(TRADES, 1, 2))
    stage.let()
    stage.a.merge.channels[TRADES].window._newest.clear()
    stage.bring(stage.a, timeless(TRADES, 1, 3), *events(TRADES, 4))
    stage.let(3 * TAKEOVER_S)
    assert stage.shown(TRADES) == ["1", "1", "1", "4"]
    assert stage.server.messages[2].headers["Nats-Msg-Id"].endswith("-2")


def test_bounds_of_a_hold(stage, monkeypatch):
    """A witness that is not joined keeps the newest, and says what it dropped."""
    monkeypatch.setattr(channel_module, "HELD_EVENTS", 4)
    stage.both(*events(TRADES, 1, 2))
    stage.a.unlink()
    stage.b = Host("b2", stage.server, Random(1))
    stage.b.link(stage.now)
    stage.bring(stage.b, *events(TRADES, *range(10, 20)))
    stage.let(PATIENCE_S)
    assert stage.shown(TRADES) == ["1", "2", "gap unforwarded", "16", "17", "18", "19"]
    assert [one.fields["events"] for one in stage.b.notes if one.name == "bridge_hold_overflowed"] == [6]


def test_what_a_hold_has_dropped_is_marked(stage, monkeypatch):
    """Behind the join a gap record bounds what the stream lacked when it was dropped, for all hosts to see (R5, R9)."""
    monkeypatch.setattr(channel_module, "HELD_EVENTS", 4)
    stage.both(book(BOOK), *events(BOOK, 1, 2))
    stage.b.unlink()
    stage.b = Host("b2", stage.server, Random(1))
    stage.b.link(stage.now)
    stage.bring(stage.b, *events(BOOK, *range(10, 16)))
    stage.bring(stage.a, *events(BOOK, *range(11, 16)))
    stage.let(3 * TAKEOVER_S)
    assert stage.shown(BOOK)[3:] == ["11", "12", "13", "14", "15", "gap unforwarded"]
    mark = stage.server.records(BOOK)[-1]
    assert (mark["since"], mark["until"]) == (1010, 1011)
    assert [one.fields for one in stage.b.notes if one.name == "bridge_gap_declared"] == [
        {"channel": BOOK, "reason": "unforwarded"}
    ]
    assert list(stage.b.merge.wanted_books()) == [BOOK]
    assert stage.b.merge.channels[BOOK].aligned


def test_what_a_hold_has_dropped_is_not_marked_if_the_stream_has_it(stage, monkeypatch):
    """A restarted bridge that reads a long backlog drops what is older than all that it has read of the stream."""
    monkeypatch.setattr(channel_module, "HELD_EVENTS", 4)
    stage.both(*events(TRADES, *range(1, 13)))
    stage.b.unlink()
    stage.b = Host("b2", stage.server, Random(1), read_back=5)
    stage.b.link(stage.now)
    stage.bring(stage.b, *events(TRADES, *range(1, 14)))
    stage.let(3 * TAKEOVER_S)
    assert [one.fields["events"] for one in stage.b.notes if one.name == "bridge_hold_overflowed"] == [3]
    assert stage.shown(TRADES)[11:] == ["12", "13"]


def test_a_decree_that_is_void_keeps_what_was_dropped(stage, monkeypatch):
    """Another host wrote before it, so the gap record of the decree is not written; the one behind the join is."""
    monkeypatch.setattr(channel_module, "HELD_EVENTS", 4)
    stage.both(*events(TRADES, 1, 2))
    stage.b.unlink()
    stage.b = Host("b2", stage.server, Random(1))
    stage.b.link(stage.now)
    stage.b.linked = False
    stage.bring(stage.b, *events(TRADES, *range(10, 16)))
    stage.now += 2 * PATIENCE_S
    stage.b.merge.due(stage.now, TAKEOVER_S, PATIENCE_S)
    assert stage.b.merge.channels[TRADES].aligned
    stage.bring(stage.a, *events(TRADES, *range(11, 16)))
    stage.let()
    stage.b.linked = True
    stage.let(3 * TAKEOVER_S)
    assert stage.shown(TRADES)[2:] == ["11", "12", "13", "14", "15", "gap unforwarded"]


def test_a_host_that_owes_more_than_the_window_is_a_witness_again(stage):
    """It joins with what it brings next that is still there (R3)."""
    stage.both(*events(TRADES, 1))
    count = WINDOW_EVENTS + 2
    stage.bring(stage.a, *events(TRADES, *range(2, count + 2)))
    while len(stage.server.messages) < count + 1:
        stage.let(0)
    stage.let(TAKEOVER_S)
    assert not stage.b.merge.channels[TRADES].aligned
    stage.bring(stage.b, *events(TRADES, *range(2, count + 2)))
    assert stage.b.merge.channels[TRADES].aligned
    assert not stage.b.merge.pending_bytes


def test_bounds_of_what_is_pending_and_of_channels(stage, monkeypatch):
    """With the server away, what is pending is bounded; a channel too many is left out with a note."""
    monkeypatch.setattr(merge_module, "CHANNELS", 1)
    stage.a = Host("a", stage.server, Random(1), pending_bytes=2000)
    stage.bring(stage.a, *events(TRADES, 1, 2, 3))
    stage.a.merge.due(stage.now, TAKEOVER_S, PATIENCE_S)
    assert not stage.a.merge.is_full
    stage.bring(stage.a, *events(TRADES, *range(4, 12)), *events("N/publicTrades", 1))
    assert stage.a.merge.is_full
    assert [one.fields for one in stage.a.notes if one.name == "bridge_channel_left_out"] == [
        {"channel": "N/publicTrades"}
    ]
