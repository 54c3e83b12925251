"""The demo's processes, and its end."""

import argparse
import hashlib
import signal
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import msgspec
import trio
from rich.live import Live

from feedhandler.client.core import Event, Gap, Reader
from feedhandler.client.trio_client import Client
from feedhandler.config import Config, load
from feedhandler.core.arbiter import UNKNOWN
from feedhandler.core.notes import Note
from feedhandler.daemon import Daemon
from feedhandler.demo import view
from feedhandler.demo.verdict import Verdict, compare
from feedhandler.errors import OperationalError

MARKETS = ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "ADA-USD", "DOT-USD", "LTC-USD", "UNI-USD")
MOST_MARKETS, MOST_LINES = 50, 8
FRAMES_PER_S = 5
LINE_EVERY_S = 1.0
START_S = 15.0
"""Longest wait for the simulated exchange to listen."""
ARRIVE_S = 10.0
"""Longest wait for the last events to arrive after the exchange has stopped."""

FAULTS = """
[random]
kinds = ["close", "reset", "half_frame", "mute", "reset", "half_frame", "mute", "delay", "interleave", "garbage"]
every_s = {every_s}
seed = {seed}
spare = 1
settle_s = 2.0
duration_s = 3.0
"""

CONFIG = """
[exchange]
websocket_url = "{url}"
token_url = "{http}/api/v1/token"
[limits]
connections_per_minute = 6000
connections_per_market = 8
[[feed]]
markets = {markets}
streams = ["publicTrades", "publicOrderBook"]
lines = {lines}
[publish]
socket = "{folder}/feed.sock"
drain_s = 2
[observe]
http = ""
[health]
probation_s = 2.0
replace_s = 1.0
[bounds]
backoff_min_s = 3.0
backoff_max_s = 6.0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--seconds",
        type=_positive,
        metavar="S",
        help="end after so long and verify (default: run until Ctrl-C)",
    )
    parser.add_argument(
        "--markets",
        type=_count(MOST_MARKETS),
        default=2,
        metavar="N",
        help=f"markets, one feed each, 1 to {MOST_MARKETS} (default: 2)",
    )
    parser.add_argument(
        "--lines",
        type=_count(MOST_LINES),
        default=3,
        metavar="N",
        help=f"lines of each feed, 1 to {MOST_LINES} (default: 3)",
    )
    parser.add_argument(
        "--rate",
        type=_positive,
        default=400.0,
        metavar="R",
        help="events per second over all markets (default: 400)",
    )
    parser.add_argument("--no-faults", action="store_true", help="let nothing go wrong")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of traffic and faults (default: 1)")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        message = f"expected a number above 0, got {text}"
        raise argparse.ArgumentTypeError(message)
    return value


def _count(most: int) -> "partial[int]":
    return partial(_within, most)


def _within(most: int, text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        message = f"expected 1..{most}, got {text}"
        raise argparse.ArgumentTypeError(message)
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Run the demo; return 0 only if the consumer got exactly what the exchange sent."""
    with tempfile.TemporaryDirectory(prefix="feedhandler-") as folder:
        return trio.run(Demo(args, Path(folder)).run)


