"""What the package says about itself, held against the package."""

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import feedhandler
from feedhandler.config import Bounds
from feedhandler.core.arbiter import Arbiter
from feedhandler.core.channels import Channel
from feedhandler.ingest.channels import FeedChannels
from feedhandler.ingest.dataplane import DataPlaneStream
from feedhandler.ingest.feed import Feed
from feedhandler.publish.backlog import Backlog
from feedhandler.publish.consumer import Consumer
from feedhandler.publish.server import Publisher

PACKAGE = Path(feedhandler.__file__).parent
TESTS = Path(__file__).parent
IMPURE = {
    "asyncio", "datetime", "httpx2", "logging", "os", "pathlib", "prometheus_client", "queue", "random", "secrets",
    "select", "socket", "ssl", "structlog", "subprocess", "sys", "tempfile", "threading", "time", "trio",
    "trio_websocket", "uuid",
}  # fmt: skip
WAY_IN: list[Callable[..., Any]] = [
    DataPlaneStream._take,
    Feed.recognise,
    Feed.received,
    Feed._carry_out,
    FeedChannels.publish,
    FeedChannels._publish_run,
    Arbiter.recognise,
    Arbiter.receive,
    Channel.event,
    Channel.events,
    Publisher.publish,
    Publisher.publish_run,
    Publisher.flush,
    Backlog.append,
    Backlog.extend,
    Consumer.flush,
    Consumer._send,
]


def invariants() -> list[tuple[str, str, str]]:
    """Return each invariant of the package's docstring with the file and the name of its test."""
    text = feedhandler.__doc__ or ""
    return re.findall(r"^- \*\*([^*]+)\*\*\s+\[([\w/.]+): (\w+)\]$", text, re.MULTILINE)


def test_every_invariant_has_its_test() -> None:
    """What the package promises in bold names a test, and that test exists."""
    assert len(invariants()) == (feedhandler.__doc__ or "").count("- **") >= 9
    for promise, file, name in invariants():
        assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE), promise


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_every_module_states_its_theory(path: Path) -> None:
    """Whoever opens a file is told first what it is about."""
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda path: path.stem)
def test_the_core_is_pure(path: Path) -> None:
    """Nothing in the core can wait, tell the time, draw lots, or reach the outside."""
    for node in ast.walk(ast.parse(path.read_text())):
        assert not isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncWith | ast.AsyncFor)
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not IMPURE.intersection(name.partition(".")[0] for name in names)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"open", "print", "input"}


@pytest.mark.parametrize("function", WAY_IN, ids=lambda function: function.__qualname__)
def test_the_way_in_never_waits(function: Callable[..., Any]) -> None:
    """From the read of an event to its place in the backlog and its first send, every step is synchronous."""
    assert inspect.isfunction(function)
    assert not inspect.iscoroutinefunction(function)


def test_every_bound_says_what_happens_at_it() -> None:
    """Each bound of the configuration has its unit in its name where it has one, and a sentence about it."""
    source = inspect.getsource(Bounds)
    units = ("_events", "_mib", "_kib", "_s", "consumers", "_files")
    for name in Bounds.__struct_fields__:
        assert name.endswith(units), name
        described = re.search(rf'^    {name}: .*(?:\n    .*)*?\n    """([^"]+)"""', source, re.MULTILINE)
        assert described, name
        assert len(described[1].split()) >= 4, name
