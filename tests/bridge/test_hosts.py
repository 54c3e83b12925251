"""Two hosts with daemons and bridges of their own, one stream: every event once, whichever host dies.

Each host is a network namespace with two links: one to the exchange, one to NATS, so that either can be cut. Names of
namespaces and links carry the process id of the test, and all of them are gone at its end. This needs root.
"""

import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
import trio

from tests.bridge.nats import NatsServer, nats_server
from tests.bridge.running import MARKETS, bridge, check, ended, exchange, sent_more
from tests.support.processes import Child, daemon, until, write_config
from tests.support.stage import raw_consumer

LINES = 3
CUT_S = 10.0
KILL_S = 2.0


def ip(*arguments: object) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *map(str, arguments)], check=True, capture_output=True)


class Network:
    """One host's namespace: our side of its links has the addresses `exchange` and `nats`."""

    def __init__(self, number: int) -> None:
        self.name = f"fh{os.getpid()}n{number}"
        self._links = {name: f"{self.name}{name[0]}" for name in ("exchange", "nats")}
        self.addresses = {
            name: f"10.{213 + number}.{os.getpid() % 250}.{4 * index + 1}"
            for index, name in enumerate(self._links)
        }
        self.within = ("ip", "netns", "exec", self.name)

    def open(self) -> None:
        """Make the namespace and its links."""
        ip("netns", "add", self.name)
        for name, link in self._links.items():
            ours = self.addresses[name]
            theirs = f"{ours[:-1]}{int(ours[-1]) + 1}"
            ip("link", "add", link, "type", "veth", "peer", "name", name, "netns", self.name)
            ip("addr", "add", f"{ours}/30", "dev", link)
            ip("-n", self.name, "addr", "add", f"{theirs}/30", "dev", name)
            ip("link", "set", link, "up")
            ip("-n", self.name, "link", "set", name, "up")
        ip("-n", self.name, "link", "set", "lo", "up")

    def close(self) -> None:
        """Take all of it away."""
        for link in self._links.values():
            subprocess.run(["ip", "link", "del", link], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)

    def cut(self, name: str) -> None:
        """Let nothing through a link: no reset, no answer."""
        ip("link", "set", self._links[name], "down")

    def mend(self, name: str) -> None:
        """Let all through again."""
        ip("link", "set", self._links[name], "up")

    def connections(self, port: int) -> list[str]:
        """Return our ends of the connections to a port of the exchange's."""
        command = [*self.within, "ss", "-Htn", "state", "established", f"dport = :{port}"]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return [line.split()[2].rpartition(":")[2] for line in shown.splitlines()]

    def reset(self, line: str, port: int) -> None:
        """Reset a connection to a port."""
        command = [*self.within, "ss", "-K", f"dport = :{port} and sport = :{line}"]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def networks() -> Iterator[list[Network]]:
    """Give two networks."""
    both = [Network(1), Network(2)]
    with opened(both):
        yield both


@contextmanager
def opened(networks: list[Network]) -> Iterator[None]:
    """Open networks for the time of the body."""
    try:
        for network in networks:
            network.open()
        yield
    finally:
        for network in networks:
            network.close()


class Host:
    """A daemon and a bridge in a network."""

    def __init__(self, folder: Path, network: Network, daemon: Child, bridge: Child) -> None:
        self.folder = folder
        self.network = network
        self.daemon = daemon
        self.bridge = bridge

    @property
    def leads(self) -> bool:
        """Whether it was the last to say that it writes."""
        said = [
            line for line in self.bridge.errors.lines if '"bridge_led"' in line or '"bridge_followed"' in line
        ]
        return bool(said) and '"bridge_led"' in said[-1]

    async def has_caught_up(self) -> None:
        """Wait until what the exchange broadcasts from now on comes out of each of the daemon's books."""
        now_ns = time.time_ns()
        behind = {f"{market}/publicOrderBook" for market in MARKETS}
        async with raw_consumer(self.folder / "feed.sock") as stream:
            rest = b""
            while behind:
                *lines, rest = (rest + await stream.receive_some()).split(b"\n")
                records = map(json.loads, lines)
                behind -= {one["channel"] for one in records if one.get("recv", 0) > now_ns}

    async def die(self) -> None:
        """End at once, as a host does whose power fails: nothing is said any more."""
        for name in ("exchange", "nats"):
            self.network.cut(name)
        self.bridge.process.kill()
        self.daemon.process.kill()
        await self.bridge.wait()
        await self.daemon.wait()


@asynccontextmanager
async def host(folder: Path, network: Network, server: NatsServer, port: int) -> AsyncIterator[Host]:
    """Run a host beside the body."""
    folder.mkdir()
    config = write_config(
        folder, f"ws://{network.addresses['exchange']}:{port}", markets=MARKETS, lines=LINES
    )
    url = f"nats://{network.addresses['nats']}:{server.port}"
    async with (
        daemon(config, within=network.within) as one,
        bridge(server, folder / "feed.sock", url=url, within=network.within) as other,
    ):
        yield Host(folder, network, one, other)


async def kill_lines(networks: list[Network], port: int, killed: list[str], until: trio.Event) -> None:
    """Reset one connection of each host to the exchange from time to time, when the last such line is back."""
    while not until.is_set():
        await trio.sleep(KILL_S)
        for network in networks:
            lines = network.connections(port)
            if len(lines) == LINES * len(MARKETS):
                killed.append(lines[0])
                network.reset(lines[0], port)


def leader(hosts: list[Host]) -> Host | None:
    """Return who writes."""
    return next((one for one in hosts if one.leads), None)


async def test_two_hosts_one_stream(tmp_path, networks):
    """Lines killed all the time, links cut, the server restarted, a host killed: the stream is the truth, once each."""
    killed: list[str] = []
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(nats_server(tmp_path, host="0.0.0.0"))
        running = await stack.enter_async_context(
            exchange(tmp_path, "--host", "0.0.0.0", "--wait", 6, "--rate", 200)
        )
        port = int(running.url.rpartition(":")[2])
        hosts = [
            await stack.enter_async_context(host(tmp_path / f"host{number}", network, server, port))
            for number, network in enumerate(networks)
        ]
        nursery = await stack.enter_async_context(trio.open_nursery())
        enough = trio.Event()
        nursery.start_soon(kill_lines, networks, port, killed, enough)
        await until(lambda: leader(hosts) is not None)
        await sent_more(tmp_path, 300)

        first = leader(hosts) or hosts[0]
        first.network.cut("nats")
        await trio.sleep(CUT_S)
        first.network.mend("nats")
        await sent_more(tmp_path, 300)

        await server.stop(kill=True)
        await sent_more(tmp_path, 300)
        await server.start()
        await sent_more(tmp_path, 300)

        second = leader(hosts) or hosts[0]
        second.network.cut("exchange")
        await sent_more(tmp_path, 600)
        second.network.mend("exchange")
        for one in hosts:
            await one.has_caught_up()
        await until(lambda: leader(hosts) is not None)

        third = leader(hosts) or hosts[0]
        await third.die()
        await sent_more(tmp_path, 600)
        enough.set()
        sent, found = await ended(tmp_path, running, server)
    check(sent, found)
    assert len(killed) > 10
