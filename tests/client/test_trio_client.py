"""What is special to the client on trio: its clock and its cancellation."""

import os
import socket
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from feedhandler.client import trio_client
from feedhandler.client.core import Event, Reader
from feedhandler.client.following import BACKOFF_MAX_S
from feedhandler.client.trio_client import Client
from tests.client.scripted import A, event, hello, subscribed


async def test_attempts_go_on_for_ever_at_a_bounded_rate(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a server there is one line for people, and an attempt every few seconds."""
    path = tmp_path / "feed.sock"
    reports: list[str] = []
    attempts: list[str] = []

    def dial(target: str) -> socket.socket:
        attempts.append(target)
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(trio_client, "dial", dial)
    with trio.move_on_after(600):
        async with Client(path, Reader(), report=reports.append) as client:
            await client.receive()
    assert 600 / BACKOFF_MAX_S <= len(attempts) <= 2 * 600 / BACKOFF_MAX_S + 10
    assert reports == [f"{path}: no such file or directory; trying again"]
    assert autojump_clock.current_time() == pytest.approx(600)


async def test_cancelling_what_waits_loses_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A program that polls with a time limit gets every record once, over one connection."""
    path = os.fspath(tmp_path / "feed.sock")
    seqs: list[int] = []
    polls = 0

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(path)
            listener.listen(5)
            task_status.started()
            sock, _ = await listener.accept()
            async with trio.SocketStream(sock) as stream:
                await stream.send_all(hello())
                await stream.receive_some(65_536)
                await stream.send_all(subscribed(a=1))
                for seq in range(1, 21):
                    await stream.send_all(event(seq)[:9])
                    await trio.sleep(0.005)
                    await stream.send_all(event(seq)[9:])
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        async with Client(path, Reader([A])) as client:
            while len(seqs) < 20:
                polls += 1
                with trio.move_on_after(0.003):
                    record = (await client.receive()).record
                    if isinstance(record, Event):
                        seqs.append(record.seq)
        nursery.cancel_scope.cancel()
    assert seqs == list(range(1, 21))
    assert polls > 30
    assert autojump_clock.current_time() < 0.2


async def test_a_request_that_is_cancelled_midway_ends_its_connection(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A part of a request can't be taken back, so the next attempt is a new connection with a whole one."""
    path = os.fspath(tmp_path / "feed.sock")
    channels = [A, *(f"market-{number}/*" for number in range(100_000))]
    requests: list[bytes] = []

    async def consume() -> None:
        async for _ in client:
            pass

    async def serve() -> None:
        sock, _ = await listener.accept()
        with sock:
            await sock.send(hello())
            await trio.sleep(1)  # the request fills the socket
            nursery.cancel_scope.cancel()
            with trio.move_on_after(3, shield=True):
                requests.append(b"")
                while data := await sock.recv(65_536):
                    requests[-1] += data

    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(path)
        listener.listen(5)
        async with Client(path, Reader(channels)) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(consume)
                nursery.start_soon(serve)
            assert autojump_clock.current_time() == pytest.approx(1)
            with trio.move_on_after(1):
                await consume()
            with trio.fail_after(3):
                sock, _ = await listener.accept()
            sock.close()
    assert 0 < len(requests[0]) < 100_000 * len("market-0/*")
