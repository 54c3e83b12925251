"""How many events a second go through the bridge into NATS JetStream, and what keeps it from more.

    .venv/bin/python tests/benchmarks/bridge.py [--events N] [--storage file|memory]
    .venv/bin/python tests/benchmarks/bridge.py --takeovers N

A stand-in for the daemon gives its records as fast as they are read, to a real bridge with a real nats-server
(`nats-server` must be there). Told are events per second from the first to the last that is stored, the CPU time that
the bridge and the server took for each, and how busy both were: who is near 100 % of a core is the limit. Beside it
stands what nats-py alone does, with messages of the same size, the same conditions, and as many on their way.

With ``--takeovers`` two bridges read `RATE` events a second; the one that writes is killed with SIGKILL, N times, and a
new one follows then. Told is the longest silence that a consumer of the stream saw around each kill, and that the
stream has every event once.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import nats
from nats.js.api import StreamConfig

from feedhandler.bridge.forwarding import FLIGHTS

PORT: Final = 14333
URL: Final = f"nats://127.0.0.1:{PORT}"
CHANNEL: Final = "BTC-USD/publicTrades"
TICKS: Final = os.sysconf("SC_CLK_TCK")
PATIENCE_S: Final = 600.0

ROOM_GIB: Final = {"file": 8, "memory": 1}
"""How large the stream may be; in memory a server takes none that it has no room for."""

RATE: Final = 200
"""Events a second while takeovers are measured."""
PIECE_S: Final = 0.005
SETTLED_S: Final = 4.0
"""So long after a kill the stream is looked at."""
TURNS: Final = ("bridge_led", "bridge_followed")


def records(count: int) -> Iterator[bytes]:
    """Yield the lines of so many events of about 290 bytes."""
    for number in range(1, count + 1):
        row = f'{{"matchId":"m{number}","executionType":"taker","orderType":"buy","price":"100.5","quantity":"0.25"}}'
        data = f'{{"orders":[{row}]}},"x":"{"x" * 70}"'
        msg = f'{{"resultType":"publicCompletedOrdersDelta","market":"BTC-USD","data":{data}}}'
        head = f'{{"type":"event","channel":"{CHANNEL}","seq":{number},"line":"a","recv":{10**18 + number}'
        yield f'{head},"msg":{msg}}}\n'.encode()


class Daemon:
    """A stand-in: it greets, confirms, and gives all its records to whoever resumes."""

    def __init__(self, count: int) -> None:
        lines = list(records(count))
        self._pieces = [b"".join(lines[at : at + 200]) for at in range(0, count, 200)]
        self._next = count + 1

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with contextlib.suppress(OSError, asyncio.CancelledError):
            hello = {"type": "hello", "protocol": 1, "session": "s", "server": "x", "channels": [CHANNEL]}
            writer.write(_line(hello))
            resumes = "resume" in json.loads(await reader.readline())
            first = 1 if resumes else self._next
            writer.write(_line({"type": "subscribed", "channels": {CHANNEL: {"next": first}}}))
            for piece in self._pieces if resumes else ():
                writer.write(piece)
                await writer.drain()
            while True:
                writer.write(_line({"type": "heartbeat", "now": 1, "next": {CHANNEL: self._next}}))
                await writer.drain()
                await asyncio.sleep(1)


def _line(record: object) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has taken (s)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def stored(client: nats.NATS, least: int) -> int:
    """Wait until a stream has so many messages; return how many."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(nats.js.errors.NotFoundError):
            info = await client.jetstream().stream_info("FEED")
            if info.state.messages >= least:
                return info.state.messages
        await asyncio.sleep(0.02)
    raise TimeoutError


async def through_the_bridge(count: int, storage: str, folder: Path, server: int) -> None:
    """Measure the bridge."""
    path = folder / "feed.sock"
    client = await nats.connect(URL)
    listening = await asyncio.start_unix_server(Daemon(count).serve, path)
    room = ["--storage", storage, "--max-gib", ROOM_GIB[storage]]
    command = ["bridge", "nats", "--socket", path, "--server", URL, *room]
    process = subprocess.Popen(
        [sys.executable, "-m", "feedhandler", *map(str, command)], stderr=subprocess.DEVNULL
    )
    try:
        begun = await stored(client, 1)
        at, cpu = time.monotonic(), (cpu_s(process.pid), cpu_s(server))
        await stored(client, count)
        seconds = time.monotonic() - at
        spent = cpu_s(process.pid) - cpu[0], cpu_s(server) - cpu[1]
    finally:
        process.terminate()
        process.wait()
        listening.close()
    events = count - begun
    print(f"through the bridge: {events / seconds:,.0f} events/s ({events:,} in {seconds:.1f} s, {storage})")
    for name, used in zip(("bridge", "server"), spent, strict=True):
        print(
            f"  {name}: {1e6 * used / events:.0f} us of CPU for each event, {100 * used / seconds:.0f} % of a core"
        )
    await client.jetstream().delete_stream("FEED")
    await client.close()


