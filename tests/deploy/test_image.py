"""The image and the pod: built without a registry, run as the manifest says, two containers with one socket.

The base image is a tree of a fresh Debian. Containers get what the manifest gives them: a read-only root, users that
are not root and not each other, no capabilities, the socket's folder in memory with the pod's group.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
import yaml

from feedhandler.config import load
from feedhandler.ingest.connect import GOODBYE_S
from tests.deploy.debian import PIP_CONFIG, ROOT, needs, run
from tests.support.ports import free_port

KUBERNETES = ROOT / "deploy" / "kubernetes"
CONTAINERFILE = ROOT / "deploy" / "Containerfile"
TOOLS = Path(sys.executable).parent
VERSIONS = ("1.29", "1.37")
"""The first with native sidecars, and the newest that the validator knows."""

PATIENCE_S = 30.0

CGROUPS = "umount --recursive /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; exec "
"""Gives the runtime the tree of control groups that it insists on, in a mount namespace of its own."""

EXCHANGE = "ws://127.0.0.1:8765"


def manifests() -> list[dict[str, Any]]:
    """Return what kustomize makes of the folder."""
    return list(yaml.safe_load_all(run("kubectl", "kustomize", KUBERNETES)))


def pod() -> dict[str, Any]:
    """Return the pod."""
    (deployment,) = (one for one in manifests() if one["kind"] == "Deployment")
    spec: dict[str, Any] = deployment["spec"]["template"]["spec"]
    return spec


needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not there (Debian: kubernetes-client)"
)


@needs_kubectl
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_the_manifests(tmp_path, version):
    """No property is unknown or of the wrong type; one that is would be found."""
    known = [one for one in manifests() if one["kind"] != "PodMonitor"]
    path = tmp_path / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(known))
    run(TOOLS / "kubernetes-validate", "--strict", "--kubernetes-version", version, path)
    path.write_text(yaml.safe_dump_all(known).replace("restartPolicy", "restartPolice"))
    with pytest.raises(AssertionError, match="restartPolice"):
        run(TOOLS / "kubernetes-validate", "--strict", "--kubernetes-version", version, path)


@needs_kubectl
def test_the_pod_monitor_fits():
    """It asks the pods of the deployment, at a port that is there, under the job that the rules ask for."""
    monitor = next(one for one in manifests() if one["kind"] == "PodMonitor")
    deployment = next(one for one in manifests() if one["kind"] == "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["spec"]["jobLabel"]] == "feedhandler"
    ports = [port["name"] for one in pod()["initContainers"] for port in one["ports"]]
    assert [one["port"] for one in monitor["spec"]["podMetricsEndpoints"]] == ports


@needs_kubectl
def test_the_pod_is_closed():
    """No container has rights, a writable root or a token of the cluster, and none is the same user as another."""
    spec = pod()
    assert spec["automountServiceAccountToken"] is False
    shared = spec["securityContext"]
    assert shared["runAsNonRoot"]
    assert shared["seccompProfile"] == {"type": "RuntimeDefault"}
    containers = [*spec["initContainers"], *spec["containers"]]
    users = [one["securityContext"].get("runAsUser", shared["runAsUser"]) for one in containers]
    assert len(set(users)) == len(users)
    assert 0 not in users
    for one in containers:
        context = one["securityContext"]
        assert context["readOnlyRootFilesystem"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert one["resources"]["limits"]["memory"]


@needs_kubectl
def test_the_sidecar_fits_the_daemon():
    """Its probes ask where the daemon listens, its volumes are where the configuration looks, its time is enough."""
    spec = pod()
    (sidecar,) = spec["initContainers"]
    (consumer,) = spec["containers"]
    assert sidecar["restartPolicy"] == "Always"
    config = load(KUBERNETES / "feedhandler.toml", ['exchange.token_url=""'], environ={})
    host, port = config.observe.http_address
    assert host == "0.0.0.0"
    assert [one["containerPort"] for one in sidecar["ports"]] == [port]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert sidecar[probe]["httpGet"]["port"] == "metrics"
    mounts = {one["mountPath"]: one for one in sidecar["volumeMounts"]}
    for path in (config.publish.socket, config.exchange.api_key_file, config.exchange.api_secret_file):
        assert os.fspath(path.parent) in mounts
    assert os.fspath(config.observe.incidents.parent) in mounts
    volumes = {one["name"]: one for one in spec["volumes"]}
    shared = volumes[mounts[os.fspath(config.publish.socket.parent)]["name"]]
    assert shared["emptyDir"]["medium"] == "Memory"
    assert shared["name"] in [one["name"] for one in consumer["volumeMounts"]]
    assert spec["terminationGracePeriodSeconds"] > config.publish.drain_s + GOODBYE_S + 10


def test_the_containerfile_is_clean():
    """The linter has nothing to say."""
    assert run(TOOLS / "hadolint", CONTAINERFILE) == ""


class Containers:
    """Containers of one image, run by podman with a storage of their own."""

    def __init__(self, folder: Path) -> None:
        self._storage = (
            "--root",
            folder / "storage",
            "--runroot",
            folder / "run",
            "--storage-driver",
            "overlay",
        )

    def build(self, tag: str, context: Path, *more: object) -> None:
        """Build an image, without a network."""
        run(
            "buildah",
            *self._storage,
            "build",
            "--quiet",
            "--isolation",
            "chroot",
            "--tag",
            tag,
            *more,
            context,
        )

    def command(self, image: str, *words: object, user: str, options: tuple[object, ...] = ()) -> list[str]:
        """Return the command that runs a container as the manifest says."""
        podman = (
            "podman",
            *self._storage,
            "--cgroup-manager",
            "cgroupfs",
            "--runtime",
            "crun",
            "run",
            "--rm",
        )
        closed = (
            "--read-only",
            "--read-only-tmpfs=false",
            "--cap-drop",
            "all",
            "--security-opt",
            "no-new-privileges",
        )
        limits = ("--cgroups=disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
        here = ("--network", "host", "--user", user)
        line = (*podman, *closed, *limits, *here, *options, image, *words)
        return ["unshare", "--mount", "sh", "-c", f'{CGROUPS} "$@"', "sh", *map(str, line)]

    @contextmanager
    def started(self, log: Path, *arguments: object, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
        """Run a container beside the body; end it by SIGTERM afterwards."""
        with log.open("wb") as file:
            process = subprocess.Popen(
                self.command(*arguments, **more), stdout=file, stderr=subprocess.STDOUT
            )
            try:
                yield process
            finally:
                process.terminate()
                process.wait(PATIENCE_S)


def until(condition: Callable[[], bool], *logs: Path) -> None:
    """Wait until something is so, at most `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "\n".join(log.read_text(errors="replace")[-3000:] for log in logs)
        time.sleep(0.1)


@pytest.fixture
def containers(fresh_debian: Path, wheel_folder: Path, tmp_path: Path) -> Iterator[Containers]:
    """Give containers of the image, built on the fresh Debian."""
    with tempfile.TemporaryDirectory() as folder:  # podman wants its paths short
        made = Containers(Path(folder))
        _build(made, fresh_debian, wheel_folder, tmp_path)
        yield made


def _build(made: Containers, fresh_debian: Path, wheel_folder: Path, tmp_path: Path) -> None:
    """Build the base and the image, with no network and no registry."""
    base, pip = tmp_path / "Base", tmp_path / "pip.conf"
    base.write_text("FROM scratch\nCOPY . /\n")
    pip.write_text(PIP_CONFIG)
    made.build("localhost/base", fresh_debian, "--file", base)
    offline = ("--volume", f"{wheel_folder}:/wheels:ro", "--volume", f"{pip}:/etc/pip.conf:ro")
    made.build(
        "localhost/feedhandler", ROOT, "--build-arg", "BASE=localhost/base", *offline, "--file", CONTAINERFILE
    )


def probed(probe: dict[str, Any], port: int) -> int:
    """Return the status that a probe of the manifest gets, asked as a kubelet asks; 0 where nobody listens."""
    connection = HTTPConnection("127.0.0.1", port, timeout=probe.get("timeoutSeconds", 1))
    headers = {"User-Agent": "kube-probe/1.29", "Accept": "*/*", "Connection": "close"}
    try:
        connection.request("GET", probe["httpGet"]["path"], headers=headers)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return 0
    finally:
        connection.close()


@needs("buildah", "podman", "crun", "mmdebstrap", "unshare")
def test_two_containers_share_the_socket(containers, tmp_path):
    """The daemon and a consumer of another user, both without rights, meet; the probes hold; the end drains."""
    port = free_port()
    shared = tmp_path / "socket"
    settings = tmp_path / "config"
    for folder in (shared, settings):
        folder.mkdir()
    text = (KUBERNETES / "feedhandler.toml").read_text()
    text = text.replace("wss://ws.trade.rails.xyz", EXCHANGE).replace("0.0.0.0:9464", f"127.0.0.1:{port}")
    kept = [line for line in text.splitlines() if not line.startswith(("token_url", "api_"))]
    (settings / "feedhandler.toml").write_text("\n".join(kept))
    settings.chmod(0o755)
    group = pod()["securityContext"]["fsGroup"]
    run("mount", "-t", "tmpfs", "-o", f"size=1m,mode=2775,gid={group}", "none", shared)
    image = "localhost/feedhandler"
    logs = {name: tmp_path / f"{name}.log" for name in ("exchange", "daemon", "consumer", "stranger")}
    volume = f"{shared}:/run/feedhandler"
    in_group = ("--group-add", group)
    try:
        with ExitStack() as stack:
            simulate = (
                "simulate",
                "--port",
                8765,
                "--rate",
                50,
                "--market",
                "BTC-USD",
                "--market",
                "ETH-USD",
            )
            stack.enter_context(containers.started(logs["exchange"], image, *simulate, user="10009:10009"))
            mounts = ("--volume", volume, "--volume", f"{settings}:/etc/feedhandler:ro")
            incidents = ("--tmpfs", "/var/lib/feedhandler:mode=0777")
            daemon = stack.enter_context(
                containers.started(
                    logs["daemon"], image, user="10001:10001", options=(*mounts, *incidents, *in_group)
                )
            )
            until((shared / "feed.sock").exists, logs["daemon"], logs["exchange"])
            (sidecar,) = pod()["initContainers"]
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                until(lambda name=name: probed(sidecar[name], port) == HTTPStatus.OK, logs["daemon"])
            status = (shared / "feed.sock").stat()
            assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (10001, group, 0o660)
            (consumer,) = pod()["containers"]
            user = "10003:10003"
            stack.enter_context(
                containers.started(
                    logs["consumer"],
                    image,
                    *consumer["args"],
                    user=user,
                    options=("--volume", f"{volume}:ro", *in_group),
                )
            )
            until(
                lambda: logs["consumer"].read_text().count('"type":"event"') >= 3,
                logs["consumer"],
                logs["daemon"],
            )
            stranger = stack.enter_context(
                containers.started(
                    logs["stranger"],
                    image,
                    *consumer["args"],
                    "--count",
                    1,
                    user=user,
                    options=("--volume", f"{volume}:ro"),
                )
            )
            with pytest.raises(subprocess.TimeoutExpired):
                stranger.wait(5)
            daemon.terminate()
            assert daemon.wait(PATIENCE_S) == 0
            until(
                lambda: '{"type":"bye","reason":"shutdown"}' in logs["consumer"].read_text(), logs["consumer"]
            )
    finally:
        run("umount", "--lazy", shared)
    notes = [
        json.loads(line)["event"] for line in logs["daemon"].read_text().splitlines() if line.startswith("{")
    ]
    assert notes[-1] == "daemon_stopped"
