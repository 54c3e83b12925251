"""One active daemon after another is killed under load, and what that costs a consumer: run by hand.

    .venv/bin/python tests/soak/killed_daemons.py [--kills 50] [--rate 2000] [--only NAME]

A simulated exchange talks all the time: generated traffic of one market, and after that each of `TAPES`, recorded
traffic of several markets with books and trades, at the speed at which it lasts for all the kills. Where the tapes are
not beside the checkout ($FEEDHANDLER_TAPES, else `../shared/tapes`) this is said, and the generated traffic is all.

Each active daemon is killed with SIGKILL as soon as its standby is ready, the standby becomes the active one, and
another standby is started. A consumer with the client library, which asks for everything from the first record on and
raises where a number is not the next one, has to end with exactly what the exchange sent, byte for byte and in order,
in one session. Printed are the times that it was without output: from the last event of a dead daemon to the first of
its successor, connecting again included.

**A gap record may be needed.** Where a market said nothing from the connection of the standby's line to the kill,
nothing proves that the line and the output meet without a hole (R8), so each of its channels has a gap at that
takeover. That is checked of each gap; one that stands where the market had spoken in between is a failure. What a
needed gap hides may be missing there, for the snapshot behind it holds it; it is counted, and nothing is missing
anywhere else. A line may still bring some of it, behind the gap: that is then of the class `late`, and has to be what
the gap hid.
"""

import argparse
import contextlib
import gzip
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import msgspec
import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from feedhandler.client import Bye, Error, Event, Gap, Hello, Position, Reader, Record, Refused
from feedhandler.client.trio_client import Client
from feedhandler.core.trades import BACKFILLED, LATE
from feedhandler.simulator import tapes as recorded
from tests.conftest import tapes_folder
from tests.support.processes import Child, daemon, read_truth, simulated, started, write_config

PATIENCE_S = 60.0
READY = '"standby_ready"'

GENERATED = "generated"
TAPES = ("binance-usdm-2024-08-08", "binance-spot-2024-08-08", "dydx-2021-10-28", "lines-bequant-2021-07-03")
"""What is played: two with two busy markets each, two with ten markets of which most are silent for seconds."""

AT_A_TIME = {"lines-bequant-2021-07-03": 5}
"""So many kills are made of one that has markets with a few events in all: played for all 50 these would be silent for
minutes after something that proves nothing, and no standby is ready then. It is begun anew for the next ones."""

CYCLE_S = 4.0
"""So long a tape may take for each kill."""

AROUND_S = 0.1
"""An event so close to the connection of a line, or to a kill, proves nothing here: two clocks are compared."""

NS = 10**9


MARKETS = ("BTC-USD", "ETH-USD", "SOL-USD", "XRP-USD", "DOGE-USD", "ADA-USD", "LTC-USD", "DOT-USD")
"""Those that are made up; as many as are asked for."""


class Load(NamedTuple):
    """What the exchange is told to play, and the markets that come of it."""

    options: tuple[object, ...]
    markets: tuple[str, ...]


def generated(rate: int, markets: int = 1) -> Load:
    """Return so many markets that are made up, at so many events a second in all."""
    names = MARKETS[:markets]
    return Load((*(word for name in names for word in ("--market", name)), "--rate", rate), names)


def tape(path: Path, kills: int) -> Load:
    """Return a tape at the speed at which it lasts for so many kills."""
    markets, _ = recorded.survey(path)
    with gzip.open(path) as lines:
        *_, last = lines
    speed = msgspec.json.decode(last)["t"] / NS / (CYCLE_S * kills)
    return Load(("--tape", path, "--speed", f"{speed:.3f}"), tuple(markets))


async def kill(active: Child, _: Path) -> None:
    """End the active daemon as nobody expects it."""
    active.process.kill()


class Turn(NamedTuple):
    """One takeover: how the active daemon is ended, and with which variables its successor runs."""

    end: Callable[[Child, Path], Awaitable[None]] = kill
    environ: Mapping[str, str] = MappingProxyType({})


KILLED = Turn()


class Succession(NamedTuple):
    """One takeover: when the heir's line of each market was connected, and when the active daemon was killed (ns)."""

    connected: dict[str, int]
    killed: int


class Outcome(NamedTuple):
    """What came of it: events, sessions, what is not as it was sent, marks, and the times without output (s)."""

    kills: int
    events: int
    hidden: int
    """Events that needed gaps stand for."""
    sessions: int
    differences: list[str]
    marks: list[Record]
    unexplained: list[Record]
    """Of the marks those that are no gap, or one that was not needed."""
    silences_s: list[float]
    versions: list[str]
    """Of the successors."""
    byes: list[str]
    """What the consumer was told at the end of each connection."""

    @property
    def is_right(self) -> bool:
        """Whether the consumer has the exact stream, with no mark but those that are needed."""
        return not self.differences and not self.unexplained and self.sessions == 1


