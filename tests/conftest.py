"""What all tests share, and how they are shared out where several processes run them (`pytest -n`).

The long ones that mostly wait begin first, so that the others have something to do beside them; and who needs the same
fresh Debian is in one process, which makes it once.
"""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from trio.testing import MockClock

from tests.support.clock import jumping_clock

settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")  # how fast an example is says more of the machine than of the program

KERNEL_FEATURE = "kernel feature: "
"""A skip whose reason begins so is no failure in CI."""


def tapes_folder() -> Path | None:
    """Return where the recorded tapes are: $FEEDHANDLER_TAPES, or beside the checkout."""
    places = [Path(__file__).resolve().parents[2] / "shared" / "tapes"]
    if "FEEDHANDLER_TAPES" in os.environ:
        places.insert(0, Path(os.environ["FEEDHANDLER_TAPES"]))
    return next((place for place in places if place.is_dir()), None)


TOGETHER = ("debian", "test_alerts", "test_hosts")
"""Lots that one process takes whole, in the order in which they begin."""


def _lot(item: pytest.Item) -> str:
    """Return which lot an item belongs to: it needs the fresh Debian, or is in a file of one story; "" for none."""
    lot = "debian" if "fresh_debian" in getattr(item, "fixturenames", ()) else item.path.stem
    return lot if lot in TOGETHER else ""


def _place(item: pytest.Item) -> int:
    """Return when an item has its turn: the lots first, then the tapes, then all others as they come."""
    lot = _lot(item)
    if lot:
        return TOGETHER.index(lot)
    return len(TOGETHER) + ("tapes" not in getattr(item, "fixturenames", ()))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the long ones begin where tests are shared out; one process takes them in their own order."""
    if not hasattr(config, "workerinput"):
        return
    for item in items:
        if lot := _lot(item):
            item.add_marker(pytest.mark.xdist_group(lot))
    items.sort(key=_place)


@pytest.fixture(scope="session")
def tapes() -> Path:
    """Give the folder of the recorded tapes, or skip."""
    folder = tapes_folder()
    if folder is None:
        pytest.skip("the recorded tapes are not beside the checkout")
    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skipped test is a failure, except for a kernel feature that is named."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not reason.removeprefix("Skipped: ").startswith(KERNEL_FEATURE):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} was skipped in CI: {reason}"
    return report


@pytest.fixture
def autojump_clock() -> MockClock:
    """Give a clock that jumps when all tasks wait and nothing is on its way to them."""
    return jumping_clock()
