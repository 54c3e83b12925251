"""The program's commands as child processes, and a consumer of the daemon's socket in the test.

A `Child` is one ``python -m feedhandler …`` in a session of its own. What it prints is read all the time, so that no
pipe fills up, and kept; tests wait for lines. Whatever happens to a test, its children are gone afterwards: told to
end, given `GRACE_S` for it (the demo has a child of its own to end), then killed, each by its process id. Nothing waits
for ever: what a child is waited for is bounded by `PATIENCE_S`, which only a hanging program or a standing machine
reaches.

The consumer is written as one in any other language would be, from the contract alone and without the client library,
so that it finds what a mistake common to both sides of the socket would hide.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import trio

import feedhandler

PATIENCE_S = 60.0
GRACE_S = 30.0
READ_BYTES = 256 * 1024

MODULE = (sys.executable, "-m", "feedhandler")


class Printed:
    """The lines of one of a child's outputs."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._more = trio.Event()
        self._ended = False

    def __str__(self) -> str:
        return "\n".join(self.lines)

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        """Keep what comes until the end."""
        rest = b""
        async for data in stream:
            *lines, rest = (rest + data).split(b"\n")
            self._add(lines)
        self._ended = True
        self._add([rest] if rest else [])

    def _add(self, lines: Sequence[bytes]) -> None:
        self.lines += [line.decode(errors="replace") for line in lines]
        self._more.set()
        self._more = trio.Event()

    async def wait_for(self, text: str, *, patience_s: float = PATIENCE_S) -> str:
        """Return the first line that has ``text`` in it."""
        with trio.fail_after(patience_s):
            while True:
                found = next((line for line in self.lines if text in line), None)
                if found is not None:
                    return found
                assert not self._ended, f"ended without {text!r}: {self}"
                await self._more.wait()


class Child:
    """One running command."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = Printed()
        self.errors = Printed()
        self.ended = trio.Event()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def notes(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one name."""
        logged = (msgspec.json.decode(line) for line in self.errors.lines if line.startswith("{"))
        return [one for one in logged if one["event"] == name]

    def descriptors(self) -> int:
        """Return how many file descriptors it has open."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    async def wait(self) -> int:
        """Wait for its end, and for the last of what it printed; return its exit code."""
        with trio.fail_after(PATIENCE_S):
            await self.ended.wait()
        assert self.process.returncode is not None
        return self.process.returncode

    async def stop(self) -> int:
        """Ask it to end; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.wait()

    async def read(self) -> None:
        """Keep what it prints until it has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.output.read, self.process.stdout)
            nursery.start_soon(self.errors.read, self.process.stderr)
            await self.process.wait()
        self.ended.set()


@asynccontextmanager
async def started(*arguments: object, within: Sequence[str] = (), **environ: str) -> AsyncIterator[Child]:
    """Run ``feedhandler ARGUMENTS`` beside the body, within another command where one is given."""
    words = [*map(str, arguments)]
    async with commanded([*within, *MODULE, *words], " ".join(words[:1]), **environ) as child:
        yield child


@asynccontextmanager
async def commanded(command: Sequence[str], name: str, **environ: str) -> AsyncIterator[Child]:
    """Run any command beside the body; it is called by a name where it fails."""
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, **environ},
    )
    child = Child(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(child.read)
        hung = False
        try:
            yield child
        except BaseException as error:
            if process.poll() is not None:
                error.add_note(f"{name} had ended with {process.returncode}: {child.errors}")
            raise
        finally:
            with trio.CancelScope(shield=True):
                hung = await _end(process)
            nursery.cancel_scope.cancel()
    assert not hung, f"{name} did not end within {GRACE_S} s: {child.errors}"


async def _end(process: trio.Process) -> bool:
    """See to it that a process has ended; tell whether it had to be killed for that."""
    if process.poll() is None:
        process.terminate()
    with trio.move_on_after(GRACE_S):
        await process.wait()
    hung = process.poll() is None
    if hung:
        process.kill()
        await process.wait()
    return hung


async def finished(*arguments: object, **environ: str) -> Child:
    """Run ``feedhandler ARGUMENTS`` to its end."""
    async with started(*arguments, **environ) as child:
        await child.wait()
    return child


def another_build(folder: Path, file: str, old: str, new: str) -> dict[str, str]:
    """Make a build of its own in which one file reads otherwise; return the variables with which it runs."""
    tree = folder / "next"
    shutil.copytree(Path(feedhandler.__file__).parent, tree / "feedhandler")
    changed = tree / "feedhandler" / file
    assert old in changed.read_text()
    changed.write_text(changed.read_text().replace(old, new))
    return {"PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}


class Simulated(NamedTuple):
    """A running simulated exchange."""

    child: Child
    url: str
    ca_file: str

    @property
    def faults(self) -> list[str]:
        """What has gone wrong so far, one line for each strike."""
        return [line for line in self.child.output.lines if line.startswith("fault ")]


@asynccontextmanager
async def simulated(*arguments: object, tls: bool = True) -> AsyncIterator[Simulated]:
    """Run ``feedhandler simulate`` beside the body, on a free port."""
    async with started("simulate", *(["--tls"] if tls else []), *arguments) as child:
        url = (await child.output.wait_for("listening on ")).removeprefix("listening on ")
        ca_file = (await child.output.wait_for("ca file ")).removeprefix("ca file ") if tls else ""
        yield Simulated(child, url, ca_file)


CONFIG = """
[exchange]
websocket_url = "{url}"
ca_file = "{ca_file}"
[limits]
connections_per_minute = 100000
connections_per_market = 8
[[feed]]
markets = {markets}
lines = {lines}
[publish]
socket = "feed.sock"
drain_s = 5
[observe]
http = ""
[log]
format = "json"
[bounds]
backoff_min_s = 0.05
backoff_max_s = 0.5
"""


def write_config(
    folder: Path, url: str, *, ca_file: str = "", markets: Sequence[str] = ("BTC-USD",), lines: int = 3
) -> Path:
    """Write a configuration whose socket is ``feed.sock`` beside it; limits are out of the way, waits are short."""
    path = folder / "feedhandler.toml"
    names = msgspec.json.encode(list(markets)).decode()
    path.write_text(CONFIG.format(url=url, ca_file=ca_file, markets=names, lines=lines))
    return path


@asynccontextmanager
async def daemon(config: Path, *arguments: object, within: Sequence[str] = ()) -> AsyncIterator[Child]:
    """Run ``feedhandler run`` beside the body, once its socket listens."""
    async with started("run", "--config", config, *arguments, within=within) as child:
        await child.errors.wait_for('"daemon_started"')
        yield child


class Record(msgspec.Struct, frozen=True, rename={"event_class": "class"}):
    """One line of the socket, as far as the tests look at it."""

    type: str
    session: str = ""
    channels: msgspec.Raw = msgspec.Raw(b"[]")
    channel: str = ""
    seq: int = 0
    line: str = ""
    event_class: str = ""
    reason: str = ""
    msg: msgspec.Raw = msgspec.Raw(b"")


_decode = msgspec.json.Decoder(Record).decode


class Socket:
    """One connection to the daemon's socket, as a program in any language has it."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._rest = b""

    async def receive(self) -> list[Record]:
        """Return what one read brings, at least one record; nothing at the end."""
        lines: list[bytes] = []
        while not lines:
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                break
            *lines, self._rest = (self._rest + data).split(b"\n")
        return [_decode(line) for line in lines]

    async def subscribe(self, hello: Record) -> None:
        """Ask for every channel, and for those that are there already from their first record on."""
        start = dict.fromkeys(msgspec.json.decode(hello.channels), 0)
        wish = {"op": "subscribe", "channels": ["*"], "resume": {"session": hello.session, "seq": start}}
        await self._stream.send_all(msgspec.json.encode(wish) + b"\n")


