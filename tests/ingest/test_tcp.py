"""The socket of a line: what a read takes, how it ends, and that nothing is lost on the way."""

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from feedhandler.ingest.tcp import LITTLE_BYTES, TcpStream

MUCH_BYTES = 4 * LITTLE_BYTES


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[TcpStream, trio.SocketStream]]:
    """Yield our end of a TCP connection and the other one."""
    async with (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] as listener:
        ours = await trio.testing.open_stream_to_socket_listener(listener)
        theirs = await listener.accept()
        async with TcpStream(ours) as stream, theirs:
            yield stream, theirs


async def test_bytes_both_ways_and_the_end() -> None:
    """What is sent arrives; the end is empty, again and again, and still takes what we send."""
    async with connected() as (ours, theirs):
        await ours.wait_send_all_might_not_block()
        await ours.send_all(b"question")
        assert await theirs.receive_some() == b"question"
        await theirs.send_all(b"answer")
        await theirs.send_eof()
        assert [await ours.receive_some(4) for _ in range(4)] == [b"answ", b"er", b"", b""]
        await ours.send_all(b"thanks")
        assert await theirs.receive_some() == b"thanks"


async def test_a_read_takes_much_only_after_one_that_was_filled() -> None:
    """A large buffer for little data is what makes the heap grow."""
    async with connected() as (ours, theirs):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.send_all, b"x" * (LITTLE_BYTES + MUCH_BYTES + 1))
            await trio.testing.wait_all_tasks_blocked(0.05)
            sizes = [len(await ours.receive_some(MUCH_BYTES))]
            await trio.testing.wait_all_tasks_blocked(0.05)
            sizes += [len(await ours.receive_some(MUCH_BYTES)) for _ in range(2)]
        assert sizes == [LITTLE_BYTES, MUCH_BYTES, 1]
        await theirs.send_all(b"y" * (LITTLE_BYTES + 1))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert [len(await ours.receive_some(MUCH_BYTES)) for _ in range(2)] == [LITTLE_BYTES, 1]


async def test_a_reset_breaks_the_read_behind_the_data() -> None:
    """A reset is told, and told again."""
    async with connected() as (ours, theirs):
        theirs.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
        await theirs.aclose()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await ours.receive_some()
        assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_closing_wakes_the_read() -> None:
    """A read that waits ends when the stream is closed; one that comes later does not begin."""
    async with connected() as (ours, _):
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await ours.receive_some()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await ours.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive_some()


async def test_a_read_takes_nothing_from_the_next_owner_of_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Closed between the wake-up and the read, the stream leaves alone what was opened under its number."""
    async with connected() as (ours, theirs), connected() as (other, other_theirs):
        await theirs.send_all(b"ours")
        await other_theirs.send_all(b"not ours")

        async def wake_late(_descriptor: int) -> None:
            await ours.aclose()

        monkeypatch.setattr(trio.lowlevel, "wait_readable", wake_late)
        with pytest.raises(trio.ClosedResourceError):
            await ours.receive_some()
        monkeypatch.undo()
        assert await other.receive_some() == b"not ours"


async def test_a_wake_up_without_data_waits_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel may say that there is something where there is nothing."""
    wait = trio.lowlevel.wait_readable
    early = [trio.lowlevel.checkpoint]

    async def wait_or_not(descriptor: int) -> None:
        await (early.pop()() if early else wait(descriptor))

    monkeypatch.setattr(trio.lowlevel, "wait_readable", wait_or_not)
    async with connected() as (ours, theirs), trio.open_nursery() as nursery:

        async def send_late() -> None:
            await trio.testing.wait_all_tasks_blocked()
            await theirs.send_all(b"late")

        nursery.start_soon(send_late)
        assert await ours.receive_some() == b"late"


async def test_a_cancelled_read_loses_nothing() -> None:
    """Whatever the moment of the cancellation, the next read goes on where the last one ended."""
    got = bytearray()
    async with connected() as (ours, theirs), trio.open_nursery() as nursery:

        async def send() -> None:
            for number in range(200):
                await theirs.send_all(b"%03d" % number)
                await trio.lowlevel.checkpoint()

        nursery.start_soon(send)
        while len(got) < 600:
            with trio.CancelScope() as scope, trio.fail_after(5):
                scope.deadline = trio.current_time() + 0.0001
                got += await ours.receive_some()
    assert bytes(got) == b"".join(b"%03d" % number for number in range(200))
