"""What the tests in a fresh Debian share: it is made once."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.containers import Containers, build
from tests.deploy.debian import debian, wheels


@pytest.fixture(scope="session")
def fresh_debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a Debian 12 with systemd and Python; it must be left as it is."""
    return debian(tmp_path_factory.mktemp("debian") / "root")


@pytest.fixture(scope="session")
def wheel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of all that is installed."""
    return wheels(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="session")
def containers(
    fresh_debian: Path, wheel_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Containers]:
    """Give containers of the images, built on the fresh Debian."""
    with tempfile.TemporaryDirectory() as folder:  # podman wants its paths short
        made = Containers(Path(folder))
        build(made, fresh_debian, wheel_folder, tmp_path_factory.mktemp("build"))
        yield made