IN_STREAM = frozenset({"start", "gap", "late", "audit"})
"""Reasons of snapshots that take a seq."""


class Recorder:
    """A consumer that keeps every event of every channel from its first on."""

    def __init__(self, path: Path) -> None:
        self.channels: defaultdict[str, list[Record]] = defaultdict(list)
        self.seqs: defaultdict[str, list[int]] = defaultdict(list)
        self.others: list[Record] = []
        self.count = 0
        self._path = path
        self._more = trio.Event()

    async def run(self) -> None:
        """Read until the daemon says goodbye."""
        async with await trio.open_unix_socket(os.fspath(self._path)) as stream:
            socket = Socket(stream)
            [hello] = await socket.receive()
            await socket.subscribe(hello)
            while records := await socket.receive():
                for record in records:
                    self._keep(record)

    def _keep(self, record: Record) -> None:
        if record.type in {"event", "gap"} or record.reason in IN_STREAM:
            self.seqs[record.channel].append(record.seq)
        if record.type != "event":
            self.others.append(record)
            return
        self.channels[record.channel].append(record)
        self.count += 1
        self._more.set()
        self._more = trio.Event()

    async def wait_for(self, count: int) -> None:
        """Wait until so many events have come, or surely will not any more."""
        with trio.move_on_after(PATIENCE_S):
            while self.count < count:
                await self._more.wait()

    def messages(self) -> dict[str, list[bytes]]:
        """Return the messages of each channel."""
        return {channel: [bytes(event.msg) for event in events] for channel, events in self.channels.items()}

    def marks(self) -> list[Record]:
        """Return everything that says that the stream is not whole and in order."""
        classed = [event for events in self.channels.values() for event in events if event.event_class]
        return [one for one in self.others if one.type in {"gap", "refused", "error"}] + classed

    def is_contiguous(self) -> bool:
        """Tell whether each channel's seqs count from 1 without a hole."""
        return all(seqs == list(range(1, len(seqs) + 1)) for seqs in self.seqs.values())


class _Sent(msgspec.Struct):
    market: str
    stream: str
    msg: msgspec.Raw


def read_truth(path: Path) -> dict[str, list[bytes]]:
    """Return the messages of each channel as the exchange broadcast them."""
    channels: defaultdict[str, list[bytes]] = defaultdict(list)
    for sent in map(msgspec.json.Decoder(_Sent).decode, path.read_bytes().splitlines()):
        channels[f"{sent.market}/{sent.stream}"].append(bytes(sent.msg))
    return dict(channels)


def differences(sent: Mapping[str, list[bytes]], got: Mapping[str, list[bytes]]) -> list[str]:
    """Say where what was received is not what was sent, one line for each channel."""
    lines = []
    for channel in sorted(sent.keys() | got.keys()):
        left, right = sent.get(channel, []), got.get(channel, [])
        if left != right:
            pairs = enumerate(zip_longest(left, right))
            first = next(index for index, (one, other) in pairs if one != other)
            lines.append(f"{channel}: {len(left)} sent, {len(right)} received, not the same from {first} on")
    return lines


async def until(condition: Callable[[], bool], *, poll_s: float = 0.05) -> None:
    """Wait for something that another process does and does not tell."""
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(poll_s)
