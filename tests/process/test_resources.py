"""What the daemon takes, it gives back."""

import os

import trio

from tests.support.processes import Recorder, daemon, simulated, until, write_config

RECONNECTS = 200
FIRST_S, EVERY_S = 2.0, 0.03
KINDS = ("close", "reset", "half_frame")


async def test_descriptors(tmp_path):
    """Hundreds of reconnects and of consumers later the daemon has as many descriptors open as before."""
    faults = tmp_path / "faults.toml"
    faults.write_text("".join(map(kill, range(RECONNECTS + RECONNECTS // 4))))
    options = ["--market", "BTC-USD", "--rate", 200, "--wait", 3, "--faults", faults]
    quick = ["--set", "bounds.backoff_max_s=0.05"]
    async with simulated(*options) as exchange:
        config = write_config(tmp_path, exchange.url, ca_file=exchange.ca_file)
        async with daemon(config, *quick) as child, trio.open_nursery() as nursery:
            path = tmp_path / "feed.sock"
            recorder = Recorder(path)
            nursery.start_soon(recorder.run)
            await recorder.wait_for(100)
            before = child.descriptors()
            assert exchange.faults == []
            for _ in range(RECONNECTS):
                async with await trio.open_unix_socket(os.fspath(path)):
                    pass
            await until(lambda: len(exchange.faults) >= RECONNECTS)
            await until(lambda: child.descriptors() == before)
            assert before > 6
            assert await child.stop() == 0


def kill(number: int) -> str:
    """Return one entry of the faults file."""
    at_s = FIRST_S + number * EVERY_S
    return f'[[fault]]\nat_s = {at_s}\nkind = "{KINDS[number % 3]}"\nmarket = "BTC-USD"\n'
