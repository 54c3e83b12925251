"""The manifests: Kubernetes takes them, no pod has rights, they fit the daemon, its configuration and each other."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from feedhandler.bridge.command import add_arguments
from feedhandler.config import Config, load, pair_mistakes
from feedhandler.ingest.connect import GOODBYE_S
from tests.deploy.debian import run
from tests.deploy.kubernetes import (
    VARIANTS,
    Manifest,
    bridged,
    containers_of,
    manifests,
    needs_kubectl,
    of_kind,
    pod_of,
    pods,
    volumes_of,
    workloads,
)

pytestmark = needs_kubectl

TOOLS = Path(sys.executable).parent
VERSIONS = ("1.29", "1.37")
"""The first with native sidecars, and the newest that the validator knows."""


@pytest.fixture(params=[*VARIANTS, *(f"{one} with the bridge" for one in VARIANTS)])
def made(request: pytest.FixtureRequest, tmp_path: Path) -> list[Manifest]:
    """Give what kustomize makes of each variant, with the example of a consumer and with the bridge."""
    variant, _, bridge = request.param.partition(" ")
    return bridged(variant, tmp_path / "kubernetes") if bridge else manifests(variant)


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> list[Manifest]:
    """Give what kustomize makes of each variant."""
    return manifests(request.param)


def daemon_of(pod: Manifest) -> Manifest:
    """Return the daemon's container."""
    return next(one for one in containers_of(pod) if one["name"] == "feedhandler")


def workload(among: list[Manifest]) -> Manifest:
    """Return the workload that has the daemon."""
    return next(
        one for one in workloads(among) if "feedhandler" in [c["name"] for c in containers_of(pod_of(one))]
    )


def labels_of(workload: Manifest) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def configured(among: list[Manifest], folder: Path) -> Config:
    """Return the daemon's configuration, written down as its volume has it."""
    for name, text in of_kind("ConfigMap", among)["data"].items():
        (folder / name).write_text(text)
    return load(folder, ['exchange.token_url=""'], environ={})


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_the_manifests(made, tmp_path, version):
    """No property is unknown or of the wrong type; one that is would be found."""
    known = [one for one in made if one["kind"] != "PodMonitor"]
    path = tmp_path / "manifests.yaml"
    path.write_text(yaml.safe_dump_all(known))
    run(TOOLS / "kubernetes-validate", "--strict", "--kubernetes-version", version, path)
    path.write_text(yaml.safe_dump_all(known).replace("enableServiceLinks", "enableServiceLink"))
    with pytest.raises(AssertionError, match="enableServiceLink"):
        run(TOOLS / "kubernetes-validate", "--strict", "--kubernetes-version", version, path)


def test_the_pod_monitor_fits(variant):
    """It asks the pods of the daemon, at a port that is there, under the job that the rules ask for."""
    monitor = of_kind("PodMonitor", variant)["spec"]
    labels = workload(variant)["spec"]["template"]["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "feedhandler"
    ports = [port["name"] for port in daemon_of(pod_of(workload(variant)))["ports"]]
    assert [one["port"] for one in monitor["podMetricsEndpoints"]] == ports


def test_no_pod_has_rights(made):
    """No container has rights, a writable root or a token of the cluster; the consumer is not the daemon's user."""
    users = []
    for pod in pods(made):
        assert pod["automountServiceAccountToken"] is False
        shared = pod["securityContext"]
        assert shared["runAsNonRoot"]
        assert shared["seccompProfile"] == {"type": "RuntimeDefault"}
        for one in containers_of(pod):
            context = one["securityContext"]
            users.append(context.get("runAsUser", shared["runAsUser"]))
            assert context["readOnlyRootFilesystem"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert one["resources"]["limits"]["memory"]
    assert len(set(users)) == len(users) == 2
    assert 0 not in users


def test_what_has_a_name_is_there(made):
    """Every selector finds its pods, and every volume that is mounted is declared, and none in vain."""
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in workloads(made)]
    for one in made:
        selector = one.get("spec", {}).get("selector", {})
        wanted = selector.get("matchLabels", selector)
        assert not wanted or any(wanted.items() <= found.items() for found in labels), one["metadata"]["name"]
    for pod in pods(made):
        mounted = {mount["name"] for one in containers_of(pod) for mount in one["volumeMounts"]}
        assert mounted == {one["name"] for one in pod["volumes"]}


def test_the_daemon_fits_its_configuration(variant, tmp_path):
    """Its probes ask where it listens, its volumes are where the configuration looks, its time is enough."""
    config = configured(variant, tmp_path)
    pod = pod_of(workload(variant))
    container = daemon_of(pod)
    address = config.standby.http_address or config.observe.http_address
    assert address == ("0.0.0.0", container["ports"][0]["containerPort"])
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] == "metrics"
    volumes = volumes_of(pod, container)
    for path in (config.publish.socket, config.exchange.api_key_file, config.exchange.api_secret_file):
        assert os.fspath(path.parent) in volumes
    assert os.fspath(config.observe.incidents.parent) in volumes
    assert pod["terminationGracePeriodSeconds"] > config.publish.drain_s + GOODBYE_S + 10


