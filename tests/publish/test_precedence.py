"""A daemon that follows is served first: whatever a consumer has, the kernel has taken for the follower before."""

import json
import os
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from feedhandler.publish.endpoint import Peer as Endpoint
from feedhandler.publish.lock import Lock
from feedhandler.publish.precedence import LASTING_S, PATIENCE_S, PAUSE_MOST_S, PAUSE_S
from tests.publish.house import ACCOUNT, BOOK, EVERYTHING, TRADES, House, Peer, connected, serving

TOKEN = "0123456789abcdef" * 2
FOLLOW = json.dumps({"op": "follow", "protocol": 1, "follow": 2, "token": TOKEN})
LARGE = b'"%b"' % (b"x" * 300_000)


@asynccontextmanager
async def following(house: House) -> AsyncIterator[Peer]:
    """Follow, up to the moment from which on the follower is served first."""
    async with connected(house) as peer:
        assert (await peer.next())["type"] == "hello"
        await peer.say(FOLLOW)
        told = []
        while not told or told[-1]["type"] != "level":
            told.append(await peer.next())
        peer.confirmed = {"told": told}
        yield peer


def has_bytes(peer: Peer) -> bool:
    """Tell whether the kernel has anything for a peer to read."""
    poll = select.poll()
    poll.register(peer.stream.socket.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def read_now(peer: Peer) -> None:
    """Read all that the kernel has for a peer, without letting anybody else do anything meanwhile."""
    while has_bytes(peer):
        peer.buffer += peer.stream.socket._sock.recv(1_000_000)  # type: ignore[attr-defined]


def events(peer: Peer) -> list[bytes]:
    """Return the whole events that a peer has read."""
    *lines, _ = peer.buffer.split(b"\n")
    return [line for line in lines if line.startswith(b'{"type":"event"')]


async def fall_behind(house: House) -> None:
    """Publish more than the kernel takes for a follower that does not read, and let its place be lost."""
    for _ in range(4):
        house.event(house.trades, LARGE)
    await trio.sleep(PATIENCE_S * 1.01)


def written(house: House) -> str:
    """Return whose token stands in the lock's file."""
    return Path(f"{house.path}.lock").read_text()


async def test_a_follower_is_told_everything(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Each channel with what its records do not say, its state, its book, what is kept of it; then that it is level."""
    async with serving(tmp_path, autojump_clock) as house:
        account = house.channel(ACCOUNT, account=True)
        house.publisher.offer_book(house.book, lambda: b'{"book":1}')
        house.publisher.state(house.book, "live", 5)
        house.publisher.snapshot(house.book, "start", b'{"book":0}')
        for channel in (house.book, account, house.trades):
            house.event(channel, b'{"n":1}')
        house.publisher.retire(house.trades, 9)
        assert written(house) == ""
        async with following(house) as peer:
            assert written(house) == TOKEN
            told = peer.confirmed["told"]
        assert [one["type"] for one in told] == [
            *("channel", "retired"),
            *("channel", "state", "snapshot"),
            "channel",
            *("snapshot", "event", "event", "event", "level"),
        ]
        channels = {one["channel"]: one for one in told if one["type"] == "channel"}
        assert channels[ACCOUNT] == {
            "type": "channel",
            "channel": ACCOUNT,
            "feed": "m",
            "account": True,
            "first": 1,
            "last": 7,
            "retired": False,
        }
        assert channels[TRADES]["retired"]
        images = [one for one in told if one["type"] == "snapshot" and one["reason"] == "join"]
        assert [(one["channel"], one["seq"]) for one in images] == [(BOOK, 2)]
        assert [(one["channel"], one["seq"]) for one in told if one["type"] == "event"] == [
            (BOOK, 2),
            (ACCOUNT, 1),
            (TRADES, 1),
        ]


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (FOLLOW.replace('"protocol": 1', '"protocol": 2'), "protocol"),
        (FOLLOW.replace('"follow": 2', '"follow": 7'), "protocol"),
        (FOLLOW.replace(TOKEN, "x"), "bad_request"),
        (FOLLOW.replace('"protocol": 1', '"protocol": "1"'), "bad_request"),
    ],
)
async def test_who_cannot_follow_is_told_why(
    tmp_path: Path, autojump_clock: MockClock, request_: str, code: str
) -> None:
    """Another version, or nonsense, is an error; nobody's token is written down."""
    async with serving(tmp_path, autojump_clock) as house, connected(house, request_) as peer:
        assert peer.confirmed["code"] == code
        assert written(house) == ""


async def test_another_user_may_not_follow(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the daemon's own user and root may; whoever else reads the socket is refused."""
    async with serving(tmp_path, autojump_clock) as house:
        monkeypatch.setattr("feedhandler.publish.server.peer_of", lambda _: Endpoint(1, os.geteuid() + 1))
        async with connected(house, FOLLOW) as peer:
            assert peer.confirmed["code"] == "forbidden"


async def test_one_follows_at_a_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A second follower is told that there is one; when the first is gone, it may."""
    async with serving(tmp_path, autojump_clock) as house:
        async with following(house), connected(house, FOLLOW) as peer:
            assert peer.confirmed["code"] == "busy"
        await wait_all_tasks_blocked()
        assert written(house) == ""
        async with following(house):
            assert written(house) == TOKEN


async def test_no_consumer_is_sent_what_the_follower_was_not(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """At any moment, what a consumer could have read is a part of what the follower could have; whole records only."""
    lot = Random(7)
    async with (
        serving(tmp_path, autojump_clock) as house,
        following(house) as first,
        connected(house, EVERYTHING) as peer,
    ):
        for _ in range(100):
            for _ in range(lot.randrange(4)):
                house.event(house.trades, b'"%b"' % (b"y" * lot.choice([1, 100, 60_000])))
            if lot.random() < 0.5:
                first.buffer += (
                    await first.stream.receive_some(lot.choice([10, 70_000, 1_000_000]))
                    if (has_bytes(first))
                    else b""
                )
            await wait_all_tasks_blocked()
            while has_bytes(peer):
                peer.buffer += await peer.stream.receive_some(1_000_000)
            while has_bytes(first):
                first.buffer += await first.stream.receive_some(1_000_000)
            assert peer.buffer.count(b'"type":"event"') <= first.buffer.count(b"}\n")
            got = [line for line in peer.buffer.split(b"\n") if line.startswith(b'{"type":"event"')]
            assert (
                got
                == [line for line in first.buffer.split(b"\n") if line.startswith(b'{"type":"event"')][
                    : len(got)
                ]
            )


async def test_what_is_written_down_is_true_whoever_reads_how_fast(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Whenever the follower's token stands there, it could have read every event that a consumer has.

    It loses its place and has it again, many times.
    """
    lot = Random(3)
    async with (
        serving(tmp_path, autojump_clock) as house,
        following(house) as first,
        connected(house, EVERYTHING) as peer,
    ):
        first.buffer = b""
        for _ in range(600):
            for _ in range(lot.randrange(4)):
                house.event(house.trades, b'"%b"' % (b"y" * lot.choice([1, 100, 60_000])))
            await trio.sleep(lot.choice([0.001, 0.1, 0.4, 3]))
            if lot.random() < 0.5:
                read_now(first)
            await wait_all_tasks_blocked()
            read_now(peer)
            if written(house) and lot.random() < 0.2:
                read_now(first)
                assert events(first)[: len(events(peer))] == events(peer)
        assert house.names().count("follower_behind") > 5
        assert house.names().count("follower_caught_up") > 5
        assert "follower_lost" not in house.names()


async def test_a_follower_alone_hears_how_lines_interleave(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is told once when that is seen, and whoever follows later with the channel; no consumer is told."""
    told = {"type": "interleaved", "channel": TRADES}
    async with serving(tmp_path, autojump_clock) as house, connected(house, EVERYTHING) as peer:
        async with following(house) as first:
            for _ in range(2):
                house.publisher.interleaved(house.trades)
            house.event(house.trades)
            one, other = await first.take(2)
            assert (one, other["type"]) == (told, "event")
        assert (await peer.take(1))[0]["type"] == "event"
        await wait_all_tasks_blocked()
        async with following(house) as second:
            assert second.confirmed["told"].count(told) == 1


async def test_consumers_wait_for_a_stopped_follower_but_not_for_long(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """One that does not read is waited for, for `PATIENCE_S`; then its token is gone, and the consumers go on."""
    async with (
        serving(tmp_path, autojump_clock) as house,
        following(house) as first,
        connected(house, EVERYTHING) as peer,
    ):
        await first.say('{"ready":true}')
        assert await first.next() == {"type": "heard", "ready": True}
        for _ in range(4):
            house.event(house.trades, LARGE)
        began = autojump_clock.current_time()
        await wait_all_tasks_blocked()
        assert house.publisher.precedence.waits
        assert written(house) == TOKEN
        assert [one["seq"] for one in await peer.take(4)] == [1, 2, 3, 4]
        assert autojump_clock.current_time() - began == pytest.approx(PATIENCE_S)
        assert written(house) == ""
        assert not house.publisher.precedence.ready
        assert "follower_behind" in house.names()


async def test_a_follower_that_lost_its_place_has_it_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is sent on and told that nobody relies on it; level, and `PAUSE_S` later, it is first again, and so heard."""
    async with serving(tmp_path, autojump_clock) as house, following(house) as first:
        await first.say('{"ready":true}')
        await first.take(1)
        await fall_behind(house)
        lost_s = autojump_clock.current_time()
        told = await first.take(5)
        assert [one["seq"] for one in told if one["type"] == "event"] == [1, 2, 3, 4]
        assert {"type": "heard", "ready": False} in told
        assert written(house) == ""
        assert await first.take(2) == [{"type": "level"}, {"type": "heard", "ready": True}]
        assert autojump_clock.current_time() - lost_s == pytest.approx(PAUSE_S, abs=1.0)
        assert written(house) == TOKEN
        assert house.publisher.precedence.ready
        assert house.names().count("follower_caught_up") == 1


async def test_a_follower_that_is_too_slow_for_good_costs_less_and_less(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The pause doubles up to `PAUSE_MOST_S`; who has kept the place for `LASTING_S` begins with `PAUSE_S` again."""
    pauses = []
    async with serving(tmp_path, autojump_clock) as house, following(house) as first:
        for turn in range(8):
            await fall_behind(house)
            lost_s = autojump_clock.current_time()
            while (await first.take(1))[0]["type"] != "level":
                pass
            pauses.append(autojump_clock.current_time() - lost_s)
            if turn == 6:
                with trio.move_on_after(LASTING_S):
                    await first.to_the_end()
    beat_s = 1.0
    expected = [min(PAUSE_S * 2**turn, PAUSE_MOST_S) for turn in range(7)] + [PAUSE_S]
    assert pauses == [pytest.approx(one, abs=beat_s) for one in expected]


async def test_a_follower_may_fall_as_far_behind_as_the_backlog_reaches(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What is out of a consumer's reach is kept for it; what is not kept any more makes it begin anew."""
    async with serving(tmp_path, autojump_clock, backlog_mib=8, consumer_mib=1) as house:
        async with following(house) as first:
            for _ in range(20):
                house.event(house.trades, LARGE)
            await trio.sleep(1)
            assert "follower_lost" not in house.names()
            told = await first.take(21)
            assert [one["seq"] for one in told if one["type"] == "event"] == [*range(1, 21)]
        async with following(house) as first:
            for _ in range(40):
                house.event(house.trades, LARGE)
            await wait_all_tasks_blocked()
            assert house.names().count("follower_lost") == 1
            assert "consumer_dropped" not in house.names()
            assert (await first.to_the_end())[-1] == {"type": "bye", "reason": "slow"}
        await wait_all_tasks_blocked()
        assert house.publisher.precedence.follower is None
        assert written(house) == ""


async def test_a_daemon_that_stood_still_does_not_blame_its_follower(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Where the follower has read, and nobody here had the time to send, it keeps its place."""
    async with serving(tmp_path, autojump_clock) as house, following(house) as first:
        house.event(house.trades, LARGE)
        await wait_all_tasks_blocked()
        assert house.publisher.precedence.waits
        read_now(first)
        autojump_clock.jump(2 * PATIENCE_S)
        await wait_all_tasks_blocked()
        assert not house.publisher.precedence.waits
        assert written(house) == TOKEN
        assert "follower_behind" not in house.names()


async def test_a_follower_that_reads_on_is_waited_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What does not fit at once goes out as it reads, then the consumers get theirs; nobody is dropped."""
    async with (
        serving(tmp_path, autojump_clock) as house,
        following(house) as first,
        connected(house, EVERYTHING) as peer,
    ):
        for _ in range(4):
            house.event(house.trades, LARGE)
        await wait_all_tasks_blocked()
        assert house.publisher.precedence.waits
        assert [one["seq"] for one in await first.take(4)] == [1, 2, 3, 4]
        assert [one["seq"] for one in await peer.take(4)] == [1, 2, 3, 4]
        assert not house.publisher.precedence.waits
        assert written(house) == TOKEN


async def test_what_is_opened_is_told_in_its_place(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A channel that opens while somebody follows is told before its first record, and behind what came before."""
    async with serving(tmp_path, autojump_clock) as house, following(house) as first:
        house.publisher.publish(house.trades, "a", 7, b"{}")
        house.event(house.channel("n/publicTrades"), b"{}")
        told = await first.take(3)
        assert [(one["type"], one["channel"]) for one in told] == [
            ("event", TRADES),
            ("channel", "n/publicTrades"),
            ("event", "n/publicTrades"),
        ]


async def test_what_cannot_be_told_in_its_place_begins_anew(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A channel that opens while the follower is not level makes it begin anew."""
    async with serving(tmp_path, autojump_clock) as house, following(house):
        for _ in range(4):
            house.event(house.trades, LARGE)
        house.channel("n/publicTrades")
        assert written(house) == ""
        assert house.publisher.precedence.follower is None


async def test_a_follower_says_whether_it_is_ready(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its word holds until the next one, or until it is gone, and is confirmed; what is no such word says nothing."""
    async with serving(tmp_path, autojump_clock) as house:
        precedence = house.publisher.precedence
        async with following(house) as first:
            for said, ready in [
                ('{"ready":true}', True),
                ('{"ready":1}', True),
                ("nonsense", True),
                ('{"ready":false}', False),
                ('{"ready":true}', True),
            ]:
                await first.say(said)
                await wait_all_tasks_blocked()
                assert precedence.ready == ready
            for ready in (True, False, True):
                assert await first.next() == {"type": "heard", "ready": ready}
        await wait_all_tasks_blocked()
        assert not precedence.ready


async def test_at_the_end_a_follower_that_is_behind_gets_everything(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nothing more is published: who has it all knows all, however it was before; one that does not read does not."""
    async with serving(tmp_path, autojump_clock) as house, following(house) as first:
        await fall_behind(house)
        assert written(house) == ""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.publisher.drain, 1.0)
            told = await first.to_the_end()
        assert [one["seq"] for one in told if one["type"] == "event"] == [1, 2, 3, 4]
        assert [one["type"] for one in told if one["type"] != "event"] == ["heard", "level", "bye"]
        with Lock(house.path) as lock:
            assert lock.marked() == TOKEN


async def test_at_the_end_nobody_waits_for_a_follower_that_does_not_read(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It has half of the time, and its token does not stand there."""
    async with serving(tmp_path, autojump_clock) as house, following(house):
        await fall_behind(house)
        began_s = autojump_clock.current_time()
        await house.publisher.drain(1.0)
        assert autojump_clock.current_time() - began_s == pytest.approx(1.0)
        with Lock(house.path) as lock:
            assert lock.marked() == ""


@pytest.mark.parametrize("reason", ["shutdown", "takeover"])
async def test_the_end_leaves_the_follower_whole(
    tmp_path: Path, autojump_clock: MockClock, reason: str
) -> None:
    """At the end it has everything and the last word, the lock is free, and its token stands in it."""
    async with serving(tmp_path, autojump_clock) as house, following(house) as first:
        house.event(house.trades)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(house.publisher.drain, 1.0, reason)
            told: list[dict[str, Any]] = await first.to_the_end()
        assert [one["type"] for one in told] == ["event", "bye"]
        assert told[-1]["reason"] == reason
        with Lock(house.path) as lock:
            assert lock.marked() == TOKEN
