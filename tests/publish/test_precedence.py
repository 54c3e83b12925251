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
from feedhandler.publish.precedence import PATIENCE_S
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


async def test_consumers_wait_for_a_stopped_follower_but_not_for_long(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """One that does not read is waited for, for `PATIENCE_S`; then its token is gone, and the consumers go on."""
    async with (
        serving(tmp_path, autojump_clock) as house,
        following(house) as first,
        connected(house, EVERYTHING) as peer,
    ):
        for _ in range(4):
            house.event(house.trades, LARGE)
        began = autojump_clock.current_time()
        await wait_all_tasks_blocked()
        assert house.publisher.precedence.waits
        assert written(house) == TOKEN
        assert [one["seq"] for one in await peer.take(4)] == [1, 2, 3, 4]
        assert autojump_clock.current_time() - began == pytest.approx(PATIENCE_S)
        assert written(house) == ""
        assert "follower_lost" in house.names()
        assert b'"seq":4' not in b"".join([await first.line() for _ in range(4)])


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
