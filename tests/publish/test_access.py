"""Who may read the account's channels: whom the kernel names, and nobody learns of what he may not read.

Peers of other uids are real in `tests/process/test_uids.py`; here the uids that may read are chosen so that this
process is one of them, or is not.
"""

import array
import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from feedhandler.config import Bounds, Publish
from feedhandler.core.channels import Channels
from feedhandler.publish import endpoint, records
from feedhandler.publish.backlog import Backlog
from feedhandler.publish.endpoint import Peer, peer_of
from feedhandler.publish.request import Request, Resume
from feedhandler.publish.subscription import (
    Refusal,
    Shelf,
    conflate,
    records_track,
    states_track,
    subscribe,
)
from tests.publish.house import EVERYTHING, House, connected

PUBLIC, ORDERS, FILLS, OTHER = "m/publicTrades", "m/orders", "ALL/trades", "m/other"
ACCOUNT = (ORDERS, FILLS, OTHER)
NOBODY = 2**31 + 7
"""A uid that is negative to whoever takes it for a signed number."""


CONNECT = """
import socket, sys
with socket.socket(fileno=int(sys.argv[1])) as sock:
    sock.connect(sys.argv[2])
"""


# Nobody learns of what he may not read


class World:
    """Channels, some of them the account's, or without these, and what a peer is told of them."""

    def __init__(self, *, with_account: bool) -> None:
        self.with_account = with_account
        self.channels = Channels()
        self.backlog = Backlog(10**6, 10**6)
        self.states: dict[str, bytes] = {}
        self.shelf = Shelf(
            "session",
            self.channels,
            self.backlog,
            lambda channel: self.states.get(channel.name, b""),
            lambda _: b'{"book":1}',
            lambda: frozenset({"orders", "trades", "other"}),
        )
        self.told = b""

    def happen(self, step: tuple[str, str]) -> None:
        """Let something be published, unless it is about an account that is not there."""
        verb, name = step
        if name in ACCOUNT and not self.with_account:
            return
        channel = self.channels.get(name)
        if channel is None:
            channel = self.channels.open(name, feed="feed", account=name in ACCOUNT)
            self.backlog.track()
            self.backlog.track()
            self.stream.subscription.offer(channel) if hasattr(self, "stream") else None
        if verb == "state":
            self.states[name] = records.state(name, "live", 1)
            self.backlog.append(self.states[name], states_track(channel))
        elif verb == "gap":
            self.backlog.append(channel.gap("outage", 1, 2), records_track(channel))
        else:
            self.backlog.append(channel.event("a", 7, b"{}"), records_track(channel))

    def subscribe(self, request: Request) -> bytes:
        """Ask, as one who may not read the account; return the answer."""
        stream = subscribe(self.shelf, request, account=False)
        if isinstance(stream, Refusal):
            return repr(stream).encode()
        self.stream = stream
        return stream.preamble

    def read(self, *, jump: bool) -> bytes:
        """Return what comes to the peer next, after a heartbeat and the numbers that it could compare."""
        subscription = self.stream.subscription
        told = b""
        if jump:
            subscription.jump()
            while subscription.skipping:
                told += conflate(self.shelf, subscription, 10)
        while subscription.behind:
            told += subscription.take(200)
        return told + json.dumps([subscription.next_seqs(), subscription.lag_events()]).encode()


steps = st.lists(
    st.tuples(
        st.sampled_from(["event", "gap", "state"]), st.sampled_from([PUBLIC, "n/publicTrades", *ACCOUNT])
    )
)
requests = st.builds(
    lambda channels, seqs, session, slow: Request(
        op="subscribe", channels=channels, snapshot=True, resume=Resume(session, seqs), slow=slow
    ),
    st.lists(
        st.sampled_from(["*", "*/*", "m/*", "ALL/*", "*/orders", "*/trades", "*/other", *ACCOUNT, "x/y"]),
        min_size=1,
    ),
    st.dictionaries(st.sampled_from([PUBLIC, *ACCOUNT, "x/y"]), st.integers(0, 5)),
    st.sampled_from(["session", "another"]),
    st.sampled_from(["disconnect", "conflate"]),
)


