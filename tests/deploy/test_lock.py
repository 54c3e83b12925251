"""The lock files: they hold exactly what the project needs, each with its version and hashes, and they fit."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "deploy" / "requirements.lock"
NATS_LOCK = ROOT / "deploy" / "requirements-nats.lock"
"""The same, and what the bridge needs."""

EXTRAS = {LOCK: (), NATS_LOCK: ("nats",)}
both = pytest.mark.parametrize("lock", EXTRAS)


def blocks(lock: Path) -> list[str]:
    """Return what a lock says of each package, in a line each."""
    lines = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [block.strip() for block in joined.split("\n") if block]


def locked(lock: Path) -> dict[str, Version]:
    """Return the locked version of each package."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+) \\$", lock.read_text(), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in found}


def needed(names: list[str]) -> dict[str, list[Requirement]]:
    """Return what these requirements need, and what that needs, as far as it applies to this Python on Linux."""
    found: dict[str, list[Requirement]] = {}
    waiting = [Requirement(one) for one in names]
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        known = name in found
        found.setdefault(name, []).append(requirement)
        if known:
            continue
        for text in metadata.requires(name) or []:
            inner = Requirement(text)
            extras = requirement.extras or {""}
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(inner)
    return found


@both
def test_the_lock_is_what_the_project_needs(lock):
    """Every requirement, of the project and of what it needs, is locked at a version that fits; nothing else is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = [one for extra in EXTRAS[lock] for one in project["optional-dependencies"][extra]]
    wanted = needed([*project["dependencies"], *optional])
    versions = locked(lock)
    assert set(versions) == set(wanted)
    for name, requirements in wanted.items():
        for requirement in requirements:
            assert requirement.specifier.contains(versions[name], prereleases=True), (
                f"{requirement}: {versions[name]}"
            )


def test_the_bridge_changes_no_version():
    """Whoever adds the bridge to the daemon has the same files of all else."""
    assert set(blocks(LOCK)) < set(blocks(NATS_LOCK))


@both
def test_every_file_is_known_by_its_hash(lock):
    """What was changed on its way is refused: each version has its hashes, and no line is without."""
    found = blocks(lock)
    assert len(found) == len(locked(lock))
    for block in found:
        assert re.fullmatch(r"[\w.-]+==\S+(\s+--hash=sha256:[0-9a-f]{64})+", block), block


@both
def test_the_file_says_how_it_is_made(lock):
    """The command that makes it stands in its head."""
    head = lock.read_text().splitlines()[1]
    assert "uv pip compile pyproject.toml" in head
    assert all(f"--extra {extra}" in head for extra in EXTRAS[lock])
    assert head.endswith(f"-o deploy/{lock.name}")
