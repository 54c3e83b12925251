"""The faults file: what it says, and every mistake in it at once."""

import pytest

from feedhandler.errors import ConfigError
from feedhandler.simulator.settings import Fault, RandomFaults, load_faults

GOOD = """
[behaviour]
echo_subprotocol = false
token_life_s = 60

[[fault]]
at_event = 500
kind = "reset"
market = "BTC-USD"
line = 0

[[fault]]
at_s = 2.5
kind = "mute"
duration_s = 3

[random]
kinds = ["drop"]
every_s = 1.5
"""

BAD = """
[behaviour]
echo = false
snapshot_lag_s = -1

[[fault]]
kind = "explode"
at_s = 1
at_event = 2

[[fault]]
at_s = "soon"
line = "best"

[random]
kinds = []

[extra]
"""


def test_a_good_file(tmp_path):
    """Every table of the file arrives in the plan."""
    path = tmp_path / "faults.toml"
    path.write_text(GOOD)
    plan = load_faults(path)
    assert plan.behaviour.echo_subprotocol is False
    assert plan.behaviour.token_life_s == 60
    assert plan.faults == (
        Fault(kind="reset", at_event=500, market="BTC-USD", line=0),
        Fault(kind="mute", at_s=2.5, duration_s=3),
    )
    assert plan.random == RandomFaults(kinds=("drop",), every_s=1.5)


def test_every_mistake_has_its_line_and_path(tmp_path):
    """One reading names all mistakes, each with its path."""
    path = tmp_path / "faults.toml"
    path.write_text(BAD)
    with pytest.raises(ConfigError) as caught:
        load_faults(path)
    places = [mistake.removeprefix(f"{path}: ").split(":")[0] for mistake in caught.value.mistakes]
    assert places == [
        "behaviour.echo",
        "behaviour.snapshot_lag_s",
        "random.kinds",
        "fault[0].kind",
        "fault[0]",
        "fault[1].at_s",
        "fault[1].line",
        "fault[1].kind",
        "extra",
    ]


@pytest.mark.parametrize(
    "text", ["fault = 3", "[[fault]", "behaviour = 1", "random = []", "fault = [1]", 'fault = "x"']
)
def test_misshapen_files(tmp_path, text):
    """What is no such file at all is a mistake, too."""
    path = tmp_path / "faults.toml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_faults(path)


def test_a_missing_file(tmp_path):
    """A file that is not there is named."""
    with pytest.raises(ConfigError, match="no-such"):
        load_faults(tmp_path / "no-such.toml")
