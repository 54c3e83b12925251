"""The examples of the package's documentation, run as they stand against a real publisher."""

import re
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent

import pytest
import trio

import feedhandler.client
from feedhandler.client.position import Position, load_position
from feedhandler.config import Bounds, Publish
from feedhandler.publish.server import Publisher
from tests.support.processes import PATIENCE_S

TRADES, BOOK = "BTC-USD/publicTrades", "BTC-USD/publicOrderBook"


def examples() -> dict[str, str]:
    """Return the programs of the docstring by the face that they use."""
    assert feedhandler.client.__doc__ is not None
    blocks = re.findall(r"(?:^(?:    .*)?\n)+", feedhandler.client.__doc__, re.MULTILINE)
    programs = [dedent(block).strip("\n") + "\n" for block in blocks if "import" in block]
    return {re.findall(r"feedhandler\.client\.(\w+)_client", program)[0]: program for program in programs}


@asynccontextmanager
async def publishing(folder: Path) -> AsyncIterator[Publisher]:
    """Serve two channels at `feed.sock`."""
    settings = Publish(socket=folder / "feed.sock")
    publisher = Publisher(settings, Bounds(), session="s", clock=lambda: 0, notify=lambda _: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(publisher.serve)
        yield publisher
        await publisher.drain(1)


def test_there_are_three_short_examples() -> None:
    """Ten lines, give or take, are enough for each face."""
    assert examples().keys() == {"thread", "asyncio", "trio"}
    for program in examples().values():
        assert len([line for line in program.splitlines() if line.strip()]) <= 14


@pytest.mark.parametrize(
    ("face", "expected"),
    [
        ("thread", [f"{TRADES} 1 b'{{\"x\":1.50}}'", 'incomplete: b\'{"type":"gap","channel":"' + TRADES]),
        ("asyncio", ["0 False () ()"]),
        ("trio", [f"{TRADES} 1 ordinary", f"{TRADES} 3 late", f"{BOOK} 1 ordinary"]),
    ],
)
async def test_an_example_does_what_it_says(tmp_path: Path, face: str, expected: list[str]) -> None:
    """The program prints what a publisher of trades and a book publishes."""
    program = [sys.executable, "-u", "-c", examples()[face]]
    async with publishing(tmp_path) as publisher:
        trades, book = (publisher.channel(name, feed="BTC-USD", account=False) for name in (TRADES, BOOK))
        async with trio.open_nursery() as nursery:
            process = await nursery.start(
                lambda task_status: trio.run_process(
                    program, cwd=tmp_path, stdout=subprocess.PIPE, check=False, task_status=task_status
                )
            )
            while not any(consumer.subscribed for consumer in publisher.consumers()):
                await trio.sleep(0.01)
            publisher.publish(trades, "a", 7, b'{"x":1.50}')
            publisher.gap(trades, "outage", 1, 2)
            publisher.publish(trades, "a", 7, b"{}", "late")
            publisher.publish(book, "a", 7, b"{}")
            publisher.flush()
            printed = ""
            with trio.fail_after(PATIENCE_S):
                while not all(line in printed for line in expected):
                    printed += (await process.stdout.receive_some()).decode()
            if face == "thread":
                while load_position(tmp_path / "position.json") != Position("s", {TRADES: 3}):
                    await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
