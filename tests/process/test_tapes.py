"""Recorded traffic all the way: an exchange in one process, the daemon in another, over TLS, on the real clock.

Why no kill hits the last aligned line of a feed. The exchange strikes a line only where another one of its market is
settled: it had been sent `SETTLE_EVENTS` events, and `SETTLE_S` ago the daemon had answered a ping behind them, and
one that was sent then on another settled line. Of so many events some are of one channel; an event with identity that
"is in the window and is not the newest of its channel there" aligns its line, and the tapes' events have an identity.
It is in the window because the other line brought it, too, and that one was aligned: all lines are connected before
the first event, and from then on this rule has kept a settled one. So where the daemon reads late its lines are
killed late; `SETTLE_S` is what it may take to anchor lines that it has read.

Lines that are not settled are killed whenever the lot falls on them: as witnesses, while they join, and once more.
"""

import gzip
from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import trio

from feedhandler.simulator import tapes as recorded
from tests.support.processes import (
    Child,
    Recorder,
    Simulated,
    daemon,
    differences,
    read_truth,
    simulated,
    write_config,
)

SETTLE_S = 1.0
SETTLE_EVENTS = 6
KILLS = 50
TAPE_PATIENCE_S = 90.0

RANDOM_KILLS = f"""
[random]
kinds = ["close", "reset", "half_frame"]
every_s = {{every_s}}
seed = {{seed}}
spare = 1
settle_s = {SETTLE_S}
settle_events = {SETTLE_EVENTS}
"""

REASONS = {"text": "json", "array": "object", "binary": "binary", "invalid_utf8": "utf8"}
"""What the exchange calls a kind of garbage, and what the daemon calls it: one kind for each of four lines."""

LINES = len(REASONS)
SHARE_TOLERANCE = 0.08

pytestmark = pytest.mark.tapes


class Played(NamedTuple):
    """What came of playing a tape."""

    exchange: Simulated
    daemon: Child
    recorder: Recorder
    truth: dict[str, list[bytes]]

    def check(self) -> None:
        """Compare what the consumer got with what the exchange sent, byte for byte, and look for marks."""
        assert self.daemon.notes("gap_published") == []
        assert self.recorder.marks() == []
        assert self.recorder.is_contiguous()
        assert differences(self.truth, self.recorder.messages()) == []


async def play(folder: Path, tape: Path, *, lines: int, speed: float, faults: str) -> Played:
    """Play a whole tape through a daemon to a consumer; the programs end as they should."""
    (folder / "faults.toml").write_text(faults)
    truth = folder / "truth.jsonl"
    options = ["--tape", tape, "--speed", speed, "--wait", lines, "--truth", truth]
    async with simulated(*options, "--faults", folder / "faults.toml") as exchange:
        markets, _ = recorded.survey(tape)
        config = write_config(folder, exchange.url, ca_file=exchange.ca_file, markets=markets, lines=lines)
        async with daemon(config) as child, trio.open_nursery() as nursery:
            recorder = Recorder(folder / "feed.sock")
            nursery.start_soon(recorder.run)
            await exchange.child.output.wait_for("finished", patience_s=TAPE_PATIENCE_S)
            sent = read_truth(truth)
            await recorder.wait_for(sum(map(len, sent.values())))
            assert await exchange.child.stop() == 0
            assert await child.stop() == 0
    return Played(exchange, child, recorder, sent)


@pytest.mark.parametrize(
    ("name", "events", "speed", "every_s"),
    [
        ("binance-spot-2024-08-08", 47_379, 65, 0.06),
        ("binance-usdm-2024-08-08", 48_510, 38, 0.06),
        ("dydx-2021-10-28", 4_713, 4, 0.03),
        ("lines-bequant-2021-07-03", 990, 4, 0.02),
        ("lines-hitbtc-2021-07-15", 517, 4, 0.02),
    ],
)
async def test_kills(tapes, tmp_path, name, events, speed, every_s):
    """Requirement 3: three lines, killed again and again, bring each event of a tape once, in order, byte for byte.

    How often lines can be killed while a tape plays depends on how soon the machine brings them back: a slow one
    plays it more than once.
    """
    killed: Counter[str] = Counter()
    lost = led = plays = 0
    while min(killed.total(), lost) < KILLS or not led:
        folder = tmp_path / str(plays)
        folder.mkdir()
        faults = RANDOM_KILLS.format(every_s=every_s, seed=7 + plays)
        played = await play(folder, tapes / f"{name}.jsonl.gz", lines=3, speed=speed, faults=faults)
        played.check()
        assert played.recorder.count == events
        assert played.exchange.faults
        killed.update(fault.split()[1] for fault in played.exchange.faults)
        lost += sum(one.get("repeated", 1) for one in played.daemon.notes("line_lost"))
        led += len(played.daemon.notes("failed_over"))
        plays += 1
    assert killed.keys() == {"close", "reset", "half_frame"}


async def test_wins(tapes, tmp_path):
    """Four lines at the recorded times of four connections win as often as those did, and nothing is lost.

    Which line is which connection is told by garbage, of another kind on each connection of a market.
    """
    tape = tapes / "lines-hitbtc-2021-07-15.jsonl.gz"
    markets, _ = recorded.survey(tape)
    faults = "".join(
        f'[[fault]]\nat_s = 0\nkind = "garbage"\nmarket = "{market}"\nline = {line}\nvariant = "{variant}"\n'
        for market in markets
        for line, variant in enumerate(REASONS)
    )
    played = await play(tmp_path, tape, lines=LINES, speed=1, faults=faults)
    played.check()
    connection = {
        (one["feed"], one["line"]): list(REASONS.values()).index(one["reason"])
        for one in played.daemon.notes("garbage_received")
    }
    assert len(connection) == LINES * len(markets)
    wins = Counter(
        connection[channel.partition("/")[0], kept.line]
        for channel, events in played.recorder.channels.items()
        for kept in events
    )
    expected = recorded_wins(tape)
    for line in range(LINES):
        assert abs(wins[line] / wins.total() - expected[line] / expected.total()) <= SHARE_TOLERANCE


def recorded_wins(tape: Path) -> Counter[int]:
    """Count for each connection of a tape how many deltas it brought before all others."""
    copies: defaultdict[tuple[str, int], dict[int, int]] = defaultdict(dict)
    with gzip.open(tape) as file:
        for entry in map(msgspec.json.Decoder(recorded.Entry).decode, file):
            if not entry.snapshot:
                assert entry.seq is not None
                copies[entry.market, entry.seq[1]][entry.line] = entry.t
    return Counter(min(times, key=times.__getitem__) - 1 for times in copies.values())
