"""One measurement's setting: the source, the contenders under test, and the consumer, each a process of its own.

    source ══ lines ══▶ contender ── Unix socket ──▶ consumer
                            ▲ CPU time, memory

Source and consumer serve all measurements of a run; a contender is started anew for each. After its lines are up it
gets `SETTLE_S`, and then a few events (`WARM_EVENTS`) before anything is measured, so that the daemon has asked for its
books and aligned its lines, and everybody has imported what they import late.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.benchmarks import process
from tests.benchmarks.control import Child, ChildFailed, python
from tests.benchmarks.logpipe import LogPipe

SETTLE_S = 1.2
WARM_EVENTS = 300
WARM_RATE = 1500.0
CATCH_UP_S = 30.0
PATIENCE_S = 20.0
"""For a command to be answered."""
QUIET_LEVEL = "warning"

FEEDHANDLER = "feedhandler"
FORWARDER = "forwarder"
PICOWS = "picows + uvloop"
WEBSOCKETS = "websockets + uvloop"
AIOHTTP = "aiohttp + uvloop"
TRIO_WEBSOCKET = "trio-websocket + json"

MODULES = {
    TRIO_WEBSOCKET: "contenders.trio_websocket_client",
    WEBSOCKETS: "contenders.websockets_client",
    AIOHTTP: "contenders.aiohttp_client",
    PICOWS: "contenders.picows_client",
    FORWARDER: "contenders.forwarder",
}
MERGING = (TRIO_WEBSOCKET, WEBSOCKETS, AIOHTTP, PICOWS, FEEDHANDLER)
"""All who do the whole work."""
CONTENDERS = (*MERGING, FORWARDER)

BACKLOG_MIB = 64
WIDE_BACKLOG_MIB = 512
"""Flat out on a busy machine the consumer may stand still for a while, and the daemon disconnects who is too slow."""

STANDBY_LAPSES = (b'"following_behind"', b'"following_ended"', b'"took_over"')
"""What a standby's log says where it was not served first all the time."""
STANDBY_READY_S = 30.0
"""For a standby to get ready."""

CONFIG = """
[exchange]
websocket_url = "{url}"
{ca}
[limits]
connections_per_minute = 100000
connections_per_market = 8
[[feed]]
markets = {markets}
lines = {lines}
[publish]
socket = "{socket}"
backlog_mib = {backlog_mib}
[observe]
http = "{http}"
[log]
level = "{level}"
format = "json"
"""


class Setting(NamedTuple):
    """Who does what."""

    contender: str
    lines: int = 3
    markets: int = 1
    consumers: int = 1
    tls: bool = False
    processes: int = 1
    """The markets are divided among so many."""
    dead: int = 0
    """Consumers that never read (of the daemon only)."""
    backlog_mib: int = WIDE_BACKLOG_MIB
    tape: str = ""
    events: int = 10_000
    """Different events of each market."""
    http: str = ""
    """Where the daemon serves its metrics."""
    logs: bool = False
    """Whether the daemon logs into a pipe, at a level that changes."""


class Played(NamedTuple):
    """What came of one play."""

    events: int
    received: int
    cpu_s: float
    wall_s: float

    @property
    def whole(self) -> bool:
        """Whether all events came out."""
        return self.events == self.received


class Stage:
    """A setting that stands."""

    def __init__(
        self,
        setting: Setting,
        source: Child,
        consumer: Child,
        contenders: Sequence[Child],
        log: "Log | None",
        home: Path,
    ) -> None:
        self.setting = setting
        self._source = source
        self._consumer = consumer
        self._contenders = contenders
        self._log = log
        self._home = home
        self._groups = _divided(_markets(setting), setting.processes)

    @property
    def pid(self) -> int:
        """The first contender."""
        return self._contenders[0].pid

    @property
    def log(self) -> "Log":
        """The log of a daemon that logs into a pipe."""
        assert self._log is not None
        return self._log

    @contextmanager
    def standby(self) -> Iterator[None]:
        """Have a standby that follows the first contender, beside the body."""
        command = [
            "run",
            "--standby",
            "--config",
            str(self._home / "feedhandler.toml"),
            "--set",
            "log.level=info",
        ]
        log = self._home / "standby.log"
        log.unlink(missing_ok=True)
        with Child(sys.executable, "-m", "feedhandler", *command, log=log) as child:
            until = time.monotonic() + STANDBY_READY_S
            while b'"standby_ready"' not in log.read_bytes():
                if not child.alive() or time.monotonic() > until:
                    raise ChildFailed(f"the standby is not ready; {child.errors()}")
                time.sleep(0.1)
            yield
            text = log.read_bytes()
            lapses = [name for name in STANDBY_LAPSES if name in text]
            if lapses or not child.alive():
                raise ChildFailed(f"the standby did not follow all the time: {lapses}; {child.errors()}")

    def check(self) -> None:
        """Raise where a contender has ended."""
        for child in self._contenders:
            if not child.alive():
                raise ChildFailed(f"{self.setting.contender} has ended; {child.errors()}")

    def cpu_s(self) -> float:
        """Return the CPU time of all contenders together."""
        return sum(process.cpu_s(child.pid) for child in self._contenders)

    def play(self, mode: str, **command: Any) -> Played:
        """Play, and wait until all has come out; ``mode`` is what the consumer does with the stamps."""
        self.check()
        self._consumer.ask(do="begin", mode=mode)
        before = self.cpu_s()
        done = self._source.ask(**command)
        wanted = [sum(done["events"][market] for market in markets) for markets in self._groups]
        got = self._consumer.ask(do="until", events=wanted, patience_s=CATCH_UP_S)
        wall_s = (got["last_ns"] - done["start_ns"]) / 1e9
        return Played(sum(wanted), sum(got["events"]), self.cpu_s() - before, wall_s)

    def delays_us(self) -> dict[str, float]:
        """Return how long events of the last play took from their sending to their reading."""
        return {name: ns / 1000 for name, ns in self._consumer.ask(do="delays").items()}

    def in_order(self) -> bool:
        """Tell whether the events of the last play came in the order of their numbers, from 0 on."""
        return bool(self._consumer.ask(do="numbers")["in_order"])


