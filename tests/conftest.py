"""What all tests share."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from trio.testing import MockClock

from tests.support.clock import jumping_clock
from tests.support.sharing import Shares, turn

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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the long ones begin where tests are shared out; one process takes them in their own order."""
    if hasattr(config, "workerinput"):
        items.sort(key=turn)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Share the tests out by lots."""
    return Shares(config, log)


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
