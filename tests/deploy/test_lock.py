"""The lock file: it holds exactly what the project needs, each with its version and hashes, and they fit."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LOCK = ROOT / "deploy" / "requirements.lock"


def locked() -> dict[str, Version]:
    """Return the locked version of each package."""
    found = re.findall(r"^([\w.-]+)==([^\s;]+) \\$", LOCK.read_text(), re.MULTILINE)
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


def test_the_lock_is_what_the_project_needs():
    """Every requirement, of the project and of what it needs, is locked at a version that fits; nothing else is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = needed(project["dependencies"])
    versions = locked()
    assert set(versions) == set(wanted)
    for name, requirements in wanted.items():
        for requirement in requirements:
            assert requirement.specifier.contains(versions[name], prereleases=True), (
                f"{requirement}: {versions[name]}"
            )


def test_every_file_is_known_by_its_hash():
    """What was changed on its way is refused: each version has its hashes, and no line is without."""
    lines = [line for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    blocks = "\n".join(lines).replace("\\\n", " ").split("\n")
    for block in filter(None, blocks):
        assert re.fullmatch(r"[\w.-]+==\S+(\s+--hash=sha256:[0-9a-f]{64})+", block.strip()), block


def test_the_file_says_how_it_is_made():
    """The command that makes it stands in its head."""
    assert "uv pip compile pyproject.toml" in "".join(LOCK.read_text().splitlines()[:3])
