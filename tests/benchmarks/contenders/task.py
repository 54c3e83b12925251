"""The task that all contenders are given, and how they are called.

    python -m tests.benchmarks.contenders.NAME --url URL --market M... --lines N --socket PATH [--ca FILE]

Open N identical WebSocket connections to each market; of what they bring, let each event through once; keep the book;
number the events of each channel and write them, as JSON lines, to whoever connects to the Unix socket:

    {"type":"event","channel":"BTC-USD/publicTrades","seq":121,"line":"a","recv":1772576154169000000,"msg":{…}}

That is what the daemon does with its lines, less all that makes its stream exact: duplicates are found by a set of
hashes of the recent contents, so real repeats are lost; nothing is proven, nothing repaired, nobody is too slow.
"""

import argparse
import ssl
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

REMEMBERED = 131_072
"""Hashes that a contender remembers for each market.

The daemon's window holds half as many events. But some readers empty one line before they look at the next, and what
the system buffers of the others meanwhile may be 100,000 events; with fewer hashes duplicates came out.
"""

STREAMS = "publicTrades,publicOrderBook"
LINE_NAMES = "abcdefgh"


class Task(NamedTuple):
    """What to do."""

    url: str
    markets: list[str]
    lines: int
    socket: str
    ca_file: Path | None

    def line_url(self, market: str) -> str:
        """Return where the lines of a market connect."""
        return f"{self.url}/?market={quote(market)}&subscriptions={STREAMS}"

    def tls(self) -> ssl.SSLContext | None:
        """Return what the lines verify the exchange with."""
        return ssl.create_default_context(cafile=self.ca_file) if self.url.startswith("wss") else None


def read_task() -> Task:
    """Read the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--market", action="append", required=True)
    parser.add_argument("--lines", type=int, required=True)
    parser.add_argument("--socket", required=True)
    parser.add_argument("--ca", type=Path)
    args = parser.parse_args()
    return Task(args.url, args.market, args.lines, args.socket, args.ca)
