"""One active daemon after another is killed under load, and what that costs a consumer: run by hand.

    .venv/bin/python tests/soak/killed_daemons.py [--kills 50] [--rate 2000]

A simulated exchange talks all the time. Each active daemon is killed with SIGKILL as soon as its standby is ready, the
standby becomes the active one, and another standby is started. At the end the consumer has to have exactly what the
exchange sent, in one session. Printed are the times that it was without output: from the last event of a dead daemon to
the first of its successor, connecting again included.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.standby.couple import Survivor
from tests.support.processes import Child, daemon, differences, read_truth, simulated, started, write_config

PATIENCE_S = 60.0
READY = '"standby_ready"'


class Outcome(NamedTuple):
    """What came of it: events, sessions, what is not as it was sent, marks, and the times without output (s)."""

    events: int
    sessions: int
    differences: list[str]
    marks: list[dict[str, object]]
    silences_s: list[float]


async def _standby(stack: contextlib.AsyncExitStack, config: Path) -> Child:
    return await stack.enter_async_context(started("run", "--standby", "--config", config))


async def play(folder: Path, kills: int, rate: int) -> Outcome:
    """Kill so many daemons at so many events a second."""
    truth = folder / "truth.jsonl"
    async with contextlib.AsyncExitStack() as stack:
        exchange = await stack.enter_async_context(
            simulated("--market", "BTC-USD", "--rate", rate, "--wait", 2, "--truth", truth, tls=False)
        )
        config = write_config(folder, exchange.url, lines=2)
        active = await stack.enter_async_context(daemon(config))
        survivor = Survivor(folder / "feed.sock")
        nursery = await stack.enter_async_context(trio.open_nursery())
        nursery.start_soon(survivor.run)
        for _ in range(kills):
            standby = await _standby(stack, config)
            await standby.errors.wait_for(READY, patience_s=PATIENCE_S)
            active.process.kill()
            active = standby
            await active.errors.wait_for('"took_over"', patience_s=PATIENCE_S)
        await trio.sleep(2)
        assert await exchange.child.stop() == 0
        await _arrive(survivor, truth)
        nursery.cancel_scope.cancel()
    sent = read_truth(truth)
    return Outcome(
        survivor.count,
        len(survivor.sessions),
        differences(sent, survivor.sequences),
        survivor.marks,
        survivor.silences_s,
    )


async def _arrive(survivor: Survivor, truth: Path) -> None:
    """Wait until the consumer has everything, or clearly will not get it."""
    sent = sum(map(len, read_truth(truth).values()))
    with trio.move_on_after(10):
        while survivor.count < sent:
            await trio.sleep(0.1)


def main() -> int:
    """Run it and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rate", type=int, default=2000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = trio.run(play, Path(folder), args.kills, args.rate)
    silences = sorted(outcome.silences_s)
    print(f"{outcome.events:,} events, {outcome.sessions} session(s), {len(outcome.marks)} mark(s)")  # noqa: T201
    print(f"without output: p50 {statistics.median(silences):.3f} s, worst {silences[-1]:.3f} s")  # noqa: T201
    for line in outcome.differences:
        print(line)  # noqa: T201
    return int(bool(outcome.differences or outcome.marks or outcome.sessions != 1))


if __name__ == "__main__":
    sys.exit(main())