@given(steps, requests, st.lists(st.tuples(steps, st.booleans())))
def test_an_account_that_cannot_be_read_is_as_if_it_were_not_there(
    before: list[tuple[str, str]],
    request: Request,
    after: list[tuple[list[tuple[str, str]], bool]],
) -> None:
    """Byte for byte: hello, answer, refusals, states, snapshots, heartbeats, skips and the stream are the same."""
    worlds = [World(with_account=True), World(with_account=False)]
    for world in worlds:
        for step in before:
            world.happen(step)
    with_it, without = (world.subscribe(request) for world in worlds)
    assert with_it == without
    if with_it.startswith(b"Refusal"):
        return
    for more, jump in after:
        for world in worlds:
            for step in more:
                world.happen(step)
        told = [world.read(jump=jump and request.slow == "conflate") for world in worlds]
        assert told[0] == told[1]


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("name", [*ACCOUNT, "a/b/orders"])
def test_an_exact_name_is_forbidden_whether_it_is_open_or_not(name: str, *, is_open: bool) -> None:
    """That a channel of the account opens would say that something happened; another name is unknown as ever."""
    world = World(with_account=True)
    if is_open and name in ACCOUNT:
        world.happen(("event", name))
    refusal = subscribe(world.shelf, Request(op="subscribe", channels=[name]), account=False)
    assert refusal == Refusal("forbidden", f"the channel {name} is not for this user")
    unknown = subscribe(world.shelf, Request(op="subscribe", channels=["m/nothing"]), account=False)
    assert unknown == Refusal("unknown_channel", "there is no channel m/nothing")
    if not is_open:
        allowed = subscribe(world.shelf, Request(op="subscribe", channels=[name]), account=True)
        assert allowed == Refusal("unknown_channel", f"there is no channel {name}")


# Whom the kernel names


@asynccontextmanager
async def opened(folder: Path, clock: MockClock, uids: tuple[int, ...] | None) -> AsyncIterator[House]:
    """Serve a public channel and one of the account, of which there is an event already, to these uids."""
    house = House(folder, clock)
    house.publish = Publish(socket=house.path, account_uids=uids)
    house.publisher = house.make(Bounds())
    for name in (PUBLIC, FILLS):
        house.event(house.channel(name, account=name == FILLS))
    async with trio.open_nursery() as nursery:
        await nursery.start(house.publisher.serve)
        yield house
        await house.publisher.drain(1)


async def readable(stream: trio.SocketStream) -> set[str]:
    """Return what a peer may read, as `hello`, the answer and a resume of all from the start agree upon."""
    data = b""
    while not data.endswith(b"\n"):
        data += await stream.receive_some(1)
    hello = json.loads(data)
    wish = {
        "op": "subscribe",
        "channels": ["*"],
        "resume": {"session": "session", "seq": {PUBLIC: 0, FILLS: 0}},
    }
    await stream.send_all(json.dumps(wish).encode() + b"\n")
    lines: list[dict[str, Any]] = []
    data = b""
    while not any(line["type"] == "heartbeat" for line in lines):
        data += await stream.receive_some(4096)
        lines = [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]
    sets = [
        set(hello["channels"]),
        set(lines[0]["channels"]),
        {line["channel"] for line in lines if line["type"] == "event"},
        set(lines[-1]["next"]),
    ]
    assert all(one == sets[0] for one in sets)
    return sets[0]


@pytest.mark.parametrize(
    ("uids", "allowed"),
    [
        (None, True),
        ((os.getuid(),), True),
        ((1, os.getuid(), NOBODY), True),
        ((os.getuid() + 1,), False),
        ((), False),
    ],
)
async def test_only_the_named_uids_read_the_account(
    tmp_path: Path, autojump_clock: MockClock, uids: tuple[int, ...] | None, allowed: bool
) -> None:
    """By default the daemon's own; a list is the whole truth, root is in it or is not, and an empty one is nobody."""
    async with opened(tmp_path, autojump_clock, uids) as house, connected(house) as peer:
        assert await readable(peer.stream) == ({PUBLIC, FILLS} if allowed else {PUBLIC})


