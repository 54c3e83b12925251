"""How many events a second go through the bridge into NATS JetStream, and what keeps it from more.

    .venv/bin/python tests/benchmarks/bridge.py [--events N] [--storage file|memory]

A stand-in for the daemon gives its records as fast as they are read, to a real bridge with a real nats-server
(`nats-server` must be there). Told are events per second from the first to the last that is stored, the CPU time that
the bridge and the server took for each, and how busy both were: who is near 100 % of a core is the limit. Beside it
stands what nats-py alone does, with messages of the same size, the same conditions, and as many on their way.
"""

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
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
    command = ["bridge", "nats", "--socket", path, "--server", URL, "--storage", storage, "--max-gib", "8"]
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
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = ["nats-server", "-js", "-sd", folder / "store", "-a", "127.0.0.1", "-p", str(PORT)]
        server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            time.sleep(1)
            asyncio.run(through_the_bridge(args.events, args.storage, folder, server.pid))
            asyncio.run(nats_alone(args.events, args.storage))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
