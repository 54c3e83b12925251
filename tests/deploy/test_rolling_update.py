"""A rolling update of the pair in Kubernetes is a takeover: played with the images, as the manifests say.

The test plays the controller of the set and the kubelet: it starts containers with the arguments, users, folders and
closed roots of the manifests, asks their probes over HTTP, and ends them by the signals and in the order of Kubernetes.
What there is not is a network for each pod: a pod's address is one of the machine's own.
"""

import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import trio

from feedhandler import __version__
from tests.deploy.containers import IMAGE, NEXT_IMAGE, NEXT_VERSION, Container, Containers
from tests.deploy.debian import needs
from tests.deploy.kubernetes import Manifest, manifests, of_kind, pod_of, probed
from tests.standby.couple import Survivor
from tests.support.processes import PATIENCE_S, Simulated, differences, read_truth, simulated, until

MARKETS = ("BTC-USD", "ETH-USD")
FOLDER_MODE = 0o2750
"""Of the node's folder, which is the daemon's user's and the consumers' group's (`deploy/standby.md`)."""


class Node:
    """The node that is made ready for a pair, and what its kubelet mounts."""

    def __init__(self, folder: Path, containers: Containers, exchange: Simulated) -> None:
        made = manifests("pair")
        self.set: Manifest = of_kind("StatefulSet", made)["spec"]
        self.daemons = pod_of(of_kind("StatefulSet", made))
        self.consumers = pod_of(of_kind("Deployment", made))
        self.containers = containers
        self.identity = self.daemons["securityContext"]
        self._folder = folder
        self.socket = self._mounted("socket", FOLDER_MODE, self.identity["runAsUser"])
        self._mounted("config", 0o755)
        self._mounted("secret", 0o755)
        http = exchange.url.replace("ws:", "http:").rstrip("/")
        for name, text in of_kind("ConfigMap", made)["data"].items():
            told = text.replace("wss://ws.trade.rails.xyz", exchange.url)
            told = told.replace("https://api-auth.trade.rails.xyz", http)
            (folder / "config" / name).write_text(told)
        for name in ("api-key", "api-secret"):
            self._kept(folder / "secret" / name)

    def _mounted(self, name: str, mode: int, user: int = 0) -> Path:
        """Make a folder as it is on a node."""
        path = self._folder / name
        path.mkdir()
        os.chown(path, user, self.identity["fsGroup"])
        path.chmod(mode)
        return path

    def _kept(self, path: Path) -> None:
        """Write a file of a secret as a kubelet does."""
        (mode,) = (one["secret"]["defaultMode"] for one in self.daemons["volumes"] if "secret" in one)
        path.write_text("secret")
        os.chown(path, 0, self.identity["fsGroup"])
        path.chmod(mode)

    def options(self, pod: Manifest, name: str) -> tuple[object, ...]:
        """Return what a container of a pod of this name gets: folders and groups."""
        found: list[object] = ["--group-add", pod["securityContext"]["fsGroup"]]
        (container,) = pod["containers"]
        for mount in container["volumeMounts"]:
            source = self._folder / mount["name"]
            if not source.exists():  # an emptyDir, which is the pod's own
                source = self._mounted(f"{mount['name']}-{name}", 0o2777)
            only = ":ro" if mount.get("readOnly") else ""
            found += ["--volume", f"{source}:{mount['mountPath']}{only}"]
        return tuple(found)


class Pod:
    """One pod of the set; its container comes and goes."""

    def __init__(self, node: Node, number: int) -> None:
        self._node = node
        self._number = number
        (self._spec,) = node.daemons["containers"]
        self._port = self._spec["ports"][0]["containerPort"]
        self._address = f"127.1.{os.getpid() % 250}.{number + 1}"
        self._times = 0

    @property
    def running(self) -> Container:
        """What runs now."""
        return self._container

    async def start(self, stack: AsyncExitStack, image: str) -> None:
        """Start its container."""
        self._times += 1
        name = f"feedhandler-{self._number} ({self._times})"
        user = f"{self._node.identity['runAsUser']}:{self._node.identity['runAsGroup']}"
        own = ("--set", f"standby.http={self._address}:{self._port}")
        words = (*self._spec["args"], *own)
        options = self._node.options(self._node.daemons, f"{self._number}-{self._times}")
        self._container = await stack.enter_async_context(
            self._node.containers.running(name, image, *words, user=user, options=options)
        )
        await self._until("startupProbe", self._spec["startupProbe"]["failureThreshold"])

    async def _asked(self, probe: str) -> bool:
        """Ask a probe once."""
        status = await trio.to_thread.run_sync(probed, self._spec[probe], self._port, self._address)
        return status == HTTPStatus.OK

    async def _until(self, probe: str, seconds: float) -> None:
        """Ask a probe until it holds."""
        with trio.fail_after(seconds):
            while not await self._asked(probe):
                await trio.sleep(self._spec[probe]["periodSeconds"])

    async def is_ready(self) -> bool:
        """Tell what the readiness probe says."""
        return await self._asked("readinessProbe")

    async def available(self) -> None:
        """Wait until it has been ready for as long as the set demands."""
        await self._until("readinessProbe", PATIENCE_S)
        since = trio.current_time()
        while trio.current_time() - since < self._node.set["minReadySeconds"]:
            assert await self.is_ready()
            await trio.sleep(self._spec["readinessProbe"]["periodSeconds"])

    async def end(self) -> None:
        """Tell it to end; it does so within the time that it is given."""
        child = self.running.child
        with trio.fail_after(self._node.daemons["terminationGracePeriodSeconds"]):
            os.kill(await self.running.pid(), signal.SIGTERM)
            assert await child.wait() == 0, str(child.errors)

    async def end_if_it_does_not_live(self) -> None:
        """See the liveness probe fail as often as is allowed, then end it as a kubelet does."""
        probe = self._spec["livenessProbe"]
        async with trio.open_nursery() as nursery:  # all of them now: each one takes as long as its timeout
            for _ in range(probe["failureThreshold"]):
                nursery.start_soon(self._fail_to_live)
        pid = await self.running.pid()
        os.kill(pid, signal.SIGTERM)
        with trio.move_on_after(probe["terminationGracePeriodSeconds"]):
            await self.running.child.wait()
        os.kill(pid, signal.SIGKILL)
        await self.running.child.wait()

    async def _fail_to_live(self) -> None:
        assert not await self._asked("livenessProbe")

    def notes(self, name: str) -> list[dict[str, Any]]:
        """Return the log lines of one name."""
        return self.running.child.notes(name)


