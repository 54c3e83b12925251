"""Contender: aiohttp, its WebSocket client with the Cython parser, on uvloop; text as bytes, no compression."""

import asyncio

import aiohttp
import uvloop

from tests.benchmarks.contenders.merging import Merge
from tests.benchmarks.contenders.outlet import Outlet
from tests.benchmarks.contenders.task import LINE_NAMES, Task, read_task


async def run(task: Task) -> None:
    """Merge for ever."""
    outlet = Outlet()
    await outlet.serve(task.socket)
    connector = aiohttp.TCPConnector(limit=0, ssl=task.tls() or True)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as tasks:
        for market in task.markets:
            merge = Merge(market, outlet.write)
            for name in LINE_NAMES[: task.lines]:
                tasks.create_task(_line(session, task.line_url(market), name.encode(), merge))


async def _line(session: aiohttp.ClientSession, url: str, name: bytes, merge: Merge) -> None:
    async with session.ws_connect(url, decode_text=False, compress=0) as connection:
        take = merge.take
        async for message in connection:
            take(name, message.data)


if __name__ == "__main__":
    uvloop.run(run(read_task()))
