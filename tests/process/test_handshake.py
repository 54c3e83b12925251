"""The handshake with servers of other stacks: `websockets` (Python) and `ws` (Node), each in a process of its own."""

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.support.processes import PATIENCE_S, simulated, started, write_config

PYTHON_SERVER = """
import asyncio, sys
from websockets.asyncio.server import serve

async def main(echo):
    def select(connection, offered):
        print("offered", " ".join(offered), flush=True)
        return offered[0] if echo and offered else None

    async def handler(connection):
        print("path", connection.request.path, flush=True)
        async for message in connection:
            await connection.send('{"resultType":"pong","data":{"statusCode":200}}')
            print("asked", message, flush=True)

    async with serve(handler, "127.0.0.1", 0, select_subprotocol=select) as server:
        print("port", server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main(sys.argv[1] == "echo"))
"""

NODE_SERVER = """
const { WebSocketServer } = require("ws");
const echo = process.argv[2] === "echo";
const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  handleProtocols: (offered) => {
    console.log("offered", [...offered].join(" "));
    return echo ? [...offered][0] : false;
  },
});
server.on("listening", () => console.log("port", server.address().port));
server.on("connection", (socket, request) => {
  console.log("path", request.url);
  socket.on("message", (message) => {
    socket.send('{"resultType":"pong","data":{"statusCode":200}}');
    console.log("asked", message.toString());
  });
});
"""


class Server:
    """A WebSocket server in another process, and what it has printed."""

    def __init__(self, process: trio.Process) -> None:
        self.lines: list[str] = []
        self._process = process
        self._rest = b""

    async def line(self, start: str) -> str:
        """Return what follows ``start`` in the first line that begins with it."""
        with trio.fail_after(PATIENCE_S):
            while True:
                found = next((line for line in self.lines if line.startswith(start)), None)
                if found is not None:
                    return found.removeprefix(start).strip()
                assert self._process.stdout is not None
                data = await self._process.stdout.receive_some()
                assert data, f"ended without {start!r}: {self.lines}"
                *lines, self._rest = (self._rest + data).split(b"\n")
                self.lines += [line.decode() for line in lines]


def node_modules() -> Path | None:
    """Return where Node finds `ws`: $NODE_PATH or its global folder."""
    if shutil.which("node") is None:
        return None
    places = [*os.environ.get("NODE_PATH", "").split(":"), "/usr/share/nodejs", "/usr/local/lib/node_modules"]
    return next((Path(place) for place in places if place and (Path(place) / "ws").is_dir()), None)


@asynccontextmanager
async def serving(folder: Path, stack: str, mode: str) -> AsyncIterator[Server]:
    """Run a server of another stack beside the body."""
    environ = dict(os.environ)
    if stack == "websockets":
        command = [sys.executable, "-c", PYTHON_SERVER, mode]
    else:
        modules = node_modules()
        if modules is None:
            pytest.skip("Node's package ws is not installed")
        (folder / "server.js").write_text(NODE_SERVER)
        command = ["node", str(folder / "server.js"), mode]
        environ["NODE_PATH"] = str(modules)
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, env=environ)
    try:
        yield Server(process)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()
            assert process.stdout is not None
            await process.stdout.aclose()


@pytest.mark.parametrize("mode", ["echo", "silent"])
@pytest.mark.parametrize("stack", ["websockets", "ws"])
async def test_the_token_arrives_as_a_subprotocol(tmp_path: Path, stack: str, mode: str) -> None:
    """The token of the endpoint is offered as `authorization#…`; with echo or without, the line works both ways."""
    async with (
        simulated("--rate", 0, "--wait", 9, "--api-key", "k", "--api-secret", "s", tls=False) as exchange,
        serving(tmp_path, stack, mode) as server,
    ):
        url = f"ws://127.0.0.1:{await server.line('port ')}"
        config = write_config(tmp_path, url, lines=1)
        token_url = exchange.url.replace("ws:", "http:") + "/api/v1/token"
        options = ["--set", f"exchange.token_url={token_url}", "--set", "health.ping_interval_s=0.2"]
        keys = {"FEEDHANDLER_API_KEY": "k", "FEEDHANDLER_API_SECRET": "s"}
        async with started("run", "--config", config, *options, **keys) as daemon:
            await daemon.errors.wait_for('"line_connected"')
            assert await server.line("offered ") == "authorization#simulated.token-000001.x"
            assert (await server.line("path ")).startswith("/?market=BTC-USD&subscriptions=")
            await server.line('asked {"message":"ping"')
            assert await daemon.stop() == 0
    assert daemon.notes("connect_failed") == []
    assert daemon.notes("line_lost") == []
