"""The commands as users start them: exit codes, what they print, how they end."""

import os
import re
import signal
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio

from tests.support.processes import (
    PATIENCE_S,
    Child,
    Recorder,
    Socket,
    daemon,
    finished,
    simulated,
    started,
    write_config,
)

NOWHERE = "ws://127.0.0.1:9"
"""An exchange that is not there: nobody listens on the discard port."""

STUCK_EVENTS = 5000
"""More than a socket takes: at 250 bytes at least, and more for the record around."""

VERIFIED = re.compile(r"verified: ([\d,]+) events, 0 lost, 0 duplicated, 0 reordered")


async def test_demo():
    """With faults or without, the demo says that the consumer got exactly what the exchange sent, and ends with 0."""
    async with (
        started("demo", "--seconds", 6, "--no-faults") as calm,
        started("demo", "--seconds", 10) as broken,
    ):
        for child, least in ((calm, 1000), (broken, 2000)):
            assert await child.wait() == 0, f"{child.output}{child.errors}"
            verdict = VERIFIED.search(child.output.lines[-1])
            assert verdict, str(child.output)
            assert int(verdict[1].replace(",", "")) >= least
            assert child.errors.lines == []
    assert "redundancy: 0 faults, " in str(calm.output)
    assert "redundancy: 0 faults, " not in str(broken.output)


async def test_a_demo_whose_terminal_goes_leaves_nothing_behind():
    """The exchange is a process of its own; it ends with the demo, which verifies all the same."""
    async with started("demo") as child:
        await child.output.wait_for("6 of 6 lines up")
        (exchange,) = _children(child.pid)
        child.process.send_signal(signal.SIGHUP)
        assert await child.wait() == 0, f"{child.output}{child.errors}"
        assert VERIFIED.search(child.output.lines[-1])
        assert not Path(f"/proc/{exchange}").exists()


