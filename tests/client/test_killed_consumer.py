"""A consumer that is killed again and again, in a process of its own, on the real clock."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import trio

from feedhandler.client.position import Position, save_position
from feedhandler.config import Bounds, Publish
from feedhandler.core.channels import Channel
from feedhandler.publish.server import Publisher
from tests.client.consumer import LAST

KILLS = 100
LIFE_S = 0.05  # the longest one; a consumer needs some 10 ms to connect
GROWN_ONE_IN = 4
"""So many lives are one that ends only after the consumer has written something, on a slow machine, too."""
BATCH = 20
PAUSE_S = 0.001
PATIENCE_S = 30.0


class Load:
    """A publisher under load, and all that it published."""

    def __init__(self, path: Path) -> None:
        self.publisher = Publisher(
            Publish(socket=path), Bounds(), session="s", clock=lambda: 0, notify=lambda _: None
        )
        self.published: list[bytes] = []
        self._channels = [self._open("m/publicTrades")]
        self._publishing = trio.CancelScope()

    def _open(self, name: str) -> Channel:
        return self.publisher.channel(name, feed="m", account=False)

    async def run(self) -> None:
        """Publish until the end; another channel appears from time to time."""
        with self._publishing:
            while True:
                for _ in range(BATCH):
                    self._publish(b'{"n":%d}' % len(self.published))
                self.publisher.flush()
                await trio.sleep(PAUSE_S)

    def end(self) -> None:
        """Publish the last record."""
        self._publishing.cancel()
        self._publish(LAST)
        self.publisher.flush()

    def _publish(self, payload: bytes) -> None:
        count = len(self.published)
        if count % 5000 == 4999:
            self._channels.append(self._open(f"m/{count}"))
        channel = self._channels[count % len(self._channels)]
        head = b'{"type":"event","channel":"%b","seq":%d' % (channel.name.encode(), channel.next)
        if count % 100 == 99:
            head = head.replace(b"event", b"gap")
            self.published.append(head + b',"reason":"outage","since":1,"until":2}\n')
            self.publisher.gap(channel, "outage", 1, 2)
        else:
            self.published.append(head + b',"line":"a","recv":7,"msg":' + payload + b"}\n")
            self.publisher.publish(channel, "a", 7, payload)


@contextmanager
def forking(program: list[str]) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Run the program that forks consumers; leave none of them behind."""
    pipe = subprocess.PIPE
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, bufsize=0, start_new_session=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdin, process.stdout
        finally:
            os.killpg(process.pid, signal.SIGKILL)


async def grow(file: Path, from_bytes: int) -> None:
    """Wait until a file is larger than it was."""
    with trio.fail_after(PATIENCE_S):
        while file.stat().st_size == from_bytes:
            await trio.sleep(PAUSE_S)


async def test_a_consumer_that_is_killed_ends_with_the_exact_stream(tmp_path: Path) -> None:
    """(3, 10) Killed under load and resumed through the library: every record once, in order, and none lost."""
    path, results, saved = (tmp_path / name for name in ("feed.sock", "results", "position"))
    results.touch()
    save_position(saved, Position("s", {}))
    load = Load(path)
    lots = random.Random(7)
    program = [
        sys.executable,
        str(Path(__file__).with_name("consumer.py")),
        str(path),
        str(results),
        str(saved),
    ]
    grown = 0
    with forking(program) as (order, answers):
        async with trio.open_nursery() as nursery:
            await nursery.start(load.publisher.serve)
            nursery.start_soon(load.run)
            for kill in range(KILLS + 1):
                order.write(b"\n")
                pid = int(await trio.to_thread.run_sync(answers.readline))
                before_bytes = results.stat().st_size
                if kill < KILLS:
                    if kill % GROWN_ONE_IN == 0:
                        await grow(results, before_bytes)
                    await trio.sleep(lots.uniform(0, LIFE_S))
                    os.kill(pid, signal.SIGKILL)
                else:
                    load.end()
                assert await trio.to_thread.run_sync(answers.readline) == b"gone\n"
                grown += results.stat().st_size != before_bytes
            nursery.cancel_scope.cancel()
    assert results.read_bytes() == b"".join(load.published)
    assert grown > KILLS / GROWN_ONE_IN
