"""The HTTP server of a bridge: the daemon's own, which is written for trio, inside the bridge's asyncio.

trio runs as a guest of the event loop, in the same thread. So what is shown is of one moment, without a lock, and
whoever asks can cost a bridge no more than a daemon.
"""

import asyncio
from typing import Any

import trio
from outcome import Outcome

from feedhandler.core.notes import Notify
from feedhandler.observe.http import Handle, HttpServer


async def serve(address: tuple[str, int], handle: Handle, notify: Notify) -> None:
    """Serve at an address (host, port) until cancelled; raise ``OperationalError`` where it cannot be had."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Outcome[Any]] = loop.create_future()
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
    try:
        await asyncio.shield(ended)
    finally:
        scope.cancel()
        (await ended).unwrap()  # noqa: ASYNC102 - asyncio waits here, for a guest that ends at once