def _children(pid: int) -> list[str]:
    """Return the process ids of a process's children, whichever of its threads has started them."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [one for thread in threads for one in (thread / "children").read_text().split()]


async def test_version():
    """The module is the command."""
    child = await finished("--version")
    assert child.process.returncode == 0
    assert child.output.lines == ["feedhandler 0.1.0"]


@pytest.mark.parametrize("arguments", [[], ["walk"], ["run"], ["tail", "--socket", "s", "--count", "0"]])
async def test_bad_usage(arguments):
    """A command line that says nothing useful ends with exit code 2 and a word about it."""
    child = await finished(*arguments)
    assert child.process.returncode == 2
    assert child.output.lines == []
    assert child.errors.lines[-1].startswith("feedhandler")


async def test_check(tmp_path):
    """A configuration is shown as TOML that is complete, with what it asks of the exchange beside it."""
    config = write_config(tmp_path, NOWHERE)
    child = await finished("check", "--config", config, "--set", "publish.drain_s=7")
    shown = tomllib.loads(str(child.output))
    assert child.process.returncode == 0
    assert shown["publish"]["drain_s"] == 7
    assert "# connections: 3 lines of 1 feed" in child.output.lines


@pytest.mark.parametrize("command", ["check", "run"])
async def test_mistakes(tmp_path, command):
    """Each mistake of a configuration gets one line with its path, and the exit code is 2."""
    config = write_config(tmp_path, NOWHERE, lines=0)
    mistakes = ["--set", "limits.total=3", "--set", "publish.mode=rw"]
    child = await finished(command, "--config", config, *mistakes)
    assert child.process.returncode == 2
    assert child.output.lines == []
    assert len(child.errors.lines) == 3
    assert all(line.startswith("feedhandler: ") for line in child.errors.lines)
    for path in ("feed[0].lines: expected 1..8, got 0", "limits.total: ", "publish.mode: "):
        assert path in str(child.errors)


async def test_tail(tmp_path):
    """The stream comes out one record a line, ends after the count, and goes on from the resume file."""
    path, resume = tmp_path / "feed.sock", tmp_path / "position"
    options = ["--socket", path, "--channel", "BTC-USD/publicOrderBook", "--resume", resume, "--count", 20]
    async with simulated("--market", "BTC-USD", "--rate", 200, tls=False) as exchange:
        config = write_config(tmp_path, exchange.url)
        async with daemon(config):
            runs = [await finished("tail", *options) for _ in range(2)]
    records = [msgspec.json.decode(line) for run in runs for line in run.output.lines]
    seqs = [record["seq"] for record in records if record["type"] in {"event", "snapshot"}]
    assert [run.process.returncode for run in runs] == [0, 0]
    assert seqs == list(range(seqs[0], seqs[0] + 40))
    assert [record["type"] for record in records].count("hello") == 2


async def test_simulate_says_who_breaks_a_rule():
    """A client that breaks a documented rule of the exchange gets a line on standard output, without its secret."""
    request = b"GET /elsewhere HTTP/1.1\r\nHost: x\r\nX-Api-Secret: hidden\r\n\r\n"
    async with simulated("--rate", 0, "--wait", 1, tls=False) as exchange:
        port = int(exchange.url.rsplit(":", 1)[1])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(request)
            breach = await exchange.child.output.wait_for("breach ")
    assert breach == "breach key and secret were sent to an address that is not the token endpoint"
    assert "hidden" not in f"{exchange.child.output}{exchange.child.errors}"


async def test_run_ends_on_sigterm(tmp_path):
    """SIGTERM ends the daemon with 0 as soon as its consumers have what is pending, and its socket is gone."""
    async with simulated("--market", "BTC-USD", "--rate", 2000, "--wait", 3, tls=False) as exchange:
        config = write_config(tmp_path, exchange.url)
        async with (
            daemon(config, "--set", f"publish.drain_s={2 * PATIENCE_S:g}") as child,
            trio.open_nursery() as nursery,
        ):
            recorder = Recorder(tmp_path / "feed.sock")
            nursery.start_soon(recorder.run)
            await recorder.wait_for(1000)
            assert await child.stop() == 0
    assert recorder.others[-1].type == "bye"
    assert recorder.others[-1].reason == "shutdown"
    assert recorder.marks() == []
    assert recorder.is_contiguous()
    assert not (tmp_path / "feed.sock").exists()
    assert all(line.startswith("{") for line in child.errors.lines)


@asynccontextmanager
async def stuck(folder: Path, *, drain_s: int) -> AsyncIterator[Child]:
    """Run a daemon that has more for a consumer than that one's socket takes, and a consumer that does not read."""
    async with simulated("--market", "BTC-USD", "--rate", 5000, tls=False) as exchange:
        config = write_config(folder, exchange.url)
        async with (
            daemon(config, "--set", f"publish.drain_s={drain_s}") as child,
            trio.open_nursery() as nursery,
        ):
            path = folder / "feed.sock"
            async with await trio.open_unix_socket(os.fspath(path)) as stream:
                await stream.send_all(b'{"op":"subscribe","channels":["*"]}\n')
                recorder = Recorder(path)
                nursery.start_soon(recorder.run)
                await recorder.wait_for(STUCK_EVENTS)
                yield child
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_run_does_not_wait_for_a_consumer(tmp_path, number):
    """A consumer that never reads delays the end by ``drain_s`` and no more; the exit code stays 0."""
    async with stuck(tmp_path, drain_s=1) as child:
        asked = trio.current_time()
        child.process.send_signal(number)
        assert await child.wait() == 0
        assert trio.current_time() - asked >= 0.9


async def test_second_signal(tmp_path):
    """A second SIGTERM ends a draining daemon at once, with 1."""
    async with stuck(tmp_path, drain_s=600) as child:
        child.process.send_signal(signal.SIGTERM)
        await child.errors.wait_for('"daemon_draining"')
        assert await child.stop() == 1


async def test_socket_left_behind(tmp_path):
    """What a killed daemon has left behind is in nobody's way."""
    config = write_config(tmp_path, NOWHERE)
    async with daemon(config) as killed:
        killed.process.kill()
        await killed.wait()
    assert (tmp_path / "feed.sock").is_socket()
    async with daemon(config) as child:
        assert await child.stop() == 0


async def test_socket_in_use(tmp_path):
    """A second daemon at one socket says so in one line, ends with 1, and does the first no harm."""
    config = write_config(tmp_path, NOWHERE)
    async with daemon(config) as first:
        second = await finished("run", "--config", config)
        assert second.process.returncode == 1
        [line] = second.errors.lines
        assert line.startswith(f"feedhandler: {tmp_path}/feed.sock: another feedhandler serves this socket")
        async with await trio.open_unix_socket(os.fspath(tmp_path / "feed.sock")) as stream:
            with trio.fail_after(PATIENCE_S):
                [hello] = await Socket(stream).receive()
                assert hello.type == "hello"
        assert await first.stop() == 0
