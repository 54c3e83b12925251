"""What operators use against a real daemon: `status`, `top` in a terminal, and the page in a real browser."""

import fcntl
import json
import os
import pty
import random
import shutil
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from feedhandler.config import Bounds, Feed, Observe
from feedhandler.simulator.settings import Behaviour
from tests.support.processes import MODULE, PATIENCE_S, Child, daemon, finished, simulated, write_config
from tests.support.stage import staged

OUTAGE_S = 3600.0
"""Until the browser has seen it, however long that takes."""
CHROMIUM_PATIENCE_S = 120.0
HOSTILE = "<img src=x onerror=alert(1)>"
CONSUMER = '"><script>alert(2)</script>'
CHROMIUM = (
    *(
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    ),
    *("--no-first-run", "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom"),
)


@asynccontextmanager
async def serving(folder: Path, address: str) -> AsyncIterator[tuple[Child, str]]:
    """Run a daemon that serves its state, with its market up; give it and its URL."""
    async with simulated("--market", "BTC-USD", "--rate", 200, tls=False) as exchange:
        config = write_config(folder, exchange.url)
        async with daemon(config, "--set", f"observe.http={address}") as child:
            await child.errors.wait_for('"book_synchronised"')
            yield child, f"http://{address}"


@pytest.fixture
def address() -> str:
    """Give an address and port that nobody uses: one of the host's own sixteen million, by lot."""
    lots = random.SystemRandom()
    return f"127.{lots.randrange(1, 255)}.{lots.randrange(256)}.{lots.randrange(1, 255)}:9464"


async def test_status(tmp_path: Path, address: str) -> None:
    """One look is a table or a JSON object; the exit code is 1 as soon as one of several daemons does not answer."""
    async with serving(tmp_path, address) as (_, url):
        table = await finished("status", "--url", url)
        state = await finished("status", "--url", url, "--json")
        partly = await finished("status", "--url", url, "--url", "http://127.0.0.1:9")
    assert (table.process.returncode, state.process.returncode, partly.process.returncode) == (0, 0, 1)
    assert "BTC-USD/publicTrades" in str(table.output)
    [line] = state.output.lines
    assert [feed["name"] for feed in json.loads(line)["feeds"]] == ["BTC-USD"]
    assert table.errors.lines == state.errors.lines == []
    assert "BTC-USD/publicTrades" in str(partly.output)
    assert partly.errors.lines == [
        "feedhandler: http://127.0.0.1:9: no daemon answers (no connection to the endpoint)"
    ]


async def test_status_of_nobody() -> None:
    """Where no daemon answers there is one line on standard error and nothing else; a wrong URL is bad usage."""
    nobody = await finished("status", "--url", "http://127.0.0.1:9")
    wrong = await finished("status", "--url", "127.0.0.1:9")
    blind = await finished("top", "--url", "http://127.0.0.1:9")
    assert (nobody.process.returncode, wrong.process.returncode, blind.process.returncode) == (1, 2, 2)
    assert nobody.output.lines == wrong.output.lines == blind.output.lines == []
    assert len(nobody.errors.lines) == len(wrong.errors.lines) == len(blind.errors.lines) == 1


async def test_an_address_in_use(tmp_path: Path, address: str) -> None:
    """A daemon whose address is taken says so in one line and ends with 1; the first is not disturbed."""
    async with serving(tmp_path, address) as (first, url):
        folder = tmp_path / "second"
        folder.mkdir()
        config = write_config(folder, "ws://127.0.0.1:9")
        second = await finished("run", "--config", config, "--set", f"observe.http={address}")
        assert second.process.returncode == 1
        [line] = [line for line in second.errors.lines if line.startswith("feedhandler: ")]
        assert line.startswith(f"feedhandler: observe.http: {address}: ")
        assert (await finished("status", "--url", url)).process.returncode == 0
        assert await first.stop() == 0


@pytest.mark.parametrize("key", [b"q", b"\x03"], ids=["q", "Ctrl-C"])
async def test_top(tmp_path: Path, address: str, key: bytes) -> None:
    """In a terminal of 80x24 the state is shown live until q or Ctrl-C, and the terminal is left as it was."""
    async with serving(tmp_path, address) as (_, url):
        screen, code = await terminal(["top", "--url", url], key)
    assert code == 0
    assert "READY" in screen
    assert "BTC-USD" in screen
    assert screen.count("\x1b[?1049h") == screen.count("\x1b[?1049l") == 1
    assert screen.count("READY") >= 2


