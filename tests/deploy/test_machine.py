"""A real systemd in a fresh Debian: the documents are followed, and what happens to services is done to ours.

The scripts of `SCRIPTS` run in the machine, one after the other, and say what was as it should be; what a consumer got
there is compared with what the exchange sent here. By hand:

    .venv/bin/python -m pytest tests/deploy/test_machine.py
"""

import json
import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.deploy.debian import PIP_CONFIG, ROOT, needs
from tests.support.processes import differences, read_truth

PATIENCE_S = 900
SCRIPTS = ("single", "pair", "bridge", "bridged_pair")

UNIT = """
[Unit]
After=multi-user.target dbus.socket
[Service]
Type=oneshot
{starts}
StandardOutput=null
ExecStopPost=/bin/systemctl poweroff --no-block
"""
START = "ExecStart=-/bin/bash -c '/bin/bash /source/tests/deploy/{name}.sh > /out/{name}.log 2>&1'"


def boot(root: Path, out: Path, scripts: Iterable[str], *binds: tuple[Path, str]) -> Path:
    """Boot a machine in which the scripts run; return the folder that has what they print."""
    starts = "\n".join(START.format(name=name) for name in scripts)
    (out / "probe.service").write_text(UNIT.format(starts=starts))
    (out / "pip.conf").write_text(PIP_CONFIG)
    inside = (
        *binds,
        (ROOT, "/source"),
        (out / "pip.conf", "/etc/pip.conf"),
        (out / "probe.service", "/etc/systemd/system/probe.service"),
    )
    command = [
        "systemd-nspawn",
        f"--directory={root}",
        "--volatile=overlay",
        "--register=no",
        "--keep-unit",
        "--private-network",
        f"--bind={out}:/out",
        *(f"--bind-ro={path}:{place}" for path, place in inside),
        "--console=pipe",
        "--boot",
        "systemd.wants=probe.service",
    ]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        timeout=PATIENCE_S,
    )
    (out / "console.log").write_text(f"{done.returncode}\n{done.stdout}\n{done.stderr}")
    return out


@pytest.fixture(scope="module")
def machine(fresh_debian: Path, wheel_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of what was printed in the machine, which runs once."""
    return boot(fresh_debian, tmp_path_factory.mktemp("out"), SCRIPTS, *binds(wheel_folder))


def binds(wheel_folder: Path) -> list[tuple[Path, str]]:
    """Return what the machine has beside our code."""
    server = shutil.which("nats-server")
    assert server is not None
    return [(wheel_folder, "/wheels"), (Path(server).resolve(), "/usr/local/bin/nats-server")]


def names(script: str) -> list[str]:
    """Return what a script says something about."""
    text = (Path(__file__).parent / f"{script}.sh").read_text()
    return re.findall(r"^check ([\w-]+) ", text, re.MULTILINE)


class Heard(NamedTuple):
    """What a consumer got: events by channel, sessions, marks, and the words that connections ended with."""

    events: dict[str, list[bytes]]
    sessions: set[str]
    marks: list[str]
    byes: list[str]


def heard(lines: Sequence[bytes]) -> Heard:
    """Read a consumer's records; seqs must be without a hole."""
    events: defaultdict[str, list[bytes]] = defaultdict(list)
    seqs: defaultdict[str, int] = defaultdict(int)
    sessions, marks, byes = set(), [], []
    for line in lines:
        record = json.loads(line)
        if "seq" in record and record.get("reason") != "join":
            seqs[record["channel"]] += 1
            assert record["seq"] == seqs[record["channel"]], record
        if record["type"] == "event":
            events[record["channel"]].append(line[line.index(b',"msg":') + 7 : -1])
        if record["type"] in {"gap", "refused", "skipped", "error"} or "class" in record:
            marks.append(line.decode()[:200])
        if record["type"] == "hello":
            sessions.add(record["session"])
        if record["type"] == "bye":
            byes.append(record["reason"])
    return Heard(dict(events), sessions, marks, byes)


@needs("systemd-nspawn", "mmdebstrap", "nats-server")
@pytest.mark.parametrize("script", SCRIPTS)
def test_services_in_a_real_systemd(machine: Path, script: str) -> None:
    """All is as the documents say: start, reload, watchdog, restart, drain; a pair, a bridge; upgrades."""
    log = machine / f"{script}.log"
    assert log.exists(), f"the script did not run: {(machine / 'console.log').read_text()[-4000:]}"
    text = log.read_text(errors="replace")
    assert text.endswith("done\n"), text[-5000:]
    wrong = re.findall(r"^not ok (.*)$", text, re.MULTILINE)
    assert not wrong, f"{wrong}\n{text[-10000:]}"
    assert re.findall(r"^ok (.*)$", text, re.MULTILINE) == names(script)
    assert len(names(script)) > 15


@needs("systemd-nspawn", "mmdebstrap", "nats-server")
def test_a_pair_that_is_upgraded_killed_and_frozen_is_one_stream(machine: Path) -> None:
    """(3) A consumer with the client library got exactly what was sent, in one session, without a mark."""
    got = heard((machine / "heard.jsonl").read_bytes().splitlines())
    sent = read_truth(machine / "truth.jsonl")
    assert differences(sent, got.events) == []
    assert sum(map(len, sent.values())) > 2000
    assert len(got.sessions) == 1
    assert got.marks == []
    assert got.byes == ["takeover", "takeover"]  # the upgrade and the handover; who is killed says nothing


@needs("systemd-nspawn", "mmdebstrap", "nats-server")
def test_a_bridge_that_is_stopped_killed_and_frozen_loses_nothing(machine: Path) -> None:
    """What an ordinary consumer of NATS read is exactly what was sent, once each, without a mark."""
    got = heard((machine / "stream.jsonl").read_bytes().splitlines())
    sent = read_truth(machine / "bridged.jsonl")
    assert differences(sent, got.events) == []
    assert sum(map(len, sent.values())) > 1000
    assert got.marks == []


@needs("systemd-nspawn", "mmdebstrap", "nats-server")
def test_a_bridge_beside_a_pair_is_one_stream(machine: Path) -> None:
    """A handover, the active daemon killed, and then that and the bridge at once: every event once, without a mark."""
    got = heard((machine / "pair-stream.jsonl").read_bytes().splitlines())
    sent = read_truth(machine / "pair-bridged.jsonl")
    assert differences(sent, got.events) == []
    assert sum(map(len, sent.values())) > 2000
    assert got.marks == []
