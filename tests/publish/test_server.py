"""The publisher over real sockets: whole transcripts."""

import errno
import json
import os
import socket
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from feedhandler import __version__
from feedhandler.config import Bounds, Publish
from feedhandler.core.notes import Note
from feedhandler.publish import server
from feedhandler.publish.consumer import REQUEST_S
from tests.publish.house import ACCOUNT, BOOK, EVERYTHING, TRADES, House, Peer, connected, serving

SERVER = f'"server":"feedhandler {__version__}"'
LISTED = '"channels":["m/publicTrades","m/publicOrderBook"]'


async def test_a_session_from_the_greeting_to_the_last_word(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The transcript of one consumer, byte for byte."""
    async with serving(tmp_path, autojump_clock) as house, connected(house) as peer:
        house.publisher.state(house.book, "syncing", 3)
        await peer.say(EVERYTHING)
        expected = [
            f'{{"type":"hello","protocol":1,"session":"session",{SERVER},{LISTED}}}',
            '{"type":"subscribed","channels":{"m/publicTrades":{"next":1},"m/publicOrderBook":{"next":1}}}',
            '{"type":"state","channel":"m/publicOrderBook","state":"syncing","since":3}',
        ]
        assert [(await peer.line()).decode() for _ in expected] == [line + "\n" for line in expected]
        house.publisher.publish(house.trades, "a", 10, b'{"x": 1}')
        house.publisher.publish(house.trades, "b", 10, b"{}", "late")
        house.publisher.gap(house.book, "outage", 10, 20)
        house.publisher.state(house.book, "live", 20)
        house.publisher.flush()
        expected = [
            '{"type":"event","channel":"m/publicTrades","seq":1,"line":"a","recv":10,"msg":{"x": 1}}',
            '{"type":"event","channel":"m/publicTrades","seq":2,"line":"b","recv":10,"class":"late","msg":{}}',
            '{"type":"gap","channel":"m/publicOrderBook","seq":1,"reason":"outage","since":10,"until":20}',
            '{"type":"state","channel":"m/publicOrderBook","state":"live","since":20}',
            '{"type":"heartbeat","now":1000000000,"next":{"m/publicTrades":3,"m/publicOrderBook":2}}',
        ]
        assert [(await peer.line()).decode() for _ in expected] == [line + "\n" for line in expected]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.publisher.drain, 1)
            assert await peer.to_the_end() == [{"type": "bye", "reason": "shutdown"}]
    assert house.names() == ["consumer_connected", "consumer_subscribed", "consumer_left"]
    assert house.reasons("consumer_left") == ["shutdown"]


@pytest.mark.parametrize("few", [0, 100])
async def test_a_run_is_published_as_its_events_one_by_one(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """Events of several channels keep their order, each under the next number of its own channel, few or many."""
    monkeypatch.setattr(server, "FEW", few)
    async with serving(tmp_path, autojump_clock) as house, connected(house) as peer:
        await peer.say(EVERYTHING)
        [await peer.line() for _ in range(2)]
        trades, book = house.trades, house.book
        house.publisher.publish_run([trades, book, book, trades], "b", 7, [b"1", b"2", b"3", b"4"])
        house.publisher.publish_run([book, book], "a", 8, [b"5", b"6"])
        house.publisher.flush()
        records = [json.loads(await peer.line()) for _ in range(6)]
        assert [(one["channel"], one["seq"], one["line"], one["msg"]) for one in records] == [
            (trades.name, 1, "b", 1),
            (book.name, 1, "b", 2),
            (book.name, 2, "b", 3),
            (trades.name, 2, "b", 4),
            (book.name, 3, "a", 5),
            (book.name, 4, "a", 6),
        ]


async def test_an_event_is_with_the_kernel_when_flush_returns(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nothing needs to be awaited between the release of an event and its way to a consumer."""
    async with serving(tmp_path, autojump_clock) as house, connected(house, EVERYTHING) as peer:
        house.event(house.trades)
        raw = peer.stream.socket.fileno()
        with socket.socket(fileno=os.dup(raw)) as sock:
            sock.setblocking(False)
            assert json.loads(sock.recv(1_000))["seq"] == 1


@pytest.mark.parametrize(
    ("request_line", "code"),
    [
        (b"what?", "bad_request"),
        (b"", "bad_request"),
        (b'{"op":"subscribe","channels":["\xff"]}', "bad_request"),
        (b'{"op":"subscribe","channels":["m/nothing"]}', "unknown_channel"),
        (b"[" * 60_000, "bad_request"),
        (b"x" * 2_000_000, "bad_request"),
    ],
)
async def test_a_wrong_request_is_answered_and_disturbs_nobody(
    tmp_path: Path, autojump_clock: MockClock, request_line: bytes, code: str
) -> None:
    """Whatever a stranger sends, it gets one `error` and the end; the next consumer gets the next event."""
    async with (
        serving(tmp_path, autojump_clock) as house,
        connected(house, EVERYTHING) as other,
        connected(house) as peer,
    ):
        with trio.move_on_after(1):  # the server does not read on once a line is too long
            with suppress(trio.BrokenResourceError):
                await peer.say(request_line)
        answers = [await peer.next(), await peer.next(), await peer.next()]
        assert [answer.get("type") for answer in answers] == ["hello", "error", None]
        assert answers[1]["code"] == code
        house.event(house.trades)
        assert (await other.take(1))[0]["seq"] == 1
        assert house.reasons("request_refused") == [code]
        assert house.reasons("consumer_left") == ["refused"]


async def test_a_request_cut_by_the_end_of_the_input_counts(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The last line needs no line end, and a half-closed consumer still receives."""
    async with serving(tmp_path, autojump_clock) as house, connected(house) as peer:
        await peer.stream.send_all(EVERYTHING.encode())
        await peer.stream.send_eof()
        assert [record["type"] for record in await peer.take(2)] == ["hello", "subscribed"]
        for seq in (1, 2):
            house.event(house.trades)
            assert (await peer.take(1))[0]["seq"] == seq
            await trio.sleep(10)


async def test_whoever_says_nothing_is_let_go(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A connection without a request is closed after its time."""
    async with serving(tmp_path, autojump_clock) as house, connected(house) as peer:
        start = autojump_clock.current_time()
        assert [record["type"] for record in await peer.to_the_end()] == ["hello", "error"]
        assert autojump_clock.current_time() - start == pytest.approx(REQUEST_S)
        assert house.publisher.consumers() == []


async def test_whoever_leaves_without_a_word_is_let_go(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The end of the input without a request is no mistake and no reason to keep the connection."""
    async with serving(tmp_path, autojump_clock) as house:
        async with connected(house) as peer:
            await peer.next()
        await wait_all_tasks_blocked()
        assert house.names() == ["consumer_connected", "consumer_left"]


async def test_a_second_request_ends_the_connection(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One request for each connection; empty lines are none."""
    async with serving(tmp_path, autojump_clock) as house, connected(house, EVERYTHING) as peer:
        await peer.say("")
        house.event(house.trades)
        assert (await peer.take(1))[0]["seq"] == 1
        await peer.say(EVERYTHING)
        assert await peer.to_the_end() == [
            {"type": "error", "code": "bad_request", "detail": "one request for each connection"}
        ]


async def test_one_consumer_too_many_is_told_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Beyond the bound there is an `error`, and room again once someone leaves."""
    async with serving(tmp_path, autojump_clock, consumers=1) as house:
        async with connected(house, EVERYTHING), connected(house) as second:
            (refusal,) = await second.to_the_end()
            assert (refusal["type"], refusal["code"]) == ("error", "busy")
        await wait_all_tasks_blocked()
        async with connected(house, EVERYTHING) as third:
            house.event(house.trades)
            assert (await third.take(1))[0]["seq"] == 1


async def test_a_consumer_that_resets_is_let_go(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A consumer that closes with data unread is gone at the next send, and others notice nothing."""
    async with serving(tmp_path, autojump_clock) as house, connected(house, EVERYTHING) as other:
        async with connected(house, EVERYTHING):
            house.event(house.trades)
            assert len(house.publisher.consumers()) == 2
        house.event(house.trades)
        assert [record["seq"] for record in await other.take(2)] == [1, 2]
        await wait_all_tasks_blocked()
        assert len(house.publisher.consumers()) == 1
        assert house.reasons("consumer_left") == ["closed"]


async def test_a_consumer_that_never_reads_costs_only_itself(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(8) One consumer never reads: it is dropped between two records, and the other gets every one."""
    async with (
        serving(tmp_path, autojump_clock, backlog_mib=1) as house,
        connected(house, EVERYTHING) as reader,
        connected(house, channels=["*"], name="idle") as idle,
    ):
        payload = b'{"x":"%b"}' % (b"y" * 10_000)
        for seq in range(1, 401):
            house.event(house.trades, payload)
            assert (await reader.take(1))[0]["seq"] == seq
        assert house.reasons("consumer_dropped") == ["slow"]
        assert house.publisher.backlog_bytes <= 1024 * 1024
        *events, last = [record for record in await idle.to_the_end() if record["type"] != "heartbeat"]
        assert last == {"type": "bye", "reason": "slow"}
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        assert 0 < len(events) < 400


async def test_a_slow_consumer_gets_its_started_record_whole(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A consumer that is dropped in the middle of a record gets the rest of it, and then the last word."""
    async with (
        serving(tmp_path, autojump_clock, backlog_mib=1) as house,
        connected(house, EVERYTHING) as peer,
    ):
        for _ in range(30):
            house.event(house.trades, b'"%b"' % (b"y" * 100_000))
        assert next(iter(house.publisher._consumers))._midway
        *events, last = await peer.to_the_end()
        assert last == {"type": "bye", "reason": "slow"}
        assert [(event["seq"], len(event["msg"])) for event in events] == [
            (seq, 100_000) for seq in range(1, len(events) + 1)
        ]


async def test_a_consumer_that_never_reads_again_is_closed_in_time(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The last word to a slow consumer is waited for no longer than `drain_s`."""
    async with (
        serving(tmp_path, autojump_clock, backlog_mib=1, drain_s=3) as house,
        connected(house, EVERYTHING),
    ):
        for _ in range(30):
            house.event(house.trades, b'"%b"' % (b"y" * 100_000))
        assert house.reasons("consumer_dropped") == ["slow"]
        start = autojump_clock.current_time()
        while house.publisher.consumers():
            await trio.sleep(0.5)
        assert autojump_clock.current_time() - start == pytest.approx(3, abs=0.5)


async def test_a_large_record_reaches_a_consumer_whole(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A record larger than a send, the socket's buffer and the backlog comes whole, and in its place."""
    async with (
        serving(tmp_path, autojump_clock, backlog_mib=1) as house,
        connected(house, EVERYTHING) as peer,
    ):
        large = json.dumps("z" * 3_000_000).encode()
        house.publisher.publish(house.trades, "a", 7, b"1")
        house.publisher.publish(house.trades, "a", 7, large)
        house.publisher.flush()
        (record,) = await peer.take(1)
        # The record before it went from the backlog unread, so this consumer has lost its place.
        assert record == {"type": "bye", "reason": "slow"}
    async with (
        serving(tmp_path, autojump_clock, backlog_mib=1) as house,
        connected(house, EVERYTHING) as peer,
    ):
        house.event(house.trades, b"1")
        house.event(house.trades, large)
        house.event(house.trades, b"3")
        assert [record["msg"] for record in await peer.take(3)] == [1, "z" * 3_000_000, 3]


async def test_a_burst_comes_out_whole_and_others_get_their_turn(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What does not fit waits for the consumer's own task; a flush sends one chunk to each consumer."""
    async with (
        serving(tmp_path, autojump_clock, send_kib=4) as house,
        connected(house, EVERYTHING) as first,
        connected(house, '{"op":"subscribe","channels":["*/publicTrades"]}') as second,
    ):
        for number in range(5_000):
            house.publisher.publish((house.trades, house.book)[number % 2], "a", 7, b'{"x":"0123456789"}')
        house.publisher.flush()
        assert all(status.lag_events > 2_000 for status in house.publisher.consumers())
        assert all(status.lag_bytes > 0 for status in house.publisher.consumers())
        trades = await second.take(2_500)
        both = await first.take(5_000)
        assert [record["seq"] for record in trades] == list(range(1, 2_501))
        assert [record for record in both if record["channel"] == TRADES] == trades
        assert all(status.lag_events == 0 for status in house.publisher.consumers())


async def test_many_consumers_of_many_kinds_get_each_its_own(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Level or behind, with whatever choice: each gets what it has asked for, from where it joined, every record once.

    Bursts are of one record, of some, and of more than one send; then nobody is level.
    """
    bursts = [(1, 10), (3, 10), (1, 400_000), (40, 20_000), (1, 10), (2, 10)]
    requests: list[dict[str, Any]] = [
        {"channels": ["*"]},
        {"channels": [TRADES]},
        {"channels": ["*/publicOrderBook"], "slow": "conflate"},
        {"channels": ["*"], "slow": "conflate"},
    ]
    published: list[tuple[str, int]] = []
    async with serving(tmp_path, autojump_clock) as house, AsyncExitStack() as stack:
        peers: list[tuple[Peer, list[str], int]] = []
        for round_, (count, size) in enumerate(bursts):
            for request in requests:
                peer = await stack.enter_async_context(connected(house, **request))
                peers.append((peer, list(peer.confirmed["channels"]), len(published)))
            for number in range(count):
                channel = house.book if (round_ + number) % 3 else house.trades
                published.append((channel.name, channel.next))
                house.publisher.publish(channel, "a", 7, b'"%b"' % (b"y" * size))
            house.publisher.flush()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.publisher.drain, 5)
            for peer, channels, joined in peers:
                records = [one for one in await peer.to_the_end() if one["type"] != "heartbeat"]
                assert records.pop() == {"type": "bye", "reason": "shutdown"}
                got = [(one["channel"], one["seq"]) for one in records]
                assert got == [one for one in published[joined:] if one[0] in channels]


async def test_a_heartbeat_is_true_of_its_place(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While a consumer is behind, heartbeats tell what comes next to it and not what was released."""
    async with serving(tmp_path, autojump_clock, send_kib=4) as house, connected(house, EVERYTHING) as peer:
        expected = {TRADES: 1, BOOK: 1}
        beats = 0
        for _ in range(3):
            for number in range(2_000):
                house.publisher.publish((house.trades, house.book)[number % 2], "a", 7, b'{"x":"0123456789"}')
            house.publisher.flush()
            await trio.sleep(1.5)
        while expected[BOOK] <= 3_000:
            record = await peer.next()
            if record["type"] == "heartbeat":
                assert record["next"] == expected
                beats += 1
            else:
                assert record["seq"] == expected[record["channel"]]
                expected[record["channel"]] += 1
        assert beats > 0


async def test_a_consumer_resumes_where_it_left_off(tmp_path: Path, autojump_clock: MockClock) -> None:
    """(10) A resume brings the missed records in their order and passes into the live stream."""
    async with serving(tmp_path, autojump_clock) as house:
        for channel in (house.trades, house.book, house.trades, house.book, house.trades):
            house.event(channel)
        resume = {"session": "session", "seq": {TRADES: 1, BOOK: 1}}
        async with connected(house, channels=["*"], resume=resume) as peer:
            assert peer.confirmed["channels"] == {TRADES: {"next": 2}, BOOK: {"next": 2}}
            house.event(house.book)
            got = [(record["channel"], record["seq"]) for record in await peer.take(4)]
            assert got == [(TRADES, 2), (BOOK, 2), (TRADES, 3), (BOOK, 3)]


@pytest.mark.parametrize(
    ("resume", "reason"),
    [
        ({"session": "old", "seq": {TRADES: 3}}, "unknown_session"),
        ({"session": "session", "seq": {TRADES: 401}}, "future"),
        ({"session": "session", "seq": {TRADES: 10**30}}, "future"),
        ({"session": "session", "seq": {TRADES: 0}}, "too_old"),
    ],
)
async def test_what_cannot_be_resumed_is_refused(
    tmp_path: Path, autojump_clock: MockClock, resume: dict[str, Any], reason: str
) -> None:
    """(10) A resume that can't be served exactly is refused with what could be, and goes on live."""
    async with serving(tmp_path, autojump_clock, backlog_mib=1) as house:
        for _ in range(400):
            house.event(house.trades, b'"%b"' % (b"x" * 10_000))
        async with connected(house, channels=[TRADES], resume=resume) as peer:
            assert peer.confirmed["channels"] == {TRADES: {"next": 401}}
            refused = await peer.next()
            assert 1 < refused.pop("oldest") <= 400
            assert refused == {"type": "refused", "channel": TRADES, "reason": reason, "next": 401}
            house.event(house.trades)
            assert (await peer.take(1))[0]["seq"] == 401
        assert house.reasons("resume_refused") == [reason]


async def test_a_resume_from_the_edge_of_the_backlog_may_be_overtaken(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(9) A resume from the oldest record is served at once as far as the socket takes it."""
    async with serving(tmp_path, autojump_clock, backlog_mib=1, send_kib=64) as house:
        for _ in range(400):
            house.event(house.trades, b'"%b"' % (b"x" * 10_000))
        oldest = house.publisher._backlog.oldest(0)
        resume = {"session": "session", "seq": {TRADES: oldest - 1}}
        async with connected(house, channels=[TRADES], resume=resume) as peer:
            seqs = [record["seq"] for record in await peer.take(401 - oldest)]
            assert seqs == list(range(oldest, 401))


async def test_channels_that_appear_later_are_included(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A live consumer of a pattern gets a new channel from its first record on, and in its heartbeats."""
    async with serving(tmp_path, autojump_clock) as house, connected(house, EVERYTHING) as peer:
        later = house.channel("later/other")
        house.publisher.state(later, "live", 1)
        house.event(later)
        assert [(record["type"], record.get("seq")) for record in await peer.take(2)] == [
            ("state", None),
            ("event", 1),
        ]
        assert (await peer.next())["next"] == {TRADES: 1, BOOK: 1, "later/other": 2}


@pytest.mark.parametrize(
    ("uids", "allowed"), [(None, True), ((os.getuid(),), True), ((os.getuid() + 1,), False)]
)
async def test_account_channels_are_read_by_whom_the_kernel_vouches_for(
    tmp_path: Path, autojump_clock: MockClock, uids: tuple[int, ...] | None, allowed: bool
) -> None:
    """Who may read the account streams is the peer's uid, and what it may not read is not even listed."""
    house = House(tmp_path, autojump_clock)
    house.publish = Publish(socket=house.path, account_uids=uids)
    house.publisher = house.make(Bounds())
    account = house.channel(ACCOUNT, account=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(house.publisher.serve)
        async with connected(house) as peer, connected(house, channels=[ACCOUNT]) as exact:
            assert ((await peer.next())["channels"] == [ACCOUNT]) == allowed
            await peer.say(EVERYTHING)
            assert (ACCOUNT in (await peer.next())["channels"]) == allowed
            assert (exact.confirmed.get("code") == "forbidden") != allowed
            house.event(account)
            assert (await peer.next()).get("type") == ("event" if allowed else "heartbeat")
        await house.publisher.drain(1)


async def test_a_shutdown_gives_every_consumer_what_is_pending(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Draining sends all that was released, then the last word; who asked for nothing gets it at once."""
    async with (
        serving(tmp_path, autojump_clock, send_kib=4) as house,
        connected(house, EVERYTHING) as peer,
        connected(house) as mute,
    ):
        for _ in range(5_000):
            house.publisher.publish(house.trades, "a", 7, b'{"x":"0123456789"}')
        house.publisher.flush()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.publisher.drain, 5)
            records = await peer.to_the_end()
        assert [record.get("seq") for record in records] == [*range(1, 5_001), None]
        assert records[-1] == {"type": "bye", "reason": "shutdown"}
        assert [record["type"] for record in await mute.to_the_end()] == ["hello", "bye"]


async def test_a_shutdown_waits_for_nobody_beyond_its_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A consumer that does not read is cut off when the time is up."""
    async with serving(tmp_path, autojump_clock) as house, connected(house, EVERYTHING):
        for _ in range(5_000):
            house.publisher.publish(house.trades, "a", 7, b'"%b"' % (b"x" * 200))
        house.publisher.flush()
        start = autojump_clock.current_time()
        await house.publisher.drain(2)
        await wait_all_tasks_blocked()
        assert autojump_clock.current_time() - start == pytest.approx(2)
        assert house.publisher.consumers() == []


async def test_a_consumer_that_connects_as_the_shutdown_begins_is_greeted_first(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Even a connection accepted in the very last moment gets its greeting before the last word."""
    house = House(tmp_path, autojump_clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(house.publisher.serve)
        async with connected(house) as peer:
            while not house.publisher.consumers():
                await trio.lowlevel.checkpoint()
            await house.publisher.drain(1)
            assert [record["type"] for record in await peer.to_the_end()] == ["hello", "bye"]


async def test_a_cancelled_server_leaves_nothing_behind(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Without a drain, consumers are cut off, and the path is free at once."""
    house = House(tmp_path, autojump_clock)
    async with trio.open_nursery() as nursery:
        await nursery.start(house.publisher.serve)
        async with connected(house, EVERYTHING) as peer:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                assert await peer.to_the_end() == []
    assert house.publisher.consumers() == []
    assert house.reasons("consumer_left") == ["shutdown"]
    assert not house.path.exists()


async def test_operators_see_who_is_connected(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The name given, the process and user that the kernel names, and since when."""
    async with serving(tmp_path, autojump_clock) as house, connected(house, channels=[TRADES], name="desk"):
        (status,) = house.publisher.consumers()
        assert status == ("desk", os.getpid(), os.getuid(), True, 0, 0, status.since_ns)
        subscribed = next(note for note in house.notes if note.name == "consumer_subscribed")
        assert subscribed.fields == {
            "consumer": "desk",
            "pid": os.getpid(),
            "uid": os.getuid(),
            "channels": 1,
        }


async def test_a_thousand_connections_leave_nothing_behind(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Many consumers that come and go return tasks and descriptors to where they were."""
    async with serving(tmp_path, autojump_clock) as house:
        descriptors = len(os.listdir("/proc/self/fd"))
        tasks = trio.lowlevel.current_statistics().tasks_living
        for _ in range(1_000):
            async with connected(house, EVERYTHING):
                pass
        house.event(house.trades)
        await wait_all_tasks_blocked()
        assert len(os.listdir("/proc/self/fd")) == descriptors
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert house.names().count("consumer_left") == 1_000


async def test_running_out_of_descriptors_is_waited_out(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exhausted system delays new consumers, is noted, and stops nothing."""
    accept = socket.socket.accept
    failures = [OSError(errno.EMFILE, "too many"), OSError(errno.ECONNABORTED, "gone")]

    def exhausted(sock: socket.socket) -> Any:
        if failures:
            raise failures.pop(0)
        return accept(sock)

    async with serving(tmp_path, autojump_clock) as house:
        monkeypatch.setattr(socket.socket, "accept", exhausted)
        async with connected(house, EVERYTHING) as peer:
            house.event(house.trades)
            assert (await peer.take(1))[0]["seq"] == 1
        assert house.notes[0] == Note("accept_failed", {"error": "EMFILE"})


CONFLATING = '{"op":"subscribe","channels":["m/*"],"snapshot":true,"slow":"conflate"}'


async def test_a_slow_consumer_that_conflates_is_taken_to_the_head(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """(9) What it does not get is named without a hole, a book comes as it is now, and the connection goes on."""
    async with serving(tmp_path, autojump_clock, backlog_mib=1) as house:
        house.publisher.offer_book(house.book, lambda: b'{"book":%d}' % (house.book.next - 1))
        house.publisher.snapshot(house.book, "start", b'{"book":1}')
        async with connected(house) as slow:
            await slow.say(CONFLATING)
            await wait_all_tasks_blocked()
            for _ in range(3):
                for _ in range(4_000):
                    house.event(house.trades, b'{"pad":"%s"}' % (b"x" * 500))
                    house.event(house.book)
            house.event(house.trades)
            next_seqs = {house.trades.name: 1, house.book.name: 2}
            skipped: dict[str, int] = {}
            joined = False
            while next_seqs[TRADES] < house.trades.next or next_seqs[BOOK] < house.book.next:
                record = await slow.next()
                channel = record.get("channel", "")
                match record["type"]:
                    case "event":
                        assert record["seq"] == next_seqs[channel]
                        next_seqs[channel] += 1
                    case "skipped":
                        assert record["from"] == next_seqs[channel]
                        next_seqs[channel] = record["to"] + 1
                        skipped[channel] = skipped.get(channel, 0) + 1
                    case "snapshot":
                        joined = joined or record["reason"] == "join"
                        assert record["reason"] == ("conflated" if skipped else "join")
                        assert record["seq"] == record["msg"]["book"] == next_seqs[channel] - 1
                    case "heartbeat":
                        assert record["next"] == next_seqs
            assert joined
            assert skipped.keys() == {TRADES, BOOK}
        assert "consumer_conflated" in house.names()
        assert "consumer_dropped" not in house.names()


async def test_a_consumer_that_joins_gets_the_book_as_it_is_at_its_place(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A snapshot for one consumer takes no seq: it names the seq that it equals, and the next event follows it."""
    async with serving(tmp_path, autojump_clock) as house:
        house.publisher.offer_book(house.book, lambda: b'{"book":%d}' % (house.book.next - 1))
        house.publisher.snapshot(house.book, "start", b'{"book":1}')
        house.event(house.book)
        wish = '"resume":{"session":"other","seq":{"m/publicOrderBook":1}}'
        for request, reasons in (
            ('{"op":"subscribe","channels":["*"],"snapshot":true}', ["join"]),
            (f'{{"op":"subscribe","channels":["*"],"snapshot":true,{wish}}}', ["refused"]),
            ('{"op":"subscribe","channels":["*"]}', []),
        ):
            async with connected(house) as one:
                await one.say(request)
                await wait_all_tasks_blocked()
                expected = house.book.next
                house.event(house.book)
                records = []
                while not records or records[-1]["type"] != "event":
                    records.append(await one.next())
                images = [record for record in records if record["type"] == "snapshot"]
                assert [image["reason"] for image in images] == reasons
                assert all(image["seq"] == image["msg"]["book"] == expected - 1 for image in images)
                assert records[-1]["seq"] == expected
