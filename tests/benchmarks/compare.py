"""The benchmark: feedhandler beside other ways to do its work, in one go, against the same byte source.

    python3 -m venv .venv && .venv/bin/pip install --quiet --editable '.[bench]'
    .venv/bin/python tests/benchmarks/compare.py [--quick] [--json FILE] [--plot FILE.svg]

Not a test: nothing passes or fails. It takes a quarter of an hour, with ``--quick`` two minutes, and uses loopback
only. It prints what was measured, and each target of the design with the measured ratio beside it.

**Who.** `feedhandler run` as a user runs it, and four pipelines that do the same work the way their libraries are used
for speed (`contenders/`): receive N lines, let each event through once, keep the book, write numbered JSON lines to a
Unix socket. They find duplicates by a set of hashes, which loses real repeats and proves nothing; so that they need
not be wrong here, all events differ. And the floor: a uvloop program that copies the bytes of one line and does nothing
else.

**What.** Book deltas of 290 bytes with 1 to 8 levels and trades, 10 to 1 (`events`), and a recorded tape where there is
one. A source in a process of its own plays them to all lines, the same consumer reads what comes out:

- flat out, plain and TLS: CPU time of the contender's process (user and system) for each unique event, and events for
  each second;
- paced, 5,000 events/s, plain and TLS: from right before an event's first sending to the consumer's read. The clock is
  the system's monotonic one, in both processes;
- a burst of 100,000 events: whether all come out, in order, and what memory that takes;
- many quiet markets; the work of one process divided among two; many consumers; a long load with a consumer that
  never reads; scrapes; somebody who scrapes and looks at the page every second; a log of everything while lines break
  every second, read and not read; a standby that follows (``--only watched``, ``--only logs``, ``--only followed``:
  that alone, in every round).

**How to read it.** Figures of different machines or moments do not compare; ratios within one run do. Rounds are
interleaved, a ratio is the median of each round's ratios. Source, contender and consumer share two cores with whatever
else runs there: p99 and p99.9 of a busy machine are the machine's.

Flat out and paced the daemon gets a backlog of 512 MiB instead of 64: it disconnects who is too slow, and where source,
daemon and consumer share two cores that may be a consumer which had no core for a while. Bursts and the long load run
with 64.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from tests.benchmarks import experiments as do
from tests.benchmarks import process, report, targets
from tests.benchmarks.events import tape_path
from tests.benchmarks.experiments import Measurement
from tests.benchmarks.results import Key, Results
from tests.benchmarks.stage import (
    CONTENDERS,
    FEEDHANDLER,
    FORWARDER,
    MERGING,
    PICOWS,
    Setting,
    Theatre,
    theatre,
)

ROUNDS = 3
ROUNDS_MOST = 20
LINES = (2, 5)
MARKETS = (5, 20)
MARKET_EVENTS = 2000
CONSUMERS = (1, 10, 100)
TAPE_EVENTS = 5000
LIBRARIES = ("trio", "trio-websocket", "websockets", "aiohttp", "picows", "uvloop", "msgspec", "xxhash")


def of_every_round(*, quick: bool) -> Iterator[Measurement]:
    """Yield what is measured in every round: all that targets compare."""
    for contender in CONTENDERS:
        yield Measurement("flat", _plain(contender), do.flat)
    for contender in (FEEDHANDLER,) if quick else MERGING:
        yield Measurement("flat", Setting(contender, lines=1), do.flat)
    for contender in (FEEDHANDLER,) if quick else (FEEDHANDLER, PICOWS):
        for lines in (1, 3):
            yield Measurement("flat", Setting(contender, lines=lines, tls=True), do.flat)
    for setting in (do.one_process(), do.two_processes()):
        yield Measurement("flat", setting, do.flat)
    for contender in (FORWARDER, PICOWS, FEEDHANDLER) if quick else CONTENDERS:
        yield Measurement("paced", _plain(contender), do.paced)
    yield Measurement("paced", Setting(FEEDHANDLER, lines=1), do.paced)
    for contender in (FORWARDER, FEEDHANDLER) if quick else (FORWARDER, PICOWS, FEEDHANDLER):
        yield Measurement("paced", _plain(contender)._replace(tls=True), do.paced)
    yield Measurement("burst", Setting(FEEDHANDLER), do.burst)


def once(*, quick: bool) -> Iterator[Measurement]:
    """Yield what is measured once."""
    yield Measurement("idle", targets.IDLE, do.idle)
    yield Measurement("load", targets.LOAD, do.load)
    yield Measurement("scrape", targets.SCRAPE, do.scrape)
    yield Measurement("watched", targets.WATCHED, do.watched)
    yield Measurement("logs", targets.LOGGED, do.logs)
    yield Measurement("followed", targets.FOLLOWED, do.followed)
    yield from _tape(FEEDHANDLER) if quick else _tape(*MERGING)
    if quick:
        yield Measurement("consumed", Setting(FEEDHANDLER, consumers=CONSUMERS[-1]), do.consumed)
        return
    for contender in MERGING:
        if contender != FEEDHANDLER:
            yield Measurement("burst", Setting(contender), do.burst)
    for contender in (FEEDHANDLER, PICOWS):
        for consumers in CONSUMERS:
            yield Measurement("consumed", Setting(contender, consumers=consumers), do.consumed)
        for setting in (
            *(Setting(contender, lines=lines) for lines in LINES),
            *(Setting(contender, markets=markets, events=MARKET_EVENTS) for markets in MARKETS),
        ):
            yield Measurement("flat", setting, do.flat)
            yield Measurement("paced", setting, do.paced)
    yield Measurement("paced", Setting(PICOWS, lines=1), do.paced)


def _plain(contender: str) -> Setting:
    return Setting(contender, lines=1 if contender == FORWARDER else 3)


def _tape(*contenders: str) -> Iterator[Measurement]:
    tape = tape_path()
    for contender in contenders if tape else ():
        yield Measurement("flat", Setting(contender, tape=str(tape), events=TAPE_EVENTS), do.flat)


def measure(place: Theatre, rounds: int, *, quick: bool, only: str = "") -> Results:
    """Measure everything, or only what has a name, round by round."""
    results = Results()
    durations = do.QUICK if quick else do.FULL
    plan = [(number, one) for number in range(rounds) for one in of_every_round(quick=quick)]
    plan += [(number, one) for number in range(rounds if only else 1) for one in once(quick=quick)]
    plan = [(number, one) for number, one in plan if only in {"", one.name}]
    started = time.monotonic()
    for index, (number, one) in enumerate(plan, 1):
        figures = one.measure(place, durations)
        results.add(Key(one.name, one.setting), number, figures)
        shown = ", ".join(f"{name} {value:,.4g}" for name, value in figures.items()) or "skipped"
        what = f"{one.name}, {one.setting.contender}, {report.setting_text(one.setting)}"
        elapsed_s = time.monotonic() - started
        print(f"[{index}/{len(plan)}, {elapsed_s:.0f} s] {what}: {shown}", file=sys.stderr, flush=True)
    return results


def main() -> None:
    """Measure, print, and write what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two minutes: one round, the targets only")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, with --quick 1")
    names = sorted({one.name for plan in (of_every_round, once) for one in plan(quick=True)})
    parser.add_argument("--only", default="", choices=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures of all rounds")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw throughput and latency")
    args = parser.parse_args()
    rounds = min(args.rounds or (1 if args.quick else ROUNDS), ROUNDS_MOST)
    about = {
        "machine": process.machine(),
        "python": sys.version,
        "libraries": {name: metadata.version(name) for name in LIBRARIES},
        "rounds": rounds,
        "quick": args.quick,
    }
    with theatre() as place:
        results = measure(place, rounds, quick=args.quick, only=args.only)
    verdicts = targets.verdicts(results)
    print(report.tables(results, [one for one in verdicts if one.measured or not args.only]))
    if args.json:
        args.json.write_text(json.dumps(report.document(results, verdicts, **about), indent=1) + "\n")
    if args.plot:
        from tests.benchmarks import plot  # noqa: PLC0415 - a slow import that most runs do without

        plot.draw(results, args.plot)


if __name__ == "__main__":
    main()
