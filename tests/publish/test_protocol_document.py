"""`PROTOCOL.md` says what the server does: its records are the server's, and its programs run.

The programs run as they stand in the document, against a real publisher, on the real clock.
"""

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import feedhandler.publish
from feedhandler import __version__
from feedhandler.client import core
from feedhandler.config import Bounds, Publish
from feedhandler.core.channels import Channel
from feedhandler.publish import records
from feedhandler.publish.request import Follow, Request, parse
from feedhandler.publish.server import Publisher
from tests.support.processes import PATIENCE_S

DOCUMENT = Path(feedhandler.publish.__file__).with_name("PROTOCOL.md").read_text()
TRADES = "BTC-USD/publicTrades"
NUMBERED = ("event", "gap")


def block(info: str) -> str:
    """Return the document's fenced block of that info string."""
    (text,) = re.findall(rf"^```{info}\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return str(text)


def needs(program: str) -> pytest.MarkDecorator:
    """Skip where a program that the examples use is not installed."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def shown() -> list[str]:
    """Return all records that the document shows."""
    said = [line[2:] for line in block("json transcript").splitlines() if line.startswith("< ")]
    return said + block("json records").splitlines()


def test_a_daemon_may_follow_as_the_document_says() -> None:
    """The request that is shown is one, and names the versions that this server speaks."""
    request = parse(block("json following").removeprefix("> ").encode())
    assert isinstance(request, Follow)
    assert (request.protocol, request.follow) == (records.PROTOCOL, records.FOLLOW)


def channel(record: dict[str, Any]) -> Channel:
    """Return the record's channel, at the record's seq."""
    made = Channel(record["channel"], number=0, feed="", account=False)
    made.next = record["seq"]
    return made


def message(record: dict[str, Any]) -> bytes:
    """Return a record's message as the exchange writes it."""
    return json.dumps(record["msg"], separators=(",", ":")).encode()


def greeting(record: dict[str, Any]) -> bytes:
    """Return the server's greeting."""
    channels = [Channel(name, number=0, feed="", account=False) for name in record["channels"]]
    return records.hello(record["session"], channels).replace(__version__.encode(), b"0.1.0")


ENCODED: dict[str, Callable[[dict[str, Any]], bytes]] = {
    "hello": greeting,
    "subscribed": lambda r: records.subscribed(
        {name: first["next"] for name, first in r["channels"].items()}
    ),
    "event": lambda r: channel(r).event(r["line"], r["recv"], message(r), r.get("class", "")),
    "gap": lambda r: channel(r).gap(r["reason"], r["since"], r["until"]),
    "snapshot": lambda r: channel(r).snapshot_at(r["seq"], r["reason"], message(r)),
    "skipped": lambda r: records.skipped(r["channel"], r["from"], r["to"]),
    "refused": lambda r: records.refused(r["channel"], r["reason"], r["oldest"], r["next"]),
    "state": lambda r: records.state(r["channel"], r["state"], r["since"]),
    "retired": lambda r: records.retired(r["channel"], r["next"], r["since"]),
    "heartbeat": lambda r: records.heartbeat(r["now"], r["next"]),
    "error": lambda r: records.error(r["code"], r["detail"]),
    "bye": lambda r: records.bye(r["reason"]),
}


@pytest.mark.parametrize("line", shown())
def test_a_record_of_the_document_is_the_servers(line: str) -> None:
    """Each record that is shown can be read, and is byte for byte what the server writes."""
    record = json.loads(line)
    assert not isinstance(core.decode(line.encode()), core.Unknown)
    assert ENCODED[record["type"]](record) == line.encode() + b"\n"


def test_every_type_of_record_is_shown_and_explained() -> None:
    """The document has an example and a row of the table for each type."""
    types = {json.loads(line)["type"] for line in shown()}
    rows = set(re.findall(r"^\| `(\w+)` \| `\w+`.* \| .* \|", DOCUMENT.split("## Records")[1], re.MULTILINE))
    known = {kind.__struct_config__.tag for kind in core.Record.__subclasses__()} - {"unknown"}
    assert types == rows == known


def test_the_request_of_the_document_is_understood() -> None:
    """The request that is shown sets every key."""
    (line,) = [line[2:] for line in block("json transcript").splitlines() if line.startswith("> ")]
    assert isinstance(parse(line.encode()), Request)
    rows = re.findall(r"^\| `(\w+)` \|", DOCUMENT.split("### The request")[1].split("###")[0], re.MULTILINE)
    assert list(json.loads(line)) == rows == list(Request.__struct_fields__)


class Office:
    """A publisher, and a program that reads it."""

    def __init__(self, path: Path, session: str) -> None:
        self.path = path
        self.publisher = Publisher(
            Publish(socket=path), Bounds(), session=session, clock=lambda: 0, notify=lambda _: None
        )
        self.channels = [self.publisher.channel(TRADES, feed="BTC-USD", account=False)]
        self.session = session
        self.published: list[str] = []

    def event(self, count: int = 1) -> None:
        """Publish events to the channels in turn."""
        for _ in range(count):
            chosen = self.channels[len(self.published) % len(self.channels)]
            message = f'{{"session":"{self.session}","n":{len(self.published)}}}'
            head = (
                f'{{"type":"event","channel":"{chosen.name}","seq":{chosen.next},"line":"a","recv":7,"msg":'
            )
            self.published.append(f"{head}{message}}}")
            self.publisher.publish(chosen, "a", 7, message.encode())
        self.publisher.flush()

    async def subscribed(self) -> None:
        """Wait for a client that has subscribed."""
        while not any(consumer.subscribed for consumer in self.publisher.consumers()):
            await trio.sleep(0.005)


@asynccontextmanager
async def opened(path: Path, session: str = "s") -> AsyncIterator[Office]:
    """Serve a publisher."""
    office = Office(path, session)
    async with trio.open_nursery() as nursery:
        await nursery.start(office.publisher.serve)
        yield office
        await office.publisher.drain(1)


@asynccontextmanager
async def running(*command: str | Path, **variables: object) -> AsyncIterator[list[str]]:
    """Run a program; give the lines that it prints, as they come."""
    environment = os.environ | {name: str(value) for name, value in variables.items()}
    lines: list[str] = []
    run = partial(
        trio.run_process,
        list(map(str, command)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        check=False,
        start_new_session=True,
        deliver_cancel=_end,
    )

    async def read(stream: trio.abc.ReceiveStream) -> None:
        rest = b""
        async for data in stream:
            *whole, rest = (rest + data).split(b"\n")
            lines.extend(line.decode() for line in whole)

    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(lambda task_status: run(task_status=task_status))
            nursery.start_soon(read, process.stdout)
            yield lines
            nursery.cancel_scope.cancel()


async def _end(process: trio.Process) -> None:
    """End a program and all that it started."""
    os.killpg(process.pid, 9)


async def until(done: Callable[[], bool]) -> None:
    """Wait for a program to get so far."""
    while not done():
        await trio.sleep(0.005)


def numbered(lines: list[str]) -> list[str]:
    """Return the lines that take a seq."""
    return [line for line in lines if json.loads(line)["type"] in NUMBERED]


@needs("socat")
async def test_the_shell_reads_everything(tmp_path: Path) -> None:
    """The first example prints every record, as the server writes it."""
    path = tmp_path / "feed.sock"
    async with opened(path) as office, running("sh", "-c", block("sh everything"), SOCKET=path) as lines:
        await office.subscribed()
        office.event(50)
        await until(lambda: len(numbered(lines)) == 50)
        assert numbered(lines) == office.published
        assert [json.loads(line)["type"] for line in lines[:2]] == ["hello", "subscribed"]


@needs("socat")
async def test_the_shell_resumes_by_hand(tmp_path: Path) -> None:
    """The second example gets what came after the last seq that it names."""
    path = tmp_path / "feed.sock"
    async with opened(path) as office:
        office.event(9)
        command = ("sh", "-c", block("sh resume"))
        async with running(*command, SOCKET=path, SESSION="s", SEQ=4) as lines:
            await until(lambda: len(numbered(lines)) == 5)
            assert numbered(lines) == office.published[4:]


class Cutter:
    """A way to the publisher that is cut after a while, again and again."""

    def __init__(self, path: Path, target: Path, cuts: list[int]) -> None:
        self.path = path
        self.cuts = cuts
        self._target = target

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        """Connect clients to the publisher, each for so many bytes; after the last cut for good."""
        with trio.socket.socket(trio.socket.AF_UNIX) as listener:
            await listener.bind(os.fspath(self.path))
            listener.listen(5)
            task_status.started()
            while True:
                sock, _ = await listener.accept()
                async with trio.SocketStream(sock) as client:
                    await self._connect(client)

    async def _connect(self, client: trio.SocketStream) -> None:
        left = self.cuts.pop() if self.cuts else 10**9
        async with (
            await trio.open_unix_socket(os.fspath(self._target)) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._pass_on, client, server)
            while left > 0:
                data = await server.receive_some(min(left, 65_536))
                if not data:
                    break
                left -= len(data)
                await client.send_all(data)
            nursery.cancel_scope.cancel()

    async def _pass_on(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        async for data in client:
            await server.send_all(data)


@needs("node")
async def test_node_gets_every_event_once(tmp_path: Path) -> None:
    """(3, 10) Cut at any byte while channels appear, and over a restart, the third example misses nothing silently."""
    path, cut_path = tmp_path / "feed.sock", tmp_path / "cut.sock"
    program = tmp_path / "client.js"
    program.write_text(block("js node"))
    lots = random.Random(5)
    cutter = Cutter(cut_path, path, [lots.randrange(3000) for _ in range(8)])
    async with trio.open_nursery() as nursery:
        await nursery.start(cutter.serve)
        async with opened(path) as first, running("node", program, cut_path) as lines:
            while not lines:  # until the client has joined
                first.event()
                await trio.sleep(0.01)
            joined = first.published.index(lines[0])
            while cutter.cuts:
                first.event(3)
                if len(first.published) % 7 == 0:
                    name = f"BTC-USD/{len(first.published)}"
                    first.channels.append(first.publisher.channel(name, feed="BTC-USD", account=False))
                await trio.sleep(0.005)
            await until(lambda: lines[-1] == first.published[-1])
            assert lines == first.published[joined:]
            await first.publisher.drain(1)
            async with opened(path, "another") as second:
                await second.subscribed()
                second.event(5)
                await until(lambda: lines[-1] == second.published[-1])
            answer = [json.loads(line) for line in lines[len(first.published) - joined :]]
        nursery.cancel_scope.cancel()
    refused = [record["channel"] for record in answer if record["type"] == "refused"]
    assert sorted(refused) == sorted(channel.name for channel in first.channels)
    assert [
        json.dumps(record, separators=(",", ":")) for record in answer[len(refused) :]
    ] == second.published
