"""The targets of the design, each with what was measured beside it."""

from collections.abc import Callable
from typing import NamedTuple

from tests.benchmarks.experiments import BURST_EVENTS, IDLE_MARKETS, one_process, two_processes
from tests.benchmarks.results import Key, Results, Spread
from tests.benchmarks.stage import (
    BACKLOG_MIB,
    FEEDHANDLER,
    FORWARDER,
    PICOWS,
    TRIO_WEBSOCKET,
    WEBSOCKETS,
    Setting,
)

SCRAPE_MARKETS = 100
HTTP = "127.0.0.1:29464"

IDLE = Setting(FEEDHANDLER, lines=2, markets=IDLE_MARKETS, events=200)
LOAD = Setting(FEEDHANDLER, dead=1)
SCRAPE = Setting(FEEDHANDLER, lines=3, markets=SCRAPE_MARKETS, events=200, http=HTTP)
WATCHED = Setting(FEEDHANDLER, lines=3, markets=10, events=2000, http=HTTP)
LOGGED = WATCHED._replace(logs=True)
FOLLOWED = Setting(FEEDHANDLER)
MINUTE_EVENTS = 5000 * 60


class Target(NamedTuple):
    """One row of the table of targets."""

    what: str
    limit: float
    at_least: bool
    """Whether the measured value has to reach the limit; otherwise to stay within it."""
    unit: str
    measure: Callable[[Results], Spread | None]


class Verdict(NamedTuple):
    """A target and what was measured."""

    target: Target
    measured: Spread | None

    @property
    def word(self) -> str:
        """Say whether the median keeps to the limit."""
        if self.measured is None:
            return "not measured"
        met = (
            self.measured.median >= self.target.limit
            if self.target.at_least
            else self.measured.median <= self.target.limit
        )
        return "met" if met else "MISSED"


def verdicts(results: Results) -> list[Verdict]:
    """Compare everything that was measured with its target."""
    return [Verdict(target, target.measure(results)) for target in TARGETS]


def _costs(name: str, *, tls: bool = False) -> Callable[[Results], Spread | None]:
    three, one = (Key(name, Setting(FEEDHANDLER, lines=lines, tls=tls)) for lines in (3, 1))
    return lambda results: results.ratio("cpu_us", three, one)


def _throughput(contender: str) -> Callable[[Results], Spread | None]:
    mine, theirs = Key("flat", Setting(FEEDHANDLER)), Key("flat", Setting(contender))
    return lambda results: results.ratio("events_per_cpu_s", mine, theirs)


def _latency(figure: str, lines: int, *, tls: bool = False) -> Callable[[Results], Spread | None]:
    mine = Key("paced", Setting(FEEDHANDLER, lines=lines, tls=tls))
    theirs = Key("paced", Setting(FORWARDER, lines=1, tls=tls))
    return lambda results: results.ratio(figure, mine, theirs)


def _figure(key: Key, figure: str) -> Callable[[Results], Spread | None]:
    return lambda results: results.spread(key, figure)


