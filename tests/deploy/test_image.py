"""The images: run as the manifests say, a daemon and its consumer in two containers of one pod, and the bridge.

Containers get what the manifest gives them: a read-only root, users that are not root and not each other, no
capabilities, the socket's folder in memory with the pod's group.
"""

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from pathlib import Path

import pytest
import trio
import trustme

from tests.bridge.credentials import set_up
from tests.bridge.nats import nats_server
from tests.bridge.running import MARKETS, check, ended, exchange, sent_more
from tests.deploy.containers import CONTAINERFILE, IMAGE, NATS_IMAGE, PATIENCE_S
from tests.deploy.debian import needs, run
from tests.deploy.kubernetes import KUBERNETES, Manifest, bridged, manifests, of_kind, pod_of, probed
from tests.support.ports import free_port
from tests.support.processes import daemon, write_config

TOOLS = Path(sys.executable).parent
EXCHANGE = "ws://127.0.0.1:8765"


def test_the_containerfile_is_clean():
    """The linter has nothing to say."""
    assert run(TOOLS / "hadolint", CONTAINERFILE) == ""


def until(condition: Callable[[], bool], *logs: Path) -> None:
    """Wait until something is so, at most `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "\n".join(log.read_text(errors="replace")[-3000:] for log in logs)
        time.sleep(0.1)


needs_podman = needs("buildah", "podman", "crun", "mmdebstrap", "unshare")


@needs_podman
def test_two_containers_share_the_socket(containers, tmp_path):
    """The daemon and a consumer of another user, both without rights, meet; the probes hold; the end drains."""
    port = free_port()
    shared = tmp_path / "socket"
    settings = tmp_path / "config"
    for folder in (shared, settings):
        folder.mkdir()
    text = (KUBERNETES / "common" / "feedhandler.toml").read_text()
    text = text.replace("wss://ws.trade.rails.xyz", EXCHANGE).replace("0.0.0.0:9464", f"127.0.0.1:{port}")
    kept = [line for line in text.splitlines() if not line.startswith(("token_url", "api_"))]
    (settings / "feedhandler.toml").write_text("\n".join(kept))
    settings.chmod(0o755)
    pod = pod_of(of_kind("Deployment", manifests("sidecar")))
    group = pod["securityContext"]["fsGroup"]
    run("mount", "-t", "tmpfs", "-o", f"size=1m,mode=2775,gid={group}", "none", shared)
    image = IMAGE
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
            (sidecar,) = pod["initContainers"]
            for name in ("startupProbe", "readinessProbe", "livenessProbe"):
                until(lambda name=name: probed(sidecar[name], port) == HTTPStatus.OK, logs["daemon"])
            status = (shared / "feed.sock").stat()
            assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (10001, group, 0o660)
            (consumer,) = pod["containers"]
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


@needs_podman
async def test_the_image_with_the_bridge(containers, tmp_path):
    """With a file of credentials and an authority, as the manifest has them, it fills the stream of a real server."""
    pod = pod_of(of_kind("Deployment", bridged("pair", tmp_path / "kubernetes")))
    (container,) = pod["containers"]
    identity = pod["securityContext"]
    group = identity["fsGroup"]
    secret, shared = tmp_path / "secret", tmp_path / "socket"
    shared.mkdir()
    os.chown(shared, 0, group)
    shared.chmod(0o2750)
    config, credentials = set_up(tmp_path)
    certificates = certify(tmp_path, secret)
    credentials.rename(secret / "feed.creds")
    for file in secret.iterdir():
        os.chown(file, 0, group)
        file.chmod(0o440)
    options = ("--volume", f"{shared}:/run/feedhandler:ro", "--volume", f"{secret}:/run/secrets/nats:ro")
    access = {
        "user_credentials": str(secret / "feed.creds"),
        "tls": ssl.create_default_context(cafile=secret / "ca.crt"),
    }
    async with (
        nats_server(tmp_path, "-c", config, "--tls", *certificates) as server,
        exchange(tmp_path, "--wait", 3, "--rate", 300) as running,
        daemon(
            write_config(tmp_path, running.url, markets=MARKETS),
            "--set",
            f"publish.socket={shared}/feed.sock",
        ),
    ):
        address = server.url.replace("nats:", "tls:")
        port = free_port()
        words = [word.replace("tls://nats:4222", address) for word in container["args"]]
        words = [word.replace("0.0.0.0:9465", f"127.0.0.1:{port}") for word in words]
        assert {f"--server={address}", f"--http=127.0.0.1:{port}"} <= set(words)
        async with containers.running(
            "bridge",
            NATS_IMAGE,
            *words,
            user=f"{identity['runAsUser']}:{identity['runAsGroup']}",
            options=(*options, "--group-add", group),
        ) as bridge:
            await bridge.child.errors.wait_for('"bridge_led"')
            for probe in ("readinessProbe", "livenessProbe"):
                ok = partial(_answers_well, container[probe], port)
                await trio.to_thread.run_sync(until, ok)
            await sent_more(tmp_path, 500)
            sent, found = await ended(tmp_path, running, server, **access)
            assert await bridge.child.stop() == 0
    check(sent, found)


def _answers_well(probe: Manifest, port: int) -> bool:
    return probed(probe, port) == HTTPStatus.OK


@needs_podman
async def test_the_plain_image_is_free_of_the_bridge(containers):
    """It says what is missing, and ends as for any bad usage; the other one answers."""
    words = ("bridge", "nats", "--socket", "x", "--server", "nats://127.0.0.1:1")
    async with containers.running("bridge", IMAGE, *words, user="10003:10003") as plain:
        assert await plain.child.wait() == 2
        assert "nats-py is not installed" in plain.child.errors.lines[-1]
    async with containers.running(
        "help", NATS_IMAGE, "bridge", "nats", "--help", user="10003:10003"
    ) as other:
        assert await other.child.wait() == 0


def certify(folder: Path, secret: Path) -> tuple[object, ...]:
    """Write a certificate for the server, and its authority into the secret; return the server's options."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    secret.mkdir()
    authority.cert_pem.write_to_path(secret / "ca.crt")
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    return ("--tlscert", folder / "cert.pem", "--tlskey", folder / "key.pem")