async def all_available(pods: list[Pod]) -> None:
    """Wait until all have been ready for as long as the set demands."""
    async with trio.open_nursery() as nursery:
        for pod in pods:
            nursery.start_soon(pod.available)


async def rolled_out(pods: list[Pod], stack: AsyncExitStack, image: str) -> None:
    """Update the set: the highest number first, the next one when its successor is available."""
    for pod in reversed(pods):
        await pod.end()
        await pod.start(stack, image)
        await pod.available()


@asynccontextmanager
async def tailing(node: Node) -> AsyncIterator[Container]:
    """Run the example of a consumer beside the body."""
    (spec,) = node.consumers["containers"]
    identity = node.consumers["securityContext"]
    async with node.containers.running(
        "consumer",
        IMAGE,
        *spec["args"],
        user=f"{identity['runAsUser']}:{identity['runAsGroup']}",
        options=node.options(node.consumers, "consumer"),
    ) as container:
        yield container


def assert_closed(node: Node) -> None:
    """Assert that the consumers' group may use the socket, and nobody but the daemon's user what lies beside it."""
    user, group = node.identity["runAsUser"], node.identity["fsGroup"]
    found = {one.name: one.stat() for one in node.socket.iterdir()}
    assert {name: (one.st_uid, one.st_gid, one.st_mode & 0o777) for name, one in found.items()} == {
        "feed.sock": (user, group, 0o660),
        "feed.sock.lock": (user, group, 0o600),
        "feed.sock.attempts": (user, group, 0o600),
        "feed.sock.token-requests": (user, group, 0o600),
        "control.sock": (user, group, 0o600),
        "control.sock.lock": (user, group, 0o600),
    }


def seen(consumer: Container) -> dict[str, list[bytes]]:
    """Return the messages of each channel that the example of a consumer has printed."""
    found: dict[str, list[bytes]] = {}
    for line in consumer.child.output.lines:
        record = json.loads(line)
        assert record["type"] not in {"gap", "refused", "error"}, line
        if record["type"] == "event":
            found.setdefault(record["channel"], []).append(line[line.index(',"msg":') + 7 : -1].encode())
    return found


@needs("buildah", "podman", "crun", "mmdebstrap", "unshare", "kubectl")
async def test_a_rolling_update_is_a_takeover(containers, tmp_path):
    """(3) Another version, then a frozen daemon: exact stream, one session, no mark.

    The pod that is updated first is the active one, so the daemons hand over twice: to the old version, and to the new.
    """
    named = [word for market in MARKETS for word in ("--market", market)]
    truth = tmp_path / "truth"
    async with (
        simulated(*named, "--rate", 200, "--wait", 3, "--truth", truth, tls=False) as exchange,
        AsyncExitStack() as stack,
    ):
        nursery = await stack.enter_async_context(trio.open_nursery())
        node = Node(tmp_path, containers, exchange)
        pods = [Pod(node, number) for number in (0, 1)]
        standby, active = pods
        await active.start(stack, IMAGE)
        for name in ("feed.sock", "feed.sock.attempts", "feed.sock.token-requests"):
            await until((node.socket / name).exists)
        assert_closed(node)
        survivor = Survivor(node.socket / "feed.sock")
        nursery.start_soon(survivor.run)
        consumer = await stack.enter_async_context(tailing(node))
        await consumer.child.output.wait_for('"type":"subscribed"')
        await standby.start(stack, IMAGE)
        await all_available(pods)
        assert standby.notes("took_over") == []

        await rolled_out(pods, stack, NEXT_IMAGE)
        assert survivor.byes == ["takeover", "takeover"]
        assert_closed(node)
        [began] = active.notes("daemon_started")
        assert began["version"] == NEXT_VERSION != __version__
        assert active.notes("took_over")[0]["whole"]

        os.kill(await active.running.pid(), signal.SIGSTOP)
        await active.end_if_it_does_not_live()
        await standby.running.child.errors.wait_for('"took_over"')
        await active.start(stack, NEXT_IMAGE)
        await all_available(pods)

        assert await exchange.child.stop() == 0
        sent = read_truth(truth)
        await until(lambda: survivor.count >= sum(map(len, sent.values())))
        trades = {name: events for name, events in sent.items() if name.endswith("/publicTrades")}
        assert differences(sent, survivor.sequences) == []
        assert survivor.marks == []
        assert len(survivor.sessions) == 1
        await until(lambda: differences(trades, seen(consumer)) == [])
        nursery.cancel_scope.cancel()
