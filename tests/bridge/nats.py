"""A real nats-server on this machine, and an ordinary consumer of its streams.

The consumer is nats-py's own ordered one, in a thread with a loop of its own: it knows nothing of the bridge.
"""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import nats
import trio
from nats.js.api import StreamConfig

from tests.support.ports import free_port
from tests.support.processes import GRACE_S, PATIENCE_S

POLL_S = 0.05


class Received(NamedTuple):
    """One message of a stream."""

    subject: str
    headers: Mapping[str, str]
    data: bytes

    @property
    def record(self) -> dict[str, Any]:
        """The record."""
        return msgspec.json.decode(self.data)

    @property
    def payload(self) -> bytes:
        """The exchange's message, byte for byte."""
        return bytes(msgspec.json.decode(self.data, type=_Record).msg)


class _Record(msgspec.Struct):
    msg: msgspec.Raw = msgspec.Raw(b"")


class NatsServer:
    """A server that may be stopped and started again over the same store."""

    def __init__(
        self,
        folder: Path,
        *,
        arguments: tuple[object, ...] = (),
        host: str = "127.0.0.1",
        jetstream: bool = True,
    ) -> None:
        self.options: dict[str, Any] = {}
        """What a client of its own connects with."""
        self._jetstream = ("-js", "-sd", folder / "store") if jetstream else ()
        self._folder = folder
        self._arguments = arguments
        self.host = host
        self.port = free_port()
        self.process: trio.Process | None = None

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"nats://{self.host}:{self.port}"

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        command = ["nats-server", *self._jetstream, "-a", self.host, "-p", self.port]
        with (self._folder / "nats.log").open("ab") as log:
            self.process = await trio.lowlevel.open_process(
                [*map(str, [*command, *self._arguments])],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        with trio.fail_after(PATIENCE_S):
            while "Server is ready" not in self._log():
                await trio.sleep(POLL_S)

    def _log(self) -> str:
        return (self._folder / "nats.log").read_text().rpartition("Starting nats-server")[2]

    async def stop(self, *, kill: bool = False) -> None:
        """End it."""
        process, self.process = self.process, None
        if process is None:
            return
        if kill:
            process.kill()
        else:
            process.terminate()
        with trio.move_on_after(GRACE_S):
            await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()

    async def messages(self, stream: str = "FEED", **options: Any) -> list[Received]:
        """Return what a stream holds, as a consumer reads it."""
        return await self.ask(lambda client: _read(client, stream), **options)

    async def create(self, stream: str, **settings: Any) -> None:
        """Create a stream."""
        await self.ask(lambda client: client.jetstream().add_stream(StreamConfig(name=stream, **settings)))

    async def ask(self, work: Callable[[nats.NATS], Any], **options: Any) -> Any:
        """Let a client of its own do something."""
        given = self.options | options
        return await trio.to_thread.run_sync(lambda: asyncio.run(_with_client(self.url, work, given)))


@asynccontextmanager
async def nats_server(
    folder: Path, *arguments: object, host: str = "127.0.0.1", jetstream: bool = True
) -> AsyncIterator[NatsServer]:
    """Run a server beside the body."""
    server = NatsServer(folder, arguments=arguments, host=host, jetstream=jetstream)
    await server.start()
    try:
        yield server
    finally:
        with trio.CancelScope(shield=True):
            await server.stop()


async def _with_client(url: str, work: Callable[[nats.NATS], Any], options: dict[str, Any]) -> Any:
    client = await nats.connect(url, allow_reconnect=False, **options)
    try:
        return await work(client)
    finally:
        await client.close()


async def _read(client: nats.NATS, stream: str) -> list[Received]:
    streams = client.jetstream()
    info = await streams.stream_info(stream)
    count = info.state.messages
    subscription = await streams.subscribe(info.config.subjects[0], stream=stream, ordered_consumer=True)
    found = []
    while len(found) < count:
        message = await subscription.next_msg(timeout=PATIENCE_S)
        found.append(Received(message.subject, message.headers or {}, message.data))
    await subscription.unsubscribe()
    return found
