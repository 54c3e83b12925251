"""What is special to the client on asyncio: its cancellation."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from feedhandler.client.asyncio_client import Client
from feedhandler.client.core import Event, Reader
from tests.client.scripted import A, event, hello, subscribed


def test_cancelling_what_waits_loses_nothing(tmp_path: Path) -> None:
    """A program that polls with a time limit gets every record once, over one connection."""
    path = os.fspath(tmp_path / "feed.sock")
    connections = 0
    polled, left = asyncio.Event(), asyncio.Event()

    async def serve(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        outgoing.write(hello())
        await incoming.readline()
        outgoing.write(subscribed(a=1))
        for seq in range(1, 21):
            outgoing.write(event(seq)[:9])
            polled.clear()
            await polled.wait()
            outgoing.write(event(seq)[9:])
        await incoming.read()
        outgoing.close()
        await outgoing.wait_closed()
        left.set()

    async def run() -> list[int]:
        seqs: list[int] = []
        async with await asyncio.start_unix_server(serve, path), Client(path, Reader([A])) as client:
            while len(seqs) < 20:
                try:
                    async with asyncio.timeout(0.001):
                        record = (await client.receive()).record
                except TimeoutError:
                    polled.set()
                    continue
                if isinstance(record, Event):
                    seqs.append(record.seq)
        await left.wait()
        return seqs

    assert asyncio.run(run()) == list(range(1, 21))
    assert connections == 1


def test_a_client_that_is_cancelled_leaves_no_connection(tmp_path: Path) -> None:
    """Leaving by cancellation closes the socket, so that the server sees the end."""
    path = os.fspath(tmp_path / "feed.sock")

    async def run() -> bytes:
        ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def serve(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
            outgoing.write(hello())
            await incoming.readline()
            task.cancel()
            rest = await incoming.read()
            outgoing.close()
            await outgoing.wait_closed()
            ended.set_result(rest)

        async def consume() -> None:
            async with Client(path, Reader([A])) as client:
                async for _ in client:
                    pass

        async with await asyncio.start_unix_server(serve, path):
            task = asyncio.create_task(consume())
            with suppress(asyncio.CancelledError):
                await task
            async with asyncio.timeout(5):
                return await ended

    assert asyncio.run(run()) == b""


def test_a_client_may_be_closed_or_cancelled_while_it_connects(tmp_path: Path) -> None:
    """Whatever is under way is taken down, and the server sees the end of both connections."""
    path = os.fspath(tmp_path / "feed.sock")
    ends = 0

    async def serve(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        nonlocal ends
        assert await incoming.read() == b""
        outgoing.close()
        await outgoing.wait_closed()
        ends += 1

    async def run() -> None:
        async with await asyncio.start_unix_server(serve, path), asyncio.timeout(5):
            closed, cancelled = Client(path, Reader([A])), Client(path, Reader([A]))
            tasks = [asyncio.create_task(anext(client, None)) for client in (closed, cancelled)]
            await asyncio.sleep(0)
            closed.close()
            tasks[1].cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert done[0] is None
            assert isinstance(done[1], asyncio.CancelledError)
            while ends < 2:
                await asyncio.sleep(0)

    asyncio.run(run())
