"""Contender: picows (Cython) on uvloop, its listener interface.

As its documentation has it for speed: its own core interface, the data path without a coroutine; what one read brings
is written at its last frame (``last_in_buffer``), without waiting for the next turn of the loop. Messages of this size
are hashed as ``bytes`` a little faster than as a view of where they lie, though that copies duplicates.
"""

import asyncio
from functools import partial

import picows
import uvloop

from tests.benchmarks.contenders.merging import Merge
from tests.benchmarks.contenders.outlet import Outlet
from tests.benchmarks.contenders.task import LINE_NAMES, Task, read_task


class Line(picows.WSListener):
    """One connection."""

    def __init__(self, name: bytes, merge: Merge, outlet: Outlet) -> None:
        super().__init__()
        self._name = name
        self._take = merge.take
        self._flush = outlet.flush

    def on_ws_frame(self, transport: picows.WSTransport, frame: picows.WSFrame) -> None:
        """Take one frame."""
        del transport
        if frame.msg_type == picows.WSMsgType.TEXT:
            self._take(self._name, frame.get_payload_as_bytes())
            if frame.last_in_buffer:
                self._flush()


async def run(task: Task) -> None:
    """Merge for ever."""
    outlet = Outlet()
    await outlet.serve(task.socket)
    transports = []
    for market in task.markets:
        merge = Merge(market, outlet.write)
        for name in LINE_NAMES[: task.lines]:
            transport, _ = await picows.ws_connect(
                partial(Line, name.encode(), merge, outlet),
                task.line_url(market),
                ssl_context=task.tls(),
            )
            transports.append(transport)
    await asyncio.gather(*(transport.wait_disconnected() for transport in transports))


if __name__ == "__main__":
    uvloop.run(run(read_task()))
