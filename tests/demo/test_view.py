# ruff: noqa: ARG001 - the clock works by being asked for
"""What the demo says that redundancy has saved."""

from pathlib import Path

from trio.testing import MockClock

from feedhandler.demo.view import Scene, savings
from tests.support.stage import BTC, staged


async def test_a_line_that_is_replaced_counts_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A successor has not missed what came before it: the line that it has replaced brought that."""
    scene = Scene({})
    copies = []
    async with staged(tmp_path, lines=3, log=scene.hear) as stage:
        scene.feeds = stage.daemon.feeds
        feed = stage.daemon.feeds[BTC]
        await stage.talk(5)
        assert savings(scene).worst_alone <= 1
        feed.crew.rotate()
        while len(stage.named("line_replaced")) < 3 or feed.crew.rotation.busy:
            await stage.talk(0.2)
            found = savings(scene)
            assert found.worst_alone <= 20
            copies.append(found.copies)
        await stage.talk(2)
        await stage.arrived()
        head, found = feed.arbiter.window.head, savings(scene)
    assert sorted(feed.lines) == ["a", "b", "d"]
    assert copies == sorted(copies)
    assert head > 500
    assert 2 * head <= found.copies <= 4 * head
    assert found.best_alone <= found.worst_alone <= 20
