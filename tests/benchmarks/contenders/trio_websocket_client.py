"""Contender: trio-websocket, the standard library's json, and a set of hashes: how one would write it first.

One task for each line, ``get_message`` in a loop; one task for each consumer, which sends what is pending in one
piece. The library's queue holds what one read brings, so that reading does not stop in the middle of it.
"""

import json
import os
import time
from collections import deque

import trio
import trio_websocket

from tests.benchmarks.contenders.task import LINE_NAMES, REMEMBERED, Task, read_task

QUEUE_MESSAGES = 1024
READ_BYTES = 64 * 1024
STREAMS = {"publicOrderBookDelta": "publicOrderBook", "publicCompletedOrdersDelta": "publicTrades"}


class Consumers:
    """Those who are connected to the socket."""

    def __init__(self) -> None:
        self._pending: dict[trio.SocketStream, list[str]] = {}
        self._more = trio.Event()

    def write(self, record: str) -> None:
        """Send a record to all soon."""
        for pending in self._pending.values():
            pending.append(record)
        if not self._more.is_set():
            self._more.set()

    async def serve(self, path: str) -> None:
        """Listen."""
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await sock.bind(os.fspath(path))
        sock.listen(128)
        await trio.serve_listeners(self._serve_one, [trio.SocketListener(sock)])

    async def _serve_one(self, stream: trio.SocketStream) -> None:
        self._pending[stream] = []
        try:
            await self._send(stream)
        except trio.BrokenResourceError:
            del self._pending[stream]

    async def _send(self, stream: trio.SocketStream) -> None:
        while True:
            pending = self._pending[stream]
            if not pending:
                await self._more.wait()
                self._more = trio.Event() if self._more.is_set() else self._more
                continue
            self._pending[stream] = []
            await stream.send_all("".join(pending).encode())


class Market:
    """One market: what its lines have brought, and its book."""

    def __init__(self, name: str, consumers: Consumers) -> None:
        self._name = name
        self._consumers = consumers
        self._seen: set[int] = set()
        self._order: deque[int] = deque()
        self._seqs: dict[str, int] = dict.fromkeys(STREAMS, 0)
        self._book: dict[str, dict[str, str]] = {"buy": {}, "sell": {}}

    def take(self, line: str, text: str) -> None:
        """Take one message of a line."""
        key = hash(text)
        if key in self._seen:
            return
        self._seen.add(key)
        self._order.append(key)
        if len(self._order) > REMEMBERED:
            self._seen.discard(self._order.popleft())
        message = json.loads(text)
        kind = message["resultType"]
        if kind not in STREAMS:
            return
        if kind == "publicOrderBookDelta":
            for row in message["data"]["orders"]:
                if row["quantity"] == "0":
                    self._book[row["orderType"]].pop(row["price"], None)
                else:
                    self._book[row["orderType"]][row["price"]] = row["quantity"]
        self._seqs[kind] += 1
        self._consumers.write(
            f'{{"type":"event","channel":"{self._name}/{STREAMS[kind]}","seq":{self._seqs[kind]},'
            f'"line":"{line}","recv":{time.time_ns()},"msg":{text}}}\n'
        )


async def run(task: Task) -> None:
    """Merge for ever."""
    consumers = Consumers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(consumers.serve, task.socket)
        for name in task.markets:
            market = Market(name, consumers)
            for line in LINE_NAMES[: task.lines]:
                nursery.start_soon(_line, task, name, line, market)


async def _line(task: Task, name: str, line: str, market: Market) -> None:
    async with trio_websocket.open_websocket_url(
        task.line_url(name),
        ssl_context=task.tls(),
        message_queue_size=QUEUE_MESSAGES,
        receive_buffer_size=READ_BYTES,
    ) as connection:
        while True:
            message = await connection.get_message()
            if isinstance(message, str):
                market.take(line, message)


if __name__ == "__main__":
    trio.run(run, read_task())
