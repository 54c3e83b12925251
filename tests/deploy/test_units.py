"""The systemd units: systemd takes them without a word, finds them closed, and their times fit the daemon's."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from feedhandler.bridge.link import CLOSE_S
from feedhandler.bridge.settings import BridgeSettings
from feedhandler.bridge.supervised import LOOK_S as BRIDGE_LOOK_S
from feedhandler.config import Health, Publish
from feedhandler.ingest.connect import GOODBYE_S
from feedhandler.observe.manager import BEATS
from feedhandler.observe.systemd import LOOK_S, PENDING_S, STILL_S

DEPLOY = Path(__file__).parents[2] / "deploy"
BRIDGE = "feedhandler-bridge-nats.service"
PAIR = "feedhandler-pair@.service"
UNITS = ("feedhandler.service", "feedhandler@.service", PAIR)
INSTALLED = "/opt/feedhandler/bin/feedhandler"
INSTANCES = {
    "feedhandler.service": "feedhandler.service",
    "feedhandler@.service": "feedhandler@majors.service",
    BRIDGE: BRIDGE,
    PAIR: "feedhandler-pair@1.service",
}

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there (Debian: systemd)"
)


@pytest.fixture(params=(*UNITS, BRIDGE))
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give a unit with a program that is there, under the name of an instance where it is a template."""
    text = (DEPLOY / request.param).read_text()
    assert INSTALLED in text
    path = tmp_path / INSTANCES[request.param]
    path.write_text(text.replace(INSTALLED, sys.executable))
    return path


def analysed(path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze on a unit."""
    command = ["systemd-analyze", *arguments, f"./{path.name}"]
    return subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False, timeout=60)


@needs_systemd
def test_systemd_takes_the_unit_without_a_word(unit):
    """Any output is a mistake: an unknown key alone still exits with 0."""
    done = analysed(unit, "verify")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    unit.write_text(unit.read_text().replace("PrivateTmp=", "PrivateTemp="))
    assert "PrivateTemp" in analysed(unit, "verify").stderr


@needs_systemd
def test_the_unit_is_closed(unit):
    """The exposure is 2.0 or better, and would not be without the sandbox."""
    assert analysed(unit, "security", "--offline=true", "--threshold=20").returncode == 0
    head, _, tail = unit.read_text().partition("# Sandbox.")
    unit.write_text(head + tail[tail.index("[Install]") :])
    assert analysed(unit, "security", "--offline=true", "--threshold=20").returncode != 0


def settings(name: str) -> list[str]:
    """Return the lines of a unit that are no comments."""
    lines = (DEPLOY / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def seconds(name: str, key: str) -> float:
    """Return a time of a unit (s)."""
    return float(re.search(rf"^{key}=(\d+)$", (DEPLOY / name).read_text(), re.MULTILINE)[1])


@pytest.mark.parametrize("name", UNITS)
def test_times_fit_the_daemon(name):
    """Starting, draining, and giving up a line are over before systemd loses patience."""
    publish, health = Publish(), Health()
    if name != PAIR:
        assert seconds(name, "TimeoutStartSec") > PENDING_S + LOOK_S
    assert seconds(name, "TimeoutStopSec") > publish.drain_s + GOODBYE_S + 2
    assert seconds(name, "WatchdogSec") > health.ping_interval_s + health.pong_timeout_s
    assert seconds(name, "WatchdogSec") / BEATS + STILL_S + LOOK_S < seconds(name, "WatchdogSec")


def test_the_template_differs_in_names_only():
    """A market group gets what the single daemon has, under its own name, and never beside it."""
    single, template = (settings(name) for name in UNITS if name != PAIR)
    assert [re.sub("[/-]%i", "", line) for line in template if "%i" in line] == [
        "Description=Exact market-data feed on a Unix socket (%i)",
        f"ExecStart={INSTALLED} run --config /etc/feedhandler",
        "RuntimeDirectory=feedhandler",
        "StateDirectory=feedhandler",
    ]
    assert [line for line in template if "%i" not in line and line not in single] == [
        "Conflicts=feedhandler.service",
        "After=feedhandler.service",
    ]
    assert len(template) == len(single) + 2


def test_the_pair_shares_what_it_has_to():
    """Both instances are one user with one folder for the socket, which outlives either; a standby has all the time."""
    single, pair = settings(UNITS[0]), settings(PAIR)
    assert [line for line in pair if line not in single] == [
        "Description=Exact market-data feed on a Unix socket, one of a pair (%i)",
        "Conflicts=feedhandler.service",
        "After=feedhandler.service",
        f"ExecStart={INSTALLED} run --standby --config /etc/feedhandler/pair --set standby.http=127.0.0.1:947%i",
        "TimeoutStartSec=infinity",
        "LimitCORE=0",
        "RuntimeDirectory=feedhandler/pair",
        "RuntimeDirectoryPreserve=yes",
        "StateDirectory=feedhandler-pair",
        "User=feedhandler-pair",
    ]
    # of a dynamic user the folder that is preserved would be in /run/private, where no consumer gets in
    assert "DynamicUser=yes" not in pair


@pytest.mark.parametrize("name", UNITS)
def test_consumers_keep_their_names(name):
    """Peer credentials decide who may read the account: no user namespace hides them."""
    assert "PrivateUsers=yes" not in settings(name)
    assert "SupplementaryGroups=feedhandler-consumers" in settings(name)


def test_the_bridge_is_in_the_consumers_group_and_has_time_to_drain():
    """It reads the socket as any consumer does, comes again by itself, and not where somebody has to mend something."""
    assert "SupplementaryGroups=feedhandler-consumers" in settings(BRIDGE)
    assert "RestartPreventExitStatus=2" in settings(BRIDGE)
    assert seconds(BRIDGE, "TimeoutStopSec") > BridgeSettings(Path("x"), ()).drain_s + CLOSE_S


def test_the_bridge_is_told_to_be_ready_and_alive():
    """It tells systemd itself; a look and a keep-alive fit into the watchdog's patience more than once."""
    assert "Type=notify" in settings(BRIDGE)
    assert seconds(BRIDGE, "WatchdogSec") / BEATS + BRIDGE_LOOK_S < seconds(BRIDGE, "WatchdogSec") / 2