class Follower:
    """A consumer with the client library that keeps everything from the first record on."""

    def __init__(self, path: Path, session: str) -> None:
        self._client = Client(path, Reader(resume=Position(session, {})))
        self.sessions: set[str] = set()
        self.pieces: defaultdict[str, list[list[bytes]]] = defaultdict(lambda: [[]])
        """Of each channel the messages, cut at its gaps."""
        self.late: defaultdict[str, list[bytes]] = defaultdict(list)
        """Of each channel those that came late behind a gap."""
        self.arrivals: defaultdict[str, list[int]] = defaultdict(list)
        """Of each market the times at which its events reached a daemon (ns)."""
        self.marks: list[Record] = []
        self.silences_s: list[float] = []
        self.byes: list[str] = []
        self.count = 0
        self._last_s = 0.0
        self._is_back = False

    async def run(self) -> None:
        """Read until cancelled."""
        async with self._client as client:
            async for received in client:
                self.take(received.record)

    def take(self, record: Record) -> None:
        """Keep a record."""
        match record:
            case Hello():
                self.sessions.add(record.session)
                self._is_back = self.count > 0
            case Event():
                self._keep(record)
            case Gap():
                self.marks.append(record)
                self.pieces[record.channel].append([])
            case Refused() | Error():
                self.marks.append(record)
            case Bye():
                self.byes.append(record.reason)

    def _keep(self, event: Event) -> None:
        pieces = self.pieces[event.channel]
        if event.event_class == LATE and len(pieces) > 1:
            self.late[event.channel].append(bytes(event.msg))
        elif event.event_class != BACKFILLED:
            pieces[-1].append(bytes(event.msg))
        self.arrivals[market_of(event.channel)].append(event.recv)
        self.count += 1
        if event.event_class:
            self.marks.append(event)
        now = trio.current_time()
        if self._is_back:
            self.silences_s.append(now - self._last_s)
        self._last_s, self._is_back = now, False


def market_of(channel: str) -> str:
    """Return the market of a channel."""
    return channel.rpartition("/")[0]


async def play(
    folder: Path, kills: int, load: Load, turn: Callable[[int], Turn] = lambda _: KILLED
) -> Outcome:
    """Let so many daemons succeed each other, or fewer where the exchange has nothing more to say before."""
    truth = folder / "truth.jsonl"
    successions: list[Succession] = []
    versions: list[str] = []
    async with contextlib.AsyncExitStack() as stack:
        exchange = await stack.enter_async_context(
            simulated(*load.options, "--wait", 2, "--truth", truth, tls=False)
        )
        config = write_config(folder, exchange.url, markets=load.markets, lines=2)
        active = await stack.enter_async_context(daemon(config))
        [began] = active.notes("daemon_started")
        consumer = Follower(folder / "feed.sock", began["session"])
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(consumer.run)
        while len(successions) < kills and "finished" not in exchange.child.output.lines:
            end, environ = turn(len(successions))
            command = ("run", "--standby", "--config", config)
            standby = await stack.enter_async_context(started(*command, **environ))
            await standby.errors.wait_for(READY, patience_s=PATIENCE_S)
            successions.append(Succession(connections(standby), time.time_ns()))
            await end(active, folder / "feed.sock")
            active = standby
            await active.errors.wait_for('"daemon_started"', patience_s=PATIENCE_S)
            versions += [one["version"] for one in active.notes("daemon_started")]
        await trio.sleep(2)
        assert await exchange.child.stop() == 0
        await _arrive(consumer, truth)
        nursery.cancel_scope.cancel()
    return judge(read_truth(truth), consumer, successions, versions)


def connections(standby: Child) -> dict[str, int]:
    """Return when a standby's line of each market was connected (ns)."""
    return {
        one["feed"]: int(datetime.fromisoformat(one["timestamp"]).timestamp() * NS)
        for one in standby.notes("line_connected")
    }


async def _arrive(consumer: Follower, truth: Path) -> None:
    """Wait until the consumer has everything, or clearly will not get it."""
    sent = sum(map(len, read_truth(truth).values()))
    with trio.move_on_after(10):
        while consumer.count < sent:
            await trio.sleep(0.1)


def judge(
    sent: dict[str, list[bytes]], consumer: Follower, successions: list[Succession], versions: list[str]
) -> Outcome:
    """Compare what was sent with what came."""
    hidden, wrong = 0, []
    for channel in sorted(sent.keys() | consumer.pieces.keys()):
        missing = missing_at_gaps(sent.get(channel, []), consumer.pieces[channel])
        if missing is None:
            wrong.append(f"{channel}: what came is not what was sent, gaps left out")
            continue
        late = Counter(consumer.late[channel])
        if late - Counter(missing):
            wrong.append(f"{channel}: what came late is not what gaps hid")
        hidden += (Counter(missing) - late).total()
    return Outcome(
        kills=len(successions),
        events=consumer.count,
        hidden=hidden,
        sessions=len(consumer.sessions),
        differences=wrong,
        marks=consumer.marks,
        unexplained=[mark for mark in consumer.marks if not is_needed(mark, consumer, successions)],
        silences_s=consumer.silences_s,
        versions=versions,
        byes=consumer.byes,
    )


