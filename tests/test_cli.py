"""The command line: exit codes, what goes to which stream, and one line for each mistake."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from feedhandler import __version__, cli, daemon
from feedhandler.config import load
from feedhandler.errors import ConfigError, SocketInUse

COMMANDS = ("demo", "run", "check", "tail", "simulate")
MINIMAL = """
[exchange]
websocket_url = "ws://127.0.0.1:9"
[[feed]]
markets = ["BTC-USD"]
[publish]
socket = "feed.sock"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Return a configuration file."""
    path = tmp_path / "feedhandler.toml"
    path.write_text(MINIMAL)
    return path


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """``--version`` prints name and version and is done."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"feedhandler {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS)])
def test_every_command_explains_itself(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Help names what there is; every command has a sentence of its own."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: feedhandler")
    assert all(command in said for command in COMMANDS) or arguments[0] in said


@pytest.mark.parametrize(
    "arguments",
    [[], ["fly"], ["run"], ["check", "--config"], ["demo", "--lines", "9"], ["tail", "--count", "x"]],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """What is no command or no value of its option is bad usage, told on standard error."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == cli.BAD_USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert "error:" in said.err


def test_every_mistake_of_a_configuration_is_one_line(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All mistakes are told at once, each with its path; nothing else is printed."""
    config.write_text(MINIMAL + 'colour = "red"\n[limits]\nconnections_per_minute = 0\n')
    assert cli.main(["check", "--config", str(config), "--set", "feed[0].lines=0"]) == cli.BAD_USAGE
    said = capsys.readouterr()
    assert said.out == ""
    lines = sorted(said.err.splitlines())
    assert [line.partition(":")[0] for line in lines] == ["feedhandler"] * 3
    paths = [line.split(": ")[1] for line in lines]
    assert paths == ["feed[0].lines", "limits.connections_per_minute", "publish.colour"]
    assert "feedhandler: feed[0].lines: expected 1..8, got 0" in lines


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_configuration_that_is_not_there_is_a_mistake(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path that leads nowhere is told in one line."""
    assert cli.main([command, "--config", str(tmp_path / "nowhere.toml")]) == cli.BAD_USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"feedhandler: {tmp_path / 'nowhere.toml'}")


def test_what_check_prints_is_a_configuration(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The effective configuration loads back as the same one; what it needs stands in comments."""
    assert cli.main(["check", "--config", str(config), "--set", "publish.drain_s=7"]) == cli.DONE
    said = capsys.readouterr()
    assert said.err == ""
    assert "# connections: 2 lines of 1 feed" in said.out
    printed = tmp_path / "printed.toml"
    printed.write_text(said.out)
    assert load(printed, environ={}) == load(config, ["publish.drain_s=7"], environ={})


def fake_run(monkeypatch: pytest.MonkeyPatch, outcome: BaseException | None) -> list[tuple[Any, ...]]:
    """Put something in the place of the daemon; return what it was called with."""
    called: list[tuple[Any, ...]] = []

    async def run(*args: Any, **more: Any) -> None:
        called.append((*args, more))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.checkpoint)
            if outcome is not None:
                raise outcome

    monkeypatch.setattr(daemon, "run", run)
    return called


def test_run_runs_the_daemon(
    config: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """It gets its configuration and a way to read it again; an end in peace is exit code 0."""
    called = fake_run(monkeypatch, None)
    assert cli.main(["run", "--config", str(config)]) == cli.DONE
    ((settings, _, _, more),) = called
    assert settings == load(config, environ={})
    config.write_text(MINIMAL.replace("BTC-USD", "ETH-USD"))
    assert more["reload"]().feeds[0].markets == ("ETH-USD",)
    exits: list[int] = []
    monkeypatch.setattr("os._exit", exits.append)
    assert more["exit_now"].func is not None
    assert more["exit_now"].args == (cli.FAILED,)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("outcome", "code", "lines"),
    [
        (
            SocketInUse("/x: another process serves this socket"),
            1,
            ["/x: another process serves this socket"],
        ),
        (ConfigError(["a: wrong", "b: wrong, too"]), 2, ["a: wrong", "b: wrong, too"]),
        (
            ExceptionGroup("", [SocketInUse("one"), ExceptionGroup("", [SocketInUse("two")])]),
            1,
            ["one", "two"],
        ),
        (KeyboardInterrupt(), 1, []),
    ],
)
def test_failures_are_lines_and_exit_codes(
    config: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    outcome: BaseException,
    code: int,
    lines: list[str],
) -> None:
    """However deep in nurseries a failure is, it is told in one line and without a trace."""
    fake_run(monkeypatch, outcome)
    assert cli.main(["run", "--config", str(config)]) == code
    assert capfd.readouterr().err.splitlines() == [f"feedhandler: {line}" for line in lines]


def test_a_bug_keeps_its_trace(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody raises on purpose is not dressed up."""
    fake_run(monkeypatch, ZeroDivisionError("a bug"))
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        cli.main(["run", "--config", str(config)])


def test_a_live_socket_is_left_alone(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Something that is no socket at the path is told, with exit code 1, and stays."""
    path = config.parent / "feed.sock"
    path.write_text("precious")
    assert cli.main(["run", "--config", str(config)]) == cli.FAILED
    (line,) = capfd.readouterr().err.splitlines()
    assert line == f"feedhandler: {path}: there is a file that is not a socket; it is left alone"
    assert path.read_text() == "precious"


SHOW = """
import sys
from feedhandler.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print("loaded:", *sys.modules)
"""
"""Runs a command, and says then which modules are loaded."""


@pytest.mark.parametrize(
    ("arguments", "needed", "strangers"),
    [
        (["--version"], {"argparse"}, {"msgspec", "trio", "ssl", "asyncio", "feedhandler.config"}),
        (["--help"], {"argparse"}, {"msgspec", "trio", "ssl", "asyncio", "feedhandler.config"}),
        (["check", "--config", "feedhandler.toml"], {"msgspec"}, {"trio", "ssl", "asyncio", "structlog"}),
        (["tail", "--help"], {"trio"}, {"rich", "structlog", "httpx2", "feedhandler.core"}),
        (
            ["status", "--help"],
            {"rich"},
            {"structlog", "trustme", "trio_websocket", "feedhandler.daemon", "feedhandler.ingest.line"},
        ),
        (["ctl", "--help"], {"feedhandler.control.client"}, {"rich", "structlog", "feedhandler.daemon"}),
        (
            ["run", "--config", "feedhandler.toml", "--set", "publish.socket=feedhandler.toml"],
            {"feedhandler.daemon"},
            {"trustme", "nats", "feedhandler.simulator", "feedhandler.demo", "feedhandler.client"},
        ),
    ],
)
def test_a_command_loads_what_it_needs(
    config: Path, arguments: list[str], needed: set[str], strangers: set[str]
) -> None:
    """Who asks for the version loads nothing but the command line, and no command waits for what another one needs."""
    said = subprocess.run(
        [sys.executable, "-c", SHOW, *arguments],
        cwd=config.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(said.stdout.rpartition("loaded:")[2].split())
    assert needed <= loaded
    assert not strangers & loaded


def test_the_package_is_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``python -m feedhandler`` is the same command, its exit code included."""
    monkeypatch.setattr(sys, "argv", ["feedhandler", "check", "--config", "/nowhere"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("feedhandler", run_name="__main__")
    assert ended.value.code == cli.BAD_USAGE
    assert capsys.readouterr().err.startswith("feedhandler: /nowhere")