class SteadyDaemon:
    """A stand-in that says something new all the time, and keeps it all."""

    def __init__(self) -> None:
        self._lines: list[bytes] = []

    async def run(self) -> None:
        """Say `RATE` events a second."""
        source = records(10**6)
        while True:
            self._lines.append(next(source))
            await asyncio.sleep(1 / RATE)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with contextlib.suppress(OSError, asyncio.CancelledError):
            hello = {"type": "hello", "protocol": 1, "session": "s", "server": "x", "channels": [CHANNEL]}
            writer.write(_line(hello))
            resume = json.loads(await reader.readline()).get("resume")
            at = resume["seq"].get(CHANNEL, 0) if resume else len(self._lines)
            writer.write(_line({"type": "subscribed", "channels": {CHANNEL: {"next": at + 1}}}))
            while True:
                for _ in range(round(1 / PIECE_S)):
                    writer.write(b"".join(self._lines[at:]))
                    at = len(self._lines)
                    await writer.drain()
                    await asyncio.sleep(PIECE_S)
                writer.write(_line({"type": "heartbeat", "now": 1, "next": {CHANNEL: at + 1}}))


async def takeovers(count: int, folder: Path) -> None:
    """Measure how long nothing comes when the one who writes is killed."""
    path, client, daemon = folder / "feed.sock", await nats.connect(URL), SteadyDaemon()
    listening = await asyncio.start_unix_server(daemon.serve, path)
    speaking = asyncio.create_task(daemon.run())
    seen: list[tuple[float, int]] = []

    async def received(message: nats.aio.msg.Msg) -> None:
        seen.append((time.monotonic(), json.loads(message.data)["seq"]))

    await client.subscribe("feed.>", cb=received)
    bridges = [Follower(path, folder / f"{number}.log") for number in range(2)]
    silences = []
    try:
        for number in range(count):
            writer = await one_that_writes(bridges)
            other = bridges[1 - bridges.index(writer)]
            await _until(lambda other=other: other.follows)
            await asyncio.sleep(1)
            at, before = time.monotonic(), len(seen)
            writer.kill()
            await _until(lambda at=at: seen[-1][0] > at + SETTLED_S)
            times = [one for one, _ in seen[before - 1 :]]
            silences.append(max(later - one for one, later in itertools.pairwise(times)))
            bridges[bridges.index(writer)] = Follower(path, folder / f"{number + 2}.log")
    finally:
        for one in bridges:
            one.kill()
        speaking.cancel()
        listening.close()
    seqs = [seq for _, seq in seen]
    exact = seqs == list(range(1, len(seqs) + 1))
    silences.sort()
    print(
        f"takeovers: {count} kills at {RATE} events/s: silence p50 {statistics.median(silences):.2f} s, "
        f"worst {silences[-1]:.2f} s; {len(seqs):,} messages, {'every one once, in order' if exact else 'NOT EXACT'}"
    )
    await client.jetstream().delete_stream("FEED")
    await client.close()


class Follower:
    """A bridge that runs, and the log that it writes."""

    def __init__(self, path: Path, log: Path) -> None:
        self._log = log
        command = ["bridge", "nats", "--socket", path, "--server", URL, "--max-gib", "8"]
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "feedhandler", *map(str, command)], stderr=file
            )

    @property
    def writes(self) -> bool:
        """Whether it was the last to say that it does."""
        said = [name for line in self._log.read_text().splitlines() for name in TURNS if name in line]
        return said[-1:] == [TURNS[0]]

    @property
    def follows(self) -> bool:
        """Whether it reads the stream and does not write."""
        return "bridge_linked" in self._log.read_text() and not self.writes

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()


async def one_that_writes(bridges: list[Follower]) -> Follower:
    """Wait until one writes."""
    await _until(lambda: any(one.writes for one in bridges))
    return next(one for one in bridges if one.writes)


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():
            await asyncio.sleep(0.05)


async def nats_alone(count: int, storage: str) -> None:
    """Measure nats-py alone."""
    client = await nats.connect(URL)
    await client.jetstream().add_stream(StreamConfig(name="FEED", subjects=["feed.>"], storage=storage))
    payload, inbox = next(iter(records(1))), client.new_inbox()
    room = asyncio.Semaphore(FLIGHTS)
    left, done = count, asyncio.Event()

    async def answered(_: object) -> None:
        nonlocal left
        room.release()
        left -= 1
        if not left:
            done.set()

    await client.subscribe(inbox, cb=answered)
    at = time.monotonic()
    for number in range(count):
        await room.acquire()
        headers = {"Nats-Msg-Id": f"{number:032x}-1", "Nats-Expected-Last-Sequence": str(number)}
        headers |= {
            "Feed-Seq": str(number + 1),
            "Feed-Kind": "ordinary",
            "Feed-Recv": str(10**18),
            "Feed-Origin": "s/1",
        }
        await client.publish("feed.BTC-USD.publicTrades", payload, reply=inbox, headers=headers)
    await done.wait()
    seconds = time.monotonic() - at
    print(f"nats-py alone: {count / seconds:,.0f} messages/s")
    await client.jetstream().delete_stream("FEED")
    await client.close()


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--storage", choices=("file", "memory"), default="file")
    parser.add_argument("--takeovers", type=int, default=0, metavar="N")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ["nats-server", "-js", "-sd", folder / "store", "-a", "127.0.0.1", "-p", str(PORT)]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            time.sleep(1)
            if args.takeovers:
                asyncio.run(takeovers(args.takeovers, folder))
            else:
                asyncio.run(through_the_bridge(args.events, args.storage, folder, server.pid))
                asyncio.run(nats_alone(args.events, args.storage))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
