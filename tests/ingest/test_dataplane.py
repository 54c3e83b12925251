"""The stream under the WebSocket library: order, fairness, and pings that data can't hold up."""

import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from feedhandler.config import Bounds
from feedhandler.core.trail import NONE_KNOWN, Frames
from feedhandler.ingest import dataplane
from feedhandler.ingest.connect import open_line, tls_context
from feedhandler.ingest.dataplane import DataPlaneStream
from feedhandler.ingest.handshake import Target

Serve = Callable[..., Awaitable[int]]
HEAD = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def text(payload: bytes) -> bytes:
    """Encode a short text frame."""
    return bytes([0x81, len(payload)]) + payload


def plane_on(
    stream: trio.abc.Stream, log: list[Any], check: Callable[[bytes], None] = lambda _head: None
) -> DataPlaneStream:
    """Return a data plane that writes down what it delivers."""
    return DataPlaneStream(
        stream,
        check=check,
        deliver=lambda payloads, _frames: log.append(tuple(payloads)),
        recognise=lambda _rest, _data: NONE_KNOWN,
        rejected=log.append,
        read_bytes=4096,
        max_message_bytes=4096,
    )


async def test_delivery_precedes_the_control_frames_of_a_read() -> None:
    """One read is one delivery, and the library sees its control frames after it."""
    log: list[Any] = []
    ours, theirs = trio.testing.memory_stream_pair()
    plane = plane_on(ours, log, log.append)
    await theirs.send_all(HEAD + text(b"early"))
    log.append(await plane.receive_some(10))
    plane.open()
    await theirs.send_all(text(b"a") + b"\x89\x00" + text(b"b") + b"\x82\x00")
    log.append(await plane.receive_some(10))
    assert log == [HEAD, HEAD, (b"early",), (b"a", b"b"), "binary", b"\x89\x00"]


async def test_the_head_may_come_byte_by_byte() -> None:
    """The head is judged when it is complete, wherever it is cut."""
    heads: list[bytes] = []
    ours, theirs = trio.testing.memory_stream_pair()
    plane = plane_on(ours, [], heads.append)
    async with trio.open_nursery() as nursery:

        async def drip() -> None:
            for byte in HEAD:
                await theirs.send_all(bytes([byte]))

        nursery.start_soon(drip)
        assert await plane.receive_some() == HEAD
    assert heads == [HEAD]


async def test_after_a_failure_everything_is_read_and_dropped() -> None:
    """A sender that goes on after a violation is drained, and its end is seen."""
    log: list[Any] = []
    ours, theirs = trio.testing.memory_stream_pair()
    plane = plane_on(ours, log)
    plane.open()
    await theirs.send_all(HEAD)
    await plane.receive_some()
    await theirs.send_all(text(b"good") + b"\xff\xff" + text(b"bad"))
    await theirs.send_all(text(b"worse"))
    await theirs.aclose()
    assert await plane.receive_some() == b""
    assert log == [(b"good",)]
    assert await plane.wait_ended() == "protocol"
    assert repr(plane) == "<DataPlaneStream protocol, 2 reads>"


async def test_writes_that_fail_are_dropped() -> None:
    """Only the read side tells the end of a connection."""
    ours, theirs = trio.testing.memory_stream_pair()
    plane = plane_on(ours, [])
    await theirs.aclose()
    await plane.send_all(b"lost")
    await plane.wait_send_all_might_not_block()
    assert not plane.reason


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_two_flat_out_lines_share_the_daemon(serve: Serve, authority: trustme.CA, scheme: str) -> None:
    """Two senders that never pause are read in turns, and a third task runs between the reads."""
    turns: list[str] = []
    done = trio.Event()

    async def flood(peer: Any) -> None:
        await peer.accept()
        while True:
            await peer.send(text(b"x" * 100) * 2000)

    def take(line: str) -> None:
        turns.append(line)
        if len(turns) >= 60:
            done.set()

    async def pump(line: str, target: Target) -> None:
        async with open_line(
            target,
            token=None,
            deliver=lambda _payloads, _frames: take(line),
            recognise=lambda _rest, _data: NONE_KNOWN,
            rejected=turns.append,
            ssl_context=context,
            bounds=Bounds(read_kib=16),
        ) as connection:
            await connection.pump()

    context = tls_context(None)
    authority.configure_trust(context)
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    port = await serve(flood, theirs if scheme == "wss" else None)
    target = Target.from_url(f"{scheme}://127.0.0.1:{port}")
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pump, "a", target)
            nursery.start_soon(pump, "b", target)
            await done.wait()
            nursery.cancel_scope.cancel()
    longest = max(len(run) for run in "".join(turns[10:60]).replace("ab", "a b").replace("ba", "b a").split())
    assert longest <= 5


async def test_pings_are_answered_while_data_floods(serve: Serve) -> None:
    """(14) Pings within an endless flood are each answered, in order, though deliveries are slow."""
    pings = [b"ping %d" % i for i in range(20)]
    pongs: list[bytes] = []
    answered = trio.Event()

    async def flood(peer: Any) -> None:
        await peer.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, peer, nursery.cancel_scope)
            for ping in pings:
                await peer.send(text(b"x" * 100) * 500 + bytes([0x89, len(ping)]) + ping)
            while True:
                await peer.send(text(b"x" * 100) * 500)

    async def listen(peer: Any, scope: trio.CancelScope) -> None:
        while len(pongs) < len(pings):
            opcode, payload = await peer.frame()
            assert opcode == 10
            pongs.append(payload)
        answered.set()
        scope.cancel()

    def busy(_payloads: list[bytes], _frames: Frames) -> None:
        sum(range(20_000))

    target = Target.from_url(f"ws://127.0.0.1:{await serve(flood)}")
    with trio.fail_after(10):
        async with (
            open_line(
                target,
                token=None,
                deliver=busy,
                recognise=lambda _rest, _data: NONE_KNOWN,
                rejected=lambda _kind: None,
                ssl_context=tls_context(None),
                bounds=Bounds(read_kib=16),
            ) as connection,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(connection.pump)
            await answered.wait()
    assert pongs == pings


async def test_the_first_byte_of_what_is_delivered_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes in pieces counts from its first piece, the next message from its own read."""
    now = 0.0
    monkeypatch.setattr(dataplane, "perf_counter", lambda: now)
    times: list[float] = []
    ours, theirs = trio.testing.memory_stream_pair()
    plane = plane_on(ours, [])
    plane._deliver = lambda *_: times.append(plane.read_s)
    whole, part = text(b"a" * 50), b"\x01\x01b"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain, plane)
        plane.open()
        for data in (HEAD + whole, whole, whole[:10], whole[10:], part, b"\x80\x01c", whole):
            now += 1
            await theirs.send_all(data)
            await trio.testing.wait_all_tasks_blocked()
        await theirs.send_eof()
    assert times == [1, 2, 3, 5, 7]


async def drain(plane: DataPlaneStream) -> None:
    """Read to the end, as the library does."""
    while await plane.receive_some():
        pass