@pytest.mark.parametrize(
    ("uids", "uid", "allowed"),
    [
        (None, 0, True),
        (None, NOBODY, False),
        ((NOBODY,), NOBODY, True),
        ((NOBODY,), 0, False),
        ((2**31 - 1,), NOBODY, False),
        ((1001,), 0, False),
    ],
)
async def test_root_is_one_of_many(
    tmp_path: Path,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    uids: tuple[int, ...] | None,
    uid: int,
    allowed: bool,
) -> None:
    """Root reads by default and not where others are named; a uid beyond 2^31 is as good as any."""
    monkeypatch.setattr("feedhandler.publish.server.peer_of", lambda _: Peer(1, uid))
    async with opened(tmp_path, autojump_clock, uids) as house, connected(house) as peer:
        assert await readable(peer.stream) == ({PUBLIC, FILLS} if allowed else {PUBLIC})


def test_uids_have_no_sign() -> None:
    """The kernel's numbers go up to 2^32 - 1; the pid of a process beyond our sight is 0."""

    class Fake:
        def getsockopt(self, *_: int) -> bytes:
            return struct.pack("iII", 0, NOBODY, NOBODY)

    assert peer_of(Fake()) == Peer(0, NOBODY)  # type: ignore[arg-type]
    assert endpoint._CREDENTIALS.size == 12


async def test_a_socket_that_is_passed_on_stays_that_of_who_connected(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Over SCM_RIGHTS a descriptor changes hands, not the rights: they are those of the connecting process."""
    async with opened(tmp_path, autojump_clock, (os.getuid(),)) as house:
        giver, taker = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with giver, taker, socket.socket(socket.AF_UNIX) as first:
            first.connect(os.fspath(house.path))
            socket.send_fds(giver, [b"x"], [first.fileno()])
            first.close()
            _, (fd,), _, _ = socket.recv_fds(taker, 1, 1)
        passed = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=fd)))
        async with passed:
            assert await readable(passed) == {PUBLIC, FILLS}


async def test_descriptors_that_a_peer_sends_along_are_not_taken(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A request may carry descriptors and credentials of its sender's choice: nobody receives them."""
    async with opened(tmp_path, autojump_clock, (os.getuid() + 1,)) as house, connected(house) as peer:
        assert (await peer.next())["channels"] == [PUBLIC]
        open_before = len(os.listdir("/proc/self/fd"))
        read_end, write_end = os.pipe()
        sock = peer.stream.socket
        claimed = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
        await sock.sendmsg(
            [EVERYTHING.encode() + b"\n"],
            [
                (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read_end] * 20)),
                (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, claimed),
            ],
        )
        os.close(read_end)
        assert list((await peer.next())["channels"]) == [PUBLIC]
        assert len(os.listdir("/proc/self/fd")) == open_before + 1
        with pytest.raises(BrokenPipeError):  # nobody has the other end
            os.write(write_end, b"x")
        os.close(write_end)


async def test_a_peer_whose_process_is_dead_keeps_its_rights(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Who connected may be gone while its socket lives on elsewhere, or gone before anybody looks."""
    async with opened(tmp_path, autojump_clock, (os.getuid(),)) as house:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.connect(os.fspath(house.path))
        await trio.sleep(1)
        assert house.publisher.consumers() == []
        assert house.reasons("consumer_left") == ["closed"]
        sock = socket.socket(socket.AF_UNIX)
        with subprocess.Popen(
            [sys.executable, "-c", CONNECT, str(sock.fileno()), house.path], pass_fds=[sock.fileno()]
        ) as child:
            assert child.wait() == 0
        async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
            assert await readable(stream) == {PUBLIC, FILLS}
            (status,) = house.publisher.consumers()
            assert (status.pid, status.uid) == (child.pid, os.getuid())
