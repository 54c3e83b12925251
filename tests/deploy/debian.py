"""A fresh Debian in a folder, and what goes into it: the tests of units and images run in that and need no registry.

Packages come from the machine's Debian mirror and its Python index, by the tools that users have.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "deploy" / "requirements.lock"

PACKAGES = ("systemd", "systemd-sysv", "dbus", "python3", "python3-venv", "ca-certificates")
BUILD_BACKEND = "hatchling"

PIP_CONFIG = "[global]\nno-index = true\nfind-links = /wheels\n"
"""Lets pip find what `wheels` has fetched, and nothing else."""


def needs(*programs: str) -> pytest.MarkDecorator:
    """Mark tests that need root and these programs; the continuous integration installs them."""
    missing = [program for program in programs if shutil.which(program) is None]
    if os.geteuid() != 0:
        missing.append("root's rights")
    return pytest.mark.skipif(bool(missing), reason=f"not there: {', '.join(missing)}")


def run(*command: object, seconds: float = 300) -> str:
    """Run a command to its end; return what it prints, or fail with that."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, timeout=seconds
    )
    text = done.stdout.decode(errors="replace")
    assert done.returncode == 0, f"{' '.join(words)}: {done.returncode}\n{text}"
    return text


def debian(folder: Path) -> Path:
    """Make a fresh Debian 12."""
    run("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", folder)
    return folder


def wheels(folder: Path) -> Path:
    """Fetch what the lock names, and what builds the project."""
    download = (sys.executable, "-m", "pip", "download", "--quiet", "--dest", folder)
    run(*download, "--require-hashes", "--requirement", LOCK)
    run(*download, BUILD_BACKEND)
    return folder
