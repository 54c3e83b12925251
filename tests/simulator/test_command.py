"""The command line: options, and the program as a process of its own."""

import argparse
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio

from feedhandler import cli
from feedhandler.errors import ConfigError
from feedhandler.simulator import command
from feedhandler.simulator.settings import KINDS, Behaviour, Fault, RandomFaults, Settings, explained
from tests.support.processes import PATIENCE_S

PROGRAM = """
import argparse, sys
from feedhandler.simulator import command
parser = argparse.ArgumentParser()
command.add_arguments(parser)
sys.exit(command.run(parser.parse_args()))
"""


def parse(*words):
    """Return the settings that these words mean."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.settings_from(parser.parse_args(words))


def test_the_defaults():
    """Without options two markets are generated at a gentle rate; a tape replaces them."""
    assert parse() == Settings(rate=command.DEFAULT_RATE)
    assert parse("--tape", "x") == Settings(tapes=(Path("x"),))
    assert parse("--tape", "x", "--market", "A-B", "--rate", "5").markets == ("A-B",)
    assert parse("--account-rate", "5").account_rate == 5
    assert parse("--token-life", "60").plan.behaviour.token_life_s == 60


def test_every_mistake_has_its_line():
    """Wrong options are all named."""
    with pytest.raises(ConfigError) as caught:
        parse("--rate", "-1", "--account-rate", "-1", "--wait", "-2", "--port", "65536", "--market", "ALL")
    assert [mistake.split(":")[0] for mistake in caught.value.mistakes] == [
        "--rate",
        "--account-rate",
        "--wait",
        "--port",
        "--market",
    ]


def test_a_wrong_file_ends_with_code_2(capsys, tmp_path):
    """A faults file or tape that is not there is bad usage: one line, code 2."""
    for option in ("--faults", "--tape"):
        assert cli.main(["simulate", option, str(tmp_path / "none")]) == cli.BAD_USAGE
        said = capsys.readouterr().err
        assert said.startswith("feedhandler: /")
        assert said.count("\n") == 1


def test_what_cannot_be_had_ends_with_code_1(capsys, tmp_path):
    """An address that is taken, or a file that cannot be written, is one line with its name, code 1."""
    nowhere = tmp_path / "none" / "truth"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["simulate", "--port", str(port)]) == cli.FAILED
        assert cli.main(["simulate", "--truth", str(nowhere)]) == cli.FAILED
    assert capsys.readouterr().err.splitlines() == [
        f"feedhandler: 127.0.0.1:{port}: {os.strerror(errno.EADDRINUSE)}",
        f"feedhandler: {nowhere}: {os.strerror(errno.ENOENT)}",
    ]


def test_help_tells_every_key_of_a_faults_file():
    """Whoever writes one finds each key with its default, and each word that it may hold."""
    said = " ".join(explained().split())
    for table in (Behaviour, Fault, RandomFaults):
        assert all(key.name in said for key in msgspec.structs.fields(table))
    for known in (
        "snapshot_lag_s = 0.0",
        'order_market = "all" | "never" | "always"',
        "rows_per_match = 1 | 2",
    ):
        assert known in said
    assert all(f'"{kind}"' in said for kind in KINDS)


async def test_the_program_ends_cleanly_and_leaves_a_whole_truth(tmp_path):
    """Told to stop in full flow, the program exits with 0 and every line of the truth is complete."""
    truth = tmp_path / "truth.jsonl"
    words = [sys.executable, "-c", PROGRAM, "--tls", "--rate", "0", "--truth", str(truth)]
    process = await trio.lowlevel.open_process(words, stdout=subprocess.PIPE)
    try:
        said = b""
        with trio.fail_after(PATIENCE_S):
            while b"playing\n" not in said:
                said += await process.stdout.receive_some()
            while not truth.exists() or truth.stat().st_size < 1_000_000:
                await trio.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
    finally:
        process.kill()
        await process.stdout.aclose()
    lines = said.decode().splitlines()
    assert lines[0].startswith("listening on wss://127.0.0.1:")
    assert lines[1].startswith("ca file ")
    assert all(json.loads(line)["msg"]["data"]["orders"] for line in truth.read_text().splitlines())
