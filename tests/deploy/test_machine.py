"""A real systemd in a fresh Debian: install.md is followed, and what happens to services is done to ours.

`probe.sh` runs in the machine and says what was as it should be. By hand:

    .venv/bin/python -m pytest tests/deploy/test_machine.py
"""

import re
import subprocess
from pathlib import Path

from tests.deploy.debian import PIP_CONFIG, ROOT, needs

PATIENCE_S = 900

PROBE = """
[Unit]
After=multi-user.target dbus.socket
[Service]
Type=oneshot
ExecStart=/bin/bash /source/tests/deploy/probe.sh
StandardOutput=file:/out/probe.log
StandardError=inherit
ExecStopPost=/bin/systemctl poweroff --no-block
"""

CHECKS = re.findall(r"^check ([\w-]+) ", (Path(__file__).parent / "probe.sh").read_text(), re.MULTILINE)
"""What the probe says something about."""


def boot(root: Path, out: Path, *binds: tuple[Path, str]) -> str:
    """Boot a machine in which the probe runs, and return what that has printed."""
    (out / "probe.service").write_text(PROBE)
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
    log = out / "probe.log"
    assert log.exists(), (
        f"the machine did not run the probe: {done.returncode} {done.stdout[-2000:]} {done.stderr[-2000:]}"
    )
    return log.read_text(errors="replace")


@needs("systemd-nspawn", "mmdebstrap")
def test_the_service_in_a_real_systemd(fresh_debian, wheel_folder, tmp_path):
    """Start, readiness, credentials, reload, watchdog, restart, drain, and several daemons: all as install.md says."""
    text = boot(fresh_debian, tmp_path, (wheel_folder, "/wheels"))
    assert text.endswith("done\n"), text[-5000:]
    wrong = re.findall(r"^not ok (.*)$", text, re.MULTILINE)
    assert not wrong, f"{wrong}\n{text[-10000:]}"
    assert re.findall(r"^ok (.*)$", text, re.MULTILINE) == CHECKS
    assert len(CHECKS) > 30
