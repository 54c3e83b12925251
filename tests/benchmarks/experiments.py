"""What is measured: each function sets a stage, plays, and returns the figures of one measurement."""

import re
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from threading import Event, Thread
from typing import NamedTuple

from tests.benchmarks import process
from tests.benchmarks.stage import BACKLOG_MIB, FEEDHANDLER, Log, Played, Setting, Stage, Theatre

Figures = dict[str, float]

RATE = 5000.0
CONSUMERS_RATE = 1000.0
"""With many consumers: each event is as many sends as there are consumers."""
BURST_EVENTS = 100_000
IDLE_MARKETS = 100
PART_MARKETS = 10
LOAD_PARTS = 3
SCRAPES = 8
SCRAPE_S = 0.5
SCRAPE_RATE = 1000.0
WATCHES = 8
WATCH_S = 1.0
"""Between two looks of a watcher."""
LOG_KINDS = ("quiet", "told", "blocked")
LOG_TURNS = 8
FOLLOWED_KINDS = ("alone", "followed")
FOLLOWED_TURNS = 8
CUT_S = 1.0
"""From one line of each market breaking to the next."""
WATCHED_PATHS = ("/metrics", "/status?history=1", "/")


class Durations(NamedTuple):
    """How long each kind of play takes (s)."""

    flat: float
    paced: float
    idle: float
    load: float


FULL = Durations(flat=2.0, paced=4.0, idle=20.0, load=30.0)
QUICK = Durations(flat=1.2, paced=2.5, idle=6.0, load=9.0)


class Measurement(NamedTuple):
    """One entry of the plan."""

    name: str
    setting: Setting
    run: Callable[[Theatre, Setting, Durations], Figures]

    def measure(self, theatre: Theatre, durations: Durations) -> Figures:
        """Take the figures."""
        return self.run(theatre, self.setting, durations)


def flat(theatre: Theatre, setting: Setting, durations: Durations) -> Figures:
    """Play flat out: events for each second of CPU time, and for each of the clock."""
    with theatre.stage(setting) as stage:
        played = stage.play("count", do="flat", seconds=durations.flat)
        return _costs(stage, played)


def paced(theatre: Theatre, setting: Setting, durations: Durations) -> Figures:
    """Play one event after the other: how long each takes from its sending to its being read."""
    return _paced(theatre, setting, durations, RATE)


def consumed(theatre: Theatre, setting: Setting, durations: Durations) -> Figures:
    """Play at a rate that leaves room for many consumers."""
    return _paced(theatre, setting, durations, CONSUMERS_RATE)


def _paced(theatre: Theatre, setting: Setting, durations: Durations, rate: float) -> Figures:
    with theatre.stage(setting) as stage:
        played = stage.play("delays", do="paced", seconds=durations.paced, rate=rate)
        deliveries = played.events * setting.consumers
        return {
            **_costs(stage, played),
            "core_share": played.cpu_s / durations.paced,
            "deliveries_per_cpu_s": deliveries / played.cpu_s,
            **{f"{name}_us": value for name, value in stage.delays_us().items()},
        }


def _costs(stage: Stage, played: Played) -> Figures:
    return {
        "events": played.events,
        "received": played.received,
        "whole": played.whole,
        "events_per_cpu_s": played.events / played.cpu_s,
        "cpu_us": played.cpu_s / played.events * 1e6,
        "events_per_s": played.received / played.wall_s if played.received else 0.0,
        "peak_mib": process.peak_mib(stage.pid),
    }


def burst(theatre: Theatre, setting: Setting, durations: Durations) -> Figures:
    """Send a hundred thousand events at once."""
    del durations
    with theatre.stage(setting._replace(backlog_mib=BACKLOG_MIB)) as stage:
        before = process.rss_mib(stage.pid)
        played = stage.play("numbers", do="burst", events=BURST_EVENTS)
        return {
            "events": played.events,
            "received": played.received,
            "whole": played.whole,
            "in_order": stage.in_order(),
            "seconds": played.wall_s,
            "cpu_us": played.cpu_s / played.events * 1e6,
            "peak_mib": process.peak_mib(stage.pid),
            "growth_mib": process.peak_mib(stage.pid) - before,
        }


