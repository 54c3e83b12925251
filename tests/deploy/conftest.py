"""What the tests in a fresh Debian share: it is made once."""

from pathlib import Path

import pytest

from tests.deploy.debian import debian, wheels


@pytest.fixture(scope="session")
def fresh_debian(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a Debian 12 with systemd and Python; it must be left as it is."""
    return debian(tmp_path_factory.mktemp("debian") / "root")


@pytest.fixture(scope="session")
def wheel_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of all that is installed."""
    return wheels(tmp_path_factory.mktemp("wheels"))