class Demo:
    """One run of the demo."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self._args = args
        self._folder = folder
        self._truth = folder / "truth.jsonl"
        self._markets = [MARKETS[i] if i < len(MARKETS) else f"M{i + 1}-USD" for i in range(args.markets)]
        self._scene = view.Scene({})
        self._got: defaultdict[str, list[bytes]] = defaultdict(list)
        self._progress = trio.Event()
        self._ending = False
        self._gaps = 0
        self._late = 0

    async def run(self) -> int:
        """Start everything, show it, end it, and compare."""
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async with trio.open_nursery() as nursery:
                child, output = await self._start_exchange(nursery)
                try:
                    daemon = await self._start_daemon(nursery, await self._first_line(output))
                    nursery.start_soon(self._watch_faults, output)
                    nursery.start_soon(self._consume)
                    await self._show(signals)
                finally:
                    self._ending = True
                    child.terminate()
                with trio.CancelScope(shield=True):
                    await child.wait()
                verdict = await self._verify()
                daemon.stop()
                nursery.cancel_scope.cancel()
        return self._report(verdict)

    # The parts

    async def _start_exchange(self, nursery: trio.Nursery) -> tuple[trio.Process, AsyncIterator[str]]:
        args = self._args
        command = [sys.executable, "-m", "feedhandler", "simulate", "--truth", str(self._truth)]
        command += ["--rate", str(args.rate), "--wait", str(args.lines), "--seed", str(args.seed)]
        for market in self._markets:
            command += ["--market", market]
        if not args.no_faults:
            path = self._folder / "faults.toml"
            path.write_text(FAULTS.format(seed=args.seed, every_s=max(0.2, 1.0 / args.markets)))
            command += ["--faults", str(path)]
        child: trio.Process = await nursery.start(
            partial(
                trio.run_process,
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=False,
                start_new_session=True,
            )
        )
        assert child.stdout is not None
        return child, _lines(child.stdout)

    async def _first_line(self, output: AsyncIterator[str]) -> str:
        with trio.move_on_after(START_S):
            async for line in output:
                if line.startswith("listening on "):
                    return line.removeprefix("listening on ")
        raise OperationalError("the simulated exchange did not start")

    async def _start_daemon(self, nursery: trio.Nursery, url: str) -> Daemon:
        daemon = Daemon(
            self._config(url), {"FEEDHANDLER_API_KEY": "demo", "FEEDHANDLER_API_SECRET": "demo"}, self._note
        )
        self._scene.feeds = daemon.feeds
        await nursery.start(daemon.run)
        return daemon

    def _config(self, url: str) -> Config:
        path = self._folder / "feedhandler.toml"
        markets = msgspec.json.encode(self._markets).decode()
        http = url.replace("ws://", "http://")
        path.write_text(
            CONFIG.format(url=url, http=http, markets=markets, lines=self._args.lines, folder=self._folder)
        )
        environ = {"FEEDHANDLER_API_KEY": "demo", "FEEDHANDLER_API_SECRET": "demo"}
        return load(path, environ=environ)

    def _note(self, one: Note) -> None:
        self._scene.hear(one)
        if one.name == "line_lost":
            self._scene.losses += not self._ending
        elif one.name == "failed_over":
            self._scene.add_news(
                f"{one.fields['feed']}: line {one.fields['line']} takes over from {one.fields['was']}"
            )

    async def _watch_faults(self, output: AsyncIterator[str]) -> None:
        async for line in output:
            words = line.split(" ")
            if words[0] == "fault":
                self._scene.add_fault(words[1], words[2].removeprefix("market="))

    async def _consume(self) -> None:
        """Read the socket as any consumer would, and remember what came, by its hash.

        What is of unknown type is outside the promise, and one of the faults is garbage that looks like it.
        """
        reader = Reader(["*"], name="demo")
        async with Client(self._folder / "feed.sock", reader) as client:
            async for received in client:
                record = received.record
                if isinstance(record, Event) and record.event_class != UNKNOWN:
                    self._got[record.channel].append(_digest(bytes(record.msg)))
                    self._scene.received += 1
                    self._progress.set()
                    self._late += record.event_class == "late"
                elif isinstance(record, Gap):
                    self._gaps += 1

    # The picture

    async def _show(self, signals: AsyncIterator[int]) -> None:
        """Show what happens until the time is over or somebody wants the end."""
        with trio.move_on_after(self._args.seconds or float("inf")):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._draw)
                nursery.start_soon(self._remember)
                await anext(signals)
                nursery.cancel_scope.cancel()

    async def _remember(self) -> None:
        while True:
            self._scene.remember()
            await trio.sleep(1)

    async def _draw(self) -> None:
        console = view.console()
        if not console.is_terminal:
            while True:
                await trio.sleep(LINE_EVERY_S)
                _say(view.summary(self._scene))
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                live.update(view.render(self._scene, console.width), refresh=True)
                await trio.sleep(1 / FRAMES_PER_S)

    # The end

    async def _verify(self) -> Verdict:
        """Compare with the truth, as soon as as much has arrived or it is clear that it will not."""
        sent: defaultdict[str, list[bytes]] = defaultdict(list)
        total = 0
        for one in map(msgspec.json.Decoder(_Sent).decode, self._truth.read_bytes().splitlines()):
            sent[f"{one.market}/{one.stream}"].append(_digest(bytes(one.msg)))
            total += 1
        with trio.move_on_after(ARRIVE_S):
            await self._arrived(total)
        return compare(sent, self._got)

    async def _arrived(self, total: int) -> None:
        while self._scene.received < total:
            self._progress = trio.Event()
            await self._progress.wait()

    def _report(self, verdict: Verdict) -> int:
        saved = view.savings(self._scene)
        if self._gaps or self._late:
            _say(f"marked: {self._gaps} gap records, {self._late} late events")
        _say(
            f"redundancy: {view.many(self._scene.faults, 'fault')}, "
            f"{view.many(self._scene.losses, 'line failure')}, "
            f"{view.many(saved.failovers, 'failover')}; {saved.copies:,} duplicates removed; one line alone would have "
            f"lost {saved.best_alone:,} events (the best line of each feed) to {saved.worst_alone:,} (the worst)"
        )
        _say(f"verified: {verdict}")
        return 0 if verdict.exact and verdict.events else 1


class _Sent(msgspec.Struct):
    """One line of the truth."""

    market: str
    stream: str
    msg: msgspec.Raw


def _digest(message: bytes) -> bytes:
    return hashlib.blake2b(message, digest_size=12).digest()


async def _lines(stream: trio.abc.ReceiveStream) -> AsyncIterator[str]:
    rest = b""
    async for chunk in stream:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - a command speaks
