"""An hour beside a consumer that never reads (requirement 8): memory stays flat, and others notice nothing.

    .venv/bin/python tests/soak/stopped_consumer.py [--seconds 3600] [--rate 5000] [--lines 2]

Not one of the tests that always run. The simulated exchange, the daemon and this consumer are three processes on
loopback. This one reads everything, measures from each event's first arrival at the daemon (its ``recv``) to its being
read, and looks at the daemon's resident memory once a second.

    begins      the lines connect, the backlog and the windows fill
    alone       the latency is measured without anybody else
    beside      a stopped consumer is there, and again as soon as it was dropped
    warm        from here on memory must not grow; the latency goes on being measured

The first two take a quarter of the warm-up each, the third the rest of it; the warm-up is half of the time, and two
minutes at most. Printed is a line every ten seconds, and at the end the verdict: the resident memory at the end against
that after the warm-up, and the latency beside the stopped consumer against that alone. What is compared is the p99 of
the usual second (the median), since on a machine with other work there are always bad ones; the p99 of all events
stands behind it. The exit code is 0 if both hold, the stopped consumer was dropped, and the reader had every event in
its order.
"""

import argparse
import os
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

GROWTH_MIB = 8.0
"""By how much the daemon may be larger at the end: the allocator's noise, and one send to the stopped consumer."""

P99_FACTOR, P99_SLACK_MS = 1.5, 2.0
"""How much larger the latency may be: processes that share two cores get in each other's way."""

WARM_MOST_S = 120.0
EVERY_S = 10
RECENT = 10
"""Samples of memory, a second apart, of which the largest counts."""

CONFIG = """
[exchange]
websocket_url = "{url}"
[limits]
connections_per_minute = 6000
connections_per_market = 8
[[feed]]
markets = ["BTC-USD"]
lines = {lines}
[publish]
socket = "{folder}/feed.sock"
[observe]
http = ""
[log]
level = "error"
"""
REQUEST = b'{"op":"subscribe","channels":["*"],"name":"%b"}\n'
EVENT = re.compile(rb'\{"type":"event","channel":"([^"]+)","seq":(\d+),"line":"\w+","recv":(\d+)')
FAULT = re.compile(rb'\{"type":"(?:gap|skipped|refused|bye|error)".*')


