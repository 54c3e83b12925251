"""The command line: options, and the program as a process of its own."""

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from feedhandler.errors import ConfigError
from feedhandler.simulator import command
from feedhandler.simulator.settings import Settings
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
        parse("--rate", "-1", "--account-rate", "-1", "--wait", "-2", "--market", "ALL")
    assert [mistake.split(":")[0] for mistake in caught.value.mistakes] == [
        "--rate",
        "--account-rate",
        "--wait",
        "--market",
    ]


def test_a_wrong_file_ends_with_code_2(capsys, tmp_path):
    """A faults file or tape that is not there is bad usage: one line, code 2."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    for option in ("--faults", "--tape"):
        assert command.run(parser.parse_args([option, str(tmp_path / "none")])) == 2
        assert capsys.readouterr().err.count("\n") == 1


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
