"""One upgrade of a pair of daemons after another under load: run by hand.

    .venv/bin/python tests/soak/upgraded_pair.py [--upgrades 12] [--rate 4000] [--markets 5]

A simulated exchange talks all the time: trades and books of several markets. Two daemons of two builds that differ in
version take turns at one socket: a standby of the other build is started, and `LASTING_S` after it is ready the active
one is told to end, by `ctl handover` or by SIGTERM, so that both ways are gone from the one build to the other and
back. A `ctl handover` that is refused, since the standby is just catching up, is said again a second later, as an
operator would.

A consumer with the client library, which asks for everything from the first record on and raises where a number is not
the next one, has to end with exactly what the exchange sent, byte for byte and in order, in one session, without a gap
record or any other mark. Printed are the times that it was without output, as in `killed_daemons`.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

import feedhandler
from tests.soak.killed_daemons import MARKETS, Outcome, Turn, generated, play, report
from tests.support.processes import Child, another_build, finished

NEXT_VERSION = "99.1.0"
LASTING_S = 2.0
AGAIN_S = 1.0
AGAIN_MOST = 60


async def hand_over(active: Child, socket: Path) -> None:
    """Tell the active daemon to hand over until it does, and see it end."""
    await trio.sleep(LASTING_S)
    for _ in range(AGAIN_MOST):
        answer = await finished("ctl", "--socket", socket, "handover")
        if answer.process.returncode == 0:
            break
        assert "not ready yet" in answer.errors.lines[-1], answer.errors
        await trio.sleep(AGAIN_S)
    assert await active.wait() == 0, active.errors


async def stop(active: Child, _: Path) -> None:
    """End the active daemon as its supervisor does."""
    await trio.sleep(LASTING_S)
    assert await active.stop() == 0, active.errors


WAYS = (hand_over, hand_over, stop, stop)
"""There and back by the one, there and back by the other."""


def upgrades(folder: Path) -> Callable[[int], Turn]:
    """Return what each turn is: to the other build and back, one way after the other."""
    other = another_build(folder, "__init__.py", feedhandler.__version__, NEXT_VERSION)

    def turn(number: int) -> Turn:
        return Turn(WAYS[number % len(WAYS)], {} if number % 2 else other)

    return turn


def expected_versions(count: int) -> list[str]:
    """Return the versions of so many successors."""
    return [feedhandler.__version__ if number % 2 else NEXT_VERSION for number in range(count)]


def is_right(outcome: Outcome, count: int) -> bool:
    """Tell whether all upgrades were made, and the consumer has the exact stream without any mark."""
    versions = expected_versions(count)
    return outcome.is_right and not outcome.marks and outcome.versions == versions


def main() -> int:
    """Run it and say what came of it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--upgrades", type=int, default=12)
    parser.add_argument(
        "--rate", type=int, default=4000, help="generated events a second, all markets together"
    )
    parser.add_argument("--markets", type=int, default=5, choices=range(1, len(MARKETS) + 1))
    args = parser.parse_args()
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        load = generated(args.rate, args.markets)
        outcome = trio.run(play, place, args.upgrades, load, upgrades(place))
    report(f"{args.markets} markets, upgrades", outcome)
    rate = outcome.events / (time.monotonic() - began_s)
    sys.stdout.write(f"  about {rate:,.0f} events/s; goodbyes: {dict(Counter(outcome.byes))}\n")
    return int(not is_right(outcome, args.upgrades))


if __name__ == "__main__":
    sys.exit(main())
