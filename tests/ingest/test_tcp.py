# ruff: noqa: ARG001 - names and the clock work by being asked for
"""The socket of a line: what a read takes, how it ends, and that nothing is lost on the way."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from feedhandler.ingest import tcp
from feedhandler.ingest.tcp import ADDRESSES, LITTLE_BYTES, STAGGER_S, Address, TcpStream, dial, in_turn
from tests.support.names import Names

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


# Addresses

HOST = "exchange.test"
LOOPBACKS = tuple(f"127.0.0.{number}" for number in range(1, 4))


@pytest.fixture
async def names() -> Names:
    """Resolve names by a server of our own."""
    return Names(HOST, LOOPBACKS)


async def listen(*addresses: str) -> tuple[int, list[trio.SocketListener]]:
    """Listen at some addresses, on one port."""
    listeners: list[trio.SocketListener] = []
    port = 0
    for address in addresses:
        (one,) = await trio.open_tcp_listeners(port, host=address)
        port = one.socket.getsockname()[1]
        listeners.append(one)
    return port, listeners


async def test_paths_lead_to_different_addresses_whatever_order_they_come_in(names: Names) -> None:
    """As many lines as addresses: each is at another one, again and again; the name is asked for each time."""
    port, listeners = await listen(*LOOPBACKS)
    for _ in range(4):
        peers = []
        for path in range(3):
            async with await dial(HOST, port, path) as stream:
                peers.append(stream.peer)
        assert peers == [f"{address}:{port}" for address in LOOPBACKS]
    assert names.asked == 12
    for listener in listeners:
        await listener.aclose()


@pytest.mark.parametrize("path", range(7))
async def test_an_address_that_refuses_has_a_fall_back(names: Names, path: int) -> None:
    """Where nobody listens at the address whose turn it is, the next one is tried; the only one is found always."""
    port, (listener,) = await listen("127.0.0.2")
    async with await dial(HOST, port, path) as stream:
        assert stream.peer == f"127.0.0.2:{port}"
    await listener.aclose()


async def test_an_address_that_is_silent_is_not_waited_for(
    names: Names, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that neither answers nor refuses costs the stagger, and is left alone when another has answered."""
    port, (listener,) = await listen("127.0.0.2")
    given_up: list[str] = []
    connect = tcp._connect

    async def slow(address: Address) -> trio.SocketStream:
        if address.place[0] == "127.0.0.1":
            try:
                await trio.sleep_forever()
            finally:
                given_up.append(address.place[0])
        return await connect(address)

    monkeypatch.setattr(tcp, "_connect", slow)
    began_s = trio.current_time()
    async with await dial(HOST, port, 0) as stream:
        assert stream.peer == f"127.0.0.2:{port}"
    assert trio.current_time() - began_s == pytest.approx(STAGGER_S, abs=0.01)
    assert given_up == ["127.0.0.1"]
    await listener.aclose()


async def test_no_address_answers(names: Names) -> None:
    """All reasons are told, one for each address."""
    port, (listener,) = await listen("127.0.0.1")
    await listener.aclose()
    with pytest.raises(OSError, match=r"no address of exchange\.test answers") as caught:
        await dial(HOST, port, 1)
    assert isinstance(caught.value.__cause__, ExceptionGroup)
    assert [type(error) for error in caught.value.__cause__.exceptions] == [ConnectionRefusedError] * 3


def test_addresses_have_a_bound_and_families_keep_their_order() -> None:
    """Every path tries each family in the order found, begins somewhere else, and tries no more than the bound."""
    six = [Address(socket.AF_INET6, (f"::{number}", 1, 0, 0)) for number in range(1, 3)]
    four = [Address(socket.AF_INET, (f"10.0.0.{number}", 1)) for number in range(1, 4)]
    assert in_turn([*reversed(six), *four], 0) == [*six, *four]
    assert in_turn([*six, *four, four[0]], 3) == [*four[1:], *six, four[0]]
    assert in_turn([], 3) == []
    many = [Address(socket.AF_INET, (f"10.0.0.{number}", 1)) for number in range(100)]
    assert len(in_turn(many, 5)) == ADDRESSES


async def test_what_is_gone_has_no_peer() -> None:
    """A socket that is closed tells no address."""
    async with connected() as (ours, _):
        assert ours.peer.startswith("127.0.0.1:")
        await ours.aclose()
        assert ours.peer == ""
