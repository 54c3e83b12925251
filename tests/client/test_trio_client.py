"""The client on trio: connected as long as it is wanted."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from feedhandler.client.core import Event, Reader, ServerError
from feedhandler.client.trio_client import BACKOFF_MAX_S, Client

A = "m/a"


def line(**fields: Any) -> bytes:
    """Write a record as the server does."""
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


HELLO = line(type="hello", protocol=1, session="s", server="x", channels=[A])


def subscribed(first: int) -> bytes:
    """Write the answer to a request."""
    return line(type="subscribed", channels={A: {"next": first}})


def event(seq: int) -> bytes:
    """Write an event."""
    return line(type="event", channel=A, seq=seq, line="a", recv=7, msg={})


class Script:
    """A server that says one thing on each connection and keeps what it was asked."""

    def __init__(self, path: Path, *parts: bytes) -> None:
        self.path = path
        self.parts = list(parts)
        self.asked: list[dict[str, Any]] = []

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Say the parts, one on each connection, and then leave."""
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(os.fspath(self.path))
            listener.listen(5)
            task_status.started()
            for part in self.parts:
                sock, _ = await listener.accept()
                async with trio.SocketStream(sock) as stream:
                    self.asked.append(json.loads(await stream.receive_some(65_536)))
                    await stream.send_all(part)
        self.path.unlink()


async def test_no_record_is_lost_or_doubled_over_a_reconnect(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A connection that ends within a record is replaced by one that goes on after the last whole record."""
    path = tmp_path / "feed.sock"
    script = Script(
        path,
        HELLO + subscribed(1) + event(1) + event(2) + event(3)[:20],
        HELLO,
        HELLO + subscribed(3) + event(3) + event(4),
    )
    reports: list[str] = []
    seqs: list[int] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(script.serve)
        async with Client(path, Reader([A], snapshot=False), report=reports.append) as client:
            async for received in client:
                if isinstance(received.record, Event):
                    assert received.line == event(received.record.seq)
                    seqs.append(received.record.seq)
                if seqs == [1, 2, 3, 4]:
                    break
    wish: dict[str, Any] = {"op": "subscribe", "channels": [A], "snapshot": False}
    goes_on = {**wish, "resume": {"session": "s", "seq": {A: 2}}}
    assert script.asked == [wish, goes_on, goes_on]
    assert reports == [f"{path}: the server closed the connection; trying again", f"{path}: connected"]
    assert autojump_clock.current_time() < 1


async def test_attempts_go_on_for_ever_at_a_bounded_rate(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Without a server there is one line for people, and an attempt every few seconds."""
    path = tmp_path / "feed.sock"
    reports: list[str] = []
    attempts = 0
    connect: Callable[[Any], Any] = trio.open_unix_socket

    async def counted(target: Any) -> Any:
        nonlocal attempts
        attempts += 1
        return await connect(target)

    with pytest.MonkeyPatch.context() as patch, trio.move_on_after(600):
        patch.setattr(trio, "open_unix_socket", counted)
        async with Client(path, Reader(), report=reports.append) as client:
            await client.receive()
    assert 600 / BACKOFF_MAX_S <= attempts <= 2 * 600 / BACKOFF_MAX_S + 10
    assert reports == [f"{path}: no such file or directory; trying again"]
    assert autojump_clock.current_time() == pytest.approx(600)


async def test_an_error_of_the_server_is_passed_on_and_then_raised(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The record itself can be read; after it there is nothing to wait for."""
    path = tmp_path / "feed.sock"
    async with trio.open_nursery() as nursery:
        await nursery.start(Script(path, HELLO + line(type="error", code="forbidden", detail="no")).serve)
        async with Client(path, Reader()) as client:
            records = [(await client.receive()).line for _ in range(2)]
            with pytest.raises(ServerError, match="forbidden: no"):
                await client.receive()
    assert records[1] == line(type="error", code="forbidden", detail="no")
    assert autojump_clock.current_time() == 0
