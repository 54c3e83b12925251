"""The three faces, each driven in its own way by the same few verbs."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from feedhandler.client import asyncio_client, thread_client, trio_client
from feedhandler.client.core import Reader, Received
from feedhandler.client.following import Following
from tests.client.scripted import PATIENCE_S

Take = Callable[[Received, Following], bool]
"""Looks at a record; true: it was the last one wanted."""


Face = Callable[..., Following]
"""Reads from a path, with a reader, until a `Take` has enough or the iteration ends by itself."""


def by_thread(path: Path | str, reader: Reader, take: Take, **keywords: Any) -> Following:
    """Read with the face for threads."""
    with thread_client.Client(path, reader, **keywords) as client:
        for received in client:
            if take(received, client):
                break
    return client


def by_asyncio(path: Path | str, reader: Reader, take: Take, **keywords: Any) -> Following:
    """Read with the face for asyncio."""

    async def run() -> Following:
        async with asyncio_client.Client(path, reader, **keywords) as client:
            async for received in client:
                if take(received, client):
                    break
        return client

    return asyncio.run(run())


def by_trio(path: Path | str, reader: Reader, take: Take, **keywords: Any) -> Following:
    """Read with the face for trio."""

    async def run() -> Following:
        async with trio_client.Client(path, reader, **keywords) as client:
            async for received in client:
                if take(received, client):
                    break
        return client

    return trio.run(run)


every_face = pytest.mark.parametrize("face", [by_thread, by_asyncio, by_trio])


class Closing:
    """Closes a client from elsewhere: another thread, or another task of the same loop."""

    def __init__(self) -> None:
        self.reading = threading.Event()
        self.records = 0

    def by_thread(self, path: Path, reader: Reader, report: Callable[[str], None]) -> None:
        """Close the face for threads by another thread."""
        client = thread_client.Client(path, reader, report=report)

        def close() -> None:
            assert self.reading.wait(PATIENCE_S)
            client.close()

        thread = threading.Thread(target=close)
        thread.start()
        self._count(client)
        thread.join()

    def by_asyncio(self, path: Path, reader: Reader, report: Callable[[str], None]) -> None:
        """Close the face for asyncio by another task."""

        async def run() -> None:
            client = asyncio_client.Client(path, reader, report=report)

            async def close() -> None:
                while not self.reading.is_set():
                    await asyncio.sleep(0.001)
                client.close()

            task = asyncio.create_task(close())
            async for _ in client:
                self.records += 1
            await task

        asyncio.run(run())

    def by_trio(self, path: Path, reader: Reader, report: Callable[[str], None]) -> None:
        """Close the face for trio by another task."""

        async def run() -> None:
            client = trio_client.Client(path, reader, report=report)

            async def close() -> None:
                while not self.reading.is_set():
                    await trio.sleep(0.001)
                client.close()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(close)
                async for _ in client:
                    self.records += 1

        trio.run(run)

    def _count(self, records: Iterator[Received]) -> None:
        for _ in records:
            self.records += 1