@contextmanager
def program(*arguments: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    """Run one of the program's commands; end it by its own process id."""
    command = [sys.executable, "-m", "feedhandler", *arguments]
    with subprocess.Popen(command, text=True, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(20)


@contextmanager
def stage(folder: Path, lines: int, rate: float) -> Iterator[int]:
    """Start exchange and daemon; give the daemon's process id."""
    arguments = ["simulate", "--market", "BTC-USD", "--rate", str(rate), "--wait", str(lines)]
    with program(*arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as exchange:
        assert exchange.stdout is not None
        url = exchange.stdout.readline().removeprefix("listening on ").strip()
        config = folder / "feedhandler.toml"
        config.write_text(CONFIG.format(url=url, lines=lines, folder=folder))
        with program("run", "--config", str(config)) as daemon:
            yield daemon.pid


def connect(path: Path, name: bytes) -> socket.socket:
    """Subscribe to everything, as soon as the socket listens."""
    for _ in range(200):
        consumer = socket.socket(socket.AF_UNIX)
        try:
            consumer.connect(os.fspath(path))
        except OSError:
            consumer.close()
            time.sleep(0.05)
            continue
        consumer.sendall(REQUEST % name)
        return consumer
    raise SystemExit("the daemon did not start")


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1024 / 1024


class Stopped:
    """A consumer that never reads, and comes back when the daemon has let it go."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connect()
        self.dropped = 0

    def look(self) -> None:
        """Connect again where the connection has ended; what lies in the socket stays unread."""
        if any(events & select.POLLHUP for _, events in self._poll.poll(0)):
            self.dropped += 1
            self._socket.close()
            self._connect()

    def close(self) -> None:
        """Leave."""
        self._socket.close()

    def _connect(self) -> None:
        self._socket = connect(self._path, b"stopped")
        self._poll = select.poll()
        self._poll.register(self._socket, 0)


class Latency(NamedTuple):
    """The p99 of the usual second, and of all events, in milliseconds."""

    usual_ms: float
    all_ms: float

    def __str__(self) -> str:
        return f"{self.usual_ms:.2f} ms ({self.all_ms:.2f} ms over all)"


class Live:
    """A consumer that reads all the time: its latencies, in steps of 10 us, and what went wrong."""

    def __init__(self, path: Path) -> None:
        self._delays: Counter[int] = Counter()  # since the last `restart`
        self._recent: Counter[int] = Counter()  # since the last `settle`
        self._seconds: list[float] = []
        self.events = 0
        self.faults: list[str] = []
        self._socket = connect(path, b"live")
        self._socket.settimeout(1.0)
        self._rest = b""
        self._next: dict[bytes, int] = {}

    def read(self) -> None:
        """Read once."""
        try:
            data = self._socket.recv(1 << 20)
        except TimeoutError:
            return
        now = time.time_ns()
        lines, _, self._rest = (self._rest + data).rpartition(b"\n")
        if not data:
            self.faults.append("the connection has ended")
        for channel, seq, recv in EVENT.findall(lines):
            number = int(seq)
            if number != self._next.setdefault(channel, number):
                self.faults.append(f"{channel.decode()}: seq {number}, expected {self._next[channel]}")
            self._next[channel] = number + 1
            self._recent[(now - int(recv)) // 10_000] += 1
        self.faults += [fault.decode(errors="replace")[:200] for fault in FAULT.findall(lines)]

    def settle(self) -> float:
        """Count what came since the last time, a second ago; return its p99 in milliseconds."""
        self._delays.update(self._recent)
        self.events += self._recent.total()
        p99 = p99_ms(self._recent)
        self._seconds.append(p99)
        self._recent.clear()
        return p99

    def restart(self) -> Latency:
        """Begin to measure anew; return what was measured so far."""
        found = Latency(statistics.median(self._seconds), p99_ms(self._delays))
        self._delays.clear()
        self._seconds.clear()
        return found

    def close(self) -> None:
        """Leave."""
        self._socket.close()


def p99_ms(delays: Counter[int]) -> float:
    """Return the delay that 99 of 100 do not exceed, in milliseconds."""
    left = delays.total() * 0.99
    for step in sorted(delays):
        left -= delays[step]
        if left <= 0:
            return (step + 1) / 100
    return 0.0


class Soak:
    """One run."""

    def __init__(self, pid: int, path: Path, seconds: float) -> None:
        self._pid = pid
        self._path = path
        self._seconds = seconds
        self._warm_s = min(WARM_MOST_S, seconds / 2)
        self._live = Live(path)
        self._stopped: Stopped | None = None
        self._memory: deque[float] = deque(maxlen=RECENT)
        self._start = time.monotonic()

    def run(self) -> bool:
        """Go through all parts; return the verdict."""
        self._until(self._warm_s / 4, "begins")
        self._live.restart()
        self._until(self._warm_s / 2, "alone")
        alone = self._live.restart()
        self._stopped = Stopped(self._path)
        self._until(self._warm_s, "beside")
        warm = max(self._memory)
        self._until(self._seconds, "warm")
        beside = self._live.restart()
        dropped = self._stopped.dropped
        self._stopped.close()
        self._live.close()
        return self._judge((warm, max(self._memory)), (alone, beside), dropped)

    def _until(self, end_s: float, part: str) -> None:
        """Read, and look around once a second."""
        second = time.monotonic()
        while (now := time.monotonic()) < self._start + end_s and not self._live.faults:
            self._live.read()
            if now >= second:
                second += 1
                self._look(round(now - self._start), part)

    def _look(self, elapsed_s: int, part: str) -> None:
        self._memory.append(resident_mib(self._pid))
        if self._stopped:
            self._stopped.look()
        p99 = self._live.settle()
        if elapsed_s % EVERY_S == 0:
            dropped = self._stopped.dropped if self._stopped else 0
            _say(
                f"{elapsed_s:5} s  {part:7} resident {self._memory[-1]:7.1f} MiB  p99 {p99:7.2f} ms  "
                f"{self._live.events:,} events  stopped consumer dropped {dropped} times"
            )

    def _judge(self, memory: tuple[float, float], p99: tuple[Latency, Latency], dropped: int) -> bool:
        flat = memory[1] <= memory[0] + GROWTH_MIB
        unchanged = p99[1].usual_ms <= p99[0].usual_ms * P99_FACTOR + P99_SLACK_MS
        exact = not self._live.faults and self._live.events > 0
        _say(
            f"memory: {memory[0]:.1f} MiB after the warm-up, {memory[1]:.1f} MiB at the end: {_word(flat, 'flat')}"
        )
        _say(f"latency p99: {p99[0]} alone, {p99[1]} beside: {_word(unchanged, 'unchanged')}")
        _say(f"reader: {self._live.events:,} events: {_word(exact, 'every one in its order')}")
        for fault in self._live.faults[:3]:
            _say(f"  {fault}")
        _say(f"stopped consumer: dropped {dropped} times")
        passed = flat and unchanged and exact and dropped > 0
        _say(f"verdict: {_word(passed, 'passed')}")
        return passed


def _word(holds: bool, word: str) -> str:
    return word if holds else f"NOT {word}"


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a script speaks


def main() -> int:
    """Run and judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3600.0)
    parser.add_argument("--rate", type=float, default=5000.0)
    parser.add_argument("--lines", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder), args.lines, args.rate) as pid:
        return 0 if Soak(pid, Path(folder) / "feed.sock", args.seconds).run() else 1


if __name__ == "__main__":
    sys.exit(main())
