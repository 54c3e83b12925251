"""What the manifests say, as kustomize puts them together, and how a kubelet asks a probe."""

import shutil
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.debian import ROOT, run

KUBERNETES = ROOT / "deploy" / "kubernetes"
VARIANTS = ("sidecar", "pair")

Manifest = dict[str, Any]

needs_kubectl = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl is not there (Debian: kubernetes-client)"
)


def manifests(variant: str, folder: Path = KUBERNETES) -> list[Manifest]:
    """Return what kustomize makes of a variant."""
    return list(yaml.safe_load_all(run("kubectl", "kustomize", folder / variant)))


def bridged(variant: str, folder: Path) -> list[Manifest]:
    """Return it with the bridge in the consumer's place, as its file says how; use a folder for that."""
    shutil.copytree(KUBERNETES, folder, dirs_exist_ok=True)
    with (folder / variant / "kustomization.yaml").open("a") as file:
        file.write("components:\n  - ../bridge\n")
    return manifests(variant, folder)


def of_kind(kind: str, among: list[Manifest]) -> Manifest:
    """Return the only manifest of a kind."""
    (found,) = (one for one in among if one["kind"] == kind)
    return found


def pod_of(workload: Manifest) -> Manifest:
    """Return what a workload's pods are."""
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def workloads(among: list[Manifest]) -> list[Manifest]:
    """Return what makes pods."""
    return [one for one in among if one["kind"] in {"Deployment", "StatefulSet"}]


def pods(among: list[Manifest]) -> list[Manifest]:
    """Return the pods of all workloads."""
    return [pod_of(one) for one in workloads(among)]


def containers_of(pod: Manifest) -> list[Manifest]:
    """Return all containers of a pod."""
    return [*pod.get("initContainers", []), *pod["containers"]]


def volumes_of(pod: Manifest, container: Manifest) -> dict[str, Manifest]:
    """Return the volumes of a container, by the paths where they are."""
    volumes = {one["name"]: one for one in pod["volumes"]}
    return {one["mountPath"]: volumes[one["name"]] for one in container["volumeMounts"]}


def probed(probe: Manifest, port: int, address: str = "127.0.0.1") -> int:
    """Return the status that a probe gets, asked as a kubelet asks; 0 where nobody answers."""
    connection = HTTPConnection(address, port, timeout=probe.get("timeoutSeconds", 1))
    headers = {"User-Agent": "kube-probe/1.29", "Accept": "*/*", "Connection": "close"}
    try:
        connection.request("GET", probe["httpGet"]["path"], headers=headers)
        return connection.getresponse().status
    except (OSError, HTTPException):
        return 0
    finally:
        connection.close()
