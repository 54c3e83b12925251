"""The clock of tests whose time jumps: it waits for what is on its way outside the event loop.

With `autojump` time jumps to the next deadline as soon as the event loop has nothing to do. But bytes may be on their
way then: the kernel hands what is sent over loopback to its receiver at once, except when the machine is busy; then
they wait for the kernel's own thread to get its turn (``/proc/net/softnet_stat`` counts them for each processor). And
a worker thread may be about to answer. A jump meanwhile makes them late by as much as it leaps, and a deadline that
nothing in the program comes near passes.

So there is no jump while anything is on its way, and after nothing was, one more look at the sockets finds what has
arrived since: only when that wakes no task, time jumps. A thread that does not end within `HUNG_S` is taken for one
that waits for the test itself, and is not waited for.
"""

import time
from pathlib import Path

import trio
from trio.testing import MockClock

SOFTNET = Path("/proc/net/softnet_stat")
BACKLOG_COLUMN = 11
HUNG_S = 0.5
LOOK_S = 0.0005


class Arrivals(trio.abc.Instrument):
    """Lets a clock jump only when nothing is on its way."""

    def __init__(self, clock: MockClock) -> None:
        self._jump = clock._autojump
        self._installed = False
        self._settled = False
        self._threads = 0
        self._since = 0.0

    def autojump(self) -> None:
        """Jump if nothing was on its way at the last call, and nothing came of it since."""
        if not self._installed:
            self._installed = True
            trio.lowlevel.add_instrument(self)
        if self._settled:
            self._settled = False
            self._jump()
            return
        self._settled = not (packets_on_their_way() or self._threads_at_work())
        if not self._settled:
            time.sleep(LOOK_S)  # gives the processor to them; nothing in the loop has anything to do

    def before_task_step(self, task: trio.lowlevel.Task) -> None:  # noqa: ARG002 - trio's name
        """Take it that a task that goes on may have sent something."""
        self._settled = False

    def _threads_at_work(self) -> bool:
        threads = trio.to_thread.current_default_thread_limiter().borrowed_tokens
        if threads != self._threads:
            self._threads, self._since = threads, time.monotonic()
        return threads > 0 and time.monotonic() - self._since < HUNG_S


def packets_on_their_way() -> bool:
    """Tell whether any processor has packets that no socket has got yet; none where the kernel does not say."""
    try:
        processors = [line.split() for line in SOFTNET.read_text().splitlines()]
    except OSError:
        return False
    return any(counts[BACKLOG_COLUMN:][:1] not in ([], ["00000000"]) for counts in processors)


def jumping_clock() -> MockClock:
    """Return a clock that jumps when all tasks wait and nothing is on its way."""
    clock = MockClock(autojump_threshold=0)
    clock._autojump = Arrivals(clock).autojump
    return clock
