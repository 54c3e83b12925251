"""A publisher that serves, and consumers of it in the raw: what the stories over real sockets share."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from trio.testing import MockClock

from feedhandler.config import Bounds, Publish
from feedhandler.core.channels import Channel
from feedhandler.core.notes import Note
from feedhandler.publish.server import Publisher

TRADES, BOOK, ACCOUNT = "m/publicTrades", "m/publicOrderBook", "ALL/trades"
EVERYTHING = '{"op":"subscribe","channels":["*"]}'


class House:
    """A publisher that serves, and what it noted."""

    def __init__(self, folder: Path, clock: MockClock, **bounds: int) -> None:
        keys = [key for key in bounds if key in Publish.__struct_fields__]
        settings = {key: bounds.pop(key) for key in keys}
        self.path = folder / "feed.sock"
        self.clock = clock
        self.notes: list[Note] = []
        self.publish = Publish(socket=self.path, **settings)
        self.publisher = self.make(Bounds(**bounds))
        self.trades, self.book = (self.channel(name) for name in (TRADES, BOOK))

    def make(self, bounds: Bounds) -> Publisher:
        """Make a publisher whose clock is trio's."""
        return Publisher(
            self.publish,
            bounds,
            session="session",
            clock=lambda: round(self.clock.current_time() * 1e9),
            notify=self.notes.append,
        )

    def channel(self, name: str, *, account: bool = False) -> Channel:
        """Open a channel."""
        return self.publisher.channel(name, feed="m", account=account)

    def event(self, channel: Channel, payload: bytes = b"{}") -> None:
        """Publish one event and flush."""
        self.publisher.publish(channel, "a", 7, payload)
        self.publisher.flush()

    def names(self) -> list[str]:
        """Return the names of the notes."""
        return [note.name for note in self.notes]

    def reasons(self, name: str) -> list[Any]:
        """Return the codes or reasons of the notes of a name."""
        return [
            note.fields.get("code", note.fields.get("reason")) for note in self.notes if note.name == name
        ]


@asynccontextmanager
async def serving(folder: Path, clock: MockClock, **bounds: int) -> AsyncIterator[House]:
    """Serve during a test, and see to it that nothing is left behind."""
    house = House(folder, clock, **bounds)
    async with trio.open_nursery() as nursery:
        await nursery.start(house.publisher.serve)
        yield house
        await house.publisher.drain(1)
        assert house.publisher.consumers() == []
    assert not house.path.exists()


class Peer:
    """A consumer in the raw."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.buffer = b""
        self.confirmed: dict[str, Any] = {}

    async def say(self, line: str | bytes) -> None:
        """Send a line."""
        await self.stream.send_all((line.encode() if isinstance(line, str) else line) + b"\n")

    async def line(self) -> bytes:
        """Read a line; what remains at the end of the stream is a broken record."""
        while b"\n" not in self.buffer:
            try:
                data = await self.stream.receive_some(65_536)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                rest, self.buffer = self.buffer, b""
                return rest
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line + b"\n"

    async def next(self) -> dict[str, Any]:
        """Read a record; the end of the stream is an empty one."""
        line = await self.line()
        return json.loads(line) if line else {}

    async def take(self, count: int) -> list[dict[str, Any]]:
        """Read so many records other than heartbeats."""
        records: list[dict[str, Any]] = []
        while len(records) < count:
            record = await self.next()
            if record.get("type") != "heartbeat":
                records.append(record)
        return records

    async def to_the_end(self) -> list[dict[str, Any]]:
        """Read all records up to the end of the stream."""
        records = []
        while record := await self.next():
            records.append(record)
        return records


@asynccontextmanager
async def connected(house: House, request: str | bytes = b"", **keys: Any) -> AsyncIterator[Peer]:
    """Connect, and where there is a request, subscribe and read up to the answer."""
    if keys:
        request = json.dumps({"op": "subscribe", **keys})
    async with await trio.open_unix_socket(os.fspath(house.path)) as stream:
        peer = Peer(stream)
        if request:
            assert (await peer.next())["type"] == "hello"
            await peer.say(request)
            peer.confirmed = await peer.next()
        yield peer
