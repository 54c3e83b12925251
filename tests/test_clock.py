"""The clock of the tests themselves: time jumps when nothing is left to happen, and not before."""

import socket
import threading
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.support import clock

IDLE = "0a 0 0 0 0 0 0 0 0 0 0 00000000 00000000 0 0\n"
BUSY = "0a 0 0 0 0 0 0 0 0 0 0 00000002 00000001 0 0\n"


async def test_an_hour_is_nothing(autojump_clock: MockClock) -> None:
    """Where all tasks wait for the time alone it jumps to the next deadline."""
    await trio.sleep(3600)
    assert autojump_clock.current_time() == 3600


async def test_what_arrives_after_the_last_look_is_in_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that the kernel brings late come before any deadline, even between the look for them and the jump."""
    near, far = socket.socketpair()
    looks: list[bool] = []

    def on_their_way() -> bool:
        looks.append(len(looks) < 3)
        if len(looks) == 4:
            far.send(b"late")
        return looks[-1]

    monkeypatch.setattr(clock, "packets_on_their_way", on_their_way)
    with far, trio.socket.from_stdlib_socket(near) as receiver, trio.fail_after(0.001):
        assert await receiver.recv(9) == b"late"
    assert looks == [True, True, True, False]
    assert autojump_clock.current_time() == 0


async def test_a_thread_at_work_takes_no_time(autojump_clock: MockClock) -> None:
    """What a worker thread answers comes before any deadline."""
    with trio.fail_after(0.001):
        assert await trio.to_thread.run_sync(sum, range(2_000_000)) > 0
    assert autojump_clock.current_time() == 0


async def test_a_thread_that_waits_for_the_test_is_not_waited_for(
    nursery: trio.Nursery, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while of real time a thread counts as one that hangs."""
    monkeypatch.setattr(clock, "HUNG_S", 0.01)
    release = threading.Event()
    nursery.start_soon(trio.to_thread.run_sync, release.wait)
    await trio.sleep(60)
    release.set()
    assert autojump_clock.current_time() == 60


@pytest.mark.parametrize(
    ("text", "busy"), [(IDLE + IDLE, False), (IDLE + BUSY, True), ("short lines\n", False)]
)
def test_packets_of_any_processor_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, *, busy: bool
) -> None:
    """One processor's backlog suffices; a kernel that does not count them has none."""
    monkeypatch.setattr(clock, "SOFTNET", tmp_path / "softnet_stat")
    assert not clock.packets_on_their_way()
    (tmp_path / "softnet_stat").write_text(text)
    assert clock.packets_on_their_way() == busy
