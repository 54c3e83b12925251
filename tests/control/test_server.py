# ruff: noqa: ARG001 - the clock works by being asked for
"""The control socket: who may ask, how much at a time, and what becomes of those who misbehave."""

import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from feedhandler.config import Publish
from feedhandler.control import server
from feedhandler.control.requests import Answer, Done, Request
from feedhandler.core.notes import Note


class Desk:
    """What is asked, written down."""

    def __init__(self, folder: Path) -> None:
        self.settings = Publish(socket=folder / "feed.sock")
        self.path = folder / "control.sock"
        self.asked: list[Request] = []
        self.notes: list[Note] = []
        self.gate = trio.Event()
        self.gate.set()

    async def execute(self, request: Request) -> Answer:
        """Answer with what was asked."""
        await self.gate.wait()
        self.asked.append(request)
        return Done(request.op)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Desk]:
    """Serve during a test."""
    desk = Desk(folder)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, desk.settings, desk.execute, desk.notes.append)
        yield desk
        nursery.cancel_scope.cancel()


async def read_line(stream: trio.SocketStream) -> dict[str, Any]:
    """Read an answer; the end is an empty one."""
    line = b""
    while not line.endswith(b"\n"):
        data = await stream.receive_some()
        if not data:
            break
        line += data
    return json.loads(line) if line else {}


async def test_several_clients_ask_one_thing_after_the_other(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Each client gets its answers in order; who asked for what is noted; the socket is for the owner alone."""
    async with serving(tmp_path) as desk:
        assert stat.S_IMODE(desk.path.stat().st_mode) == 0o600
        async with (
            await trio.open_unix_socket(os.fspath(desk.path)) as one,
            await trio.open_unix_socket(os.fspath(desk.path)) as other,
        ):
            await one.send_all(b'{"op":"list"}\n{"op":"rotate","feed":"BTC-USD"}\n')
            await other.send_all(b'{"op":"drain"}\n')
            assert await read_line(other) == {"ok": True, "result": "drain"}
            answers = b""
            while answers.count(b"\n") < 2:
                answers += await one.receive_some()
            assert [json.loads(line)["result"] for line in answers.splitlines()] == ["list", "rotate"]
        told = {(note.fields["op"], note.fields["on"], note.fields["outcome"]) for note in desk.notes}
        assert told == {("drain", "", "done"), ("list", "", "done"), ("rotate", "BTC-USD", "done")}
        assert {note.fields["pid"] for note in desk.notes} == {os.getpid()}
    assert not desk.path.exists()


async def test_what_is_no_request_is_answered_and_the_client_stays(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A mistake costs a line of its own, not the connection."""
    async with serving(tmp_path) as desk, await trio.open_unix_socket(os.fspath(desk.path)) as stream:
        await stream.send_all(b"nonsense\n")
        assert (await read_line(stream))["code"] == "bad_request"
        await stream.send_all(b'{"op":"list"}\n')
        assert (await read_line(stream))["ok"]


async def test_a_line_without_end_is_not_read_for_ever(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What is longer than its bound is refused, and so is a client that says nothing."""
    async with serving(tmp_path) as desk:
        async with await trio.open_unix_socket(os.fspath(desk.path)) as stream:
            await stream.send_all(b"x" * (server.REQUEST_BYTES + 2 * server.READ_BYTES))
            answer = await read_line(stream)
            assert answer["error"] == f"the line is longer than {server.REQUEST_BYTES} bytes"
        async with await trio.open_unix_socket(os.fspath(desk.path)) as stream:
            began = trio.current_time()
            assert await read_line(stream) == {}
            assert trio.current_time() - began == pytest.approx(server.PATIENCE_S, abs=1)


async def test_a_client_too_many_is_told_so(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The number of clients is bounded; when one leaves, there is room again."""
    async with serving(tmp_path) as desk, trio.open_nursery() as nursery:
        streams = [await trio.open_unix_socket(os.fspath(desk.path)) for _ in range(server.CLIENTS)]
        await trio.sleep(0.1)
        async with await trio.open_unix_socket(os.fspath(desk.path)) as stream:
            assert (await read_line(stream))["code"] == "busy"
        await streams.pop().aclose()
        await trio.sleep(0.1)
        async with await trio.open_unix_socket(os.fspath(desk.path)) as stream:
            await stream.send_all(b'{"op":"list"}\n')
            assert (await read_line(stream))["ok"]
        for stream in streams:
            await stream.aclose()
        nursery.cancel_scope.cancel()


async def test_a_client_that_hangs_up_costs_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nobody waits for a client that leaves before its answer, or that does not read it."""
    async with serving(tmp_path) as desk:
        desk.gate = trio.Event()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(os.fspath(desk.path))
            sock.send(b'{"op":"reload"}\n')
            await trio.sleep(1)
        desk.gate.set()
        async with await trio.open_unix_socket(os.fspath(desk.path)) as stream:
            await stream.send_all(b'{"op":"list"}\n')
            assert (await read_line(stream))["ok"]


async def test_others_are_not_heard(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should another user get past the mode of the socket, the kernel's word on who it is decides."""
    async with serving(tmp_path) as desk:
        monkeypatch.setattr(server, "peer_of", lambda _: server.Peer(1, 12_345))
        async with await trio.open_unix_socket(os.fspath(desk.path)) as stream:
            assert (await read_line(stream))["code"] == "forbidden"
        assert desk.asked == []


async def test_a_stale_socket_is_replaced_and_a_living_one_left_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What a killed daemon left behind goes; a second daemon in one folder does without, and says so."""
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(os.fspath(tmp_path / "control.sock"))
    stale.close()
    async with serving(tmp_path) as first:
        async with serving(tmp_path) as second:
            assert [note.name for note in second.notes] == ["control_unavailable"]
        async with await trio.open_unix_socket(os.fspath(first.path)) as stream:
            await stream.send_all(b'{"op":"list"}\n')
            assert (await read_line(stream))["ok"]
