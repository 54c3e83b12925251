"""The HTTP server of a bridge: the daemon's own, which is written for trio, inside the bridge's asyncio.

trio runs as a guest of the event loop, in the same thread. So what is shown is of one moment, without a lock, and
whoever asks can cost a bridge no more than a daemon.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import trio
from outcome import Outcome

from feedhandler.core.notes import Notify
from feedhandler.observe.http import Handle, HttpServer

Ended = asyncio.Future[Outcome[Any]]


def start(address: tuple[str, int], handle: Handle, notify: Notify) -> tuple[Ended, Callable[[], None]]:
    """Serve at an address (host, port); return its end, with ``OperationalError`` in it, and what brings it about."""
    loop = asyncio.get_running_loop()
    ended: Ended = loop.create_future()
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await HttpServer(*address, handle, notify, key="--http").serve()

    trio.lowlevel.start_guest_run(
        run,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=ended.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    return ended, scope.cancel