class Log(NamedTuple):
    """The log of a daemon: the pipe that it goes into, and what sets its level."""

    pipe: LogPipe
    set_level: Callable[[str], None]


class Theatre:
    """Where all measurements of a run take place."""

    def __init__(self, source: Child, consumer: Child, folder: Path) -> None:
        self._source = source
        self._consumer = consumer
        self._folder = folder
        self._count = 0
        self._ports: dict[str, Any] = source.ask(do="listen")

    @contextmanager
    def stage(self, setting: Setting, *, warm: bool = True) -> Iterator[Stage]:
        """Set up a measurement."""
        self._count += 1
        markets = _markets(setting)
        self._source.ask(do="prepare", markets=markets, events=setting.events, tape=setting.tape)
        with ExitStack() as stack:
            contenders = []
            log = None
            for number, own in enumerate(_divided(markets, setting.processes)):
                home = self._folder / f"{self._count}-{number}"
                home.mkdir()
                command = self._command(setting, own, home)
                if setting.logs:
                    pipe = stack.enter_context(LogPipe(home / "log"))
                    log = Log(pipe, partial(self._set_level, setting, own, home))
                errors = None if log is None else log.pipe.descriptor
                contenders.append(stack.enter_context(Child(*command, log=home / "log", stderr=errors)))
                dead = setting.dead if setting.contender == FEEDHANDLER else 0
                self._consumer.ask(do="open", path=str(home / "out.sock"), count=setting.consumers, dead=dead)
            stack.callback(self._consumer.ask, do="close")
            self._source.ask(do="expect", lines=1 if setting.contender == FORWARDER else setting.lines)
            time.sleep(SETTLE_S)
            first = self._folder / f"{self._count}-0"
            stage = Stage(setting, self._source, self._consumer, contenders, log, first)
            if warm:
                stage.play("count", do="paced", rate=WARM_RATE, seconds=WARM_EVENTS / WARM_RATE)
            yield stage
            stage.check()

    def _set_level(self, setting: Setting, markets: Sequence[str], home: Path, level: str) -> None:
        """Have a running daemon log what is at least so important."""
        self._configure(setting, markets, home, level)
        reload = ("ctl", "--socket", str(home / "out.sock"), "reload")
        subprocess.run(
            [sys.executable, "-m", "feedhandler", *reload],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=PATIENCE_S,
        )

    def _configure(self, setting: Setting, markets: Sequence[str], home: Path, level: str) -> Path:
        url, ca_file = self._url(setting)
        config = home / "feedhandler.toml"
        names = ", ".join(f'"{market}"' for market in markets)
        config.write_text(
            CONFIG.format(
                url=url,
                ca=f'ca_file = "{ca_file}"' if ca_file else "",
                markets=f"[{names}]",
                lines=setting.lines,
                socket=home / "out.sock",
                backlog_mib=setting.backlog_mib,
                http=setting.http,
                level=level,
            )
        )
        return config

    def _url(self, setting: Setting) -> tuple[str, str]:
        """Return where the source is, and the file with its authority where it is needed."""
        scheme, port = ("wss", self._ports["tls"]) if setting.tls else ("ws", self._ports["plain"])
        return f"{scheme}://localhost:{port}", self._ports["ca_file"] if setting.tls else ""

    def _command(self, setting: Setting, markets: Sequence[str], home: Path) -> list[str]:
        url, ca_file = self._url(setting)
        if setting.contender == FEEDHANDLER:
            config = self._configure(setting, markets, home, QUIET_LEVEL)
            return [sys.executable, "-m", "feedhandler", "run", "--config", str(config)]
        named = [part for market in markets for part in ("--market", market)]
        rest = ["--lines", str(setting.lines), "--socket", str(home / "out.sock")]
        return python(
            MODULES[setting.contender], "--url", url, *named, *rest, *(["--ca", ca_file] if ca_file else [])
        )


@contextmanager
def theatre() -> Iterator[Theatre]:
    """Start source and consumer."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            Child(*python("source"), log=folder / "source.log") as source,
            Child(*python("consumer"), log=folder / "consumer.log") as consumer,
        ):
            yield Theatre(source, consumer, folder)


def _markets(setting: Setting) -> list[str]:
    if setting.markets == 1:
        return ["BTC-USD"]
    return [f"M{number:03d}-USD" for number in range(setting.markets)]


def _divided(markets: Sequence[str], parts: int) -> list[list[str]]:
    size = len(markets) // parts
    return [list(markets[number * size : (number + 1) * size]) for number in range(parts)]