def _share(key: Key, figure: str, other: str) -> Callable[[Results], Spread | None]:
    """Compare two figures of one measurement."""

    def measure(results: Results) -> Spread | None:
        values = [one[figure] / one[other] for one in results.rounds(key).values() if one.get(other)]
        return Spread(sorted(values)[len(values) // 2], min(values), max(values)) if values else None

    return measure


def _all_out(results: Results) -> Spread | None:
    key = Key("burst", Setting(FEEDHANDLER))
    values = [float(one["whole"] and one["in_order"]) for one in results.rounds(key).values()]
    return Spread(min(values), min(values), max(values)) if values else None


def _burst_growth(results: Results) -> Spread | None:
    spread = results.spread(Key("burst", Setting(FEEDHANDLER)), "growth_mib")
    return spread and Spread(*(value / BACKLOG_MIB for value in spread))


LOOKED_AT = (
    ("CPU, flat out", "flat_cpu_us", 1.05),
    ("CPU at 5,000 events/s", "paced_cpu_us", 1.05),
    ("latency p99", "p99_us", 1.1),
)
"""What must not be measurable of whoever looks, and of the log: limits of our own for "nothing"."""

TARGETS = (
    Target("CPU, 3 lines / 1 line, flat out", 1.3, False, "x", _costs("flat")),
    Target("CPU, 3 lines / 1 line, flat out, TLS", 2.2, False, "x", _costs("flat", tls=True)),
    Target("events per CPU-s, 3 lines / trio-websocket", 15, True, "x", _throughput(TRIO_WEBSOCKET)),
    Target("events per CPU-s, 3 lines / websockets", 4, True, "x", _throughput(WEBSOCKETS)),
    Target("events per CPU-s, 3 lines / picows + uvloop", 1, True, "x", _throughput(PICOWS)),
    Target("latency p50, 3 lines / forwarder, 1 line", 1.2, False, "x", _latency("p50_us", 3)),
    Target("latency p99.9, 3 lines / forwarder, 1 line", 1.0, False, "x", _latency("p999_us", 3)),
    Target("latency p50, 1 line / forwarder, 1 line", 1.2, False, "x", _latency("p50_us", 1)),
    Target("latency p99.9, 1 line / forwarder, 1 line", 1.0, False, "x", _latency("p999_us", 1)),
    Target("latency p50, 3 lines / forwarder, 1 line, TLS", 1.2, False, "x", _latency("p50_us", 3, tls=True)),
    Target(
        "latency p99.9, 3 lines / forwarder, 1 line, TLS", 1.0, False, "x", _latency("p999_us", 3, tls=True)
    ),
    Target(f"burst of {BURST_EVENTS:,}: all out, in order (1: yes)", 1, True, "", _all_out),
    Target(f"burst: memory grown / backlog of {BACKLOG_MIB} MiB", 1, False, "x", _burst_growth),
    Target(
        f"{IDLE_MARKETS} quiet markets x 2 lines: share of a core",
        0.02,
        False,
        "",
        _figure(Key("idle", IDLE), "core_share"),
    ),
    Target(
        f"{IDLE_MARKETS} quiet markets x 2 lines: memory",
        250,
        False,
        "MiB",
        _figure(Key("idle", IDLE), "rss_mib"),
    ),
    Target(
        "load with a dead consumer: memory, end / first third",
        1.05,
        False,
        "x",
        _share(Key("load", LOAD), "rss_last_mib", "rss_first_mib"),
    ),
    Target(
        f"scrape of {SCRAPE_MARKETS} markets x 3 lines holds up",
        2,
        False,
        "ms",
        _figure(Key("scrape", SCRAPE), "held_up_ms"),
    ),
    *(
        Target(
            f"{LOGGED.markets} markets x 3 lines, a line of each broken every second, {words}: {what}",
            limit,
            False,
            "x",
            _share(Key("logs", LOGGED), f"{kind}_{figure}", f"quiet_{figure}"),
        )
        for kind, words in (
            ("told", "all logged / errors only"),
            ("blocked", "all logged, log not read / errors only"),
        )
        for what, figure, limit in LOOKED_AT
    ),
    *(
        Target(
            f"{WATCHED.markets} markets x 3 lines scraped and looked at every second / not: {what}",
            limit,
            False,
            "x",
            _share(Key("watched", WATCHED), f"watched_{figure}", f"alone_{figure}"),
        )
        for what, figure, limit in LOOKED_AT
    ),
    *(
        Target(
            f"a standby follows / none: {what}",
            1.2,
            False,
            "x",
            _share(Key("followed", FOLLOWED), f"followed_{figure}", f"alone_{figure}"),
        )
        for what, figure in (
            ("CPU of the active daemon at 5,000 events/s", "paced_cpu_us"),
            ("latency p50", "p50_us"),
            ("latency p99", "p99_us"),
        )
    ),
    Target(
        "CPU per event, 2 daemons / 1",
        1.1,
        False,
        "x",
        lambda results: results.ratio("cpu_us", Key("flat", two_processes()), Key("flat", one_process())),
    ),
)