async def terminal(arguments: list[str], key: bytes) -> tuple[str, int]:
    """Run a command in a terminal of 80x24, press a key once it has shown something twice; return what it wrote."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    before = termios.tcgetattr(slave)
    process = await trio.lowlevel.open_process(
        [sys.executable, "-c", CONTROLLING, *MODULE[1:], *arguments], stdin=slave, stdout=slave, stderr=slave
    )
    written = b""
    pressed = False
    with trio.fail_after(PATIENCE_S):
        while process.poll() is None:
            with trio.move_on_after(0.2):
                await trio.lowlevel.wait_readable(master)
                written += os.read(master, 65536)
            if not pressed and written.count(b"READY") >= 2:
                os.write(master, key)
                pressed = True
    assert termios.tcgetattr(slave) == before
    os.close(slave)
    os.close(master)
    assert process.returncode is not None
    return written.decode(errors="replace"), process.returncode


CONTROLLING = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""Makes its input its controlling terminal, so that Ctrl-C becomes a signal, and becomes another program."""


# The page in a browser


async def test_the_page_in_a_browser(tmp_path: Path) -> None:
    """Values move, a killed line and a dead market turn red and back, hostile names are text, nothing complains."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    play = staged(
        tmp_path,
        feeds=(Feed(markets=(HOSTILE,), lines=2),),
        markets=(HOSTILE,),
        observe=Observe(http="127.0.0.1:0"),
        bounds=Bounds(backoff_min_s=0.05, backoff_max_s=0.2),
    )
    async with play as stage, trio.open_nursery() as nursery:
        server = stage.daemon.observation.server
        assert server is not None
        look = partial(dom, chromium, tmp_path / "profile", server.addresses[0][1])
        nursery.start_soon(consume, stage.reading.path)
        nursery.start_soon(stage.talk, 300.0)
        calm = await look()
        again = await look()
        behaviour, stage.exchange.behaviour = stage.exchange.behaviour, Behaviour(handshake_status=503)
        stage.strike("reset", 0, market=HOSTILE)
        await stage.until(lambda: not stage.all_up())
        killed = await look()
        stage.exchange.behaviour = behaviour
        await stage.until(stage.all_up)
        stage.strike("outage", "all", market=HOSTILE, duration_s=OUTAGE_S)
        await stage.until(
            lambda: any(word == "down" for word in stage.reading.states(f"{HOSTILE}/publicTrades"))
        )
        red = await look()
        stage.exchange.gate.relent()
        await stage.until(stage.all_up)
        await stage.until(stage.all_synchronised)
        green = await look()
        nursery.cancel_scope.cancel()
    for page in (calm, again, killed, red, green):
        assert "<img" not in page
        assert page.count("<script") == 1
        assert "&lt;img src=x onerror=alert(1)&gt;/publicTrades" in page
        assert "&gt;&lt;script&gt;alert(2)&lt;/script&gt;" in page
    bodies = [page.partition("</style>")[2].partition("<script>")[0] for page in (calm, killed, red, green)]
    assert ["bad-row" in body for body in bodies] == [False, True, True, False]
    assert ["ready: every feed" in body for body in bodies] == [True, True, False, True]
    assert bodies[1].count("bad-row") == 1
    assert f"{HOSTILE}: no line is aligned".replace("<", "&lt;").replace(">", "&gt;") in bodies[2]
    assert calm.partition('id="channels"')[2] != again.partition('id="channels"')[2]


async def dom(chromium: str, profile: Path, port: int) -> str:
    """Return the page as a browser has it after a few seconds; it must have had nothing to complain about.

    Other hosts do not exist for it, so that asking one would be a complaint.
    """
    with trio.fail_after(CHROMIUM_PATIENCE_S):
        done = await trio.run_process(
            [chromium, *CHROMIUM, f"--user-data-dir={profile}", f"http://127.0.0.1:{port}/"],
            capture_stdout=True,
            capture_stderr=True,
        )
    complaints = [line for line in done.stderr.decode(errors="replace").splitlines() if "CONSOLE" in line]
    assert complaints == []
    return done.stdout.decode()


async def consume(path: Path) -> None:
    """Read the stream under a hostile name."""
    request = {"op": "subscribe", "channels": ["*"], "name": CONSUMER}
    async with await trio.open_unix_socket(str(path)) as stream:
        await stream.send_all(json.dumps(request).encode() + b"\n")
        async for _ in stream:
            pass
