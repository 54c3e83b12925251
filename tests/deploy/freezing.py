"""The daemon with a fault built in: at SIGUSR1 its lines read no more, at SIGUSR2 its feeds are told no time any more.

    python freezing.py run --config FILE

The event loop turns on in either case, so that only who watches the data path notices.
"""

import signal
import sys

import trio

from feedhandler.cli import main
from feedhandler.ingest import ticker
from feedhandler.ingest.tcp import TcpStream

FOR_EVER_S = 1e6


async def _stand_still(*_: object) -> bytes:
    await trio.sleep_forever()
    raise AssertionError


def _stop_reading(*_: object) -> None:
    TcpStream.receive_some = _stand_still


def _stop_ticking(*_: object) -> None:
    ticker.TICK_S = FOR_EVER_S


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _stop_reading)
    signal.signal(signal.SIGUSR2, _stop_ticking)
    sys.exit(main(sys.argv[1:]))
