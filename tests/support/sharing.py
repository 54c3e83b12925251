"""How the tests are shared out where several processes run them (`pytest -n`).

Most go one by one to whoever is free. The long ones that mostly wait begin first, so that the others have something to
do beside them; and who needs the same fresh Debian is in one process, which makes it once: two of its machines at a
time would be in each other's control groups.
"""

from typing import Final

import pytest
from xdist.scheduler import LoadScopeScheduling

LOTS: Final = {
    "deploy/test_machine": "debian",
    "deploy/test_image": "debian",
    "deploy/test_rolling_update": "debian",
    "deploy/test_alerts": "alerts",
    "bridge/test_hosts": "hosts",
}
"""What one process takes whole, by the end of the file's path."""

_ORDER: Final = tuple(dict.fromkeys(LOTS.values()))


def lot(file: str) -> str:
    """Return the lot of a test file (its path); "" where its tests go one by one."""
    return LOTS.get("/".join(file.removesuffix(".py").split("/")[-2:]), "")


def turn(item: pytest.Item) -> int:
    """Return when an item has its turn: the lots first, then the tapes, then all others as they come."""
    name = lot(str(item.path))
    if name:
        return _ORDER.index(name)
    return len(_ORDER) + ("tapes" not in getattr(item, "fixturenames", ()))


class Shares(LoadScopeScheduling):
    """Gives a process a lot, or one test."""

    def _split_scope(self, nodeid: str) -> str:
        """Return what goes to the same process as this test."""
        return lot(nodeid.partition("::")[0]) or nodeid
