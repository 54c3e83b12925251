"""Contender: `websockets`, its asyncio client with the C speed-ups, on uvloop.

As its documentation has it for speed: no compression, uvloop, text as bytes (``decode=False``); and a queue that holds
what one read brings, so that reading does not stop in the middle of it.
"""

import asyncio

import uvloop
from websockets.asyncio.client import connect

from tests.benchmarks.contenders.merging import Merge
from tests.benchmarks.contenders.outlet import Outlet
from tests.benchmarks.contenders.task import LINE_NAMES, Task, read_task

QUEUE_MESSAGES = 1024


async def run(task: Task) -> None:
    """Merge for ever."""
    outlet = Outlet()
    await outlet.serve(task.socket)
    async with asyncio.TaskGroup() as tasks:
        for market in task.markets:
            merge = Merge(market, outlet.write)
            for name in LINE_NAMES[: task.lines]:
                tasks.create_task(_line(task, market, name.encode(), merge))


async def _line(task: Task, market: str, name: bytes, merge: Merge) -> None:
    async with connect(
        task.line_url(market),
        ssl=task.tls(),
        compression=None,
        ping_interval=None,
        max_queue=QUEUE_MESSAGES,
        proxy=None,
    ) as connection:
        receive, take = connection.recv, merge.take
        while True:
            take(name, await receive(decode=False))


if __name__ == "__main__":
    uvloop.run(run(read_task()))