def test_a_sidecar_shares_its_folder_with_the_consumer():
    """The folder is in memory and goes with the pod; the daemon goes on as long as the consumer does."""
    pod = pod_of(of_kind("Deployment", manifests("sidecar")))
    (sidecar,) = pod["initContainers"]
    (consumer,) = pod["containers"]
    assert sidecar["restartPolicy"] == "Always"
    folder = volumes_of(pod, consumer)["/run/feedhandler"]
    assert volumes_of(pod, sidecar)["/run/feedhandler"] == folder
    assert folder["emptyDir"]["medium"] == "Memory"


def test_a_pair_is_on_one_node_at_one_folder():
    """Both daemons and their consumer are where the folder is, and the consumer mounts the folder, for reading only."""
    made = manifests("pair")
    daemons, consumers = of_kind("StatefulSet", made), of_kind("Deployment", made)
    labels = daemons["spec"]["template"]["metadata"]["labels"]
    for one in (daemons, consumers):
        (term,) = pod_of(one)["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert term["topologyKey"] == "kubernetes.io/hostname"
        assert term["labelSelector"]["matchLabels"].items() <= labels.items()
    folders = [volumes_of(pod, pod["containers"][0])["/run/feedhandler"] for pod in pods(made)]
    assert folders[0]["hostPath"] == folders[1]["hostPath"]
    assert folders[0]["hostPath"]["type"] == "Directory"
    (mount,) = pod_of(consumers)["containers"][0]["volumeMounts"]
    assert mount["readOnly"]


def test_an_update_takes_one_of_a_pair_at_a_time(tmp_path):
    """One after the other, and both together stay within the limits; a frozen one is killed at once."""
    made = manifests("pair")
    daemons = of_kind("StatefulSet", made)["spec"]
    assert daemons["replicas"] == 2
    assert daemons["updateStrategy"] == {"type": "RollingUpdate"}  # one at a time, where nothing else is said
    assert of_kind("PodDisruptionBudget", made)["spec"]["maxUnavailable"] == 1
    (container,) = daemons["template"]["spec"]["containers"]
    assert "--standby" in container["args"]
    assert container["livenessProbe"]["terminationGracePeriodSeconds"] == 1
    config = configured(made, tmp_path)
    assert config.observe.http_address is None  # one address, whoever is active
    assert pair_mistakes(config) == []


@pytest.mark.parametrize("name", VARIANTS)
def test_the_pod_monitor_of_the_bridge_fits(name, tmp_path):
    """It asks the bridge's pods, at a port that nothing else has, under the job that the rules ask for."""
    made = bridged(name, tmp_path)
    (monitor,) = (one["spec"] for one in made if one["metadata"]["name"] == "feedhandler-bridge")
    wanted = monitor["selector"]["matchLabels"]
    (found,) = (one for one in workloads(made) if wanted.items() <= labels_of(one).items())
    assert labels_of(found)[monitor["jobLabel"]] == "feedhandler"
    (endpoint,) = monitor["podMetricsEndpoints"]
    ports = [port["name"] for one in containers_of(pod_of(found)) for port in one.get("ports", ())]
    assert ports.count(endpoint["port"]) == 1


@pytest.mark.parametrize("name", VARIANTS)
def test_the_bridge_takes_the_consumers_place(name, tmp_path):
    """Its arguments are those of the command, its files are in its volumes, its image is not the daemon's."""
    made = bridged(name, tmp_path)
    pod = pod_of(of_kind("Deployment", made))
    (bridge,) = pod["containers"]
    daemon = daemon_of(pod_of(workload(made)))
    assert (
        bridge["image"] == daemon["image"].replace("/feedhandler:", "/feedhandler-nats:") != daemon["image"]
    )
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    program, *words = bridge["args"]
    args: Any = parser.parse_args(words)
    assert program == "bridge"
    volumes = volumes_of(pod, bridge)
    for path in (args.socket, args.tls_ca, args.credentials):
        assert os.fspath(path.parent) in volumes
    (port,) = bridge["ports"]
    assert args.http == f"0.0.0.0:{port['containerPort']}"
    for probe, path in (("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert bridge[probe]["httpGet"] == {"path": path, "port": port["name"]}
    assert volumes["/run/feedhandler"] == volumes_of(pod_of(workload(made)), daemon)["/run/feedhandler"]
