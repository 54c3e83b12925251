"""What the daemon takes, it gives back."""

import os
from functools import partial
from pathlib import Path

import trio

from feedhandler.simulator.exchange import Exchange
from feedhandler.simulator.server import serve
from feedhandler.simulator.settings import Fault, Kind, Settings
from tests.support.processes import Recorder, daemon, until, write_config

RECONNECTS = 200
LINES = 3
MARKET = "BTC-USD"
KINDS: tuple[Kind, ...] = ("close", "reset", "half_frame")


async def test_descriptors(tmp_path: Path) -> None:
    """Hundreds of reconnects and of consumers later the daemon has as many descriptors open as before."""
    ended: list[str] = []
    settings = Settings(tls=True, ca_file=tmp_path / "ca.pem", markets=(MARKET,), rate=200.0, wait=LINES)
    exchange_run = partial(serve, settings, on_fault=lambda kind, *_: ended.append(kind))
    async with trio.open_nursery() as nursery:
        exchange: Exchange = await nursery.start(exchange_run)
        config = write_config(
            tmp_path, exchange.url, ca_file=os.fspath(tmp_path / "ca.pem"), markets=(MARKET,), lines=LINES
        )
        async with daemon(config, "--set", "bounds.backoff_max_s=0.05") as child:
            path = tmp_path / "feed.sock"
            recorder = Recorder(path)
            nursery.start_soon(recorder.run)
            await recorder.wait_for(100)
            before = child.descriptors()
            for number in range(RECONNECTS):
                async with await trio.open_unix_socket(os.fspath(path)):
                    pass
                await until(lambda: bool(exchange.connections(MARKET)), poll_s=0.005)
                exchange.inject(Fault(kind=KINDS[number % len(KINDS)], market=MARKET))
            assert len(ended) == RECONNECTS
            await until(lambda: len(exchange.connections(MARKET)) == LINES)
            await until(lambda: child.descriptors() == before)
            assert before > 6
            assert await child.stop() == 0
        nursery.cancel_scope.cancel()
