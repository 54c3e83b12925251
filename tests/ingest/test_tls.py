"""TLS over a line's socket, against real servers: every cut, every size, every end."""

import random
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trustme

from feedhandler.ingest.tcp import TcpStream
from feedhandler.ingest.tls import RECORD_BYTES, TlsStream

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Server:
    """The other side, whose every byte a test can hold back."""

    def __init__(self, context: ssl.SSLContext, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    async def do_handshake(self) -> None:
        """Answer the handshake; the last flight stays in ``outgoing``, session tickets included."""
        while True:
            try:
                return self.tls.do_handshake()
            except ssl.SSLWantReadError:
                await self.send(self.outgoing.read())
                self.incoming.write(await self.stream.receive_some())

    async def send(self, wire: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send_all(wire)

    def records(self, *texts: bytes) -> bytes:
        """Encrypt, a record or more for each text."""
        for text in texts:
            self.tls.write(text)
        return self.outgoing.read()

    async def read(self) -> bytes:
        """Return the text of the next record."""
        while True:
            try:
                return self.tls.read(RECORD_BYTES)
            except ssl.SSLWantReadError:
                self.incoming.write(await self.stream.receive_some())


Pair = tuple[TlsStream, Server]


@pytest.fixture(params=VERSIONS, ids=["TLS 1.2", "TLS 1.3"])
def contexts(request: pytest.FixtureRequest, authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the client's and the server's context for one version of TLS."""
    client = ssl.create_default_context()
    authority.configure_trust(client)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("exchange.example").configure_cert(server)
    client.minimum_version = client.maximum_version = request.param
    return client, server


@pytest.fixture
async def shaken(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Pair:
    """Return both sides in one process after the handshake, the network between them boundless."""
    ours, theirs = trio.testing.memory_stream_pair()
    return await shake(ours, theirs, contexts)


async def shake(
    ours: trio.abc.Stream,
    theirs: trio.abc.HalfCloseableStream,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> Pair:
    """Let both sides shake hands."""
    client, server = TlsStream(ours, contexts[0], "exchange.example"), Server(contexts[1], theirs)

    async def answer() -> None:
        await server.do_handshake()
        await server.send(server.outgoing.read())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(answer)
    return client, server


@asynccontextmanager
async def over_tcp(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> AsyncIterator[tuple[TlsStream, Server, trio.SocketStream]]:
    """Yield both sides of a connection through the kernel, and the server's socket."""
    async with (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] as listener:
        ours = await trio.testing.open_stream_to_socket_listener(listener)
        async with await listener.accept() as theirs, ours:
            client, server = await shake(TcpStream(ours), theirs, contexts)
            yield client, server, theirs


async def read_all(client: TlsStream, max_bytes: int = 1 << 18) -> list[bytes]:
    """Read to the end."""
    reads = [await client.receive_some(max_bytes)]
    while reads[-1]:
        reads.append(await client.receive_some(max_bytes))
    return reads[:-1]


async def test_one_read_of_the_network_is_one_of_the_text(shaken: Pair) -> None:
    """Records that come together are read together, and a second read waits."""
    client, server = shaken
    await server.send(server.records(*(b"%03d," % number for number in range(500))))
    assert await client.receive_some(1 << 18) == b"".join(b"%03d," % number for number in range(500))
    with trio.move_on_after(0.01) as scope:
        await client.receive_some()
    assert scope.cancelled_caught


async def test_a_read_is_bounded(shaken: Pair) -> None:
    """No read returns more than it was asked for, and none of the rest waits for the network."""
    client, server = shaken
    text = random.Random(1).randbytes(3 * RECORD_BYTES + 7)
    await server.send(server.records(b"x" * 1000, text))
    got = [await client.receive_some(100)]
    while sum(map(len, got)) < 1000 + len(text):
        got.append(await client.receive_some(5000))
    assert max(map(len, got)) == 5000
    assert b"".join(got) == b"x" * 1000 + text


async def test_every_cut(shaken: Pair) -> None:
    """Wherever the network cuts the records, the same text comes out, and no part of a record before its end."""
    client, server = shaken
    texts = (b"one", b"two", b"x" * 40)
    wire = server.records(*texts)
    for cut in range(1, len(wire)):
        got = bytearray()
        async with trio.open_nursery() as nursery:

            async def send(parts: tuple[bytes, bytes]) -> None:
                await server.send(parts[0])
                await trio.testing.wait_all_tasks_blocked()
                await server.send(parts[1])

            nursery.start_soon(send, (wire[:cut], wire[cut:]))
            while len(got) < len(b"".join(texts)):
                got += await client.receive_some()
        assert got == b"".join(texts)
        wire = server.records(*texts)


async def test_byte_by_byte(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Handshake, tickets and data, a byte at a time."""
    ours, theirs = trio.testing.memory_stream_pair()
    client, server = TlsStream(ours, contexts[0], "exchange.example"), Server(contexts[1], theirs)
    send_all = theirs.send_all

    async def drip(data: bytes) -> None:
        for byte in data:
            await send_all(bytes([byte]))

    theirs.send_all = drip  # type: ignore[method-assign, assignment]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        await server.do_handshake()
        await server.send(server.outgoing.read() + server.records(b"data", b"y" * 20_000))
    await theirs.send_eof()
    assert b"".join(await read_all(client)) == b"data" + b"y" * 20_000


async def test_data_in_one_piece_with_the_end_of_the_handshake(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """What the handshake's last read brought along does not wait for the next one."""
    ours, theirs = trio.testing.memory_stream_pair()
    client, server = TlsStream(ours, contexts[0], "exchange.example"), Server(contexts[1], theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        await server.do_handshake()
        await server.send(server.outgoing.read() + server.records(b"early"))
    with trio.fail_after(1):
        assert await client.receive_some() == b"early"


@pytest.mark.parametrize("size", [1, RECORD_BYTES, RECORD_BYTES + 1, 3_000_000])
async def test_records_of_any_size_through_the_kernel(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], size: int
) -> None:
    """Large and small, both ways at once."""
    text = random.Random(size).randbytes(size)
    async with over_tcp(contexts) as (client, server, _):
        got, heard = bytearray(), bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.send, server.records(text))
            nursery.start_soon(client.send_all, text)

            async def hear() -> None:
                while len(heard) < size:
                    heard.extend(await server.read())

            nursery.start_soon(hear)
            while len(got) < size:
                got += await client.receive_some(1 << 18)
    assert got == heard == text


async def test_sends_of_many_tasks_do_not_mix(shaken: Pair) -> None:
    """A pong that leaves while a request is sent keeps its place; an empty send is none."""
    client, server = shaken
    heard = bytearray()
    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(client.send_all, b"%d" % number * 20_000)
        nursery.start_soon(client.wait_send_all_might_not_block)
        nursery.start_soon(client.send_all, b"")
        while len(heard) < 200_000:
            heard += await server.read()
    assert {bytes(heard[at : at + 20_000]) for at in range(0, 200_000, 20_000)} == {
        b"%d" % number * 20_000 for number in range(10)
    }


@pytest.mark.parametrize("goodbye", [True, False], ids=["goodbye", "none"])
@pytest.mark.parametrize("half", [True, False], ids=["half a record", "whole"])
async def test_the_end_is_an_end(shaken: Pair, goodbye: bool, half: bool) -> None:
    """With TLS's goodbye or without one, within a record or behind it: what was whole comes out, then the end."""
    client, server = shaken
    wire = server.records(b"whole")
    if goodbye:
        with pytest.raises(ssl.SSLWantReadError):
            server.tls.unwrap()
        wire += server.outgoing.read()
    elif half:
        wire += server.records(b"half")[:-1]
    await server.send(wire)
    await server.stream.send_eof()
    assert [await client.receive_some() for _ in range(4)] == [b"whole", b"", b"", b""]
    await client.send_all(b"still heard")
    assert await server.read() == b"still heard"


@pytest.mark.parametrize("goodbye", [True, False], ids=["goodbye", "none"])
async def test_an_end_read_again_lets_others_run(shaken: Pair, goodbye: bool) -> None:
    """A read behind the end has a checkpoint like any other."""
    client, server = shaken
    if goodbye:
        with pytest.raises(ssl.SSLWantReadError):
            server.tls.unwrap()
        await server.send(server.outgoing.read())
    await server.stream.send_eof()
    assert await client.receive_some() == b""
    with trio.testing.assert_checkpoints():
        assert await client.receive_some() == b""


async def test_every_read_lets_others_run(shaken: Pair) -> None:
    """Also one that needs nothing of the network."""
    client, server = shaken
    await server.send(server.records(b"ab"))
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            assert len(await client.receive_some(1)) == 1


async def test_a_record_that_cannot_be_read(shaken: Pair) -> None:
    """Good records before it come out; then the connection is broken, both ways, for good."""
    client, server = shaken
    good, bad = server.records(b"good"), bytearray(server.records(b"bad"))
    bad[-1] ^= 1
    await server.send(good + bad + server.records(b"late"))
    assert await client.receive_some() == b"good"
    for attempt in (client.receive_some, client.receive_some, lambda: client.send_all(b"x")):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await attempt()
        assert isinstance(caught.value.__cause__, ssl.SSLError)


async def test_a_reset_breaks_the_read_behind_the_data(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    """A reset within a record: what was whole has come out, half a record never does."""
    async with over_tcp(contexts) as (client, server, theirs):
        await server.send(server.records(b"whole") + server.records(b"x" * 5000)[:4000])
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert await client.receive_some(1 << 18) == b"whole"
        theirs.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await theirs.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"too late")


async def test_a_send_that_is_cut_off_stops_sending_only(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001 - by name
) -> None:
    """Half a record on its way: nothing can follow it, but what the other side says is still heard."""
    async with over_tcp(contexts) as (client, server, _):
        with trio.move_on_after(0.05) as scope:
            await client.send_all(b"x" * 10_000_000)
        assert scope.cancelled_caught
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"more")
        assert not client._outgoing.pending
        await server.send(server.records(b"heard"))
        assert await client.receive_some() == b"heard"


async def test_closing_wakes_the_read(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """A read that waits ends when the stream is closed."""
    async with over_tcp(contexts) as (client, _, _), trio.open_nursery() as nursery:

        async def read() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await client.receive_some()

        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        await client.aclose()


async def test_a_cancelled_read_loses_nothing(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    """Whatever the moment of the cancellation, the next read goes on where the last one ended."""
    texts = [b"%03d" % number * (1 + number * 37) for number in range(100)]
    sent = b"".join(texts)
    got = bytearray()
    async with over_tcp(contexts) as (client, server, _), trio.open_nursery() as nursery:

        async def send() -> None:
            for text in texts:
                await server.send(server.records(text))

        nursery.start_soon(send)
        delays = random.Random(3)
        with trio.fail_after(10):
            while len(got) < len(sent):
                with trio.CancelScope() as scope:
                    scope.deadline = trio.current_time() + delays.random() / 2000
                    got += await client.receive_some(delays.choice([100, 10_000, 1 << 18]))
    assert got == sent


async def test_what_tls_says_by_itself_goes_out_before_the_next_wait(shaken: Pair) -> None:
    """A read that makes ssl speak has its text returned first; what ssl said leaves with the next one."""
    client, server = shaken
    await server.send(server.records(b"cause"))
    assert await client.receive_some() == b"cause"
    client._tls.write(b"said by ssl")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_some)
        assert await server.read() == b"said by ssl"
        nursery.cancel_scope.cancel()


async def test_what_tls_cannot_say_any_more_is_dropped(shaken: Pair) -> None:
    """Where the other side is gone, it is the read that tells."""
    client, server = shaken
    await server.send(server.records(b"last"))
    assert await client.receive_some(1) == b"l"
    client._tls.write(b"said by ssl")
    await server.stream.aclose()
    assert [await client.receive_some() for _ in range(3)] == [b"ast", b"", b""]


@pytest.mark.parametrize(
    "answer",
    [
        lambda wire: wire[:0],
        lambda wire: wire[:1],
        lambda wire: wire[:-1],
        lambda _wire: b"HTTP/1.1 400\r\n\r\n",
    ],
    ids=["nothing", "a byte", "all but a byte", "no TLS"],
)
async def test_a_handshake_that_breaks_off(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], answer: Callable[[bytes], bytes]
) -> None:
    """An end or nonsense within the handshake breaks it."""
    ours, theirs = trio.testing.memory_stream_pair()
    client, server = TlsStream(ours, contexts[0], "exchange.example"), Server(contexts[1], theirs)
    async with trio.open_nursery() as nursery:

        async def break_off() -> None:
            server.incoming.write(await theirs.receive_some())
            with pytest.raises(ssl.SSLWantReadError):
                server.tls.do_handshake()
            await server.send(answer(server.outgoing.read()))
            await theirs.send_eof()

        nursery.start_soon(break_off)
        with pytest.raises(trio.BrokenResourceError):
            await client.do_handshake()