def idle(theatre: Theatre, setting: Setting, durations: Durations) -> Figures:
    """Keep many quiet markets."""
    with theatre.stage(setting, warm=False) as stage:
        time.sleep(2.0)
        before = stage.cpu_s()
        time.sleep(durations.idle)
        return {
            "core_share": (stage.cpu_s() - before) / durations.idle,
            "rss_mib": process.rss_mib(stage.pid),
        }


def load(theatre: Theatre, setting: Setting, durations: Durations) -> Figures:
    """Play flat out for long, with a consumer that never reads: memory after a third, and at the end."""
    with theatre.stage(setting._replace(backlog_mib=BACKLOG_MIB)) as stage:
        sizes, events = [], 0
        for _ in range(LOAD_PARTS):
            events += stage.play("count", do="flat", seconds=durations.load / LOAD_PARTS).events
            sizes.append(process.rss_mib(stage.pid))
        return {"events": events, "rss_first_mib": sizes[0], "rss_last_mib": sizes[-1]}


def scrape(theatre: Theatre, setting: Setting, durations: Durations) -> Figures:
    """Scrape the metrics of many markets while events pass: the longest delays with a scrape, and without."""
    del durations
    held: dict[bool, list[float]] = {False: [], True: []}
    took: list[float] = []
    with theatre.stage(setting) as stage:
        if not _served(setting.http):
            return {}
        for number in range(SCRAPES):
            scraping = bool(number % 2)
            reader = Thread(target=lambda: took.append(_scrape(setting.http)))
            if scraping:
                reader.start()
            stage.play("delays", do="paced", seconds=SCRAPE_S, rate=SCRAPE_RATE)
            if scraping:
                reader.join()
            held[scraping].append(stage.delays_us()["max"])
        with_scrape, without = statistics.median(held[True]), statistics.median(held[False])
    return {
        "max_us": with_scrape,
        "max_without_us": without,
        "held_up_ms": max(0.0, with_scrape - without) / 1000,
        "took_ms": statistics.median(took) * 1000,
    }


def watched(theatre: Theatre, setting: Setting, durations: Durations) -> Figures:
    """Play flat out and paced, now with somebody who scrapes and looks at the page every second and now without.

    What is compared are neighbours in time; each figure is the median of its kind.
    """
    figures: dict[str, list[float]] = {}
    with theatre.stage(setting) as stage:
        if not _served(setting.http):
            return {}
        for number in range(WATCHES):
            name = "watched" if number % 2 else "alone"
            with _watching(setting.http, watch=bool(number % 2)):
                seen = _both_ways(stage, durations)
            for figure, value in seen.items():
                figures.setdefault(f"{name}_{figure}", []).append(value)
    return {name: statistics.median(values) for name, values in figures.items()}


def _both_ways(stage: Stage, durations: Durations, **more: float) -> Figures:
    """Play flat out, then paced."""
    flat_out = stage.play("count", do="flat", seconds=durations.flat, **more)
    paced = stage.play("delays", do="paced", seconds=durations.paced, rate=RATE, **more)
    delays = stage.delays_us()
    return {
        "flat_cpu_us": flat_out.cpu_s / flat_out.events * 1e6,
        "paced_cpu_us": paced.cpu_s / paced.events * 1e6,
        "p50_us": delays["p50"],
        "p99_us": delays["p99"],
        "whole": flat_out.whole and paced.whole,
    }