def missing_at_gaps(sent: list[bytes], pieces: list[list[bytes]]) -> list[bytes] | None:
    """Return the messages that are missing between the pieces; None where these are not all the rest, in order.

    >>> missing_at_gaps([b"1", b"2", b"3", b"4"], [[b"1"], [b"3", b"4"]])
    [b'2']
    >>> missing_at_gaps([b"1", b"2", b"3", b"4"], [[b"1"], [b"4", b"3"]])
    >>> missing_at_gaps([b"1", b"2"], [[b"1"]])
    """
    first, *rest = pieces
    if sent[: len(first)] != first or (not rest and len(first) < len(sent)):
        return None
    at, missing = len(first), []
    for left, piece in zip(range(len(rest) - 1, -1, -1), rest, strict=True):
        end = len(sent) - len(piece)
        places = range(at, end + 1) if left else range(end, end + (end >= at))
        found = next((place for place in places if sent[place : place + len(piece)] == piece), None)
        if found is None:
            return None
        missing += sent[at:found]
        at = found + len(piece)
    return missing


def is_needed(mark: Record, consumer: Follower, successions: Iterable[Succession]) -> bool:
    """Tell whether a mark is the gap of a market that was silent from the heir's connection to the kill.

    A gap ends with what the heir's line has brought first, or where that was nothing, with its connection: that is
    before the kill. It begins with the last that was published, and so before the kill, too. Rows that were recovered
    stand behind such a gap, and are not the exchange's messages; so does what a line brings late of what it hid.
    """
    if isinstance(mark, Event) and mark.event_class in {BACKFILLED, LATE}:
        return len(consumer.pieces[mark.channel]) > 1
    if not isinstance(mark, Gap) or mark.reason not in {"outage", "unproven"}:
        return False
    market = market_of(mark.channel)
    around = int(AROUND_S * NS)
    return any(
        not any(begun + around < arrival < one.killed - around for arrival in consumer.arrivals[market])
        for one in successions
        if mark.since <= one.killed
        and (begun := one.connected.get(market, one.killed)) <= mark.until + around
    )


def report(name: str, outcome: Outcome) -> None:
    """Print what came of one load."""
    say = sys.stdout.write
    say(f"{name}: {outcome.kills} takeovers, {outcome.events:,} events, {outcome.sessions} session(s), ")
    say(f"{len(outcome.marks)} mark(s), {len(outcome.unexplained)} of them not needed, ")
    say(f"{outcome.hidden} event(s) hidden by the others\n")
    if outcome.silences_s:
        median, worst = statistics.median(outcome.silences_s), max(outcome.silences_s)
        say(f"  without output: p50 {median:.3f} s, worst {worst:.3f} s\n")
    for line in (*outcome.differences, *outcome.unexplained):
        say(f"  {line}\n")
    sys.stdout.flush()


def loads(kills: int, rate: int, only: str | None) -> list[tuple[str, int, Load]]:
    """Return what is to be played, each with its kills, and say what can't be."""
    folder = tapes_folder()
    names = [only] if only else [GENERATED, *TAPES]
    recordings = [name for name in names if name != GENERATED]
    if folder is None and recordings:
        where = (
            "$FEEDHANDLER_TAPES is not set to their folder, and ../shared/tapes is not beside the checkout"
        )
        sys.stdout.write(f"left out, the recorded tapes are not here ({where}): {', '.join(recordings)}\n")
    chosen = [(GENERATED, kills, generated(rate))] if GENERATED in names else []
    for name in recordings if folder is not None else ():
        most = AT_A_TIME.get(name, kills)
        for done in range(0, kills, most):
            count = min(most, kills - done)
            chosen.append((name, count, tape(folder / f"{name}.jsonl.gz", count)))
    return chosen


def main() -> int:
    """Run it and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="of each load")
    parser.add_argument("--rate", type=int, default=2000, help="generated events a second")
    parser.add_argument("--only", choices=(GENERATED, *TAPES), help="this load alone")
    args = parser.parse_args()
    chosen = loads(args.kills, args.rate, args.only)
    is_right = bool(chosen)
    for name, kills, load in chosen:
        with tempfile.TemporaryDirectory() as folder:
            outcome = trio.run(play, Path(folder), kills, load)
        report(name, outcome)
        is_right = is_right and outcome.is_right and outcome.kills == kills
    return int(not is_right)


if __name__ == "__main__":
    sys.exit(main())
