"""Three figures of the whole daemon: events a second, added latency, memory.

    .venv/bin/python tests/benchmarks/figures.py [--seconds 10] [--lines 3] [--rate 5000] [--repeat 3]

Not a test. The simulated exchange, the daemon and a consumer are three processes on loopback, so on a machine with two
cores they get in each other's way: compare figures of one run only. Printed for each repetition, with the median:

- flat out: unique events for each second of the daemon's own CPU time, over lines that all bring every event;
- paced: from an event's first arrival (its ``recv``) to its being read by the consumer, p50, p99 and p99.9;
- the daemon's peak resident memory after both.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
level = "warning"
"""
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


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
def stage(folder: Path, lines: int, rate: float) -> Iterator[tuple[int, socket.socket]]:
    """Start exchange and daemon; give the daemon's process id and a subscribed consumer."""
    arguments = ["simulate", "--market", "BTC-USD", "--rate", str(rate), "--wait", str(lines)]
    with program(*arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as exchange:
        assert exchange.stdout is not None
        url = exchange.stdout.readline().removeprefix("listening on ").strip()
        config = folder / "feedhandler.toml"
        config.write_text(CONFIG.format(url=url, lines=lines, folder=folder))
        with program("run", "--config", str(config)) as daemon:
            consumer = connect(folder / "feed.sock")
            with consumer:
                yield daemon.pid, consumer


def connect(path: Path) -> socket.socket:
    """Subscribe to everything, as soon as the socket listens."""
    for _ in range(200):
        consumer = socket.socket(socket.AF_UNIX)
        try:
            consumer.connect(str(path))
        except OSError:
            consumer.close()
            time.sleep(0.05)
            continue
        consumer.sendall(b'{"op":"subscribe","channels":["*"]}\n')
        return consumer
    raise SystemExit("the daemon did not start")


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def peak_mib(pid: int) -> float:
    """Return the peak resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def throughput(folder: Path, lines: int, seconds: float) -> dict[str, float]:
    """Flat out: count what arrives at the consumer, and the daemon's CPU time meanwhile."""
    with stage(folder, lines, 0) as (pid, consumer):
        events = 0
        consumer.recv(1 << 20)
        start, used = time.monotonic(), cpu_s(pid)
        while time.monotonic() < start + seconds:
            events += consumer.recv(1 << 20).count(b'{"type":"event"')
        wall, used = time.monotonic() - start, cpu_s(pid) - used
        return {"events_per_cpu_s": events / used, "events_per_s": events / wall, "peak_mib": peak_mib(pid)}


def latency(folder: Path, lines: int, rate: float, seconds: float) -> dict[str, float]:
    """Paced: measure from the first arrival of each event to its being read."""
    delays: list[int] = []
    with stage(folder, lines, rate) as (pid, consumer):
        end = time.monotonic() + seconds
        rest = b""
        while time.monotonic() < end:
            data = consumer.recv(1 << 20)
            now = time.time_ns()
            *records, rest = (rest + data).split(b"\n")
            delays += [
                now - json.loads(record)["recv"]
                for record in records
                if record.startswith(b'{"type":"event"')
            ]
        delays.sort()
        at = {name: delays[int(len(delays) * share)] / 1000 for name, share in SHARES.items()}
        return {**at, "measured_rate": len(delays) / seconds, "peak_mib": peak_mib(pid)}


SHARES = {"p50_us": 0.5, "p99_us": 0.99, "p999_us": 0.999}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--lines", type=int, default=3)
    parser.add_argument("--rate", type=float, default=5000.0)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    rounds: list[dict[str, float]] = []
    for _ in range(args.repeat):
        found: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            flat = throughput(Path(folder), args.lines, args.seconds)
            found |= {f"flat_{key}": value for key, value in flat.items()}
        with tempfile.TemporaryDirectory() as folder:
            paced = latency(Path(folder), args.lines, args.rate, args.seconds)
            found |= {f"paced_{key}": value for key, value in paced.items()}
        rounds.append(found)
        print(json.dumps({key: round(value, 1) for key, value in found.items()}), flush=True)
    medians = {key: round(statistics.median(one[key] for one in rounds), 1) for key in rounds[0]}
    print("median", json.dumps(medians))


if __name__ == "__main__":
    main()