def logs(theatre: Theatre, setting: Setting, durations: Durations) -> Figures:
    """Play as for a watcher, while lines break all the time, with three kinds of log in turn.

    `quiet` logs errors only; `told` everything, into a pipe that is read; `blocked` everything, into one that is not.
    Every other turn goes through them backwards, so that what drifts falls on all of them.
    """
    figures: dict[str, list[float]] = {}
    with theatre.stage(setting) as stage:
        for name in (LOG_KINDS + LOG_KINDS[::-1]) * (LOG_TURNS // 2):
            with _logging(stage.log, name):
                before = stage.log.pipe.lines
                seen = _both_ways(stage, durations, cut_s=CUT_S)
                seen["lines"] = stage.log.pipe.lines - before
                seen["waiting"] = _log_lines_waiting(setting.http)
            for figure, value in seen.items():
                figures.setdefault(f"{name}_{figure}", []).append(value)
    whole = min(min(figures.pop(f"{name}_whole")) for name in LOG_KINDS)
    return {"whole": whole, **{name: statistics.median(values) for name, values in figures.items()}}


def followed(theatre: Theatre, setting: Setting, durations: Durations) -> Figures:
    """Play paced, now with a standby that follows the daemon, and now without.

    What is compared are neighbours in time; each figure is the median of its kind. CPU time is the active daemon's.
    Flat out on two cores a standby is too slow, and let go.
    """
    figures: dict[str, list[float]] = {}
    with theatre.stage(setting) as stage:
        for number in range(FOLLOWED_TURNS):
            name = FOLLOWED_KINDS[number % 2]
            with stage.standby() if number % 2 else nullcontext():
                paced = stage.play("delays", do="paced", seconds=durations.paced, rate=RATE)
                delays = stage.delays_us()
            seen = {
                "paced_cpu_us": paced.cpu_s / paced.events * 1e6,
                "p50_us": delays["p50"],
                "p99_us": delays["p99"],
                "whole": paced.whole,
            }
            for figure, value in seen.items():
                figures.setdefault(f"{name}_{figure}", []).append(value)
    whole = min(min(figures.pop(f"{name}_whole")) for name in FOLLOWED_KINDS)
    return {"whole": whole, **{name: statistics.median(values) for name, values in figures.items()}}


@contextmanager
def _logging(log: Log, kind: str) -> Iterator[None]:
    """Have a kind of log beside the body."""
    log.set_level("error" if kind == "quiet" else "debug")
    if kind == "blocked":
        log.pipe.pause()
    try:
        yield
    finally:
        log.pipe.resume()


def _log_lines_waiting(address: str) -> float:
    """Return how many log lines wait for their reader."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        [found] = re.findall(rb"^feedhandler_log_lines_waiting (\S+)$", answer.read(), re.MULTILINE)
    return float(found)


@contextmanager
def _watching(address: str, *, watch: bool) -> Iterator[None]:
    """Let somebody scrape, ask for the state and load the page every `WATCH_S`, beside the body."""
    over = Event()

    def look() -> None:
        while not over.wait(WATCH_S):
            for path in WATCHED_PATHS:
                _get(address, path)

    watcher = Thread(target=look)
    if watch:
        watcher.start()
    try:
        yield
    finally:
        over.set()
        if watch:
            watcher.join()


def _served(address: str) -> bool:
    """Tell whether the daemon serves its metrics yet."""
    try:
        _scrape(address)
    except OSError:
        return False
    return True


def _scrape(address: str) -> float:
    """Return how long a scrape takes (s)."""
    return _get(address, "/metrics")


def _get(address: str, path: str) -> float:
    """Return how long an answer takes (s)."""
    start = time.monotonic()
    with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
        answer.read()
    return time.monotonic() - start


def one_process(markets: int = PART_MARKETS) -> Setting:
    """Return the setting of one daemon with all markets."""
    return Setting(FEEDHANDLER, lines=2, markets=markets, events=2000)


def two_processes(markets: int = PART_MARKETS) -> Setting:
    """Return the setting of two daemons with half the markets each."""
    return one_process(markets)._replace(processes=2)
